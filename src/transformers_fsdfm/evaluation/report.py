# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""From scores to the numbers of a report: each cell's values with their uncertainty, and the comparisons."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .measures import Measure, RunScores, measures_of
from .samples import Samples
from .settings import OWN_SOLVER, UNCONDITIONAL, Cell, ComparedPair, EvaluationSettings, Mode
from .statistics import Comparison, RatioData, compare_ratios, holm, ratio_interval, share_interval


REFERENCE = "real text"
BLIND = 0.9  # shuffled text this near to real text on MAUVE's scale: it cannot tell them apart
MANY_BUCKETS = 20  # with fewer, MAUVE is called coarse; its paper has 500


@dataclass(frozen=True)
class Value:
    """
    One number of the table.

    Args:
        value (`float`): over the sequences of all seeds; the mean over seeds for numbers of a whole set.
        low, high (`float`, *optional*): ends of the interval over sequences: bootstrap, or jackknife for numbers of a
            whole set.
        seed_deviation (`float`, *optional*): standard deviation (n - 1) of the seeds' own values; None for one seed.
    """

    value: float
    low: float | None = None
    high: float | None = None
    seed_deviation: float | None = None


@dataclass(frozen=True)
class Speed:
    """
    What sampling took.

    Args:
        seconds, seconds_low, seconds_high (`float`): wall time of a whole batch: median and quartiles.
        num_batches, batch_size (`int`): how many were measured, and of how many sequences.
        tokens_per_second (`float`): written tokens of a batch, divided by the median.
        num_function_evaluations (`float`): runs of the network for a batch.
        num_processes (`int`): how many sampled side by side on the machine at the same time.
    """

    seconds: float
    seconds_low: float
    seconds_high: float
    num_batches: int
    batch_size: int
    tokens_per_second: float
    num_function_evaluations: float
    num_processes: int


@dataclass(frozen=True)
class Row:
    """
    A cell with its numbers, or the real text.

    Args:
        mode (`str`): its mode.
        cell ([`Cell`], *optional*): None for the real text.
        num_sequences, num_seeds (`int`): what the numbers are from.
        values (`dict[str, Value]`): by the key of the measure.
        speed ([`Speed`], *optional*): None for the real text.
    """

    mode: str
    cell: Cell | None
    num_sequences: int
    num_seeds: int
    values: dict[str, Value]
    speed: Speed | None = None


@dataclass(frozen=True)
class ComparedValue:
    """
    A pair of cells in one measure.

    Args:
        pair ([`ComparedPair`]): cells A and B.
        measure ([`Measure`]): what is compared.
        result ([`Comparison`]): of the logs for an exponential measure.
        p_adjusted (`float`): `p_difference`, adjusted after Holm for all comparisons of the report in this measure.
        num_units (`int`): independent sequences or prompts.
    """

    pair: ComparedPair
    measure: Measure
    result: Comparison
    p_adjusted: float
    num_units: int

    @property
    def effect(self) -> Value:
        """A / B for an exponential measure, else A - B."""
        difference = self.result.difference.map(np.exp) if self.measure.is_exponential else self.result.difference
        return Value(difference.value, difference.low, difference.high)


@dataclass
class Report:
    """
    Everything that `report.md` says, as data.

    Args:
        about (`dict[str, Any]`): how it was made: settings, fingerprints, versions.
        measures (`dict[str, list[Measure]]`): the columns of each mode.
        rows (`list[Row]`): the real text of each mode, then its cells.
        comparisons (`list[ComparedValue]`): the pairs.
        bounds (`dict[str, dict[str, Value]]`): of each model, the likelihood bound of the real text: `nats_per_token`
            and `bits_per_byte`.
        notes (`list[str]`): what else a reader must know.
    """

    about: dict[str, Any]
    measures: dict[str, list[Measure]]
    rows: list[Row]
    comparisons: list[ComparedValue]
    bounds: dict[str, dict[str, Value]]
    notes: list[str]

    def records(self) -> list[dict[str, Any]]:
        """The lines of `scores.jsonl`: an `"about"`, then a `"row"`, `"bound"` or `"comparison"` in each."""
        return [
            {"kind": "about", **self.about, "notes": self.notes},
            *(_row_record(row) for row in self.rows),
            *(
                {"kind": "bound", "model": name, **{key: vars(one) for key, one in values.items()}}
                for name, values in self.bounds.items()
            ),
            *(_comparison_record(one) for one in self.comparisons),
        ]


