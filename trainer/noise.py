# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""
What is random in a training step, and where it comes from.

Every row of a global batch (all micro-batches of all processes between two optimizer steps) has random numbers of its
own, from a generator seeded with the run's seed, the global step and the number of the row in the global batch. So a
resumed run draws the same numbers, evaluation can't disturb them, and neither the number of processes nor the length of
the accumulation changes them. The generators are on the CPU, so the device does not matter either.
"""

import contextlib
import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from transformers_fsdfm.configuration_fsdfm import FSDFMConfig
from transformers_fsdfm.flow_fsdfm import sample_source, spread_uniform

from .losses import IGNORE_INDEX


class CleanBatch(NamedTuple):
    """
    Attributes:
        clean_ids (`torch.LongTensor` of shape `(rows, length)`): x_1.
        labels (`torch.LongTensor` of the same shape): x_1 where it is learned, -100 where it is kept clean (prompts) or
            does not exist (padding).
        attention_mask (`torch.Tensor` of the same shape, *optional*): 0 at padding.
    """

    clean_ids: Tensor
    labels: Tensor
    attention_mask: Tensor | None

    @property
    def editable(self) -> Tensor:
        """Which positions take part in the flow."""
        return self.labels != IGNORE_INDEX


def read_batch(inputs: Mapping[str, Tensor]) -> CleanBatch:
    """`input_ids`, and `labels` and `attention_mask` if they are there, as the trainers need them."""
    if inputs.get("input_ids") is None:
        raise ValueError(f"A batch must have `input_ids`, but has {sorted(inputs)}")
    input_ids, attention_mask = inputs["input_ids"].long(), inputs.get("attention_mask")
    labels = inputs.get("labels")
    labels = input_ids if labels is None else labels.long()
    if attention_mask is not None:
        labels = labels.masked_fill(attention_mask == 0, IGNORE_INDEX)
    return CleanBatch(torch.where(labels == IGNORE_INDEX, input_ids, labels), labels, attention_mask)


def seeded_generator(*key: int | str) -> torch.Generator:
    """A generator on the CPU for each key."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def draw_noisy_ids(
    batch: CleanBatch,
    time: Tensor,
    config: FSDFMConfig,
    generators: Sequence[torch.Generator],
    spread: bool = False,
) -> Tensor:
    """
    x_t of the mixture path (see [`sample_path`]) with the random numbers of each row's own; what is not editable stays.

    Args:
        time (`torch.FloatTensor` of shape `(rows,)`): t of each row, on the CPU.
        generators (`list[torch.Generator]`): one for each row.
        spread (`bool`, *optional*, defaults to `False`): spread the noise evenly over a row, see `spread_candidates` of
            [`DFMTrainingArguments`].
    """
    length, device = batch.clean_ids.shape[1], batch.clean_ids.device
    row_shows_data, row_source_ids = [], []
    ranks = (batch.editable.cumsum(-1) - 1).cpu() if spread else [None] * len(batch.clean_ids)
    for generator, kappa, rank in zip(generators, config.flow_schedule.kappa(time), ranks, strict=True):
        uniform = torch.rand(length, generator=generator)
        row_shows_data.append((uniform if rank is None else spread_uniform(uniform[0], rank)) < kappa)
        row_source_ids.append(sample_source((length,), config.vocab_size, config.source_distribution, generator))
    shows_data, source_ids = torch.stack(row_shows_data).to(device), torch.stack(row_source_ids).to(device)
    return torch.where(shows_data | ~batch.editable, batch.clean_ids, source_ids)


@contextlib.contextmanager
def random_state_kept(device: torch.device) -> Iterator[None]:
    """Whatever is drawn inside from the global generators of Python, numpy and torch, they are afterwards as before."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = [] if device.type in ("cpu", "meta") else [device]
    try:
        with torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
