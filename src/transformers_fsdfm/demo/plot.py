# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The plot of quality against steps, from the evaluation that lies beside a model."""

import base64
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from ..optional import require
from .fragments import escape


MODE = "unconditional"


@dataclass(frozen=True, order=True)
class Point:
    """
    A row of the evaluation.

    Args:
        line (`str`): the model and the solver; the real text has one, too.
        num_steps (`int`): 0 for the real text.
        value, low, high (`float`): perplexity and its interval, which may be missing: then it is NaN.
    """

    line: str
    num_steps: int
    value: float
    low: float
    high: float


def quality_plot(path: Path) -> str:
    """
    Perplexity against steps, as a picture and as a table.

    Args:
        path (`Path`): a JSON list of the records that `fsdfm evaluate` writes to `scores.jsonl`.

    Returns:
        `str`: HTML, one picture for each scorer.

    Raises:
        `ImportError`: if matplotlib is not installed.
        `ValueError`: if the file holds something else.
    """
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
        rows = [record for record in records if record["kind"] == "row" and record["mode"] == MODE]
        keys = list(dict.fromkeys(key for row in rows for key in row["measures"] if key.startswith("perplexity[")))
        plots = {key: [_point(row, key) for row in rows if key in row["measures"]] for key in keys}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no evaluation: a JSON list of the records in scores.jsonl is expected") from error
    if not plots:
        raise ValueError(f"{path} has no perplexity of {MODE} samples")
    return "".join(_section(key.removeprefix("perplexity[").removesuffix("]"), plots[key]) for key in keys)


def _point(row: dict[str, Any], key: str) -> Point:
    line = f"{row['model']}, {row['solver']}" if row["num_steps"] else str(row["model"])
    measure = row["measures"][key]
    value, low, high = (math.nan if measure[end] is None else float(measure[end]) for end in ("value", "low", "high"))
    return Point(line, int(row["num_steps"] or 0), value, low, high)


def _section(scorer: str, points: Sequence[Point]) -> str:
    title = f"Perplexity of unconditional samples under {scorer}, lower is better"
    picture = base64.b64encode(_draw(points, f"perplexity, {scorer}")).decode()
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Text by", "Steps", "Perplexity", "Interval"))
    return (
        f'<figure><img alt="{escape(title)}; the table has the numbers" src="data:image/svg+xml;base64,{picture}">'
        f'<figcaption>{escape(title)}</figcaption></figure><table class="fsdfm-table"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(map(_row, sorted(points)))}</tbody></table>"
    )


def _row(point: Point) -> str:
    interval = f"{point.low:,.1f} to {point.high:,.1f}" if math.isfinite(point.low + point.high) else ""
    cells = (f"{point.num_steps:,}" if point.num_steps else "", f"{point.value:,.1f}", interval)
    numbers = "".join(f'<td class="fsdfm-number">{cell}</td>' for cell in cells)
    return f'<tr><th scope="row">{escape(point.line)}</th>{numbers}</tr>'


def _draw(points: Sequence[Point], label: str) -> bytes:
    """An SVG with both axes logarithmic."""
    require("demo", "matplotlib", what="The plot")
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    for name, group in groupby(sorted(points), key=lambda point: point.line):
        line = [point for point in group if math.isfinite(point.value)]
        if line and line[0].num_steps == 0:
            axes.axhline(line[0].value, color="black", linestyle="--", linewidth=1, label=name)
        elif line:
            values = [point.value for point in line]
            bars = [
                [_length(point.value - point.low) for point in line],
                [_length(point.high - point.value) for point in line],
            ]
            axes.errorbar([point.num_steps for point in line], values, bars, marker="o", capsize=2, label=name)
    axes.set(xlabel="steps", ylabel=label)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
    axes.legend()
    file = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def _length(number: float) -> float:
    """Of an error bar: a bootstrap interval need not hold the value itself, and may be missing."""
    return max(number, 0.0) if math.isfinite(number) else 0.0
