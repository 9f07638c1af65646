# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The timeline as a picture or an animation, drawn by matplotlib: a grid of columns, as in a terminal."""

import io
import itertools
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import regex
from rich.cells import cell_len
from transformers.utils import logging

from .cells import make_visible
from .colors import COLORS, DIM_COLOR, GIVEN_COLOR, PAGE_COLOR, TEXT_COLOR, to_rgb
from .layout import Piece, is_right_to_left, visual_order, wrap
from .page import MAX_MILLISECONDS, MILLISECONDS_PER_STEP, starting_pace
from .record import Timeline


if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

logger = logging.get_logger(__name__)

# Sizes in points. A column of DejaVu Sans Mono is 1233/2048 of the font's size, and a whole number of pixels at both
# resolutions below: the rasterizer would round it otherwise, and long texts would not stand on their backgrounds.
COLUMN_WIDTH, LINE_HEIGHT, MARGIN = 7.0, 20.0, 14.0
FONT_SIZE = COLUMN_WIDTH * 2048 / 1233
COLUMNS, COLUMNS_OF_LANE, COLUMNS_BETWEEN = 80, 44, 3
LEGEND_COLUMNS = 18
DPI = 144
GIF_DPI = 72 * 10 / COLUMN_WIDTH
MAX_FRAMES = 32
LAST_FRAME_MILLISECONDS = 3000

# The first is the grid's own; the others help out with what it lacks, where they are installed.
FONTS = (
    *("DejaVu Sans Mono", "DejaVu Sans", "Noto Sans Mono", "Noto Sans", "Noto Sans Hebrew", "Noto Sans Arabic"),
    *("Noto Sans Devanagari", "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Emoji", "Symbola", "Arial Unicode MS"),
    *("Segoe UI", "Segoe UI Symbol", "Segoe UI Emoji", "Microsoft YaHei", "Hiragino Sans", "Apple Symbols"),
)
BOX = "□"


@dataclass(frozen=True)
class Frame:
    """One picture of an animation: for each lane the steps that have ended, and how long it is shown."""

    steps: tuple[int, ...]
    milliseconds: int
    clock: str = ""


