# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The pictures of a report: quality against steps, diversity and seconds, as PNG and SVG."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .files import written_whole
from .report import REFERENCE, Report, Row, Value
from .settings import OWN_SOLVER, Cell


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


FORMATS = ("png", "svg")
ENTROPY = "token_entropy_nats"


def _num_steps(row: Row) -> Value | None:
    if row.cell is None or not row.cell.num_steps:
        return None if row.cell is None or row.speed is None else Value(row.speed.num_function_evaluations)
    return Value(row.cell.num_steps)


def _seconds(row: Row) -> Value | None:
    return None if row.speed is None else Value(row.speed.seconds, row.speed.seconds_low, row.speed.seconds_high)


class _Picture(NamedTuple):
    """What stands on the horizontal axis: its label, its scale and the value of a row (None: the row is left out)."""

    label: str
    scale: str
    value: Callable[[Row], Value | None]


PICTURES = {
    "quality-steps": _Picture(
        "sampling steps (runs of the network, for systems without steps)",
        "log2",
        _num_steps,
    ),
    "quality-diversity": _Picture("unigram entropy (nats)", "linear", lambda row: row.values.get(ENTROPY)),
    "quality-seconds": _Picture(
        "seconds per batch (median and quartiles)",
        "log",
        _seconds,
    ),
}


def save_plots(report: Report, folder: Path) -> list[str]:
    """
    Draws a picture for each mode and each of [`PICTURES`] that there are numbers for, one panel for each scorer.

    Returns:
        `list[str]`: the names of the PNG files in the folder; beside each stands the same as SVG. Pictures of another
            report that are in the folder are removed.
    """
    import matplotlib

    names = []
    for mode, measures in report.measures.items():
        panels = [(measure.key, measure.title) for measure in measures if measure.key.startswith("perplexity[")]
        rows = [row for row in report.rows if row.mode == mode]
        for name, picture in PICTURES.items():
            if not panels or not any(row.cell and picture.value(row) for row in rows):
                continue
            with matplotlib.rc_context({"svg.hashsalt": "transformers-fsdfm", "svg.fonttype": "none"}):
                figure = _draw(mode, panels, rows, picture, report.about["confidence"])
                for kind in FORMATS:
                    with written_whole(folder / f"{mode}--{name}.{kind}") as file:
                        figure.savefig(file, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
            names.append(f"{mode}--{name}.png")
    _remove_others(folder, names)
    return names


def _remove_others(folder: Path, names: list[str]) -> None:
    """The pictures of a report that was in the folder before, of modes or scorers that this one does not have."""
    kept = {Path(name).stem for name in names}
    for picture, kind in itertools.product(PICTURES, FORMATS):
        for file in folder.glob(f"*--{picture}.{kind}"):
            if file.stem not in kept:
                file.unlink()


def _draw(mode: str, panels: list[tuple[str, str]], rows: list[Row], picture: _Picture, confidence: float) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4 * len(panels), 4.4), layout="constrained")
    for axes, (key, title) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw_panel(axes, key, rows, picture)
        axes.set(
            xlabel=picture.label, ylabel=f"{title} (lower is better)", title=f"{mode}, {100 * confidence:g} % intervals"
        )
    return figure


def _draw_panel(axes: "Axes", key: str, rows: list[Row], picture: _Picture) -> None:
    axes.set_yscale("log")
    _label_ticks(axes.yaxis, base=10)
    if picture.scale != "linear":
        base = 2 if picture.scale == "log2" else 10
        axes.set_xscale("log", base=base)
        _label_ticks(axes.xaxis, base)
    for (model, solver), line in _lines(rows).items():
        points = [(cell, x, y) for cell, row in line if (x := picture.value(row)) and (y := row.values.get(key))]
        if not points:
            continue
        axes.errorbar(
            [x.value for _, x, _ in points],
            [y.value for _, _, y in points],
            yerr=_error_bars([y for _, _, y in points]),
            xerr=_error_bars([x for _, x, _ in points]),
            marker="o",
            capsize=2,
            label=model if solver == OWN_SOLVER else f"{model}, {solver}",
        )
        if picture.scale != "log2":  # the steps are on no axis
            for cell, x, y in points:
                axes.annotate(str(cell.num_steps or ""), (x.value, y.value), (4, 4), textcoords="offset points", size=7)
    _draw_reference(axes, next(row for row in rows if row.cell is None), key, picture)
    axes.grid(which="major", alpha=0.3)
    axes.legend(fontsize="small")


def _draw_reference(axes: "Axes", row: Row, key: str, picture: _Picture) -> None:
    x, y = picture.value(row), row.values.get(key)
    if y is None:
        return
    if x is None:
        axes.axhline(y.value, color="black", linestyle="--", linewidth=1, label=REFERENCE)
        if y.low is not None and y.high is not None:
            axes.axhspan(y.low, y.high, color="black", alpha=0.08, linewidth=0)
    else:
        axes.errorbar([x.value], [y.value], _error_bars([y]), _error_bars([x]), "k*", capsize=2, label=REFERENCE)


def _lines(rows: list[Row]) -> dict[tuple[str, str], list[tuple[Cell, Row]]]:
    """The cells of each model and solver, with their rows, by rising steps."""
    lines: dict[tuple[str, str], list[tuple[Cell, Row]]] = {}
    cells = [(row.cell, row) for row in rows if row.cell is not None]
    for cell, row in sorted(cells, key=lambda pair: pair[0].num_steps):
        lines.setdefault((cell.model, cell.solver), []).append((cell, row))
    return lines


def _error_bars(values: list[Value]) -> list[list[float]] | None:
    below, above = [], []
    for value in values:
        if value.low is None or value.high is None:
            return None
        # Of a skewed bootstrap, even the value itself may lie outside; a bar has no negative length.
        below.append(max(value.value - value.low, 0))
        above.append(max(value.high - value.value, 0))
    return [below, above]


def _label_ticks(axis: Any, base: int) -> None:
    """Plain numbers, and enough of them on an axis of less than a decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(base, subs=(1, 2, 5) if base == 10 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


__all__ = ["PICTURES", "save_plots"]
