# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""`generate` in a thread of its own: its drafts can be watched, and it stops when nobody watches any more."""

import time as clock
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from threading import Event
from typing import Any

import torch
from torch import Tensor

from ..generation_fsdfm import FSDFMGenerationMixin, FSDFMGenerationOutput
from ..timeline import StepClock


@dataclass(frozen=True)
class Draft:
    """
    How far a sample is.

    Args:
        step (`int`): steps taken so far.
        seconds (`float`): since sampling began.
        ids (`list[int]`, *optional*): the tokens after that step; None before the first.
    """

    step: int
    seconds: float
    ids: list[int] | None = None


@dataclass(frozen=True)
class Sample:
    """
    A finished sample.

    Args:
        output ([`FSDFMGenerationOutput`]): of one row, with its history.
        seconds (`float`): that `generate` took.
        step_seconds (`list[float]`): when each step ended.
    """

    output: FSDFMGenerationOutput
    seconds: float
    step_seconds: list[float]


STOPPED = "The sampling was stopped"


class SamplingStopped(RuntimeError):
    """Ends `generate` between two steps."""


class Sampler:
    """
    Runs one `generate` at a time, however many ask.

    Args:
        interval (`float`, *optional*, defaults to 0.1):
            Seconds between two looks at the drafts. Faster drafts are skipped, so that watching costs nothing.
    """

    def __init__(self, interval: float = 0.1) -> None:
        self.interval = interval
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sampling")
        self._closed = Event()

    def run(self, model: FSDFMGenerationMixin, seed: int, **arguments: Any) -> Generator[Draft | Sample, None, None]:
        """
        Yields the newest [`Draft`] every `interval` seconds, and at last the [`Sample`].

        Closing the iterator ends the sampling after the step that is under way. What `generate` raises is raised here,
        and [`SamplingStopped`] if the sampler is closed.

        Args:
            model ([`FSDFMGenerationMixin`]): what samples.
            seed (`int`): of the generator.
            arguments: those of `generate`.
        """
        if self._closed.is_set():
            raise SamplingStopped(STOPPED)
        watch = _Watch(self._closed)
        future = self._thread.submit(watch.sample, model, seed, arguments)
        try:
            wait([future], timeout=self.interval)
            while not future.done():
                yield watch.draft()
                wait([future], timeout=self.interval)
            if future.cancelled():
                raise SamplingStopped(STOPPED)
            yield future.result()
        finally:
            watch.is_over.set()
            future.cancel()

    def close(self) -> None:
        """Stops what is sampling and refuses new samples."""
        self._closed.set()
        self._thread.shutdown(cancel_futures=True)


class _Watch:
    """Stands between the thread that samples and the one that watches; each attribute is written in one assignment."""

    def __init__(self, closed: Event) -> None:
        self.is_over = Event()
        self._closed = closed
        self._started: float | None = None
        self._latest: tuple[int, Tensor | None] = (0, None)

    def sample(self, model: FSDFMGenerationMixin, seed: int, arguments: dict[str, Any]) -> Sample:
        step_clock = StepClock()

        def report(model: Any, step: int, time: float, tensors: dict[str, Tensor]) -> None:
            if self.is_over.is_set() or self._closed.is_set():
                raise SamplingStopped(STOPPED)
            step_clock(model, step, time, tensors)
            self._latest = (step + 1, tensors["sequences"].clone())

        self._started = clock.perf_counter()
        output = model.generate(
            **arguments,
            generator=torch.Generator().manual_seed(seed),
            callback_on_step_end=report,
            return_dict_in_generate=True,
            output_history=True,
        )
        return Sample(output, clock.perf_counter() - self._started, step_clock.seconds)

    def draft(self) -> Draft:
        step, canvas = self._latest
        seconds = 0.0 if self._started is None else clock.perf_counter() - self._started
        return Draft(step, seconds, None if canvas is None else canvas[0].tolist())
