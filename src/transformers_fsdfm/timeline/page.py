# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The timeline as a page."""

import math
from collections.abc import Sequence
from html import escape
from importlib.resources import files

from . import colors
from .cells import NEWLINE, Cell
from .record import Timeline


TITLE = "When did each token settle?"
RACE_TITLE = "The same prompt, side by side"
HINT = "Point at a token to see what it was before, or move through the text with Tab and the arrow keys."
# A replay takes as long as one can follow, and no longer.
MILLISECONDS_PER_STEP, MAX_MILLISECONDS = 600, 10_000
# Choices of how fast a race runs, against the measured times, and how long it should take when it begins.
PACES = (1 / 64, 1 / 16, 1 / 4, 1, 4, 16, 64)
RACE_SECONDS = 10.0


def timeline_html(timeline: Timeline, full_page: bool = True) -> str:
    """See [`Timeline.to_html`]."""
    title = timeline.title or TITLE
    duration = min(MILLISECONDS_PER_STEP * timeline.num_steps, MAX_MILLISECONDS)
    body = f"""{_heading(title, 1 if full_page else 2)}
{_controls("Step", timeline.num_steps, f"{timeline.num_steps} of {timeline.num_steps}")}
<div class="fsdfm-lanes">
{_lane(timeline)}
</div>"""
    return _document(title, body, f'data-milliseconds="{duration}"', full_page)


def race_page(timelines: Sequence[Timeline], full_page: bool = True) -> str:
    """See [`race_html`], which checks the timelines."""
    total = max(timeline.total_seconds for timeline in timelines)
    milliseconds = max(1, math.ceil(1000 * round(total, 4)))
    names = [timeline.title or f"Lane {number}" for number, timeline in enumerate(timelines, start=1)]
    level = 1 if full_page else 2
    lanes = "\n".join(
        _lane(timeline, _heading(name, level + 1)) for name, timeline in zip(names, timelines, strict=True)
    )
    body = f"""{_heading(RACE_TITLE, level)}
{_controls("Time", milliseconds, f"{total:.2f} s", _pace_choice(total))}
{_axis(names, timelines, total)}
<div class="fsdfm-lanes">
{lanes}
</div>"""
    return _document(RACE_TITLE, body, f'data-race="1" data-milliseconds="{milliseconds}"', full_page)


def starting_pace(total_seconds: float) -> float:
    """How much faster than it was a race is shown: as it was if one can follow it, else so that one can."""
    if RACE_SECONDS / 5 <= total_seconds <= RACE_SECONDS * 3:
        return 1.0
    return min(PACES, key=lambda pace: abs(total_seconds / pace - RACE_SECONDS))


def _document(title: str, body: str, attributes: str, full_page: bool) -> str:
    style = f"<style>\n{_style_sheet()}</style>\n"
    section = f"""<section class="fsdfm-timeline" lang="en" dir="ltr" aria-label="{escape(title)}" {attributes}>
{body if full_page else style + body}
<div class="fsdfm-details" role="status" hidden><p class="fsdfm-hint">{HINT}</p></div>
<script>
{_read("timeline.js")}</script>
</section>
"""
    if not full_page:
        return section
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="only light">
<title>{escape(title)}</title>
{style}<style>body {{ margin: 0; background: {colors.PAGE_COLOR}; }}</style>
</head>
<body>
<main>
{section}</main>
</body>
</html>
"""


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _style_sheet() -> str:
    sheet = _read("timeline.css")
    for name in ("PAGE_COLOR", "TEXT_COLOR", "DIM_COLOR", "GIVEN_COLOR"):
        sheet = sheet.replace(name, getattr(colors, name))
    for index, (color, darkened) in enumerate(zip(colors.COLORS, colors.DARKENED_COLORS, strict=True)):
        sheet += f".fsdfm-c{index} {{ background: {color}; }}\n"
        sheet += f".fsdfm-darkened .fsdfm-c{index} {{ background: {darkened}; }}\n"
    return sheet


def _heading(title: str, level: int) -> str:
    return f'<h{level} lang="" dir="auto">{escape(title)}</h{level}>'


def _controls(name: str, last: int, text: str, more: str = "") -> str:
    """Hidden until the script runs: without it they would do nothing."""
    return f"""<div class="fsdfm-controls" hidden>
