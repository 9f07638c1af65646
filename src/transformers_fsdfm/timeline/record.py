# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The record of one generation: what each token was, step by step, and when it settled."""

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedTokenizerBase

from .cells import Cell, Kind, build_cells
from .colors import color_index


if TYPE_CHECKING:
    from ..generation_fsdfm import FSDFMGenerationOutput
    from .clock import AutoregressiveRun

NOT_YET = -1  # in place of a token that an autoregressive model has not written yet


@dataclass(frozen=True)
class Bin:
    """The steps that share a colour, and how many tokens settled in them."""

    color: int
    first_step: int
    last_step: int
    num_tokens: int

    @property
    def label(self) -> str:
        """Such as "5", or "129-256"."""
        return str(self.last_step) if self.first_step == self.last_step else f"{self.first_step}-{self.last_step}"


@dataclass(frozen=True)
class Timeline:
    """
    When each token of a text settled. Make one with [`Timeline.from_output`] or [`Timeline.from_autoregressive`].

    Args:
        cells (`tuple[Cell, ...]`): the text, in pieces that can be shown.
        counts (`tuple[int, ...]` of length `num_steps + 1`):
            How many tokens changed last in each step; in front, those that were written and never changed.
        num_given (`int`): tokens that were given: the prompt, and what was not to be changed.
        seconds (`tuple[float, ...]` of length `num_steps`, *optional*): when each step ended.
        title (`str`, *optional*): what the reader sees above the text.
    """

    cells: tuple[Cell, ...]
    counts: tuple[int, ...]
    num_given: int
    seconds: tuple[float, ...] | None = None
    title: str | None = None

    @classmethod
    def from_output(
        cls,
        output: "FSDFMGenerationOutput",
        tokenizer: PreTrainedTokenizerBase,
        row: int = 0,
        seconds: float | Sequence[float] | None = None,
        title: str | None = None,
        input_ids: torch.Tensor | None = None,
    ) -> "Timeline":
        """
        The timeline of a `generate` output.

        Args:
            output ([`FSDFMGenerationOutput`]):
                Made with `return_dict_in_generate=True, output_history=True`.
            tokenizer (`PreTrainedTokenizerBase`): of the model.
            row (`int`, *optional*, defaults to 0): which text of the batch.
            seconds (`float` or `Sequence[float]`, *optional*):
                When each step ended, as [`StepClock`] measures; or of the whole run, shared equally by the steps.
            title (`str`, *optional*): above the text.
            input_ids (`torch.LongTensor` of shape `(batch_size, prompt_length)`, *optional*):
                What `generate` was given. Without it every token that never changed counts as given: among them may be
                one that the start, which is random, got right at once.

        Raises:
            `ValueError`: if the output has no history, or an argument does not fit it.
        """
        history = getattr(output, "history", None)
        if history is None:  # of whatever class: a checkpoint may bring its own code
            raise ValueError(
                "`output` must hold a history: call `generate` with `return_dict_in_generate=True, output_history=True`"
            )
        num_rows, num_steps = len(output.sequences), len(history) - 1
        if not num_steps:
            raise ValueError("`output` has no steps: nothing was to be written")
        if not 0 <= row < num_rows:
            raise ValueError(f"`row` must be in [0, {num_rows}), the rows of `output`, but is {row}")
        canvases = torch.stack([canvas[row] for canvas in history]).cpu()
        final_ids = output.sequences[row].tolist()
        histories = _changes(canvases)
        could_be_given = _could_be_given(input_ids, row, canvases, num_rows)
        settled: list[int | None] = []
        for position, (changes, final_id) in enumerate(zip(histories, final_ids, strict=True)):
            if changes[-1][1] != final_id:  # replaced after the end of the text
                changes.append((num_steps, final_id))
                settled.append(None)
            elif len(changes) == 1 and could_be_given[position]:
                settled.append(None)
            else:
                settled.append(changes[-1][0])
        kinds: list[Kind] = [
            "written" if step is not None else "given" if len(changes) == 1 else "cleared"
            for step, changes in zip(settled, histories, strict=True)
        ]
        return cls(
            cells=build_cells(histories, kinds, settled, tokenizer),
            counts=_count_steps(settled, num_steps),
            num_given=kinds.count("given"),
            seconds=_check_seconds(seconds, num_steps),
            title=title,
        )

    @classmethod
    def from_autoregressive(
        cls, run: "AutoregressiveRun", tokenizer: PreTrainedTokenizerBase, title: str | None = None
    ) -> "Timeline":
        """
        The timeline of a text that was written from left to right: token i settles in step i.

        Args:
            run ([`AutoregressiveRun`]): tokens and times.
            tokenizer (`PreTrainedTokenizerBase`): of the model that wrote it.
            title (`str`, *optional*): above the text.
        """
        prompt_length, num_steps = run.prompt_length, len(run.ids) - run.prompt_length
        ids = [int(token_id) for token_id in run.ids]
        new = enumerate(ids[prompt_length:], start=1)
        histories = [[(0, token_id)] for token_id in ids[:prompt_length]]
        histories += [[(0, NOT_YET), (step, token_id)] for step, token_id in new]
        settled: list[int | None] = [*[None] * prompt_length, *range(1, num_steps + 1)]
        kinds: list[Kind] = ["given" if step is None else "written" for step in settled]
        return cls(
            cells=build_cells(histories, kinds, settled, tokenizer),
            counts=(0, *[1] * num_steps),
            num_given=prompt_length,
            seconds=_check_seconds(torch.tensor(run.durations, dtype=torch.float64).cumsum(0).tolist(), num_steps),
            title=title,
        )

    @property
    def num_steps(self) -> int:
        """Steps of the whole run."""
        return len(self.counts) - 1

    @property
    def bins(self) -> list[Bin]:
        """The steps in at most eight groups, one for each colour, with the number of tokens that settled in each."""
        first = 0 if self.counts[0] else 1
        by_color = groupby(range(first, len(self.counts)), key=self.color_of)
        groups = [(color, list(steps)) for color, steps in by_color]
        return [Bin(color, steps[0], steps[-1], sum(self.counts[steps[0] : steps[-1] + 1])) for color, steps in groups]

    @property
    def text(self) -> str:
        """The final text as it is shown, with marks for what cannot be seen."""
        return "".join(cell.text for cell in self.cells)

    def color_of(self, step: int) -> int:
        """Which of the eight colours a step has."""
        return color_index(step, self.num_steps)

    @property
    def total_seconds(self) -> float:
        """When the last step ended; 0.0 if it was not measured."""
        return self.seconds[-1] if self.seconds else 0.0

    def step_at(self, seconds: float) -> int:
        """How many steps have ended by then."""
        return sum(end <= seconds for end in self.seconds or ())

    def to_html(self, full_page: bool = True) -> str:
        """
        A page that shows the text in colours, the history of each token, and replays the steps. It asks for nothing
        from anywhere.

        Args:
            full_page (`bool`, *optional*, defaults to `True`):
                False: a `<section>` for another page, with style and script. Where that page does not run scripts, the
                colours and the counts remain, and the histories as the browser's own tooltips.
        """
        from .page import timeline_html

        return timeline_html(self, full_page=full_page)

    def to_ansi(self, width: int | None = None, color: bool | None = None) -> str:
        """
        The text in colours for a terminal.

        Args:
            width (`int`, *optional*): columns, at least 20; those of the terminal by default.
            color (`bool`, *optional*):
                False: digits below the text in place of colours. None: colours, unless `NO_COLOR` is set or the
                terminal has none. All colours if `COLORTERM` says so, else those of the palette of 256.
        """
        from .terminal import render

        return render(self, width, color)

    def save(self, path: str | os.PathLike) -> None:
        """
        Writes a file of the kind that its suffix names: `.html` a page, `.png` and `.svg` the final text in colours,
        `.gif` the steps one after the other, `.txt` plain text. The file appears when it is complete.

        Raises:
            `ValueError`: for another suffix.
            `OSError`: if there is no such folder.
            `ImportError`: for a picture, without the extra `timeline`.
        """
        from .files import TIMELINE_SUFFIXES, check_path, write

        suffix = check_path(path, TIMELINE_SUFFIXES)
        if suffix == ".html":
            content = self.to_html().encode()
        elif suffix == ".txt":
            content = (self.to_ansi(width=80, color=False) + "\n").encode()
        else:
            from .picture import animate, draw, replay_frames

            content = animate([self], replay_frames(self)) if suffix == ".gif" else draw([self], suffix)
        write(path, content)


