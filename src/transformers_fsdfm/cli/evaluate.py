# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""`fsdfm evaluate`."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import _options as options


if TYPE_CHECKING:
    from ..evaluation.report import Report

LIBRARY_NAMES = {
    "num_steps": "--steps",
    "scorers": "--scorer",
    "systems": "--system",
    "baselines": "--baseline",
    "training_text": "--train-text",
}
NUMBER_LISTS = ("steps", "seeds")
LIST = "Comma-separated, or several times."
NUMBERS = "With commas or spaces between them."


def _refuse_trajectory(asked: bool) -> None:
    if asked:
        raise typer.BadParameter("the error growth has a command of its own, see fsdfm trajectory --help")


def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL",
            help="Folders or Hub ids of DFM and FS-DFM models with one and the same tokenizer; NAME=PATH names one.",
        ),
    ],
    reference: Annotated[
        list[str],
        typer.Option(metavar="FILE", help="Real text, unseen in training: prompts, and what samples are held against."),
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The folder of the report.")],
    scorer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH",
            help="Causal language model that judges texts; repeatable. Required, unless --metrics leaves out "
            "generative_perplexity and mauve.",
        ),
    ] = None,
    system: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH", help="Another text diffusion model (LLaDA, Dream, ...) for the table; repeatable."
        ),
    ] = None,
    baseline: Annotated[
        list[str] | None, typer.Option(metavar="PATH", help="An autoregressive model for the table; repeatable.")
    ] = None,
    system_options: Annotated[
        str, typer.Option(metavar="JSON", help='Settings of the adapters of --system, as {"temperature": 1.0}.')
    ] = "{}",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Let code that comes with a --system run.")
    ] = False,
    train_text: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="The text that the models were trained on: adds a column that says how much of a text stands in it "
            "word for word; repeatable.",
        ),
    ] = None,
    steps: Annotated[
        list[str] | None,
        typer.Option("--steps", "--num-steps", metavar="N,N", help=f"By default 1,2,4,8,16. {NUMBERS}"),
    ] = None,
    solvers: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help=f"By default cumulative_scalar. {LIST}")
    ] = None,
    modes: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODE",
            help="unconditional (the default), prefix-P or infill-P, where P is the percentage of the tokens that is "
            f"given. {LIST}",
        ),
    ] = None,
    seeds: Annotated[list[str] | None, typer.Option(metavar="N,N", help=f"By default 0,1,2. {NUMBERS}")] = None,
    num_samples: Annotated[
        int, typer.Option(metavar="N", min=1, help="Sequences for each seed; the intervals need 20 or more.")
    ] = 64,
    length: Annotated[
        int | None, typer.Option(metavar="N", min=2, help="Tokens of a sequence, by default the trained length.")
    ] = None,
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Sequences sampled at once.")] = 16,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Of generative_perplexity, token_entropy, repetition, diversity, mauve, infilling_accuracy, "
            f"likelihood_bound; by default all. {LIST}",
        ),
    ] = None,
    mauve_pieces: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="Pieces that MAUVE cuts each text into. It needs hundreds of texts, and reads no more of one than the "
            "scorer's context holds.",
        ),
    ] = 1,
    compare: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A:B",
            help="What to compare, where A and B are MODEL@STEPS or MODEL@STEPS@SOLVER, or the name of a baseline; "
            "sampled whatever --steps says. By default each two models at equal steps, and at each number of steps "
            f"against the most steps of the other. {LIST}",
        ),
    ] = None,
    equivalence_margin: Annotated[
        float, typer.Option(metavar="X", help="Perplexities within a factor of 1 + X count as equivalent.")
    ] = 0.05,
    confidence: Annotated[float, typer.Option(metavar="P", help="Of intervals; tests have the level 1 - P.")] = 0.95,
    num_resamples: Annotated[int, typer.Option(metavar="N", min=1, help="Of the bootstrap.")] = 2000,
    temperature: options.TemperatureOption = None,
    final_temperature: options.FinalTemperatureOption = None,
    top_k: options.TopKOption = None,
    top_p: options.TopPOption = None,
    time_shift: options.TimeShiftOption = None,
    min_step_size: options.MinStepSizeOption = None,
    spread: options.SpreadOption = None,
    trajectory: Annotated[
        bool, typer.Option("--trajectory", hidden=True, is_eager=True, callback=_refuse_trajectory)
    ] = False,
    no_sample: Annotated[
        bool, typer.Option("--no-sample", help="Only score, compare and plot what was sampled before.")
    ] = False,
    as_json: options.JsonOption = False,
    device: options.DeviceOption = None,
    dtype: Annotated[options.DType, typer.Option(help="Of the weights of models and scorers.")] = options.DType.FLOAT32,
) -> None:
    """
    Sample from models, score, compare and plot: a report with uncertainties.

    FOLDER gets report.md, scores.jsonl, plots and all samples (parquet). Samples and scores that are there already are
    used again, if every setting that they depend on is the same; a run that was stopped goes on where it was. In many
    processes: accelerate launch -m transformers_fsdfm.evaluation MODEL... (same options). Whether errors grow along the
    steps is measured by fsdfm trajectory.

    \b
    Examples:
      fsdfm evaluate fsdfm dfm --reference valid.txt --scorer gpt2 --out report --steps 1,2,4,8,1024
      fsdfm evaluate fsdfm dfm --reference valid.txt --scorer gpt2 --out report --steps 4,8 \\
          --modes unconditional,prefix-50,infill-25 --compare fsdfm@8:dfm@1024 --equivalence-margin 0.05
    """
    from ._model import quiet_libraries

    with quiet_libraries():
        from ..evaluation import EvaluationSettings, evaluate_models
        from ..evaluation.workbench import check_libraries

    lists = {
        "steps": _integers("--steps", steps),
        "solvers": [solver.replace("-", "_") for solver in _words(solvers) or []] or None,
        "modes": _words(modes),
        "seeds": _integers("--seeds", seeds),
        "metrics": _words(metrics),
    }
    settings = EvaluationSettings(
        models=models,
        reference=reference,
        scorers=scorer or [],
        systems=system or [],
        baselines=baseline or [],
        training_text=train_text or [],
        system_options=_object("--system-options", system_options),
        trust_remote_code=trust_remote_code,
        out=out,
        num_samples=num_samples,
        length=length,
        batch_size=batch_size,
        mauve_pieces=mauve_pieces,
        compare=_pairs(compare),
        equivalence_margin=equivalence_margin,
        confidence=confidence,
        num_resamples=num_resamples,
        temperature=temperature,
        final_temperature=final_temperature,
        top_k=top_k,
        top_p=top_p,
        time_shift=time_shift,
        min_step_size=min_step_size,
        spread_candidates=spread,
        device=device,
        dtype=dtype.value,
        **{name: values for name, values in lists.items() if values is not None},
    )
    check_libraries(settings)
    _quieten_libraries()
    style = None if as_json else "bars" if sys.stderr.isatty() else "lines"
    report = evaluate_models(settings, sample=not no_sample, progress=style)
    if report is not None:  # else another process has it
        _print(report, out, as_json)