def replay_frames(timeline: Timeline) -> list[Frame]:
    """The start and every step, or as many steps at equal distances as an animation should have."""
    count = min(timeline.num_steps, MAX_FRAMES)
    duration = min(MILLISECONDS_PER_STEP * timeline.num_steps, MAX_MILLISECONDS) // count
    steps = [timeline.num_steps * number // count for number in range(count + 1)]
    frames = [Frame((step,), duration, f"step {step:,} of {timeline.num_steps:,}") for step in steps[:-1]]
    return [*frames, Frame((steps[-1],), LAST_FRAME_MILLISECONDS, f"step {steps[-1]:,} of {timeline.num_steps:,}")]


def race_frames(timelines: Sequence[Timeline]) -> list[Frame]:
    """Pictures at equal distances of time, at the pace of the clock or, where that cannot be followed, another."""
    total = max(timeline.total_seconds for timeline in timelines)
    pace = starting_pace(total)
    duration = max(100, round(1000 * total / pace / MAX_FRAMES))
    count = max(1, round(1000 * total / pace / duration))
    note = "" if pace == 1 else f", {pace:g} times as fast" if pace > 1 else f", slowed down {1 / pace:g} times"
    frames = []
    for number in range(count + 1):
        now = total if number == count else total * number / count
        steps = tuple(timeline.step_at(now) for timeline in timelines)
        frames.append(Frame(steps, duration, f"{now:.2f} s of {total:.2f} s{note}"))
    return [*frames[:-1], Frame(frames[-1].steps, LAST_FRAME_MILLISECONDS, frames[-1].clock)]


def draw(timelines: Sequence[Timeline], suffix: str) -> bytes:
    """The final texts side by side, as a `.png` or `.svg` file."""
    import matplotlib

    _warn_of_boxes(timelines)
    last = Frame(tuple(timeline.num_steps for timeline in timelines), 0)
    figure = _draw_frame(_Grid(timelines, [last]), last)
    # Two runs give the same file: no date, and names that do not depend on chance.
    with matplotlib.rc_context({"svg.hashsalt": "timeline", "svg.fonttype": "path"}):
        file = io.BytesIO()
        metadata = {"Date": None} if suffix == ".svg" else None
        figure.savefig(file, format=suffix[1:], dpi=DPI, metadata=metadata)
    return file.getvalue()


def animate(timelines: Sequence[Timeline], frames: Sequence[Frame]) -> bytes:
    """A `.gif` file that runs for ever."""
    from PIL.Image import Dither

    _warn_of_boxes(timelines)
    grid = _Grid(timelines, frames)
    palette = _palette()
    images = [_rasterize(_draw_frame(grid, frame)).quantize(palette=palette, dither=Dither.NONE) for frame in frames]
    file = io.BytesIO()
    durations = [frame.milliseconds for frame in frames]
    images[0].save(file, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0, optimize=True)
    return file.getvalue()


class _Grid:
    """Where things stand, the same for all frames: as high as the highest."""

    def __init__(self, timelines: Sequence[Timeline], frames: Sequence[Frame]) -> None:
        self.timelines = timelines
        self.columns = COLUMNS if len(timelines) == 1 else COLUMNS_OF_LANE
        self.has_clock = any(frame.clock for frame in frames)
        self.text_lines = max(
            len(self.wrap(timeline, step))
            for frame in frames
            for timeline, step in zip(timelines, frame.steps, strict=True)
        )
        self.legend_lines = 1 + max(len(_legend_rows(timeline, self.columns)) for timeline in timelines)
        self.titles = [wrap([make_visible(timeline.title or "")], self.columns) for timeline in timelines]
        self.title_lines = max(len(lines) for lines in self.titles) if any(t.title for t in timelines) else 0

    def wrap(self, timeline: Timeline, step: int) -> list[list[Piece]]:
        return wrap([cell.text_at(step) for cell in timeline.cells], self.columns)

    @property
    def num_columns(self) -> int:
        return len(self.timelines) * (self.columns + COLUMNS_BETWEEN) - COLUMNS_BETWEEN

    @property
    def num_lines(self) -> float:
        return self.has_clock * 1.5 + self.title_lines + self.text_lines + 0.5 + self.legend_lines


def _draw_frame(grid: _Grid, frame: Frame) -> "Figure":
    from matplotlib.figure import Figure

    width = grid.num_columns * COLUMN_WIDTH + 2 * MARGIN
    height = grid.num_lines * LINE_HEIGHT + 2 * MARGIN
    figure = Figure(figsize=(width / 72, height / 72), facecolor=PAGE_COLOR)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(-MARGIN, width - MARGIN), ylim=(height - MARGIN, -MARGIN))
    axes.set_axis_off()
    pen = _Pen(axes)
    if grid.has_clock:
        pen.write(0, 0, frame.clock, color=TEXT_COLOR)
    for number, (timeline, step) in enumerate(zip(grid.timelines, frame.steps, strict=True)):
        left, top = number * (grid.columns + COLUMNS_BETWEEN), grid.has_clock * 1.5
        if grid.title_lines:
            for line_number, line in enumerate(grid.titles[number]):
                title = "".join(piece.text for piece in line)
                pen.write(left, top + line_number, title, color=TEXT_COLOR, weight="bold")
        _draw_text(pen, left, top + grid.title_lines, grid, timeline, step)
        _draw_legend(pen, left, top + grid.title_lines + grid.text_lines + 0.5, timeline, grid.columns)
    pen.finish()
    return figure


def _draw_text(pen: "_Pen", left: float, top: float, grid: _Grid, timeline: Timeline, step: int) -> None:
    for number, line in enumerate(grid.wrap(timeline, step)):
        column = left + grid.columns - sum(piece.width for piece in line) if is_right_to_left(line) else left
        for piece in visual_order(line):
            cell = timeline.cells[piece.cell]
            is_settled = cell.settled_step is not None and cell.settled_step <= step
            if cell.settled_step is not None and is_settled:
                pen.fill(column, top + number, piece.width, COLORS[timeline.color_of(cell.settled_step)])
            elif cell.kind == "given":
                pen.underline(column, top + number, piece.width)
            color = DIM_COLOR if cell.is_special else TEXT_COLOR if is_settled or cell.kind == "given" else GIVEN_COLOR
            pen.write(column, top + number, piece.text, color=color, style="italic" if cell.is_special else "normal")
            column += piece.width


