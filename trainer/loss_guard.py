# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Stops a run whose loss is no number."""

from typing import NamedTuple

import torch
from torch import Tensor


MAX_RECORDS = 256


class _Record(NamedTuple):
    global_step: int
    row_loss: Tensor
    time: Tensor
    step_size: Tensor | None


class LossGuard:
    """
    Remembers the losses of the rows, and raises an error that says in which step and at which t and h one was NaN or
    infinite.

    On the CPU it looks at once. On an accelerator each look would make the host wait, so there the trainer asks for one
    before it logs, evaluates, samples or saves: no such result, and no checkpoint, ever follows a bad loss.
    """

    def __init__(self) -> None:
        self._records: list[_Record] = []

    def record(self, global_step: int, row_loss: Tensor, time: Tensor, step_size: Tensor | None) -> None:
        """Takes the losses of a micro-batch, one for each row, with its times and step sizes."""
        self._records.append(_Record(global_step, row_loss.detach(), time, step_size))
        if row_loss.device.type == "cpu" or len(self._records) >= MAX_RECORDS:
            self.check()

    def check(self) -> None:
        """
        Raises:
            `FloatingPointError`: if a recorded loss is not finite.
        """
        records, self._records = self._records, []
        if not records:
            return
        is_finite = torch.stack([record.row_loss.isfinite().all() for record in records]).tolist()
        if not all(is_finite):
            raise FloatingPointError(_describe(records[is_finite.index(False)]))


def _describe(record: _Record) -> str:
    row_loss, time = record.row_loss.tolist(), record.time.tolist()
    step_size = [None] * len(time) if record.step_size is None else record.step_size.tolist()
    rows = [
        f"row {row}: loss={loss}, t={t:.6g}" + ("" if h is None else f", h={h:.6g}")
        for row, (loss, t, h) in enumerate(zip(row_loss, time, step_size, strict=True))
        if not torch.isfinite(torch.tensor(loss))
    ]
    return (
        f"The loss is not finite in global step {record.global_step + 1} ({'; '.join(rows)}). Training stops; "
        "checkpoints written before are good. Try a lower learning rate, a smaller `max_grad_norm` or another precision"
    )
