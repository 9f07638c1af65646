# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""`report.md`: the numbers of a report as tables, with all that a reader needs to doubt them properly."""

import math
from collections.abc import Iterable, Sequence

from .measures import Measure
from .report import REFERENCE, ComparedValue, Report, Row, Value
from .settings import NO_STEPS, Cell
from .statistics import Verdict


TABLES = {
    "quality": "Quality",
    "diversity": "Diversity and repetition",
    "more": "More measures",
}
NOTHING = "-"
VERDICTS = {
    Verdict.EQUIVALENT: "equivalent within the margin",
    Verdict.LOWER: "A lower by more than the margin",
    Verdict.HIGHER: "A higher by more than the margin",
    Verdict.UNDECIDED: "undecided",
}


def to_markdown(report: Report, plots: Sequence[str] = ()) -> str:
    """
    Args:
        plots (`Sequence[str]`): paths of pictures, as they are to stand in the text.
    """
    blocks = ["# Evaluation report", _how_it_was_made(report), _how_to_read(report)]
    for mode in report.measures:
        blocks.append(f"## {mode}")
        rows = [row for row in report.rows if row.mode == mode]
        for table, title in TABLES.items():
            measures = [measure for measure in report.measures[mode] if measure.table == table]
            if any(measure.key in row.values for measure in measures for row in rows):
                blocks += [f"### {title} ({mode})", _values_table(rows, measures)]
        blocks += [f"### Speed ({mode})", _speed_table(rows)]
        blocks += [f"![{plot}]({plot})" for plot in plots if plot.split("/")[-1].startswith(f"{mode}--")]
    if report.bounds:
        blocks += ["## Likelihood bound of the real text", _bounds_table(report)]
    if report.comparisons:
        blocks += ["## Comparisons", *_comparisons(report)]
    blocks += ["## What the columns are", _definitions(report)]
    if report.notes:
        blocks += ["## Notes", _list(report.notes)]
    return "\n\n".join(blocks) + "\n"


def _how_it_was_made(report: Report) -> str:
    rows = [[name.replace("_", " "), _plain(value)] for name, value in report.about.items()]
    return _table(["setting", "value"], rows)


def _how_to_read(report: Report) -> str:
    percent = f"{100 * report.about['confidence']:g} %"
    return (
        f"A number stands as `value [low, high] ± s`: [low, high] is its {percent} BCa bootstrap interval over "
        "sequences (over prompts in conditional modes, where seeds share prompts), s the standard deviation of the "
        "values of the single seeds. Numbers of a whole set (distinct-n, self-BLEU, MAUVE) have the interval of a "
        "jackknife over the same sequences. "
        f"*{REFERENCE}* is the reference text under the same metrics, at the same length and the same positions. "
        "Perplexities and bits are those that the scorer named above gives: they can be compared within this report, "
        "not with other scorers or aggregations."
    )


# ---- Tables ----------------------------------------------------------------------------------------------------------


def _values_table(rows: list[Row], measures: list[Measure]) -> str:
    measures = [measure for measure in measures if any(measure.key in row.values for row in rows)]
    head = ["system", "solver", "steps", *(f"{one.title} ({one.unit})" for one in measures), "sequences (seeds)"]
    body = [
        [
            *_names(row.cell),
            *(_value(row.values.get(one.key)) for one in measures),
            f"{row.num_sequences} ({row.num_seeds if row.cell else NOTHING})",
        ]
        for row in rows
    ]
    return _table(head, body)


def _speed_table(rows: list[Row]) -> str:
    head = [
        "system",
        "solver",
        "steps",
        "runs of the network (per batch)",
        "seconds per batch: median [quartiles]",
        "batches",
        "batch size (sequences)",
        "written tokens per second",
        "processes at once",
    ]
    body = [
        [
            *_names(row.cell),
            _number(row.speed.num_function_evaluations),
            f"{_number(row.speed.seconds)} [{_number(row.speed.seconds_low)}, {_number(row.speed.seconds_high)}]",
            str(row.speed.num_batches),
            str(row.speed.batch_size),
            _number(row.speed.tokens_per_second),
            str(row.speed.num_processes),
        ]
        for row in rows
        if row.speed is not None
    ]
    return _table(head, body)


def _bounds_table(report: Report) -> str:
    head = ["model", "bound (nats per token)", "bound (bits/byte)"]
    body = [[name, _value(one["nats_per_token"]), _value(one["bits_per_byte"])] for name, one in report.bounds.items()]
    return (
        "An upper bound on -log p of the real text (path loss, averaged over times and noise), with intervals over "
        "sequences. It judges the network, not the sampler or the number of steps.\n\n" + _table(head, body)
    )


