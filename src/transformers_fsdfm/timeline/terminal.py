# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The timeline as text for a terminal, with or without colours."""

import os
import shutil

from rich.cells import cell_len

from .cells import Cell, make_visible
from .colors import COLORS, TERMINAL_COLORS, TERMINAL_TEXT_COLOR, TEXT_COLOR, to_rgb
from .layout import Piece, wrap
from .record import Timeline


MIN_WIDTH = 20
RESET, BOLD, DIM, ITALIC = "\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[3m"


def render(timeline: Timeline, width: int | None = None, color: bool | None = None) -> str:
    """See [`Timeline.to_ansi`]."""
    if width is None:
        width = max(MIN_WIDTH, shutil.get_terminal_size().columns)
    if width < MIN_WIDTH:
        raise ValueError(f"`width` must be at least {MIN_WIDTH} columns, but is {width}")
    styles = _styles(color)
    lines = []
    if timeline.title:
        for line in wrap([make_visible(timeline.title)], width):
            lines.append(_paint("".join(piece.text for piece in line), BOLD if styles else ""))
        lines.append("")
    for line in wrap([cell.text for cell in timeline.cells], width):
        lines += _text_line(line, timeline, styles)
    return "\n".join([*lines, "", *_legend(timeline, width, styles)])


def _styles(color: bool | None) -> list[str]:
    """The escape codes of the eight colours; none if there are to be no colours."""
    if color is None:
        terminal = os.environ.get("TERM", "" if os.name == "nt" else "dumb")  # Windows does not set it
        color = not os.environ.get("NO_COLOR") and terminal not in ("dumb", "unknown")
    if not color:
        return []
    if os.environ.get("COLORTERM", "").lower() in ("truecolor", "24bit"):
        text = "{};{};{}".format(*to_rgb(TEXT_COLOR))
        return ["\x1b[38;2;{};48;2;{};{};{}m".format(text, *to_rgb(background)) for background in COLORS]
    return [f"\x1b[38;5;{TERMINAL_TEXT_COLOR};48;5;{background}m" for background in TERMINAL_COLORS]


def _paint(text: str, *styles: str) -> str:
    codes = "".join(styles)
    return f"{codes}{text}{RESET}" if codes else text


def _text_line(line: list[Piece], timeline: Timeline, styles: list[str]) -> list[str]:
    """A line of text; without colours with the digits of the colours on a line below."""
    if styles:
        return [
            "".join(_paint(piece.text, *_cell_styles(timeline.cells[piece.cell], timeline, styles)) for piece in line)
        ]
    text = "".join(piece.text for piece in line)
    marks = "".join(_digit(timeline.cells[piece.cell], timeline) * piece.width for piece in line)
    return [text, marks] if marks.strip() else [text]


def _cell_styles(cell: Cell, timeline: Timeline, styles: list[str]) -> tuple[str, ...]:
    if cell.settled_step is None:
        return (DIM,) if cell.is_special else ()
    color = styles[timeline.color_of(cell.settled_step)]
    return (color, ITALIC) if cell.is_special else (color,)


def _digit(cell: Cell, timeline: Timeline) -> str:
    return " " if cell.settled_step is None else str(timeline.color_of(cell.settled_step) + 1)


def _legend(timeline: Timeline, width: int, styles: list[str]) -> list[str]:
    """Steps and numbers of tokens for each colour, with bars as far as there is room."""
    rows = []
    for entry in timeline.bins:
        digit = f" {entry.color + 1} "
        swatch = _paint(digit, styles[entry.color]) if styles else digit
        rows.append((swatch, f"step {entry.label}", entry.num_tokens))
    if timeline.num_given:
        rows.append(("   ", "given", timeline.num_given))
    label_width = max(cell_len(label) for _, label, _ in rows)
    number_width = max(len(f"{count:,}") for *_, count in rows)
    room = max(0, min(40, width - label_width - number_width - 8))
    most = max(1, *(count for *_, count in rows))
    lines = ["Tokens by the step of their last change:"]
    for swatch, label, count in rows:
        bar = "█" * round(room * count / most)
        lines.append(f"{swatch} {label:<{label_width}}  {count:>{number_width},}  {bar}".rstrip())
    return lines
