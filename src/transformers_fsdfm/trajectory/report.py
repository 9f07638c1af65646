# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""What the measurements say: means over texts with their standard errors, as JSON and as plots."""

import json
import math
import os
from collections.abc import Iterator
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.files import written_whole
from ..optional import require
from .measure import CURVES, Cell


Results = dict[Cell, dict[str, np.ndarray]]
# Positions are averaged in at most so many stretches of equal length.
MAX_STRETCHES = 32
PLOT_FORMATS = ("png", "svg")
MAX_BANDS = 3  # more of them hide each other
DISTANCE_LABEL = "squared distance of the two laws"
# What is measured, and what the tables call it.
COLUMNS = {
    "local_lower": "local_kl_lower",
    "local_upper": "local_kl_upper",
    "distance": "squared_distance",
    "differs": "differing_share",
    "floor": "floor_share",
}


def summarize(results: Results) -> dict[str, list[dict[str, Any]]]:
    """
    Tables of the measurements. Every mean is over texts, each text counting once, and comes with its standard error
    (`..._se`; None for a single text).

    Returns:
        `dict[str, list[dict]]`:
        - `"by_steps"`: for each length, start time and number of steps S: the bounds on the local KL divergence (nats
          per position), the `squared_distance` of the final laws, `differing_positions` (of a text) and
          `differing_share`, and `floor_share`, the share that differs between two independent runs of many steps;
        - `"by_position"`: the same for stretches of positions, counted from 0;
        - `"over_time"`: `differing_share` at the moments of a run with S steps.
    """
    tables: dict[str, list[dict[str, Any]]] = {"by_steps": [], "by_position": [], "over_time": []}
    for (length, start_time), cells in groupby(results, key=lambda cell: (cell.length, cell.start_time)):
        texts = [results[cell] for cell in cells]
        for index, steps in enumerate(texts[0]["steps"].tolist()):
            key = {"length": length, "start_time": start_time, "num_steps": steps, "num_texts": len(texts)}
            curves = {name: np.stack([text[name][index] for text in texts]) for name in CURVES}
            curves["floor"] = np.stack([text["floor"] for text in texts])
            tables["by_steps"].append(key | _describe(curves) | _positions(curves["differs"]))
            for first, last in _stretches(length):
                stretch = {name: values[:, first:last] for name, values in curves.items()}
                tables["by_position"].append(key | {"first": first, "last": last - 1} | _describe(stretch))
            over_time = np.stack([text[f"over_time_{steps}"] for text in texts])
            for moment in range(over_time.shape[1]):
                share = _mean("differing_share", over_time[:, moment, 1])
                tables["over_time"].append(key | {"time": float(over_time[0, moment, 0])} | share)
    return tables


def _describe(curves: dict[str, np.ndarray]) -> dict[str, float | None]:
    """Means over positions, then over texts, of curves `(texts, positions)`."""
    described: dict[str, float | None] = {}
    for name, column in COLUMNS.items():
        described |= _mean(column, curves[name].mean(-1))
    return described


def _positions(differs: np.ndarray) -> dict[str, float | None]:
    return _mean("differing_positions", differs.sum(-1))


def _mean(name: str, per_text: np.ndarray) -> dict[str, float | None]:
    error = float(per_text.std(ddof=1) / math.sqrt(len(per_text))) if len(per_text) > 1 else None
    return {name: float(per_text.mean()), f"{name}_se": error}