def _comparisons(report: Report) -> Iterable[str]:
    margin, percent = report.about["equivalence_margin"], f"{100 * report.about['confidence']:g} %"
    alpha = 1 - report.about["confidence"]
    yield (
        "A and B wrote from the same prompts with the same random numbers, and are compared in pairs. Intervals: "
        f"{percent} BCa bootstrap over sequences (prompts). p: paired t-test of no difference on linearised ratios; "
        "p (Holm): the same, adjusted for all comparisons of its measure in this report."
    )
    ratios = [one for one in report.comparisons if one.measure.is_exponential]
    if ratios:
        low, high = 1 / (1 + margin), 1 + margin
        yield (
            "Equivalence is judged by two one-sided paired t-tests (TOST) on the log of the ratio A/B, at level "
            f"{alpha:.3g} and with a margin of {100 * margin:g} %: *equivalent* says that the ratio lies in "
            f"[{low:.4f}, {high:.4f}], not merely that no difference was found; *lower* and *higher* say that it lies "
            "outside, each at half that level; *undecided* says that these data show none of this."
        )
        yield _table(
            [
                "mode",
                "A",
                "B",
                "measure",
                f"A / B [{percent}]",
                "p",
                "p (Holm)",
                "p (TOST)",
                "verdict",
                "independent units",
            ],
            [_comparison_row(one) for one in ratios],
        )
    differences = [one for one in report.comparisons if not one.measure.is_exponential]
    if differences:
        head = ["mode", "A", "B", "measure", f"A - B [{percent}]", "p", "p (Holm)", "independent units"]
        yield _table(head, [_comparison_row(one) for one in differences])


def _comparison_row(one: ComparedValue) -> list[str]:
    row = [
        one.pair.first.mode,
        _describe(one.pair.first),
        _describe(one.pair.second),
        f"{one.measure.title} ({one.measure.unit})" if not one.measure.is_exponential else one.measure.title,
        _value(one.effect),
        _p_value(one.result.p_difference),
        _p_value(one.p_adjusted),
    ]
    if one.result.p_equivalence is not None and one.result.verdict is not None:  # of every exponential measure
        row += [_p_value(one.result.p_equivalence), VERDICTS[one.result.verdict]]
    return [*row, str(one.num_units)]


def _definitions(report: Report) -> str:
    measures = {one.key: one for mode in report.measures.values() for one in mode}
    return _list(f"**{one.title}** ({one.unit}): {one.definition}" for one in measures.values())


def _names(cell: Cell | None) -> list[str]:
    if cell is None:
        return [f"*{REFERENCE}*", NOTHING, NOTHING]
    return [cell.model, cell.solver, NOTHING if cell.num_steps == NO_STEPS else str(cell.num_steps)]


def _describe(cell: Cell) -> str:
    return cell.model if cell.num_steps == NO_STEPS else f"{cell.model}, {cell.num_steps} steps, {cell.solver}"


def describe_comparison(one: ComparedValue) -> str:
    """A comparison in one line, for the terminal."""
    kind = "ratio" if one.measure.is_exponential else "difference"
    verdict = f": {VERDICTS[one.result.verdict]}" if one.result.verdict else f", p = {_p_value(one.p_adjusted)} (Holm)"
    first, second = _describe(one.pair.first), _describe(one.pair.second)
    return f"{one.pair.first.mode}: {first} / {second}: {one.measure.title}: {kind} {_value(one.effect)}{verdict}"


# ---- Numbers ---------------------------------------------------------------------------------------------------------


def _value(value: Value | None) -> str:
    if value is None:
        return NOTHING
    text = _number(value.value)
    if value.low is not None and value.high is not None:
        text += f" [{_number(value.low)}, {_number(value.high)}]"
    return text if value.seed_deviation is None else f"{text} ± {_number(value.seed_deviation)}"


def _number(value: float) -> str:
    """Four significant digits, without an exponent between 0.0001 and a million."""
    if not math.isfinite(value):
        return str(value)
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.4g}"


def _p_value(value: float) -> str:
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"


def _table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_plain(one)}" for key, one in value.items()) or NOTHING
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value)) or NOTHING
    return NOTHING if value is None else str(value)


__all__ = ["describe_comparison", "to_markdown"]
