# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""How far an evaluation is: a bar on a terminal, lines in a file."""

import sys
import time
from types import TracebackType
from typing import Literal

from tqdm.auto import tqdm

from .settings import NO_STEPS, Run


ProgressStyle = Literal["bars", "lines"]
PROGRESS_STYLES = ("bars", "lines")
SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """
    A context in which work is counted, and told on standard error.

    Args:
        title (`str`): what is done.
        total (`int`): how many pieces of work there are, such as files.
        style (`"bars"` or `"lines"`, *optional*): a bar; lines that say what was done last; nothing if not set.
        parts (`int`, *optional*, defaults to 1): of a piece: steps of the bar, which shall not stand still for long.
        unit (`str`): of the bar.
        seconds_between_lines (`float`, *optional*, defaults to 0): the last piece has a line in any case.
    """

    def __init__(
        self,
        title: str,
        total: int,
        style: ProgressStyle | None,
        *,
        parts: int = 1,
        unit: str = "file",
        seconds_between_lines: float = 0.0,
    ) -> None:
        self._title, self._total, self._parts, self._style = title, total, parts, style
        self._pause = seconds_between_lines
        self._done_parts = 0
        self._piece_began = self._last_line = time.monotonic()
        self._bar = tqdm(total=total * parts, desc=title, unit=unit, disable=style != "bars")

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.close()

    def advance(self, what: str, parts: int = 1) -> None:
        """
        Args:
            what (`str`): the piece of work, or the piece that `parts` belong to.
            parts (`int`, *optional*, defaults to 1): how many parts of it were done.
        """
        self._bar.update(parts)
        self._done_parts += parts
        if self._done_parts % self._parts:
            return
        now, done = time.monotonic(), self._done_parts // self._parts
        seconds, self._piece_began = now - self._piece_began, now
        if self._style == "lines" and (done == self._total or now - self._last_line >= self._pause):
            self._last_line = now
            print(f"{self._title} {done}/{self._total}: {what}, {seconds:.1f} s", file=sys.stderr, flush=True)


def describe_run(run: Run) -> str:
    """A run as its line names it."""
    cell = run.cell
    steps = [] if cell.num_steps == NO_STEPS else [f"{cell.num_steps} {'step' if cell.num_steps == 1 else 'steps'}"]
    return ", ".join([cell.model, cell.mode, cell.solver, *steps, f"seed {run.seed}"])


__all__ = ["PROGRESS_STYLES", "Progress", "ProgressStyle", "describe_run"]
