# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Which times and step sizes a batch is trained and evaluated on; all draws come from an explicit generator."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


STEP_SIZE_POLICIES = ("uniform", "weighted", "annealed")


class StepSizeDraw(NamedTuple):
    """
    Attributes:
        time, step_size (`torch.FloatTensor` of shape `(rows,)`): t and h, exact multiples of the finest step.
        level (`torch.LongTensor` of shape `(rows,)`): h = 2^-level; the bucket of a row in the logs.
    """

    time: Tensor
    step_size: Tensor
    level: Tensor


@dataclass(frozen=True)
class StepSizeGrid:
    """
    The grid of step sizes 2^0, 2^-1, ..., 2^-(num_levels - 1), and how often each is trained (FS-DFM App. C.1).

    A row's level k is drawn in proportion to w_k(s), with s the optimizer step:

    - `"uniform"`: w_k = 1;
    - `"weighted"`: w_k = weights[k];
    - `"annealed"`: w_k(s) = min(weights[k] * 2^floor(s / anneal_interval), max(weights)): starts as `"weighted"`, and
      all levels but those of weight 0 end up equally likely. On the default weights this is the published one (every
      weight doubled each interval, up to 1024), uniform after `num_levels - 1` intervals.

    Args:
        num_levels (`int`, *optional*, defaults to 11): from 2 to 24, so that float32 holds every time exactly.
        policy (`str`, *optional*, defaults to `"weighted"`): `"uniform"`, `"weighted"` or `"annealed"`.
        weights (`tuple[float]`, *optional*, defaults to `(1, 2, 4, ..., 2^(num_levels - 1))`):
            One for each level, from h = 1 down, >= 0. The published default gives half of all rows the smallest step.
            `"uniform"` takes none.
        anneal_interval (`int`, *optional*, defaults to 20000): optimizer steps between two doublings.
    """

    num_levels: int = 11
    policy: str = "weighted"
    weights: tuple[float, ...] | None = None
    anneal_interval: int = 20_000

    def __post_init__(self) -> None:
        if not 2 <= self.num_levels <= 24:
            raise ValueError(f"`num_levels` must be in [2, 24], but got {self.num_levels}")
        if self.policy not in STEP_SIZE_POLICIES:
            raise ValueError(f"`policy` must be one of {STEP_SIZE_POLICIES}, but got {self.policy!r}")
        if self.anneal_interval < 1:
            raise ValueError(f"`anneal_interval` must be at least 1, but got {self.anneal_interval}")
        if self.weights is None:
            return
        if self.policy == "uniform":
            raise ValueError("`weights` mean nothing to the policy 'uniform'; use 'weighted' or 'annealed'")
        if len(self.weights) != self.num_levels:
            raise ValueError(f"`weights` must have {self.num_levels} entries, one a level, but has {len(self.weights)}")
        if not all(0 <= weight < math.inf for weight in self.weights) or not any(self.weights):
            raise ValueError(f"`weights` must be finite, >= 0 and not all 0, but got {self.weights}")

    @property
    def finest_level(self) -> int:
        """The level of the smallest step, whose rows are trained on data (path loss) and not on a teacher."""
        return self.num_levels - 1

    def step_size(self, level: int) -> float:
        """h = 2^-level."""
        return 2.0**-level

    def level_weights(self, global_step: int = 0) -> Tensor:
        """The probability of each level at an optimizer step: `torch.DoubleTensor` of shape `(num_levels,)`."""
        levels = torch.arange(self.num_levels, dtype=torch.float64)
        if self.policy == "uniform":
            weights = torch.ones_like(levels)
        else:
            weights = 2**levels if self.weights is None else torch.tensor(self.weights, dtype=torch.float64)
        if self.policy == "annealed":
            doublings = min(global_step // self.anneal_interval, 1000)  # 2^1000 flattens everything, and is finite
            weights = (weights / weights.max() * 2.0**doublings).clamp_max(1)
        return weights / weights.sum()

    def draw(
        self, num_rows: int, generator: torch.Generator, global_step: int = 0, finest_ends_before_one: bool = False
    ) -> StepSizeDraw:
        """
        Draws h, then t uniformly from the multiples of the finest step with t + h <= 1.

        Args:
            num_rows (`int`): rows of the batch.
            generator (`torch.Generator`): also decides the device of the result.
            global_step (`int`, *optional*, defaults to 0): the optimizer step, for `"annealed"`.
            finest_ends_before_one (`bool`, *optional*, defaults to `False`):
                Whether rows of the finest level get t + h < 1: the weight G(t, h) / h of the step-aware path loss is
                infinite in the last step; the plain g(t) is not.
        """
        device = generator.device
        probability = self.level_weights(global_step).to(device)
        level = torch.multinomial(probability, num_rows, replacement=True, generator=generator)
        finest_steps = 2 ** (self.finest_level - level)  # the length of the row's step, in finest steps
        num_times = 2**self.finest_level - finest_steps + 1
        if finest_ends_before_one:
            num_times = num_times - (level == self.finest_level).long()
        uniform = torch.rand(num_rows, generator=generator, device=device, dtype=torch.float64)
        unit = self.step_size(self.finest_level)
        return StepSizeDraw((uniform * num_times).floor().float() * unit, finest_steps.float() * unit, level)


def draw_times(
    num_rows: int, generator: torch.Generator, time_epsilon: float = 1e-3, low_discrepancy: bool = False
) -> Tensor:
    """
    Times for pre-training, uniform on [0, 1 - time_epsilon).

    Args:
        num_rows (`int`): rows of the batch. For draws that do not depend on how a batch is split over processes, draw
            for the whole of it from one generator and take a slice.
        generator (`torch.Generator`): also decides the device of the result.
        time_epsilon (`float`, *optional*, defaults to 1e-3): in (0, 1); the path loss is singular at t = 1.
        low_discrepancy (`bool`, *optional*, defaults to `False`):
            Whether to divide the interval into `num_rows` equal parts with one draw in each, in random order: every
            row's time is uniform still, but the mean over the batch varies less.

    Returns:
        `torch.FloatTensor` of shape `(num_rows,)`.
    """
    _check_time_epsilon(time_epsilon)
    uniform = torch.rand(num_rows, generator=generator, device=generator.device, dtype=torch.float64)
    if low_discrepancy:
        part = torch.randperm(num_rows, generator=generator, device=generator.device)
        uniform = (part + uniform) / num_rows
    return (uniform * (1 - time_epsilon)).float()


def evaluation_times(num_times: int, time_epsilon: float = 1e-3) -> Tensor:
    """
    The fixed times of evaluation: the middles of `num_times` equal parts of [0, 1 - time_epsilon], increasing.

    The mean of the path loss over them approaches its integral, and thus the likelihood bound, with an error that falls
    as `num_times`^-2 where the integrand is smooth.

    Returns:
        `torch.FloatTensor` of shape `(num_times,)`.
    """
    _check_time_epsilon(time_epsilon)
    if num_times < 1:
        raise ValueError(f"`num_times` must be at least 1, but got {num_times}")
    middles = (torch.arange(num_times, dtype=torch.float64) + 0.5) / num_times
    return (middles * (1 - time_epsilon)).float()


def _check_time_epsilon(time_epsilon: float) -> None:
    if not 0 < time_epsilon < 1:
        raise ValueError(f"`time_epsilon` must be in (0, 1), but got {time_epsilon}")
