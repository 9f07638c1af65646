# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""From settings to a finished report: check, sample, score, write. In one process or many."""

import contextlib
import datetime
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers

from .. import __version__
from ..devices import find_device
from .drawing import draw_runs
from .files import remove_unfinished, written_whole
from .markdown import to_markdown
from .plots import save_plots
from .progress import PROGRESS_STYLES, SECONDS_BETWEEN_LINES, Progress, ProgressStyle, describe_run
from .report import Report, finite, make_report
from .settings import SAMPLING, EvaluationSettings, Run
from .systems import ModelFolder
from .workbench import Workbench, check_libraries


logger = logging.getLogger(__name__)

Item = TypeVar("Item")

LONGEST_WAIT = datetime.timedelta(days=30)  # of a process for the others


def evaluate_models(
    settings: EvaluationSettings, *, sample: bool = True, progress: ProgressStyle | None = None
) -> Report | None:
    """
    Samples, scores and writes the report.

    ```
    OUT/report.md, OUT/scores.jsonl, OUT/plots/*.png, *.svg
    OUT/samples/MODEL/MODE--SOLVER--N-steps--seed-S--DIGEST.parquet
    OUT/scores/...json
    ```

    What is there already is not done again, if every setting that it depends on is the same; samples of other settings
    stay beside the new ones. Each file appears when it is complete, so a run that was killed loses at most what it was
    sampling or scoring at that moment.

    Under `accelerate launch` (or torchrun) each process takes its share of the runs; the main one writes the report.

    Args:
        settings ([`EvaluationSettings`]): what to do.
        sample (`bool`, *optional*, defaults to `True`): `False`: only score what was sampled before.
        progress (`"bars"` or `"lines"`, *optional*): tells on standard error how far it is: bars, or a line for each
            file of samples and now and then one for the scores; nothing if not set.

    Returns:
        [`Report`], the same as in the files; None in all processes but the main one.

    Raises:
        `ValueError`, `FileNotFoundError`, `ModuleNotFoundError`: if something is missing or does not fit. All of it is
            checked before anything is sampled.
    """
    if progress not in (None, *PROGRESS_STYLES):
        raise ValueError(f"`progress` must be one of {', '.join(PROGRESS_STYLES)} or None, but got {progress!r}")
    check_libraries(settings)
    from accelerate import PartialState

    state = PartialState(cpu=settings.device == "cpu", timeout=LONGEST_WAIT)
    device = find_device(settings.device, state.device)
    style = progress if state.is_main_process else None
    with _one_run_at_a_time(Path(settings.out), state.is_main_process):
        bench = Workbench.prepare(settings, device)
        if state.is_main_process:
            for name in bench.scorers:
                bench.judge.scorer(name)  # one that can't be loaded is to be known now
        runs = settings.runs()
        missing = [run for run in runs if not bench.samples.has(run)]
        if style is not None and len(missing) < len(runs):
            print(f"Sampled before: {len(runs) - len(missing)} of {len(runs)} files", file=sys.stderr)
        if missing and not sample:
            bench.samples.load(missing[0])  # raises, and says what is missing
        state.wait_for_everyone()  # before the first new file, so that all see the same ones missing
        _sample(bench, _share(missing, lambda run: run.cell.num_steps, state), state.num_processes, style)
        state.wait_for_everyone()
        _score(bench, state, style)
        state.wait_for_everyone()
        return _write_report(bench) if state.is_main_process else None


@contextlib.contextmanager
def _one_run_at_a_time(out: Path, is_main_process: bool) -> Iterator[None]:
    """Keeps a second evaluation out of the folder, and removes what killed ones left."""
    if not is_main_process:
        yield
        return
    from filelock import FileLock, Timeout

    if out.exists() and not out.is_dir():
        raise ValueError(f"`out` {out} is a file: give a folder")
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"`out` {out} is in use by another evaluation") from None
    try:
        remove_unfinished(out)
        yield
    finally:
        lock.release()


def _share(items: Sequence[Item], cost: Callable[[Item], float], state: Any) -> list[Item]:
    """This process's part: the dearest first, each to the process that has least to do."""
    loads, mine = [0.0] * state.num_processes, []
    for item in sorted(items, key=cost, reverse=True):
        process = loads.index(min(loads))
        loads[process] += cost(item)
        if process == state.process_index:
            mine.append(item)
    return mine


# ---- Sampling and scoring --------------------------------------------------------------------------------------------


