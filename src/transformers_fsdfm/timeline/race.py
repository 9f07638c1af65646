# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Several timelines of one prompt side by side, on one axis of time."""

import os
from collections.abc import Sequence

from .record import Timeline


def race_html(timelines: Sequence[Timeline], full_page: bool = True) -> str:
    """
    A page on which all lanes run against the clock.

    Args:
        timelines (`Sequence[Timeline]`): lanes, with `seconds`; their titles name them.
        full_page (`bool`, *optional*, defaults to `True`): see [`Timeline.to_html`].

    Raises:
        `ValueError`: if there is no lane, or one was not timed.
    """
    from .page import race_page

    _check(timelines)
    return race_page(timelines, full_page)


def save_race(path: str | os.PathLike, timelines: Sequence[Timeline]) -> None:
    """
    Writes a race as `.html` or `.gif`, or how it ends as `.png` or `.svg`; see [`Timeline.save`] for the errors.

    Args:
        path (`str` or `os.PathLike`): the file.
        timelines (`Sequence[Timeline]`): see [`race_html`].
    """
    from .files import RACE_SUFFIXES, check_path, write

    _check(timelines)
    suffix = check_path(path, RACE_SUFFIXES)
    if suffix == ".html":
        content = race_html(timelines).encode()
    else:
        from .picture import animate, draw, race_frames

        content = animate(timelines, race_frames(timelines)) if suffix == ".gif" else draw(timelines, suffix)
    write(path, content)


def _check(timelines: Sequence[Timeline]) -> None:
    if not timelines:
        raise ValueError("`timelines` must hold at least one timeline")
    for number, timeline in enumerate(timelines):
        if timeline.seconds is None:
            raise ValueError(f"`timelines[{number}]` has no `seconds`: measure them with a StepClock")
