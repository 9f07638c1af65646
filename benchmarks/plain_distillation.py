# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The plain way to take a distillation step: a teacher for every row, and the logits of every position, whole.

This is what a training loop does that follows the published description to the letter, with the work that reaches no
loss (see `plain_loss`). It has the loss and the gradients of `FSDFMTrainer` and none of its savings; the benchmark
measures against it.
"""

from collections.abc import Callable, Sequence

import torch
from plain_sampler import plain_step
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from transformers_fsdfm.flow_fsdfm import Schedule, candidate_hazard, jump_candidates


# (logits, ids, time, step_size, schedule, generators) -> ids after one step
Jump = Callable[[Tensor, Tensor, Tensor, Tensor, Schedule, Sequence[torch.Generator]], Tensor]


def jump_by_rates(
    logits: Tensor,
    ids: Tensor,
    time: Tensor,
    step_size: Tensor,
    schedule: Schedule,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """One sampling step from the rates of every token at every position, as in `plain_sampler`."""
    probs = torch.softmax(logits.float(), dim=-1)
    scalar = schedule.cumulative_scalar(time.double(), step_size.double()).to(probs)
    is_last = torch.isinf(scalar)
    next_ids = plain_step(probs, ids, scalar.masked_fill(is_last, 0), step_size, generators[0])
    if is_last.any():  # a step that ends at t = 1 draws every position from the posterior
        draws = torch.multinomial(probs[is_last].double().flatten(0, 1), 1, generator=generators[0])
        next_ids[is_last] = draws.view(-1, ids.shape[1])
    return next_ids


def jump_by_candidates(
    logits: Tensor,
    ids: Tensor,
    time: Tensor,
    step_size: Tensor,
    schedule: Schedule,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """One sampling step with the random numbers of `trainer.shortcut_teacher`, but the posterior of every position."""
    draws = [torch.rand((2, ids.shape[1]), generator=row, dtype=torch.float64) for row in generators]
    candidate_uniform, uniform = torch.stack(draws, dim=1)
    hazard = candidate_hazard("cumulative_scalar", schedule, time.double(), step_size.double())
    hazard = hazard[:, None].expand(ids.shape)
    moved = jump_candidates(
        "cumulative_scalar", logits.flatten(0, 1), ids.flatten(), hazard.flatten(), uniform.flatten()
    )
    return torch.where(candidate_uniform < -torch.expm1(-hazard), moved.view(ids.shape), ids)


@torch.no_grad()
def plain_shortcut_target(
    teacher: PreTrainedModel,
    noisy_ids: Tensor,
    time: Tensor,
    step_size: Tensor,
    generators: Sequence[torch.Generator],
    jump: Jump = jump_by_rates,
) -> Tensor:
    """
    RK-4, on every row: the average of the logits of four calls at half the step size (FS-DFM Algorithm 1).

    Returns:
        `torch.FloatTensor` of shape `(rows, length, vocab_size)`.
    """
    schedule, half, ids, target = teacher.config.flow_schedule, step_size / 2, noisy_ids, 0.0
    times = (time, time + half, time + half, time + step_size)
    for call, (now, weight) in enumerate(zip(times, (1, 2, 2, 1), strict=True)):
        logits = teacher(input_ids=ids, time=now, step_size=half).logits
        target = target + weight / 6 * logits.float()
        if call < 3:
            ids = jump(logits, ids, now, half, schedule, generators)
    return target


def plain_loss(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    clean_ids: Tensor,
    noisy_ids: Tensor,
    time: Tensor,
    step_size: Tensor,
    finest_step_size: float,
    generators: Sequence[torch.Generator],
    frozen_dfm: PreTrainedModel | None = None,
    jump: Jump = jump_by_rates,
) -> Tensor:
    """
    The two-part loss (FS-DFM eq. 4.5) of a batch, the path loss with its step-aware weight (eq. 4.4).

    Args:
        student, teacher ([`FSDFMForDiffusionLM`]): uniform source; the teacher frozen and in eval mode.
        clean_ids, noisy_ids (`torch.LongTensor` of shape `(rows, length)`): x_1 and x_t.
        time, step_size (`torch.FloatTensor` of shape `(rows,)`): t and h, on the device of the models.
        finest_step_size (`float`): rows of this h take the path loss, all others the distillation loss.
        generators (`list[torch.Generator]`): one for each row, for the teacher's jumps.
        frozen_dfm ([`FSDFMForDiffusionLM`], *optional*): a plain DFM. If given, the step also does what the published
            one does to no effect: a forward of this model, and two generators of the student's jump process, with
            gradient.
        jump (`Callable`, *optional*, defaults to [`jump_by_rates`]): the teacher's sampling step.
    """
    schedule = student.config.flow_schedule
    logits = student(input_ids=noisy_ids, time=time, step_size=step_size).logits.float()
    unused = []  # kept to the end of the step
    if frozen_dfm is not None:
        unused += generators_of(logits, noisy_ids, time, step_size, schedule)
        with torch.no_grad():
            unused.append(frozen_dfm(input_ids=noisy_ids, time=time).logits)
    target = plain_shortcut_target(teacher, noisy_ids, time, step_size, generators, jump)

    log_probs = logits.log_softmax(-1)
    is_data = step_size <= finest_step_size
    weight = schedule.cumulative_scalar(time, step_size) / step_size
    path = plain_path_loss(log_probs, clean_ids, noisy_ids, weight.masked_fill(~is_data, 0))
    distillation = F.kl_div(log_probs, target.log_softmax(-1), reduction="none", log_target=True).sum(-1)
    return torch.where(is_data, path.mean(-1), distillation.mean(-1)).mean()


def plain_path_loss(log_probs: Tensor, clean_ids: Tensor, noisy_ids: Tensor, weight: Tensor) -> Tensor:
    """-weight (p(x_t) - [x_t = x_1] + (1 - [x_t = x_1]) log p(x_1)), `(rows, length)` (FS-DFM eq. 3.8)."""
    clean_log_prob = log_probs.gather(-1, clean_ids[..., None])[..., 0]
    noisy_prob = log_probs.gather(-1, noisy_ids[..., None])[..., 0].exp()
    is_clean = (noisy_ids == clean_ids).float()
    return -weight[:, None] * (noisy_prob - is_clean + (1 - is_clean) * clean_log_prob)


def generators_of(
    logits: Tensor, ids: Tensor, time: Tensor, step_size: Tensor, schedule: Schedule
) -> tuple[Tensor, Tensor]:
    """g (p - delta) and G / h (p - delta), each `(rows, length, vocab_size)`: the rates at t, and those of the step."""
    difference = logits.softmax(-1) - F.one_hot(ids, logits.shape[-1])
    scalars = schedule.velocity_scalar(time), schedule.cumulative_scalar(time, step_size) / step_size
    return tuple(scalar[:, None, None] * difference for scalar in scalars)


@torch.no_grad()
def plain_average(teacher: PreTrainedModel, student: PreTrainedModel, decay: float) -> None:
    """theta' <- decay theta' + (1 - decay) theta, one parameter after the other."""
    for average, parameter in zip(teacher.parameters(), student.parameters(), strict=True):
        average.mul_(decay).add_(parameter, alpha=1 - decay)
