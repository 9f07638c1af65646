# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The HTML that the page shows. All text goes through [`escape`]."""

import html
from collections.abc import Sequence
from dataclasses import dataclass


# Gradio's HTML component reads its value as a template, too, so these must not reach it as they are.
_TEMPLATE_CHARACTERS = {ord(character): f"&#{ord(character)};" for character in "{}$`"}

STYLE = """
.fsdfm-text { white-space: pre-wrap; overflow-wrap: anywhere; min-height: 12em; font-size: 1.05em; line-height: 1.6; }
.fsdfm-status { font-variant-numeric: tabular-nums; min-height: 1.6em; }
.fsdfm-panel :is(.fsdfm-text, .fsdfm-frame, .fsdfm-pending) { margin-top: 1.6em; } /* below the label */
.fsdfm-pending { min-height: 12em; opacity: 0.7; }
.fsdfm-frame { width: 100%; height: 34em; border: 1px solid var(--border-color-primary); border-radius: 6px;
               background: white; resize: vertical; }
.fsdfm-table { width: 100%; border-collapse: collapse; }
.fsdfm-table td:last-child:not(.fsdfm-number) { width: 55%; }
.fsdfm-table th, .fsdfm-table td { text-align: start; vertical-align: top; padding: 0.4em 0.7em;
                                   border: 0; border-bottom: 1px solid var(--border-color-primary); }
.fsdfm-table .fsdfm-number { text-align: end; font-variant-numeric: tabular-nums; white-space: nowrap; }
.fsdfm-table .fsdfm-text { min-height: 0; max-height: 9em; overflow-y: auto; font-size: 1em; line-height: 1.4; }
"""

PENDING = '<p class="fsdfm-pending">It comes when the text is complete.</p>'


def escape(text: str) -> str:
    """Any text as HTML that shows it and does nothing else, inside an element or a quoted attribute."""
    return html.escape(text).translate(_TEMPLATE_CHARACTERS)


def text_box(text: str) -> str:
    """A text with its spaces and line breaks, in its own direction."""
    return f'<div class="fsdfm-text" dir="auto">{escape(text)}</div>'


def status_line(text: str, is_final: bool = False) -> str:
    """Where the work stands. A screen reader says only the final one: the others change ten times a second."""
    role = ' role="status"' if is_final else ""
    return f'<div class="fsdfm-status"{role}>{escape(text)}</div>'


def frame(page: str, title: str) -> str:
    """A whole HTML page in a frame of its own, where its scripts run apart from everything else."""
    return (
        f'<iframe class="fsdfm-frame" sandbox="allow-scripts" title="{escape(title)}" srcdoc="{escape(page)}"></iframe>'
    )


@dataclass
class Lane:
    """
    One runner of the race.

    Args:
        name (`str`): of the model.
        num_steps (`int`): steps it will take.
        text (`str`): so far.
        progress (`str`): the step it is at, or the calls of the network it took.
        seconds (`float`, *optional*): None before the start.
    """

    name: str
    num_steps: int
    text: str = ""
    progress: str = "waits"
    seconds: float | None = None


def race_table(lanes: Sequence[Lane]) -> str:
    """A row for each lane."""
    head = "".join(f'<th scope="col">{title}</th>' for title in ("Model", "Steps", "Progress", "Seconds", "Text"))
    return (
        f'<table class="fsdfm-table"><thead><tr>{head}</tr></thead><tbody>{"".join(map(_row, lanes))}</tbody></table>'
    )


def _row(lane: Lane) -> str:
    seconds = "" if lane.seconds is None else f"{lane.seconds:.2f}"
    return (
        f'<tr><th scope="row">{escape(lane.name)}</th>'
        f'<td class="fsdfm-number">{lane.num_steps:,}</td><td>{escape(lane.progress)}</td>'
        f'<td class="fsdfm-number">{seconds}</td><td>{text_box(lane.text)}</td></tr>'
    )
