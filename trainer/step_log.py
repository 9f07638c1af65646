# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""What distillation logs of its steps: losses by step size, and where the time goes."""

import contextlib
import time as clock
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor


class StepSizeMeter:
    """
    Rows, loss and KL divergence by step size, summed up on the device and fetched when they are logged.

    Args:
        num_levels (`int`): h = 2^-level.
        device (`torch.device`): of the losses.
    """

    def __init__(self, num_levels: int, device: torch.device) -> None:
        self._sums = torch.zeros(num_levels, 4, device=device)  # rows, loss, rows with KL, KL

    def add(self, level: Tensor, row_loss: Tensor) -> None:
        """Takes the losses of rows, `(rows,)`."""
        self._add(level, row_loss, column=0)

    def add_kl(self, level: Tensor, row_kl: Tensor) -> None:
        """Takes the plain KL divergences, without temperature, top-k, top-p or weight, of rows."""
        self._add(level, row_kl, column=2)

    def _add(self, level: Tensor, values: Tensor, column: int) -> None:
        pairs = torch.stack([torch.ones_like(values), values], dim=-1).to(self._sums.dtype)
        self._sums[:, column : column + 2].index_add_(0, level.to(self._sums.device), pairs)

    def drain(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """
        The logs since the last call, over all processes: `h_1_8/loss`, `h_1_8/rows` (a share), `h_1_8/kl` for h = 1/8.

        Args:
            reduce (`Callable`): sums a tensor over the processes.
        """
        sums = reduce(self._sums.clone()).tolist()
        self._sums.zero_()
        num_rows = max(sum(rows for rows, *_ in sums), 1)
        logs = {}
        for level, (rows, loss, kl_rows, kl) in enumerate(sums):
            name = "h_1" if level == 0 else f"h_1_{2**level}"
            if rows:
                logs[f"{name}/loss"] = loss / rows
                logs[f"{name}/rows"] = rows / num_rows
            if kl_rows:
                logs[f"{name}/kl"] = kl / kl_rows
        return logs


class Stopwatch:
    """
    Adds up the time of named blocks; on a GPU by events in its stream, which nobody waits for until they are read.

    Args:
        device (`torch.device`): where the work is done.
    """

    def __init__(self, device: torch.device) -> None:
        self._uses_events = device.type == "cuda"
        self._spans: dict[str, list[tuple[Any, Any]]] = defaultdict(list)

    @contextlib.contextmanager
    def measure(self, name: str) -> Iterator[None]:
        start = self._now()
        try:
            yield
        finally:
            self._spans[name].append((start, self._now()))

    def _now(self) -> Any:
        if not self._uses_events:
            return clock.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def drain(self) -> dict[str, float]:
        """Seconds of each block since the last call."""
        if self._uses_events:
            torch.cuda.synchronize()
            totals = {
                name: sum(start.elapsed_time(end) for start, end in spans) / 1000 for name, spans in self._spans.items()
            }
        else:
            totals = {name: sum(end - start for start, end in spans) for name, spans in self._spans.items()}
        self._spans.clear()
        return totals