def make_report(
    settings: EvaluationSettings,
    about: dict[str, Any],
    samples: dict[Cell, list[Samples]],
    scores: dict[Cell, list[RunScores]],
    real_scores: dict[str, RunScores],
    bounds: dict[str, dict[str, list[float]]],
) -> Report:
    """
    Computes all numbers.

    Args:
        about (`dict`): for the head of the report.
        samples, scores: of each cell under each seed.
        real_scores: of the real text in each mode.
        bounds: for each model the likelihood bound of each real sequence: `nll`, `tokens` and `bytes`.
    """
    measures = {name: measures_of(settings, Mode.parse(name)) for name in settings.modes}
    rows = []
    for mode in settings.modes:
        rows.append(_make_row(mode, None, measures[mode], [real_scores[mode]], settings))
        for cell in (cell for cell in scores if cell.mode == mode):
            speed = _speed(samples[cell])
            rows.append(_make_row(mode, cell, measures[mode], scores[cell], settings, speed))
    return Report(
        about=about,
        measures=measures,
        rows=rows,
        comparisons=_compare_all(settings, measures, scores),
        bounds={name: _bound_values(columns, settings) for name, columns in bounds.items()},
        notes=_notes(samples, real_scores),
    )


# ---- Rows ------------------------------------------------------------------------------------------------------------


def _units(mode: str, runs: Sequence[RunScores]) -> list[list[int]]:
    """The independent unit of each sequence: itself or, in conditional modes, its prompt, which all seeds share."""
    units, start = [], 0
    for run in runs:
        size = len(next(iter(run.per_sequence.values()), []))
        units.append(list(range(start, start + size)))
        start += size if mode == UNCONDITIONAL else 0
    return units


def _make_row(
    mode: str,
    cell: Cell | None,
    measures: list[Measure],
    runs: list[RunScores],
    settings: EvaluationSettings,
    speed: Speed | None = None,
) -> Row:
    values = {}
    for measure in measures:
        if all(measure.is_in(run) for run in runs):
            maker = _set_value if measure.is_of_set else _ratio_value
            value = maker(measure, mode, runs, settings)
            if value is not None:
                values[measure.key] = value
    num_sequences = settings.num_samples * len(runs)
    return Row(mode, cell, num_sequences, len(runs), values, speed)


def _set_value(measure: Measure, mode: str, runs: list[RunScores], settings: EvaluationSettings) -> Value:
    found = [run.values[measure.numerator] for run in runs]
    value = Value(float(np.mean(found)), seed_deviation=_deviation(found))
    if not all(measure.numerator in run.deviations for run in runs):
        return value
    # The same sequences are left out under all seeds, so that those of one prompt go together.
    deviations = np.mean([run.deviations[measure.numerator] for run in runs], axis=0)
    num_units = settings.num_samples * (len(runs) if mode == UNCONDITIONAL else 1)
    interval = share_interval(value.value, deviations, num_units, confidence=settings.confidence)
    return replace(value, low=interval.low, high=interval.high)


def _ratio_value(measure: Measure, mode: str, runs: list[RunScores], settings: EvaluationSettings) -> Value | None:
    units = _units(mode, runs)
    data = measure.ratio(runs, units)
    if data is None:
        return None
    of_seeds = [measure.ratio([run], [own]) for run, own in zip(runs, units, strict=True)]
    deviation = _deviation([measure.shown(one.value) for one in of_seeds if one is not None])
    interval = ratio_interval(data, confidence=settings.confidence, num_resamples=settings.num_resamples)
    value, low, high = (measure.shown(number) for number in (interval.value, interval.low, interval.high))
    return Value(value, low, high, deviation)


