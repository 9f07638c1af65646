"""
A run that is killed again and again, as a script: `python -m tests.trainer.killed_run FOLDER ROUNDS`.

A process that has imported everything, and trained nothing, forks the runs, so that a run starts at once. No kill can
miss: a run that is to be killed stops itself (SIGSTOP) where its kill wants it, at the latest after a few steps, and
never ends otherwise. What happened is printed as JSON, for `test_faults.py`.
"""

import contextlib
import json
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from transformers_fsdfm import FSDFMForDiffusionLM
from transformers_fsdfm.trainer.arguments import FSDFMTrainingArguments
from transformers_fsdfm.trainer.checkpointing import STAGING_FOLDER
from transformers_fsdfm.trainer.fsdfm_trainer import FSDFMTrainer

from ..conftest import generator, tiny_model
from .toy import Rows, arguments


# What a kill interrupts, in the order of a round: a checkpoint that is being written, somewhere; the name being given
# to it; the deletion of an older one after that; a file half way; or whatever a drawn moment brings.
KINDS = ("writing", "naming", "deleting", "half a file", "moment")
CHECKPOINT_THAT_IS_HIT = 3  # of a run; the first one after which an older one is deleted
MOST_STEPS = 4  # of a run that is killed
FILE_OPERATIONS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")


class Kill(NamedTuple):
    """
    Args:
        kind (`str`): one of [`KINDS`].
        place (`float`): for a moment, optimizer steps from the beginning of the run; for half a file, the size in bytes
            that no file may pass; for all others, the file operation of the checkpoint that is not done any more.
    """

    kind: str
    place: float


class OperationCounter:
    """An audit hook that sees what is done to the files of a run, from the making of a checkpoint's folder on."""

    def __init__(self, run_dir: str, on_operation: Callable[[int], None] = lambda number: None) -> None:
        self.operations: list[str] = []
        self._run_dir, self._on_operation = os.path.join(run_dir, ""), on_operation
        self._checkpoint = os.path.join(run_dir, STAGING_FOLDER, "checkpoint-")

    def __call__(self, event: str, details: tuple) -> None:
        if event not in FILE_OPERATIONS or not isinstance(details[0], (str, os.PathLike)):
            return
        path = os.fspath(details[0])
        begins = event == "os.mkdir" and path.startswith(self._checkpoint)
        # A tree is deleted from inside: its files have relative names.
        concerns_run = path.startswith(self._run_dir) or not os.path.isabs(path)
        if begins or (self.operations and concerns_run):
            self._on_operation(len(self.operations))
            self.operations.append(event)


class RunUnderWatch(TrainerCallback):
    """Tells through a pipe where the run begins; stops it for its kill, or else tells what a checkpoint consists of."""

    def __init__(self, pipe: int, kill: Kill | None) -> None:
        self._pipe, self._kill, self._first_step = pipe, kill, 0
        self._counter: OperationCounter | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._first_step = state.global_step
        os.write(self._pipe, b"%d\n" % state.global_step)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        steps = state.global_step - self._first_step
        if self._kill is None and steps == CHECKPOINT_THAT_IS_HIT - 1:
            self._counter = OperationCounter(args.output_dir)
            sys.addaudithook(self._counter)
        if self._kill is None and steps == CHECKPOINT_THAT_IS_HIT:
            os.write(self._pipe, json.dumps(self._counter.operations).encode() + b"\n")
        if self._kill is not None and steps == CHECKPOINT_THAT_IS_HIT - 1:
            self._prepare_kill(args.output_dir)
        if self._kill is not None and steps == MOST_STEPS:
            _stop()

    def _prepare_kill(self, run_dir: str) -> None:
        if self._kill.kind == "half a file":
            # Where the file passes the limit the kernel ends the process, with a signal of its own.
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(self._kill.place), resource.RLIM_INFINITY))
        elif self._kill.kind != "moment":
            sys.addaudithook(OperationCounter(run_dir, lambda number: number == self._kill.place and _stop()))


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def train(output_dir: str, max_steps: int, watch: RunUnderWatch) -> None:
    """Trains to the end, from the last checkpoint if there is one, and saves the model."""
    data = Rows(torch.randint(2, 60, (64, 8), generator=generator(0)))
    settings = arguments(
        output_dir,
        FSDFMTrainingArguments,
        max_steps=max_steps,
        per_device_train_batch_size=2,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=2,
        ema_decay=0.9,
        logging_strategy="no",
    )
    trainer = FSDFMTrainer(tiny_model(hidden_dropout_prob=0.2), settings, data, callbacks=[watch])
    has_checkpoint = os.path.isdir(output_dir) and get_last_checkpoint(output_dir) is not None
    trainer.train(resume_from_checkpoint=has_checkpoint)
    trainer.save_model()