def _quieten_libraries() -> None:
    """The bars of this command are enough."""
    import datasets
    from transformers.utils import logging

    logging.disable_progress_bar()
    datasets.disable_progress_bars()


def _words(values: list[str] | None) -> list[str] | None:
    """The entries of an option that takes a list; None if it was not given."""
    return [entry.strip() for value in values for entry in value.rstrip(",").split(",")] if values else None


def _integers(option: str, values: list[str] | None) -> list[int] | None:
    words = _words(values)
    if words is None:
        return None
    try:
        return [int(word) for word in words]
    except ValueError:
        raise typer.BadParameter(f"takes integers, as in 1,2,4, but got {','.join(words)}", param_hint=option) from None


def _pairs(values: list[str] | None) -> list[tuple[str, str]] | None:
    pairs = []
    for word in _words(values) or []:
        first, colon, second = word.partition(":")
        if not colon or ":" in second:
            raise typer.BadParameter(f"takes A:B, as in few@8:many@1024, but got {word}", param_hint="--compare")
        pairs.append((first, second))
    return pairs or None


def _object(option: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise typer.BadParameter(f"takes a JSON object, but got {text}", param_hint=option)
    return value


def _print(report: "Report", out: Path, as_json: bool) -> None:
    from ..evaluation.markdown import describe_comparison
    from ..evaluation.report import finite
    from ._output import write_stdout

    if as_json:
        write_stdout(json.dumps({"out": str(out), "records": finite(report.records())}, ensure_ascii=False) + "\n")
        return
    lines = [describe_comparison(one) for one in report.comparisons if one.measure.is_exponential]
    write_stdout("\n".join([*lines, f"Wrote {out / 'report.md'}"]) + "\n")


__all__ = ["LIBRARY_NAMES", "NUMBER_LISTS", "evaluate"]
