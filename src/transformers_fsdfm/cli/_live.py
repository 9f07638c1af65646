# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Drafts that rewrite themselves on the terminal while a text is generated."""

import contextlib
import itertools
import signal
import sys
import threading
import time as clock
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from ._output import printable


if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

GIVEN, CHANGED, SETTLED, STATUS = "bold", "yellow", "", "dim"
MASK_PICTURE = "░"
SECONDS_BETWEEN_DRAFTS = 0.05
MAX_SHARE_OF_TIME = 0.1  # that drafts may take from the sampling
SECONDS_OF_CTRL_C = 0.05  # the terminal throws away what is written to it in the moment of a Ctrl-C


class LiveDrafts:
    """
    A context in which drafts are shown; they vanish when it ends. It does nothing if standard output is no terminal.

    The part of a longer text that fits on the screen is shown: one in which something changes, as long as there is one.

    Args:
        wanted (`bool`): whether to show anything.
    """

    def __init__(self, wanted: bool) -> None:
        self.console = Console(file=sys.stdout, highlight=False)
        self.is_shown = wanted and sys.stdout.isatty() and self.console.is_interactive
        self._live = Live(
            console=self.console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        )

    def __enter__(self) -> "LiveDrafts":
        if self.is_shown:
            self._live.start()
        return self

    def __exit__(self, error_type: type[BaseException] | None, *error: object) -> None:
        if not self.is_shown:
            return
        if error_type is KeyboardInterrupt:
            clock.sleep(SECONDS_OF_CTRL_C)
        with _without_interruption():
            self._live.stop()

    def _show(self, content: RenderableType) -> None:
        with _without_interruption():
            self._live.update(content, refresh=True)

    def note(self, text: str) -> None:
        """Shows a line in place of a draft."""
        if self.is_shown:
            self._show(Text(printable(text), style=STATUS, overflow="ellipsis", no_wrap=True))

    def callback(
        self, tokenizer: "PreTrainedTokenizerBase", given: Sequence[bool], num_steps: int | None, mask_id: int | None
    ) -> Callable[[Any, int, float, dict[str, "Tensor"]], None] | None:
        """
        For `callback_on_step_end` of `generate`; None if nothing is shown.

        Args:
            tokenizer ([`~transformers.PreTrainedTokenizerBase`]): of the model.
            given (`Sequence[bool]`): whether each token of the prompt was given and will stay; all after it change.
            num_steps (`int`, *optional*): the number of steps, if it is known beforehand.
            mask_id (`int`, *optional*): the token that stands where nothing has been written yet.
        """
        if not self.is_shown:
            return None
        draft = _Draft(tokenizer, given, mask_id)
        started = clock.monotonic()
        next_time = started

        def show(model: Any, step: int, time: float, tensors: dict[str, "Tensor"]) -> None:
            nonlocal next_time
            now = clock.monotonic()
            if now < next_time:
                return
            of_all = f"/{num_steps}" if num_steps else f" (t = {time:.3f})"
            rows = tensors["sequences"]
            which = f" · the first of {len(rows)} texts" if len(rows) > 1 else ""
            status = f"step {step + 1}{of_all} · {now - started:.1f} s{which}"
            self._show(Group(*draft.render(rows[0].tolist(), status, self.console)))
            cost = clock.monotonic() - now
            next_time = now + max(SECONDS_BETWEEN_DRAFTS, cost / MAX_SHARE_OF_TIME)

        return show


class _Draft:
    """A text from draft to draft: what changed, and which lines of it are in view."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", given: Sequence[bool], mask_id: int | None) -> None:
        self.tokenizer = tokenizer
        self.given = given
        self.mask_id = mask_id
        self.shown_ids: list[int] = []
        self.first_line = 0

    def render(self, ids: list[int], status: str, console: Console) -> list[Text]:
        """The lines that fit on the screen, and the status below them."""
        text = Text()
        for style, content in self._parts(ids):
            text.append(content, style)
        self.shown_ids = ids
        width = max(1, console.width - 1)  # terminals differ on what follows the last column
        lines = list(text.wrap(console, width, overflow="fold"))
        room = max(1, console.height - 2)
        changed = [number for number, line in enumerate(lines) if any(span.style == CHANGED for span in line.spans)]
        if changed and not any(self.first_line <= number < self.first_line + room for number in changed):
            self.first_line = changed[0]
        self.first_line = min(self.first_line, max(0, len(lines) - room))
        last_line = Text(status, style=STATUS, overflow="ellipsis", no_wrap=True)
        return [*lines[self.first_line : self.first_line + room], last_line]

    def _parts(self, ids: list[int]) -> Iterator[tuple[str, str]]:
        """Style and text of each run of tokens of one kind."""
        from ..infilling import decode_after

        start = 0
        for (style, is_blank), run in itertools.groupby(range(len(ids)), key=lambda index: self._kind(ids, index)):
            end = start + len(list(run))
            if is_blank:
                yield style, MASK_PICTURE * (end - start)
            else:
                yield style, _of_known_width(decode_after(ids[:start], ids[start:end], self.tokenizer))
            start = end

    def _kind(self, ids: list[int], index: int) -> tuple[str, bool]:
        if index < len(self.given) and self.given[index]:
            return GIVEN, False
        is_same = index < len(self.shown_ids) and ids[index] == self.shown_ids[index]
        return (SETTLED if is_same else CHANGED), ids[index] == self.mask_id


@contextlib.contextmanager
def _without_interruption() -> Iterator[None]:
    """
    Holds Ctrl-C back for a moment: half a draft could not be taken away.

    By handlers, and not by a mask of this thread: another thread would take the signal, and Python interrupts this one.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone is interrupted
        yield
        return
    held: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: held.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])


def _of_known_width(text: str) -> str:
    """Without the invisible characters that make some terminals join others, and some not: lines must fit."""
    kept = (char for char in printable(text) if unicodedata.category(char) != "Cf" and not "\ufe00" <= char <= "\ufe0f")
    return "".join(kept)
