# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Measures when each step or each token came."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.generation.streamers import BaseStreamer


class StepClock:
    """
    Measures when each step of `generate` ends, in seconds since the clock was made.

    ```python
    clock = StepClock()
    output = model.generate(..., callback_on_step_end=clock)
    Timeline.from_output(output, tokenizer, seconds=clock.seconds)
    ```
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._started = time.perf_counter()

    def __call__(self, model: Any, step: int, flow_time: float, state: dict[str, torch.Tensor]) -> None:
        """For `callback_on_step_end`."""
        state["sequences"][0, 0].item()  # waits for the device
        self.seconds.append(time.perf_counter() - self._started)


@dataclass(frozen=True)
class AutoregressiveRun:
    """
    What an autoregressive model wrote, one token after the other.

    Args:
        ids (`Sequence[int]`): the tokens, prompt included.
        seconds_per_token (`float` or `Sequence[float]`): that each new token took.
        prompt_length (`int`, *optional*, defaults to 0): how many of `ids` are the prompt.

    Raises:
        `ValueError`: if there is no new token, or not one duration for each.
    """

    ids: Sequence[int]
    seconds_per_token: float | Sequence[float]
    prompt_length: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.prompt_length < len(self.ids):
            raise ValueError(
                f"`prompt_length` must be in [0, {len(self.ids)}), to leave a new token in `ids`, but is "
                f"{self.prompt_length}"
            )
        num_new, durations = len(self.ids) - self.prompt_length, self.seconds_per_token
        if isinstance(durations, Sequence) and len(durations) != num_new:
            raise ValueError(f"`seconds_per_token` must be a number or {num_new} numbers, but has {len(durations)}")
        if not all(0 <= duration < float("inf") for duration in self.durations):
            raise ValueError("`seconds_per_token` must be finite and not negative")

    @property
    def durations(self) -> list[float]:
        """Seconds that each new token took."""
        if isinstance(self.seconds_per_token, Sequence):
            return list(self.seconds_per_token)
        return [self.seconds_per_token] * (len(self.ids) - self.prompt_length)

    @classmethod
    def measure(cls, model: Any, input_ids: torch.Tensor, **kwargs: Any) -> "AutoregressiveRun":
        """
        Generates with a causal model of transformers and measures every token.

        Args:
            model (`PreTrainedModel`): any whose `generate` takes a streamer.
            input_ids (`torch.LongTensor` of shape `(1, prompt_length)`): the prompt.
            kwargs: for `model.generate`, such as `max_new_tokens`.
        """
        if input_ids.ndim != 2 or len(input_ids) != 1:
            raise ValueError(f"`input_ids` must be of shape (1, prompt_length), but are {tuple(input_ids.shape)}")
        clock = _TokenClock()
        ids = model.generate(input_ids=input_ids, streamer=clock, **kwargs)[0].tolist()
        return cls(ids, clock.durations, prompt_length=input_ids.shape[1])


class _TokenClock(BaseStreamer):
    """A streamer that keeps the time of each token; the first thing it gets is the prompt."""

    def __init__(self) -> None:
        self.durations: list[float] = []
        self._has_prompt = False
        self._last = time.perf_counter()

    def put(self, value: torch.Tensor) -> None:
        """Called with the prompt, and then with each token, which is on the host already."""
        if self._has_prompt:
            now = time.perf_counter()
            self.durations.append(now - self._last)
            self._last = now
        self._has_prompt = True

    def end(self) -> None:
        """The text is complete: nothing to do."""
