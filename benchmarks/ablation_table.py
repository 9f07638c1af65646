# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The tables of the ablation: means with intervals over texts, spread over training seeds, ratios of pairs."""

import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from ablation_scores import Result, Scores
from ablation_variants import FULL, VARIANTS, Plan

from transformers_fsdfm.evaluation.statistics import Interval, RatioData, compare_ratios, ratio_interval


REAL_TEXT = "real text"
CONFIDENCE = 0.95

Results = dict[str, dict[int, Result]]  # of each variant and seed
Row = dict[str, Any]


class Measure(NamedTuple):
    """`function` of the ratio of two sums over texts; without a denominator, of a mean."""

    title: str
    numerator: str
    denominator: str | None
    function: np.ufunc

    def data(self, scores: Sequence[Scores]) -> RatioData:
        """Each text of each seed is a unit."""
        above = np.concatenate([getattr(one, self.numerator) for one in scores]).astype(float)
        if self.denominator is None:
            return RatioData(above, np.ones_like(above))
        return RatioData(above, np.concatenate([getattr(one, self.denominator) for one in scores]).astype(float))


PERPLEXITY = Measure("perplexity", "nll", "tokens", np.exp)
MEASURES = {
    "perplexity": PERPLEXITY,
    "entropy": Measure("entropy (nats)", "entropy", None, np.positive),
    "rep_4": Measure("rep-4", "repeats", "ngrams", np.positive),
}


def quality_rows(results: Results, real: Scores) -> list[Row]:
    """
    A row for each variant and number of steps, after one for the real text: plain numbers, to be kept.

    A measure has its `value`, the ends `low` and `high` of its 95 % interval over texts, its values `by_seed` and their
    standard deviation `sd`, if the variant was trained with several seeds. `ratio` is that of the perplexity to the
    full variant's with as many steps, of the seeds that both have, text by text; `seeds_low` and `seeds_high` are the
    ends of an interval over the seeds, by Student's t on the logarithms.
    """
    rows = [{"variant": REAL_TEXT, "num_steps": None, "seeds": [], **_measures([real], is_trained=False)}]
    for variant, by_seed in results.items():
        seeds = sorted(by_seed)
        for num_steps in by_seed[seeds[0]].scores:
            scores = [by_seed[seed].scores[num_steps] for seed in seeds]
            row = {"variant": variant, "num_steps": num_steps, "seeds": seeds}
            row |= _measures(scores, is_trained=VARIANTS[variant].training is not None)
            row["ratio"] = None if variant == FULL else _ratio(by_seed, results.get(FULL, {}), num_steps)
            rows.append(row)
    return rows


def _measures(scores: Sequence[Scores], is_trained: bool) -> Row:
    return {name: _measured(measure, scores, is_trained) for name, measure in MEASURES.items()}


def _measured(measure: Measure, scores: Sequence[Scores], is_trained: bool) -> Row:
    interval = ratio_interval(measure.data(scores), confidence=CONFIDENCE).map(measure.function)
    by_seed = [float(measure.function(measure.data([one]).value)) for one in scores]
    has_spread = is_trained and len(by_seed) > 1
    sd = statistics.stdev(by_seed) if has_spread else None
    return {"value": interval.value, "low": interval.low, "high": interval.high, "by_seed": by_seed, "sd": sd}


def _ratio(ours: dict[int, Result], full: dict[int, Result], num_steps: int) -> Row | None:
    """Perplexity over that of the full variant; None without a common seed."""
    seeds = sorted(ours.keys() & full.keys())
    if not seeds:
        return None
    pairs = [(ours[seed].scores[num_steps], full[seed].scores[num_steps]) for seed in seeds]
    first, second = (PERPLEXITY.data(scores) for scores in zip(*pairs, strict=True))
    comparison = compare_ratios(first, second, alpha=1 - CONFIDENCE)
    ratio = comparison.difference.map(np.exp)
    logs = [PERPLEXITY.data([one]).value - PERPLEXITY.data([other]).value for one, other in pairs]
    over_seeds = _interval_of_mean(logs)
    return {
        "value": ratio.value,
        "low": ratio.low,
        "high": ratio.high,
        "p_value": comparison.p_difference,
        "by_seed": np.exp(logs).tolist(),
        "seeds_low": None if over_seeds is None else math.exp(over_seeds.low),
        "seeds_high": None if over_seeds is None else math.exp(over_seeds.high),
    }


