"""
A run that is killed again and again, as a script: `python -m tests.trainer.killed_run FOLDER KILLS`.

A process that has imported everything, and trained nothing, forks the runs, so that a run starts at once. It prints
what happened as JSON, for `test_faults.py`.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

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


class Announce(TrainerCallback):
    """Writes a byte to a pipe when training begins."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        os.write(self.pipe, b"!")


def train(output_dir: str, max_steps: int, pipe: int) -> None:
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
    trainer = FSDFMTrainer(tiny_model(hidden_dropout_prob=0.2), settings, data, callbacks=[Announce(pipe)])
    has_checkpoint = os.path.isdir(output_dir) and get_last_checkpoint(output_dir) is not None
    trainer.train(resume_from_checkpoint=has_checkpoint)
    trainer.save_model()


def start(output_dir: str, max_steps: int) -> int:
    """The id of a process that has begun to train."""
    began, begin = os.pipe()
    process = os.fork()
    if not process:
        code = 1
        try:
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), 1)
            train(output_dir, max_steps, begin)
            code = 0
        finally:
            os._exit(code)
    os.close(begin)
    os.read(began, 1)
    os.close(began)
    return process


def wait(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def kill_after(process: int, seconds: float) -> int:
    time.sleep(seconds)
    os.kill(process, signal.SIGKILL)
    return wait(process)


def main(folder: str, num_kills: int) -> None:
    max_steps = 4 + 3 * num_kills
    undisturbed, killed = os.path.join(folder, "undisturbed"), os.path.join(folder, "killed")
    process, began = start(undisturbed, max_steps), time.monotonic()
    codes = [wait(process)]
    seconds_per_step = (time.monotonic() - began) / max_steps

    dice, checkpoints, killed_while_writing = random.Random(0), [], 0
    for _ in range(num_kills):
        codes.append(kill_after(start(killed, max_steps), seconds_per_step * dice.uniform(0.5, 5)))
        killed_while_writing += os.path.isdir(os.path.join(killed, STAGING_FOLDER))
        last = get_last_checkpoint(killed) if os.path.isdir(killed) else None
        checkpoints.append(last and int(last.rpartition("-")[2]))
        if last is not None:
            check_complete(Path(last))
    codes.append(wait(start(killed, max_steps)))

    first, second = (load_file(os.path.join(run, "model.safetensors")) for run in (undisturbed, killed))
    report = {
        "codes": codes,
        "checkpoints": checkpoints,
        "killed_while_writing": killed_while_writing,
        "left_over": os.path.isdir(os.path.join(killed, STAGING_FOLDER)),
        "same_weights": first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first),
    }
    print(json.dumps(report))


def check_complete(checkpoint: Path) -> None:
    """Everything in it can be read."""
    FSDFMForDiffusionLM.from_pretrained(checkpoint)
    FSDFMForDiffusionLM.from_pretrained(checkpoint / "weights" / "raw")
    for name in ("optimizer.pt", "scheduler.pt", "ema.pt"):
        torch.load(checkpoint / name, weights_only=True)
    json.loads((checkpoint / "trainer_state.json").read_text())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