def _changes(canvases: torch.Tensor) -> list[list[tuple[int, int]]]:
    """For each position the steps in which it changed and the tokens; step 0 and the start in front."""
    histories = [[(0, token_id)] for token_id in canvases[0].tolist()]
    step, position = (canvases[1:] != canvases[:-1]).nonzero(as_tuple=True)
    token_ids = canvases[step + 1, position].tolist()
    for step_index, index, token_id in zip(step.tolist(), position.tolist(), token_ids, strict=True):
        histories[index].append((step_index + 1, token_id))
    return histories


def _could_be_given(input_ids: torch.Tensor | None, row: int, canvases: torch.Tensor, num_rows: int) -> list[bool]:
    """Which positions stood in the prompt as they stand at the start."""
    length = canvases.shape[1]
    if input_ids is None:
        return [True] * length
    if input_ids.ndim != 2 or not len(input_ids) or num_rows % len(input_ids) or input_ids.shape[1] > length:
        raise ValueError(
            f"`input_ids` must be what `generate` was given, but have the shape {tuple(input_ids.shape)}, and `output` "
            f"{(num_rows, length)}"
        )
    prompt = input_ids[row // (num_rows // len(input_ids))].cpu()
    is_given = (prompt == canvases[0, : len(prompt)]).tolist()
    return is_given + [False] * (length - len(is_given))


def _count_steps(settled: Sequence[int | None], num_steps: int) -> tuple[int, ...]:
    tokens_of_step = Counter(settled)
    return tuple(tokens_of_step[step] for step in range(num_steps + 1))


def _check_seconds(seconds: float | Sequence[float] | None, num_steps: int) -> tuple[float, ...] | None:
    if seconds is None:
        return None
    if isinstance(seconds, (int, float)):
        seconds = [seconds * (step + 1) / num_steps for step in range(num_steps)]
    if len(seconds) != num_steps:
        raise ValueError(f"`seconds` must be one time for each of the {num_steps} steps, but has {len(seconds)}")
    times = tuple(float(time) for time in seconds)
    if not all(math.isfinite(time) and time >= 0 for time in times) or list(times) != sorted(times):
        raise ValueError("`seconds` must be the times at which the steps ended: finite, and none before another")
    return times