def _stretches(length: int) -> list[tuple[int, int]]:
    count = min(MAX_STRETCHES, length)
    bounds = [length * number // count for number in range(count + 1)]
    return list(pairwise(bounds))


def write_report(results: Results, out: str | os.PathLike, about: dict[str, Any] | None = None) -> list[Path]:
    """
    Writes `trajectory.json` and the plots into a folder, each file whole or not at all.

    Args:
        results (`dict[Cell, dict[str, np.ndarray]]`): from [`measure_error_growth`].
        out (`str` or `os.PathLike`): the folder.
        about (`dict`, *optional*): what else is to stand in the JSON, such as the names of the models.

    Returns:
        `list[Path]`: the files.

    Raises:
        `ImportError`: if matplotlib is missing.
    """
    tables = summarize(results)
    folder = Path(out)
    files = [folder / "trajectory.json"]
    with written_whole(files[0]) as part:
        part.write_text(json.dumps({"about": about or {}, **tables}, indent=1) + "\n", encoding="utf-8")
    for name, figure in draw_plots(tables):
        for kind in PLOT_FORMATS:
            files.append(folder / f"{name}.{kind}")
            with written_whole(files[-1]) as part:
                figure.savefig(part, format=kind, dpi=150)
    return files


def draw_plots(tables: dict[str, list[dict[str, Any]]]) -> Iterator[tuple[str, Any]]:
    """
    Draws every plot for which there are enough points.

    Yields:
        `tuple[str, matplotlib.figure.Figure]`: its name and itself.
    """
    require("eval", "matplotlib", what="A plot")
    from matplotlib.figure import Figure

    plots = {
        "local_divergence_by_step_size": _plot_local_divergence,
        "local_divergence_by_position": _plot_local_by_position,
        "final_distance_by_steps": _plot_distance,
        "differing_positions_by_steps": _plot_differing_positions,
        "differing_positions_by_position": _plot_differing_by_position,
        "differing_positions_over_time": _plot_over_time,
        "final_distance_by_position": _plot_distance_by_position,
        "final_distance_by_length": _plot_distance_by_length,
        "differing_positions_by_length": _plot_differing_by_length,
    }
    for name, plot in plots.items():
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.add_subplot()
        plot(axes, tables)
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(fontsize="small")
        yield name, figure


def _plot_local_divergence(axes: Any, tables: dict[str, list[dict[str, Any]]]) -> None:
    for label, rows in _series(tables["by_steps"], "length", "start_time"):
        _plot_band(axes, [1 / row["num_steps"] for row in rows], rows, "local", label)
    axes.set_xscale("log", base=2)
    axes.set(xlabel="step size h", ylabel="KL divergence, nats per position", title="One step against many")


def _plot_local_by_position(axes: Any, tables: dict[str, list[dict[str, Any]]]) -> None:
    for label, rows in list(_series(_largest(tables["by_position"]), "num_steps"))[:MAX_BANDS]:
        _plot_band(axes, _middles(rows), rows, "local", label)
    axes.set(xlabel="position", ylabel="KL divergence, nats per position", title="One step against many, by position")


def _middles(rows: list[dict[str, Any]]) -> list[float]:
    return [(row["first"] + row["last"]) / 2 for row in rows]


def _plot_distance(axes: Any, tables: dict[str, list[dict[str, Any]]]) -> None:
    for label, rows in _series(tables["by_steps"], "length", "start_time"):
        _plot_line(axes, [row["num_steps"] for row in rows], rows, "squared_distance", label)
    axes.set_xscale("log", base=2)
    axes.set(xlabel="steps from t = 0 to 1", ylabel=DISTANCE_LABEL, title="Few steps against many")


def _plot_differing_positions(axes: Any, tables: dict[str, list[dict[str, Any]]]) -> None:
    for label, rows in _series(tables["by_steps"], "length", "start_time"):
        steps = [row["num_steps"] for row in rows]
        line = _plot_line(axes, steps, rows, "differing_share", label)
        axes.plot(steps, [row["floor_share"] for row in rows], linestyle=":", color=line.get_color())
    axes.set_xscale("log", base=2)
    title = "Final tokens that differ, with shared random numbers (dotted: independent runs)"
    axes.set(xlabel="steps from t = 0 to 1", ylabel="share of positions", ylim=(0, None))
    axes.set_title(title, fontsize="medium")


def _plot_over_time(axes: Any, tables: dict[str, list[dict[str, Any]]]) -> None:
    rows = _largest(tables["over_time"])
    for label, series in _series(rows, "num_steps"):
        if len(series) > 1:
            _plot_line(axes, [row["time"] for row in series], series, "differing_share", label)
    axes.set(xlabel="time t", ylabel="share of positions", ylim=(0, None), title="Tokens that differ, along the run")


def _plot_distance_by_position(axes: Any, tables: dict[str, list[dict[str, Any]]]) -> None:
    _plot_by_position(axes, tables, "squared_distance")
    axes.set(ylabel=DISTANCE_LABEL, title="Few steps against many, by position")


def _plot_differing_by_position(axes: Any, tables: dict[str, list[dict[str, Any]]]) -> None:
    _plot_by_position(axes, tables, "differing_share")
    axes.set(ylabel="share of positions", ylim=(0, None), title="Final tokens that differ, by position")


def _plot_by_position(axes: Any, tables: dict[str, list[dict[str, Any]]], column: str) -> None:
    for label, rows in _series(_largest(tables["by_position"]), "num_steps"):
        _plot_line(axes, _middles(rows), rows, column, label)
    axes.set(xlabel="position")


def _plot_distance_by_length(axes: Any, tables: dict[str, list[dict[str, Any]]]) -> None:
    _plot_by_length(axes, tables, "squared_distance")
    axes.set(ylabel=DISTANCE_LABEL, title="Few steps against many, by length")


def _plot_differing_by_length(axes: Any, tables: dict[str, list[dict[str, Any]]]) -> None:
    _plot_by_length(axes, tables, "differing_share")
    axes.set(ylabel="share of positions", ylim=(0, None), title="Final tokens that differ, by length")


def _plot_by_length(axes: Any, tables: dict[str, list[dict[str, Any]]], column: str) -> None:
    first = min(row["start_time"] for row in tables["by_steps"])
    rows = sorted((row for row in tables["by_steps"] if row["start_time"] == first), key=lambda row: row["num_steps"])
    for label, series in _series(rows, "num_steps"):
        _plot_line(axes, [row["length"] for row in series], series, column, label)
    axes.set_xscale("log", base=2)
    axes.set(xlabel="sequence length")


def _largest(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the greatest length from the earliest start."""
    length, start = max(row["length"] for row in rows), min(row["start_time"] for row in rows)
    return [row for row in rows if row["length"] == length and row["start_time"] == start]


def _series(rows: list[dict[str, Any]], *keys: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The rows that agree in the given keys, with a label that says in what."""
    names = {"length": "length", "start_time": "from t =", "num_steps": "steps:"}
    for values, group in groupby(rows, key=lambda row: [row[key] for key in keys]):
        label = ", ".join(f"{names[key]} {value:g}" for key, value in zip(keys, values, strict=True))
        yield label, list(group)


def _plot_line(axes: Any, x: list[float], rows: list[dict[str, Any]], column: str, label: str) -> Any:
    """A column of a table, with its standard error."""
    errors = [row[f"{column}_se"] or 0 for row in rows]
    bars = axes.errorbar(x, [row[column] for row in rows], errors, marker="o", markersize=3, label=label)
    return bars.lines[0]


def _plot_band(axes: Any, x: list[float], rows: list[dict[str, Any]], kind: str, label: str) -> Any:
    """The band between the lower and the upper estimate of a KL divergence."""
    lower = [row[f"{kind}_kl_lower"] for row in rows]
    upper = [row[f"{kind}_kl_upper"] for row in rows]
    (line,) = axes.plot(x, upper, marker="v", markersize=3, linewidth=0.8, label=label)
    axes.plot(x, lower, marker="^", markersize=3, linewidth=0.8, color=line.get_color())
    axes.fill_between(x, lower, upper, alpha=0.15, color=line.get_color())
    return line