@contextlib.contextmanager
def started(output_dir: str, max_steps: int, kill: Kill | None = None) -> Iterator[tuple[int, Any]]:
    """The id of a process that trains, and what it tells."""
    reading, writing = os.pipe()
    process = os.fork()
    if not process:
        code = 1
        try:
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), 1)
            train(output_dir, max_steps, RunUnderWatch(writing, kill))
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as told:
        yield process, told


def run_to_the_end(output_dir: str, max_steps: int) -> tuple[int, list]:
    """Exit code, and everything that the run has told."""
    with started(output_dir, max_steps) as (process, told):
        lines = [json.loads(line) for line in told]
        return _code(os.waitpid(process, 0)[1]), lines


def run_and_kill(output_dir: str, max_steps: int, kill: Kill, seconds_per_step: float) -> dict[str, Any]:
    """What has become of the run."""
    with started(output_dir, max_steps, kill) as (process, told):
        resumed_from = int(told.readline())
        if kill.kind == "moment":
            time.sleep(kill.place * seconds_per_step)
        else:
            _, status = os.waitpid(process, os.WUNTRACED)
            if not os.WIFSTOPPED(status):
                return {"kind": kill.kind, "code": _code(status), "resumed_from": resumed_from}
        os.kill(process, signal.SIGKILL)
        return {"kind": kill.kind, "code": _code(os.waitpid(process, 0)[1]), "resumed_from": resumed_from}


def _code(status: int) -> int:
    return os.waitstatus_to_exitcode(status)


def plan(rounds: int, operations: list[str], largest_file: int) -> list[Kill]:
    """As many kills of each kind as there are rounds."""
    dice, naming = random.Random(0), operations.index("os.rename")
    places = {
        "writing": dice.sample(range(1, naming), rounds),
        "naming": [naming] * rounds,
        "deleting": dice.sample(range(naming + 1, len(operations)), rounds),
        "half a file": [dice.randrange(1, largest_file) for _ in range(rounds)],
        "moment": [dice.uniform(0, MOST_STEPS) for _ in range(rounds)],
    }
    return [Kill(kind, places[kind][number]) for number in range(rounds) for kind in KINDS]


def main(folder: str, rounds: int) -> None:
    max_steps = MOST_STEPS * len(KINDS) * rounds + 2
    undisturbed, killed = os.path.join(folder, "undisturbed"), os.path.join(folder, "killed")
    began = time.monotonic()
    code, (_, operations) = run_to_the_end(undisturbed, max_steps)
    seconds_per_step = (time.monotonic() - began) / max_steps
    codes = [code]

    last = f"checkpoint-{max_steps}"
    largest_file = max(path.stat().st_size for path in Path(undisturbed, last).rglob("*"))
    kills = []
    for kill in plan(rounds, operations, largest_file):
        report = run_and_kill(killed, max_steps, kill, seconds_per_step)
        report["checkpoints"] = sorted(check_complete(path) for path in Path(killed).glob("checkpoint-*"))
        found = get_last_checkpoint(killed)
        report["found"] = found and int(found.rpartition("-")[2])
        report["unnamed"] = sorted(path.name for path in Path(killed, STAGING_FOLDER).glob("checkpoint-*"))
        kills.append(report)
    code, (resumed_from, *_) = run_to_the_end(killed, max_steps)

    report = {
        "kills": kills,
        "codes": [*codes, code],
        "resumed_from": resumed_from,
        "left_over": os.path.isdir(os.path.join(killed, STAGING_FOLDER)),
        "is_same": is_same(Path(undisturbed), Path(killed)) and is_same(Path(undisturbed, last), Path(killed, last)),
    }
    print(json.dumps(report))


def check_complete(checkpoint: Path) -> int:
    """Everything in it can be read -> its global step."""
    FSDFMForDiffusionLM.from_pretrained(checkpoint)
    FSDFMForDiffusionLM.from_pretrained(checkpoint / "weights" / "raw")
    for name in ("optimizer.pt", "scheduler.pt", "ema.pt"):
        torch.load(checkpoint / name, weights_only=True)
    return json.loads((checkpoint / "trainer_state.json").read_text())["global_step"]


def is_same(first: Path, second: Path) -> bool:
    """Whether all tensors of two model folders or checkpoints are the same to the bit."""
    first_tensors, second_tensors = (dict(_tensors(folder)) for folder in (first, second))
    assert first_tensors
    return first_tensors.keys() == second_tensors.keys() and all(
        torch.equal(tensor, second_tensors[name]) for name, tensor in first_tensors.items()
    )


def _tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    for name in ("model.safetensors", "weights/raw/model.safetensors", "ema.pt"):
        if (folder / name).exists():
            tensors = load_file(folder / name) if name.endswith("safetensors") else torch.load(folder / name)
            yield from ((f"{name}: {key}", value) for key, value in tensors.items())
    if (folder / "optimizer.pt").exists():
        for parameter, state in torch.load(folder / "optimizer.pt")["state"].items():
            yield from ((f"optimizer: {parameter}.{key}", value) for key, value in state.items())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