def _deviation(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _speed(runs: list[Samples]) -> Speed:
    batch_size = runs[0].batch_size
    assert batch_size is not None  # as of all that was sampled
    seconds = np.concatenate([run.batch_seconds for run in runs])
    low, median, high = np.quantile(seconds, [0.25, 0.5, 0.75])
    written = np.mean([flags.sum() for run in runs for flags in run.editable]) * batch_size
    return Speed(
        seconds=float(median),
        seconds_low=float(low),
        seconds_high=float(high),
        num_batches=len(seconds),
        batch_size=batch_size,
        tokens_per_second=float(written / median),
        num_function_evaluations=float(np.mean([run.num_function_evaluations for run in runs])),
        num_processes=max(run.num_processes for run in runs),
    )


def _bound_values(columns: dict[str, list[float]], settings: EvaluationSettings) -> dict[str, Value]:
    nats, rows = np.array(columns["nll"]), range(len(columns["nll"]))
    values = {}
    for name, above, below in (("nats_per_token", nats, "tokens"), ("bits_per_byte", nats / math.log(2), "bytes")):
        data = RatioData.from_sequences(above, columns[below], rows)
        interval = ratio_interval(data, confidence=settings.confidence, num_resamples=settings.num_resamples)
        values[name] = Value(interval.value, interval.low, interval.high)
    return values


def _notes(samples: dict[Cell, list[Samples]], real_scores: dict[str, RunScores]) -> list[str]:
    """What no table has room for."""
    machines = sorted({run.machine for runs in samples.values() for run in runs})
    notes = [f"Sampled on: {'; '.join(machines)}."]
    for cell, runs in samples.items():
        count = max(run.num_function_evaluations for run in runs)
        if cell.solver != OWN_SOLVER and count > cell.num_steps:
            notes.append(
                f"{cell.model}, {cell.num_steps} steps ({cell.mode}): the texts are longer than those that it was "
                f"trained on, and were written in windows. The network ran {count:g} times, not {cell.num_steps}."
            )
    for mode, scores in real_scores.items():
        for name in sorted({key.rpartition(".")[0] for key in scores.values if key.startswith("mauve[")}):
            found = {key.rpartition(".")[2]: value for key, value in scores.values.items() if key.startswith(name)}
            blind = " So MAUVE tells nothing here." if found["mauve_shuffled"] > BLIND * found["mauve_human"] else ""
            few = (
                ", too few to tell more than gross differences (more samples or --mauve-pieces help)"
                if found["num_buckets"] < MANY_BUCKETS
                else ""
            )
            cut = f"; each text is cut into {found['pieces']:.0f}" if found["pieces"] > 1 else ""
            notes.append(
                f"The two ends of {name} ({mode}): real against other real text {found['mauve_human']:.3f}; real text "
                f"with the words of each sequence shuffled against real text {found['mauve_shuffled']:.3f}. "
                f"{found['num_buckets']:.0f} buckets{few}, scaling factor {found['scaling_factor']:g}, seed "
                f"{found['seed']:.0f}, {found['num_references']:.0f} pieces of real texts, none of them a prompt"
                f"{cut}.{blind}"
            )
    return notes


# ---- Comparisons -----------------------------------------------------------------------------------------------------


def _compare_all(
    settings: EvaluationSettings, measures: dict[str, list[Measure]], scores: dict[Cell, list[RunScores]]
) -> list[ComparedValue]:
    pairs = settings.pairs()
    keys = dict.fromkeys(measure.key for mode in settings.modes for measure in measures[mode] if measure.is_tested)
    compared = []
    for key in keys:
        found = []
        for pair in pairs:
            measure = next((one for one in measures[pair.first.mode] if one.key == key), None)
            if measure is None:
                continue
            first, second = (_ratio_of(measure, cell, scores[cell]) for cell in (pair.first, pair.second))
            if first is not None and second is not None:
                found.append((pair, measure, _compare(measure, first, second, settings), len(first.numerator)))
        adjusted = holm([result.p_difference for _, _, result, _ in found])
        compared += [ComparedValue(*one[:3], p, one[3]) for one, p in zip(found, adjusted, strict=True)]
    return compared


def _ratio_of(measure: Measure, cell: Cell, runs: list[RunScores]) -> RatioData | None:
    if not all(measure.is_in(run) for run in runs):
        return None
    return measure.ratio(runs, _units(cell.mode, runs))


def _compare(measure: Measure, first: RatioData, second: RatioData, settings: EvaluationSettings) -> Comparison:
    margin = math.log1p(settings.equivalence_margin) if measure.is_exponential else None
    alpha = 1 - settings.confidence
    return compare_ratios(first, second, margin=margin, alpha=alpha, num_resamples=settings.num_resamples)


# ---- Records ---------------------------------------------------------------------------------------------------------


def _row_record(row: Row) -> dict[str, Any]:
    return {
        "kind": "row",
        "mode": row.mode,
        "model": REFERENCE if row.cell is None else row.cell.model,
        "solver": row.cell and row.cell.solver,
        "num_steps": (row.cell and row.cell.num_steps) or None,
        "num_sequences": row.num_sequences,
        "num_seeds": row.num_seeds,
        "measures": {key: vars(value) for key, value in row.values.items()},
        "speed": None if row.speed is None else vars(row.speed),
    }


def _comparison_record(one: ComparedValue) -> dict[str, Any]:
    kind = "ratio" if one.measure.is_exponential else "difference"
    effect = one.effect
    return {
        "kind": "comparison",
        "mode": one.pair.first.mode,
        "first": _cell_record(one.pair.first),
        "second": _cell_record(one.pair.second),
        "measure": one.measure.key,
        kind: effect.value,
        "low": effect.low,
        "high": effect.high,
        "num_units": one.num_units,
        "p_difference": one.result.p_difference,
        "p_difference_holm": one.p_adjusted,
        "p_equivalence": one.result.p_equivalence,
        "verdict": one.result.verdict and one.result.verdict.value,
    }


def _cell_record(cell: Cell) -> dict[str, Any]:
    return {"model": cell.model, "solver": cell.solver, "num_steps": cell.num_steps or None}


def finite(value: Any) -> Any:
    """A JSON value with null in place of the numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


__all__ = ["REFERENCE", "ComparedValue", "Report", "Row", "Speed", "Value", "finite", "make_report"]