def _sample(bench: Workbench, runs: list[Run], num_processes: int, style: ProgressStyle | None) -> None:
    """Draws the samples of runs."""
    changed = list(dict.fromkeys(filter(None, map(bench.samples.describe_others, runs))))
    if changed:
        logger.warning(f"Sampling anew beside samples of other settings ({changed[0]})")
    size = bench.settings.num_samples
    with Progress("Sampling", len(runs), style, parts=size, unit="sequence") as progress:
        draw_runs(
            runs,
            store=bench.samples,
            settings=bench.settings,
            models={**bench.models, **bench.others},
            tokenizer=bench.tokenizer,
            device=bench.device,
            num_processes=num_processes,
            report=lambda run, rows: progress.advance(describe_run(run), rows),
        )


def _score(bench: Workbench, state: Any, style: ProgressStyle | None) -> None:
    """Computes every score that is missing: of the runs, of the real text, and of the models themselves."""
    runs = [(mode, None) for mode in bench.settings.modes] + [(run.cell.mode, run) for run in bench.settings.runs()]
    missing = [
        (job, path, mode, run)
        for mode, run in runs
        for job, path in bench.score_paths(mode, run).items()
        if not path.is_file()
    ]
    models = [model for model in bench.models.values() if not bench.bounds.path(model).is_file()]
    if "likelihood_bound" not in bench.settings.metrics:
        models = []
    state.wait_for_everyone()
    mine = sorted(_share(missing, lambda _: 1, state), key=lambda item: item[0].name)  # one scorer after the other
    my_models = _share(models, lambda _: 1, state)
    total = len(mine) + len(my_models)
    with Progress("Scoring", total, style, seconds_between_lines=SECONDS_BETWEEN_LINES) as progress:
        for job, path, mode, run in mine:
            real = bench.real[mode]
            bench.scores.save(path, bench.judge.compute(job, bench.samples_of(mode, run), real))
            progress.advance(f"{job.name} of {f'the real text, {mode}' if run is None else describe_run(run)}")
        for model in my_models:
            bench.bounds.compute(model, bench.tokenizer, bench.settings.batch_size, bench.device)
            progress.advance(f"likelihood_bound of {model.name}")


# ---- The report ------------------------------------------------------------------------------------------------------


def _write_report(bench: Workbench) -> Report:
    settings, out = bench.settings, Path(bench.settings.out)
    samples, scores = {}, {}
    for cell in settings.cells():
        runs = [Run(cell, seed) for seed in settings.seeds]
        samples[cell] = [bench.samples.load(run) for run in runs]
        scores[cell] = [bench.scores.load(bench.score_paths(cell.mode, run).values()) for run in runs]
    real = {mode: bench.scores.load(bench.score_paths(mode, None).values()) for mode in settings.modes}
    bounds = {}
    if "likelihood_bound" in settings.metrics:
        bounds = {name: bench.bounds.load(model) for name, model in bench.models.items()}
    report = make_report(settings, _about(bench), samples, scores, real, bounds)
    plots = save_plots(report, out / "plots")
    with written_whole(out / "scores.jsonl") as file:
        lines = (json.dumps(finite(record), ensure_ascii=False, allow_nan=False) for record in report.records())
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with written_whole(out / "report.md") as file:
        file.write_text(to_markdown(report, [f"plots/{name}" for name in plots]), encoding="utf-8")
    return report


def _about(bench: Workbench) -> dict[str, Any]:
    """What a reader must know to repeat the report."""
    settings = bench.settings
    return {
        "models": {
            name: ", ".join([model.kind, settings.model_paths[name], *_own_sampling(model, settings)])
            + f", fingerprint {model.fingerprint}"
            for name, model in bench.models.items()
        },
        "other_systems": {
            name: f"{folder.config.get('model_type')}, fingerprint {folder.fingerprint}"
            for name, folder in bench.others.items()
        },
        "scorers": {
            name: f"{settings.scorer_paths[name]}, fingerprint {scorer.fingerprint}"
            for name, scorer in bench.scorers.items()
        },
        "reference": [str(file) for file in settings.reference],
        "training_text": [str(file) for file in settings.training_text],
        "num_samples": settings.num_samples,
        "seeds": list(settings.seeds),
        "length": bench.length,
        "sampling": {name: getattr(settings, name) for name in SAMPLING if getattr(settings, name) is not None}
        or "each model's own settings",
        "batch_size": settings.batch_size,
        "mauve_pieces": settings.mauve_pieces,
        "dtype": settings.dtype,
        "device": str(bench.device.type),
        "confidence": settings.confidence,
        "num_resamples": settings.num_resamples,
        "equivalence_margin": settings.equivalence_margin,
        "versions": {
            "transformers-fsdfm": __version__,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
        },
    }


def _own_sampling(model: ModelFolder, settings: EvaluationSettings) -> list[str]:
    """How a checkpoint says that it is to be sampled from, as far as the settings of the report do not."""
    own = model.generation_config.unusual_sampling()
    return [f"{name}={own[name]}" for name in SAMPLING if name in own and getattr(settings, name) is None]


__all__ = ["evaluate_models"]