def _legend_rows(timeline: Timeline, columns: int) -> list[list[tuple[int | None, str]]]:
    """Colour (None for what was given) and text of each entry, in rows of as many as fit."""
    entries: list[tuple[int | None, str]] = [
        (entry.color, f"{entry.label}: {entry.num_tokens:,}") for entry in timeline.bins
    ]
    if timeline.num_given:
        entries.append((None, f"given: {timeline.num_given:,}"))
    per_row = max(1, columns // LEGEND_COLUMNS)
    return [entries[start : start + per_row] for start in range(0, len(entries), per_row)]


def _draw_legend(pen: "_Pen", left: float, top: float, timeline: Timeline, columns: int) -> None:
    pen.write(left, top, "Step of the last change: tokens", color=GIVEN_COLOR)
    for row_number, row in enumerate(_legend_rows(timeline, columns), start=1):
        for number, (color, text) in enumerate(row):
            column = left + number * LEGEND_COLUMNS
            if color is None:
                pen.underline(column, top + row_number, 2)
            else:
                pen.fill(column, top + row_number, 2, COLORS[color])
            pen.write(column + 2.75, top + row_number, text, color=TEXT_COLOR)


class _Pen:
    """Draws at columns and lines of the grid; `finish` does the work, with as few objects as it can."""

    def __init__(self, axes: Any) -> None:
        self._axes = axes
        self._rectangles: dict[str, list[tuple[float, float, float, float]]] = defaultdict(list)
        self._texts: list[tuple[float, float, str, dict[str, str]]] = []

    def fill(self, column: float, line: float, columns: float, color: str) -> None:
        self._rectangle(column, line * LINE_HEIGHT + 1, columns, LINE_HEIGHT - 2, color)

    def underline(self, column: float, line: float, columns: float) -> None:
        self._rectangle(column, (line + 1) * LINE_HEIGHT - 3, columns, 0.8, GIVEN_COLOR)

    def _rectangle(self, column: float, y: float, columns: float, height: float, color: str) -> None:
        self._rectangles[color].append((column * COLUMN_WIDTH, y, columns * COLUMN_WIDTH, height))

    def write(self, column: float, line: float, text: str, **style: str) -> None:
        """Continues the text before if it has the same style and ends here."""
        if self._texts and _can_be_joined(text):
            last_column, last_line, last_text, last_style = self._texts[-1]
            is_next = (last_column + len(last_text), last_line, last_style) == (column, line, style)
            if is_next and _can_be_joined(last_text):
                self._texts[-1] = (last_column, line, last_text + text, style)
                return
        self._texts.append((column, line, text, style))

    def finish(self) -> None:
        from matplotlib.collections import PatchCollection
        from matplotlib.patches import Rectangle

        for color, rectangles in self._rectangles.items():
            patches = [Rectangle((x, y), width, height) for x, y, width, height in rectangles]
            self._axes.add_collection(PatchCollection(patches, facecolor=color, edgecolor="none", zorder=0))
        for column, line, text, style in self._texts:
            # Spaces move the rest: text engines leave them out of what they measure.
            text = text.rstrip(" ")
            stripped = text.lstrip(" ")
            if stripped:
                self._axes.text(
                    (column + len(text) - len(stripped)) * COLUMN_WIDTH,
                    (line + 0.72) * LINE_HEIGHT,
                    _with_boxes(stripped),
                    fontsize=FONT_SIZE,
                    family=_font_families(),
                    verticalalignment="baseline",
                    parse_math=False,
                    **style,
                )


def _palette() -> "Image":
    """Every background as it is, and on its way to the colour of the text: what the edges of letters need."""
    from PIL import Image

    text, shades = to_rgb(TEXT_COLOR), 8
    palette = [
        round(part + (text_part - part) * shade / (shades - 1))
        for background in (PAGE_COLOR, *COLORS)
        for shade in range(shades)
        for part, text_part in zip(to_rgb(background), text, strict=True)
    ]
    image = Image.new("P", (1, 1))
    image.putpalette(palette)
    return image


def _rasterize(figure: "Figure") -> "Image":
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure.set_dpi(GIF_DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


@cache
def _font_families() -> list[str]:
    from matplotlib import font_manager

    installed = set(font_manager.get_font_names())
    return [name for name in FONTS if name in installed]


@cache
def _code_points(*families: str) -> frozenset[int]:
    """Those that one of the fonts has."""
    from matplotlib import font_manager

    paths = [font_manager.findfont(name) for name in families]
    return frozenset(itertools.chain.from_iterable(font_manager.get_font(path).get_charmap() for path in paths))


def _can_be_joined(text: str) -> bool:
    """Whether every character takes one column and stands where it was put: none is written from right to left."""
    return cell_len(text) == len(text) and all(
        ord(character) in _code_points(FONTS[0]) and unicodedata.bidirectional(character) not in ("R", "AL", "AN")
        for character in text
    )


def _with_boxes(text: str) -> str:
    """Puts a box in place of characters that no installed font has."""
    return "".join(character if _has_glyphs(character) else BOX for character in regex.findall(r"\X", text))


@cache
def _has_glyphs(character: str) -> bool:
    shown = regex.sub(r"\p{Default_Ignorable_Code_Point}", "", character)
    return all(map(_code_points(*_font_families()).__contains__, map(ord, shown)))


def _warn_of_boxes(timelines: Sequence[Timeline]) -> None:
    characters = {character for timeline in timelines for character in regex.findall(r"\X", timeline.text)}
    missing = sorted(character for character in characters if not _has_glyphs(character))
    if missing:
        shown = " ".join(missing[:10])
        logger.warning(f"No installed font has {shown} ({len(missing)} in all): pictures show boxes, pages show them")
