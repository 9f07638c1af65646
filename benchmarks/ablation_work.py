# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The work of the ablation, piece by piece: what is made from what, where it is kept, and what is left to do."""

import contextlib
import dataclasses
import hashlib
import json
import tempfile
import time as clock
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

from ablation_scores import Result, sample_and_score, score
from ablation_variants import FULL, TRAININGS, VARIANTS, Plan, Scale, Variant, full_plan, plan_within
from filelock import FileLock, Timeout
from transformers import PreTrainedTokenizerBase, PrinterCallback

from transformers_fsdfm import FSDFMForDiffusionLM
from transformers_fsdfm.evaluation.files import written_whole
from transformers_fsdfm.evaluation.texts import reference_blocks
from transformers_fsdfm.metrics.scorer import Scorer
from transformers_fsdfm.trainer.data import load_documents
from transformers_fsdfm.trainer.packing import pack_documents
from transformers_fsdfm.trainer.recipes.tinystories.stages import FINISHED, run_recipe
from transformers_fsdfm.trainer.script_models import load_tokenizer


PAUSE = 2.0  # seconds between two looks at what other processes have done
REAL_SETS = 4  # as many real texts as this many seeds have samples


class Job(NamedTuple):
    """
    A piece of work.

    Attributes:
        kind (`str`): pieces of a kind take about the same time.
        name (`str`): which one it is.
        path (`Path`): there when it is done.
        do (`Callable`): does it.
        needs (`tuple[Path]`): what must be there before.
    """

    kind: str
    name: str
    path: Path
    do: Callable[[], None]
    needs: tuple[Path, ...] = ()


class TimeLimit:
    """
    Says whether a piece of work would end in time, if it takes as long as the longest of its kind so far.

    Args:
        hours (`float`, *optional*): from now on; no limit if not given.
    """

    def __init__(self, hours: float | None) -> None:
        self._start, self._seconds = clock.perf_counter(), None if hours is None else hours * 3600
        self._longest: dict[str, float] = {}

    def allows(self, kind: str) -> bool:
        """Whether to begin a piece of this kind; the first of its kind has only to begin in time."""
        end = clock.perf_counter() - self._start + self._longest.get(kind, 0)
        return self._seconds is None or end < self._seconds

    @contextlib.contextmanager
    def measure(self, kind: str) -> Iterator[None]:
        """Around a piece of work."""
        start = clock.perf_counter()
        yield
        self._longest[kind] = max(self._longest.get(kind, 0), clock.perf_counter() - start)


def work(jobs: Sequence[Job], limit: TimeLimit, folder: Path) -> int:
    """
    Does what is not done yet, as far as time allows; how many pieces are left.

    What another process is at, or waits for, is come back to, so that all that is left at the end was left for time.

    Args:
        folder (`Path`): of the run; `.locks` in it has a file for each piece that is being done.
    """
    is_waiting = False
    while left := [(number, job) for number, job in enumerate(jobs, start=1) if not job.path.exists()]:
        num_done = 0
        for number, job in left:
            if not limit.allows(job.kind):
                return sum(not job.path.exists() for job in jobs)
            if not job.path.exists() and all(path.exists() for path in job.needs):
                num_done += _do_alone(job, f"[{number}/{len(jobs)}]", limit, folder)
        if not num_done:
            if not is_waiting:
                print("waiting for what other processes are at", flush=True)
            clock.sleep(PAUSE)
        is_waiting = not num_done
    return 0


def _do_alone(job: Job, label: str, limit: TimeLimit, folder: Path) -> bool:
    """Does a piece, unless another process is at it or has done it; whether it was done here."""
    name = f"{job.kind}-{job.name}".replace(" ", "-").replace(",", "")
    lock = _lock(folder, name)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    try:
        if job.path.exists():
            return False
        print(f"{label} {job.kind} {job.name}", flush=True)
        with limit.measure(job.kind):
            job.do()
        Path(lock.lock_file).unlink(missing_ok=True)  # whoever gets it after this sees that the piece is there
        return True
    finally:
        lock.release()


def _lock(folder: Path, name: str) -> FileLock:
    locks = folder / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    return FileLock(locks / name)