def _interval_of_mean(values: Sequence[float]) -> Interval | None:
    """Student's t; None for a single value."""
    from scipy.stats import t as student

    if len(values) < 2:
        return None
    mean, error = statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))
    reach = student(len(values) - 1).ppf((1 + CONFIDENCE) / 2) * error
    return Interval(mean, mean - reach, mean + reach)


def differs(ratio: Row | None) -> bool:
    """Whether both intervals, over texts and over training seeds, leave out 1."""
    if ratio is None or ratio["seeds_low"] is None:
        return False
    ends = ((ratio["low"], ratio["high"]), (ratio["seeds_low"], ratio["seeds_high"]))
    return all(low > 1 or high < 1 for low, high in ends)


# As text


def overview(rows: Sequence[Row]) -> list[Row]:
    """Perplexities and their ratios to the full variant, a column for each number of steps."""
    columns = sorted({row["num_steps"] for row in rows if row["num_steps"]})
    cells: dict[str, Row] = {}
    for row in rows:
        line = cells.setdefault(row["variant"], {"variant": row["variant"], **{str(name): "" for name in columns}})
        if row["num_steps"]:
            line[str(row["num_steps"])] = _overview_cell(row)
    return [line for line in cells.values() if line["variant"] != REAL_TEXT]


def _overview_cell(row: Row) -> str:
    ratio = row["ratio"]
    cell = _number(row["perplexity"]["value"])
    if ratio is not None:
        cell += f" (x {ratio['value']:.2f})"
    return f"**{cell}**" if differs(ratio) else cell


def quality_table(rows: Sequence[Row]) -> list[Row]:
    """All numbers as text: `value [low, high]`, standard deviations over seeds in columns of their own."""
    lines = []
    for row in rows:
        line = {"variant": row["variant"], "steps": row["num_steps"] or "", "seeds": len(row["seeds"]) or ""}
        for name, measure in MEASURES.items():
            line[measure.title] = _with_interval(row[name])
            line[f"SD, {measure.title}"] = "" if row[name]["sd"] is None else _number(row[name]["sd"])
        ratio = row.get("ratio")
        line["perplexity / full"] = "" if ratio is None else _with_interval(ratio, "{:.3f}")
        has_seeds = ratio is not None and ratio["seeds_low"] is not None
        line["over seeds"] = f"[{ratio['seeds_low']:.3f}, {ratio['seeds_high']:.3f}]" if has_seeds else ""
        lines.append(line)
    return lines


def _with_interval(values: Row, style: str | None = None) -> str:
    numbers = (values[name] for name in ("value", "low", "high"))
    value, low, high = (_number(number) if style is None else style.format(number) for number in numbers)
    return f"{value} [{low}, {high}]"


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def cost_rows(plans: dict[str, Plan], seconds: dict[str, list[float]]) -> list[Row]:
    """
    What each training costs.

    Args:
        plans (`dict[str, Plan]`): by name of the training, that of the full one included.
        seconds (`dict[str, list[float]]`): of the finished ones, by the wall clock.
    """
    budget = plans[FULL].cost
    return [
        {
            "training": name,
            "optimizer steps": plan.steps,
            "forwards and backwards of the student": plan.student,
            "forwards of the teacher": plan.teacher,
            "cost / full": plan.cost / budget,
            "steps / full": plan.steps / plans[FULL].steps,
            "seconds": statistics.median(seconds[name]) if seconds.get(name) else None,
        }
        for name, plan in plans.items()
    ]


def cost_table(rows: Sequence[Row]) -> list[Row]:
    """The same as text."""
    return [{**row, "seconds": "" if row["seconds"] is None else f"{row['seconds']:.0f}"} for row in rows]