<button type="button">Play</button>
<label>{name} <input type="range" min="0" max="{last}" step="1" value="{last}" aria-valuetext="{text}"></label>
<output>{text}</output>{more}
</div>"""


def _pace_choice(total: float) -> str:
    start = starting_pace(total)
    options = "".join(
        f'<option value="{pace}"{" selected" if pace == start else ""}>'
        f"{f'{pace:g}' if pace >= 1 else f'1/{1 / pace:g}'}x</option>"
        for pace in PACES
    )
    return f'\n<label class="fsdfm-pace">Speed <select>{options}</select></label>'


def _axis(names: Sequence[str], timelines: Sequence[Timeline], total: float) -> str:
    """A bar for the time of each lane."""
    rows = "\n".join(
        f'<li><span style="width: {60 * timeline.total_seconds / (total or 1):.2f}%"></span> '
        f"<bdi>{escape(name)}</bdi> {timeline.total_seconds:.2f} s</li>"
        for name, timeline in zip(names, timelines, strict=True)
    )
    return f'<ul class="fsdfm-axis" aria-label="Time until the text was complete">\n{rows}\n</ul>'


def _lane(timeline: Timeline, heading: str = "") -> str:
    seconds = ""
    if timeline.seconds is not None:
        seconds = f' data-seconds="{" ".join(f"{time:.4f}" for time in timeline.seconds)}"'
    cells = "".join(_cell(cell, timeline) for cell in timeline.cells)
    return f"""<div class="fsdfm-lane" data-steps="{timeline.num_steps}"{seconds}>
{heading}<p class="fsdfm-about">{_about(timeline)}</p>
<div class="fsdfm-text" role="group" aria-label="Text" lang="" dir="auto">{cells}</div>
{_legend(timeline)}
</div>"""


def _about(timeline: Timeline) -> str:
    written = sum(timeline.counts)
    steps = "step" if timeline.num_steps == 1 else "steps"
    time = f" in {timeline.total_seconds:.2f} s" if timeline.seconds is not None else ""
    given = f", {timeline.num_given:,} given" if timeline.num_given else ""
    return f"{timeline.num_steps:,} {steps}{time}; {written:,} tokens written{given}"


def _cell(cell: Cell, timeline: Timeline) -> str:
    classes = ["fsdfm-t"]
    settled = ""
    if cell.settled_step is None:
        classes.append(f"fsdfm-{cell.kind}")
    else:
        classes.append(f"fsdfm-c{timeline.color_of(cell.settled_step)}")
        settled = f' data-settled="{cell.settled_step}"'
    if cell.is_special:
        classes.append("fsdfm-special")
    history = "&#10;".join(f"{step}: {escape(text)}" for step, text in cell.history)
    text = escape(cell.text).replace(NEWLINE, f"{NEWLINE}\n")
    return f'<span class="{" ".join(classes)}"{settled} title="{history}">{text}</span>'


def _legend(timeline: Timeline) -> str:
    total = max(1, sum(timeline.counts))
    rows = [
        f'<tr><td><span class="fsdfm-swatch fsdfm-c{entry.color}">Aa</span></td><th scope="row">{entry.label}</th>'
        f"<td>{entry.num_tokens:,}</td><td>{entry.num_tokens / total:.0%}</td></tr>"
        for entry in timeline.bins
    ]
    if timeline.num_given:
        rows.append(
            '<tr><td><span class="fsdfm-swatch fsdfm-given">Aa</span></td><th scope="row">given</th>'
            f"<td>{timeline.num_given:,}</td><td></td></tr>"
        )
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("Colour", "Step", "Tokens", "Share"))
    return f"""<table class="fsdfm-legend">
<caption>Tokens by the step of their last change</caption>
<thead><tr>{heads}</tr></thead>
<tbody>
{chr(10).join(rows)}
</tbody>
</table>"""