@dataclasses.dataclass(frozen=True)
class Ablation:
    """
    A run: its settings, its folder, and the work in it.

    Args:
        folder (`Path`): of everything that is made.
        data, validation_data (`str`): text files.
        scale ([`Scale`]): the sizes.
        seeds (`tuple[int]`): of the trainings.
        variants (`tuple[str]`): names from [`VARIANTS`].
    """

    folder: Path
    data: str
    validation_data: str
    scale: Scale
    seeds: tuple[int, ...]
    variants: tuple[str, ...]

    # ---- The work, in order

    def jobs(self) -> list[Job]:
        """All pieces; seed after seed, so that what is there at any time is as balanced as can be."""
        dfm, scorer = (self.folder / name / FINISHED for name in self._base_stages())
        base = [
            Job("dfm", "", dfm, partial(self._run_stage, "dfm")),
            Job("scorer", "", scorer, partial(self._run_stage, "scorer"), needs=(dfm,)),
            Job("real text", "", self.real_file, self._score_real_text, needs=(scorer,)),
        ]
        return [*base, *(job for seed in self.seeds for job in self._jobs_of_seed(seed))]

    def _jobs_of_seed(self, seed: int) -> Iterator[Job]:
        for name in self._trainings():
            path, do = self.trained(name, seed), partial(self._train, name, seed)
            yield Job("training", f"{name}, seed {seed}", path, do, needs=(self.real_file,))
        for name in self.variants:
            path = self.result_file(name, seed)
            variant = VARIANTS[name]
            trained = () if variant.training is None else (self.trained(variant.training, seed),)
            do = partial(self._sample, variant, seed, path)
            yield Job("sampling", f"{name}, seed {seed}", path, do, needs=(self.real_file, *trained))

    def _trainings(self) -> list[str]:
        """Those that the chosen variants need."""
        names = dict.fromkeys(VARIANTS[name].training for name in self.variants)
        return [name for name in names if name is not None]

    def _plan(self, training: str) -> Plan:
        return plan_within(full_plan(self.scale).cost, TRAININGS[training], self.scale)

    def _base_stages(self) -> dict[str, dict[str, Any]]:
        """Stages of the TinyStories recipe: tokenizer and DFM, then scorer."""
        scale, steps = self.scale, {"eval_strategy": "steps", "save_total_limit": 1, "use_cpu": True}
        common = {**steps, "per_device_eval_batch_size": 64, "disable_tqdm": True, "report_to": ["none"], "seed": 0}
        return {
            "dfm": {
                **common,
                "kind": "pretrain",
                "train_tokenizer_vocab_size": scale.vocab_size,
                "hidden_size": scale.hidden_size,
                "num_hidden_layers": scale.num_layers,
                "num_attention_heads": scale.num_heads,
                "conditioning_size": scale.conditioning_size,
                "hidden_dropout_prob": 0.0,
                "block_size": scale.length,
                "loss_type": "cross_entropy",
                "learning_rate": 3e-3,
                "muon_learning_rate": 5e-3,
                "lr_scheduler_type": "cosine",
                "low_discrepancy_times": True,
                "eval_num_times": 4,
                "max_grad_norm": 1.0,
                "per_device_train_batch_size": scale.dfm_batch_size,
                "max_validation_documents": 40,
                "max_steps": scale.dfm_steps,
                **_often(scale.dfm_steps),
            },
            "scorer": {
                "kind": "scorer",
                "start_from": "dfm",
                "gpt2_config": {
                    "n_embd": scale.scorer_hidden_size,
                    "n_layer": scale.scorer_layers,
                    "n_head": scale.num_heads,
                    "n_positions": 2 * scale.length,
                },
                "training": {
                    **common,
                    "learning_rate": 2e-3,
                    "lr_scheduler_type": "cosine",
                    "weight_decay": 0.1,
                    "per_device_train_batch_size": scale.dfm_batch_size,
                    "max_steps": scale.scorer_steps,
                    **_often(scale.scorer_steps),
                },
            },
        }

    def _run_stage(self, name: str) -> None:
        run_recipe({name: self._base_stages()[name]}, [self.data], [self.validation_data], self.folder)

    def _train(self, name: str, seed: int) -> None:
        """Leaves the averaged weights, the last ones and a record of the training."""
        training, plan = TRAININGS[name], self._plan(name)
        with _appears_whole(self.trained(name, seed)) as folder:
            trainer = training.trainer(
                training.start(FSDFMForDiffusionLM.from_pretrained(self.folder / "dfm"), seed),
                training.arguments(self.scale, folder, seed, plan.steps),
                self._rows,
                processing_class=self._tokenizer,
            )
            trainer.remove_callback(PrinterCallback)
            start = clock.perf_counter()
            trainer.train()
            seconds = clock.perf_counter() - start
            trainer.save_model(str(folder / "ema"))
            trainer.model.save_pretrained(folder / "raw")
            record = {"steps": plan.steps, "seconds": seconds, "log": trainer.state.log_history}
            (folder / "record.json").write_text(json.dumps(record), encoding="utf-8")

    def _sample(self, variant: Variant, seed: int, path: Path) -> None:
        is_trained = variant.training is not None
        folder = self.trained(variant.training, seed) / variant.weights if is_trained else self.folder / "dfm"
        model = FSDFMForDiffusionLM.from_pretrained(folder)
        sample_and_score(model, variant.solver, seed, self.scale, self._tokenizer, self._scorer).write(path)

    def _score_real_text(self) -> None:
        start = clock.perf_counter()
        num_blocks = REAL_SETS * self.scale.samples
        blocks = reference_blocks([self.validation_data], self._tokenizer, self.scale.length, num_blocks)
        scores = score(blocks, self._tokenizer, self._scorer)
        Result(clock.perf_counter() - start, {0: scores}).write(self.real_file)

    # ---- What is in the folder

    def trained(self, training: str, seed: int) -> Path:
        """The folder of a training."""
        return self.folder / "trainings" / training / f"seed-{seed}"

    def result_file(self, variant: str, seed: int) -> Path:
        """The samples of a variant, with their scores."""
        return self.folder / "results" / variant / f"seed-{seed}.json"

    @property
    def real_file(self) -> Path:
        """The real text, with its scores."""
        return self.folder / "results" / "real.json"

    def results(self) -> dict[str, dict[int, Result]]:
        """All that are there, of the chosen variants and seeds."""
        files = {
            name: {seed: path for seed in self.seeds if (path := self.result_file(name, seed)).is_file()}
            for name in self.variants
        }
        return {name: {seed: Result.read(path) for seed, path in of.items()} for name, of in files.items() if of}

    def plans(self) -> dict[str, Plan]:
        """How long the trainings are, that of the full variant first."""
        return {name: self._plan(name) for name in dict.fromkeys((FULL, *self._trainings()))}

    def seconds(self) -> dict[str, list[float]]:
        """Of the finished trainings, by name."""
        records = {name: [self.trained(name, seed) / "record.json" for seed in self.seeds] for name in TRAININGS}
        return {
            name: [json.loads(path.read_text(encoding="utf-8"))["seconds"] for path in paths if path.is_file()]
            for name, paths in records.items()
        }

    def claim_folder(self) -> None:
        """
        Writes down what decides the results, or checks that it is what the folder was begun with.

        Raises:
            `ValueError`: if the folder was begun with other settings.
        """
        path = self.folder / "settings.json"
        settings = {
            **dataclasses.asdict(self.scale),
            "data": _digest(self.data),
            "validation_data": _digest(self.validation_data),
            **{f"training {name}": training.settings(self.scale) for name, training in TRAININGS.items()},
        }
        with _lock(self.folder, "settings"):  # several processes may begin at the same moment
            known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            changed = [name for name in known.keys() & settings.keys() if known[name] != settings[name]]
            if changed:
                raise ValueError(
                    f"--output-dir {self.folder} was begun with other settings ({', '.join(sorted(changed))}); go on "
                    "with those, or choose another folder"
                )
            if known != (merged := {**known, **settings}):
                with written_whole(path) as unfinished:
                    unfinished.write_text(json.dumps(merged, indent=2) + "\n", encoding="utf-8")

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(str(self.folder / "dfm"))

    @cached_property
    def _scorer(self) -> Scorer:
        return Scorer.load(self.folder / "scorer", device="cpu")

    @cached_property
    def _rows(self) -> Any:
        return pack_documents(load_documents(self.data), self._tokenizer, self.scale.length)


def _often(max_steps: int) -> dict[str, int]:
    """Five evaluations and checkpoints in a training."""
    interval = max(1, max_steps // 5)
    return {"logging_steps": interval, "eval_steps": interval, "save_steps": interval}


@contextlib.contextmanager
def _appears_whole(folder: Path) -> Iterator[Path]:
    """A folder to write to, which becomes `folder` when the block ends well; else nothing of it is left."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unfinished-") as parent:
        unfinished = Path(parent) / folder.name
        unfinished.mkdir()
        yield unfinished
        unfinished.rename(folder)


def _digest(file: str) -> str:
    return hashlib.blake2b(Path(file).read_bytes(), digest_size=16).hexdigest()
