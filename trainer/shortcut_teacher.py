# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Shortcut teachers: what one step of size h should predict, from two or four evaluations at half the step size.

FS-DFM, Algorithm 1. With l(x, t) the teacher's logits, every call conditioned on h / 2, and t' = t + h / 2:

    l1 = l(x_t, t),     x'   = jump(x_t, l1, t,  h / 2),
    l2 = l(x', t'),     x''  = jump(x',  l2, t', h / 2),
    l3 = l(x'', t'),    x''' = jump(x'', l3, t', h / 2),
    l4 = l(x''', t + h),

    RK-4 target: (l1 + 2 l2 + 2 l3 + l4) / 6,    RK-2 target ("Heun average"): (l1 + l2) / 2.

The logits of the whole batch never exist. The target is the head of the averaged hidden states (a head is affine, the
weights sum to 1), so the average is all that is returned, for the loss to apply the head in chunks. And a jump looks at
the logits of its candidates alone (see `flow_fsdfm`).
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from transformers_fsdfm.flow_fsdfm import candidate_hazard, jump_candidates, spread_uniform

from .losses import equal_chunks, evaluation_mode, positions_per_chunk
from .module_calls import run_as_forward


if TYPE_CHECKING:
    from transformers_fsdfm import FSDFMForDiffusionLM


class _Scheme(NamedTuple):
    weights: tuple[float, ...]  # of the calls, in the average
    half_steps: tuple[int, ...]  # the time of each call, in half steps after t


SHORTCUT_TEACHERS = {
    "rk4": _Scheme(weights=(1 / 6, 2 / 6, 2 / 6, 1 / 6), half_steps=(0, 1, 1, 2)),
    "rk2": _Scheme(weights=(1 / 2, 1 / 2), half_steps=(0, 1)),
}


@torch.no_grad()
def shortcut_target(
    teacher: "FSDFMForDiffusionLM",
    noisy_ids: Tensor,
    time: Tensor,
    step_size: Tensor,
    method: str = "rk4",
    solver: str = "cumulative_scalar",
    editable_mask: Tensor | None = None,
    attention_mask: Tensor | None = None,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    spread_candidates: bool = False,
    chunk_size: int | None = None,
) -> Tensor:
    """
    The averaged hidden states of the teacher's calls; `teacher.lm_head` of them is the distillation target.

    The teacher runs in eval mode and without gradient; each of its modules is put back into the mode it was in.

    Args:
        teacher ([`FSDFMForDiffusionLM`] or a module with the same `model`, `lm_head` and `config`):
            The averaged copy of the student; its head must be affine.
        noisy_ids (`torch.LongTensor` of shape `(rows, length)`): x_t.
        time, step_size (`torch.FloatTensor` of shape `(rows,)`): t and h of each row, t + h <= 1.
        method (`str`, *optional*, defaults to `"rk4"`): `"rk4"` (four calls) or `"rk2"` (two).
        solver (`str`, *optional*, defaults to `"cumulative_scalar"`): of the jumps, see [`jump_candidates`].
        editable_mask (`torch.BoolTensor` of shape `(rows, length)`, *optional*): positions that may
            jump; all by default.
        attention_mask (`torch.Tensor` of shape `(rows, length)`, *optional*): 0 at padding.
        generator (`torch.Generator` or a list with one for each row, *optional*): source of all randomness, on any
            device. With a list, a row's jumps do not depend on the rows beside it.
        spread_candidates (`bool`, *optional*, defaults to `False`): spread those that may move in a jump evenly over
            the row, as in `generate`.
        chunk_size (`int`, *optional*): candidates whose logits exist at a time; by default as many as
            [`positions_per_chunk`] allows.

    Returns:
        `torch.Tensor` of shape `(rows, length, hidden_size)` in the dtype of the teacher's hidden states.
    """
    if method not in SHORTCUT_TEACHERS:
        raise ValueError(f"`method` must be one of {tuple(SHORTCUT_TEACHERS)}, but got {method!r}")
    if time.shape != noisy_ids.shape[:1] or step_size.shape != time.shape:
        raise ValueError(
            f"`time` and `step_size` must have the shape ({len(noisy_ids)},), one number for each row of `noisy_ids`, "
            f"but got {tuple(time.shape)} and {tuple(step_size.shape)}"
        )
    can_jump = torch.ones_like(noisy_ids, dtype=torch.bool) if editable_mask is None else editable_mask
    weights, half_steps = SHORTCUT_TEACHERS[method]
    rank = can_jump.cumsum(-1) - 1 if spread_candidates else None
    half, ids, average = step_size / 2, noisy_ids, torch.zeros(())
    with evaluation_mode(teacher):
        for call, (weight, num_halves) in enumerate(zip(weights, half_steps, strict=True)):
            now = time + num_halves * half
            hidden_states = teacher.model(
                input_ids=ids, time=now, step_size=half, attention_mask=attention_mask
            ).last_hidden_state
            average = average + weight * hidden_states.float()
            if call + 1 < len(weights):
                draws = _draw_uniform(ids, generator, rank)
                ids = _jump(teacher, hidden_states, ids, now, half, solver, can_jump, draws, chunk_size)
    return average.to(hidden_states.dtype)


def _jump(
    teacher: "FSDFMForDiffusionLM",
    hidden_states: Tensor,
    current_ids: Tensor,
    time: Tensor,
    step_size: Tensor,
    solver: str,
    can_jump: Tensor,
    draws: Tensor,
    chunk_size: int | None,
) -> Tensor:
    """One sampling step of every row, with its own t and h: what `solver_step` does, the head on candidates alone."""
    config, device = teacher.config, current_ids.device
    hazard = candidate_hazard(solver, config.flow_schedule, time.double(), step_size.double())[:, None]
    candidate_uniform, uniform = draws
    is_candidate = can_jump & (candidate_uniform < -torch.expm1(-hazard))
    if config.source_distribution == "mask":
        is_candidate &= current_ids == config.vocab_size
    position = is_candidate.flatten().nonzero()[:, 0]
    per_candidate = [values.expand_as(current_ids).flatten()[position] for values in (current_ids, hazard, uniform)]

    def move(head_forward: Callable[[Tensor], Tensor], hidden_states: Tensor) -> Tensor:
        size = chunk_size or positions_per_chunk(config.vocab_size, device)
        chunks = zip(*(equal_chunks(values, size) for values in (hidden_states, *per_candidate)), strict=True)
        return torch.cat([jump_candidates(solver, head_forward(hidden), *rest) for hidden, *rest in chunks])

    # One call of the head however many chunks: hooks that gather sharded weights must run equally often everywhere.
    moved = run_as_forward(teacher.lm_head, move, hidden_states.flatten(0, 1)[position])
    # -1 stands for logits that were no numbers; the target is then no number either, and so is the loss.
    return current_ids.flatten().index_copy(0, position, moved.clamp_min(0)).view_as(current_ids)


def _draw_uniform(
    ids: Tensor, generator: torch.Generator | Sequence[torch.Generator] | None, rank: Tensor | None
) -> Tensor:
    """Two numbers from [0, 1) for each position, `(2, rows, length)`, float64; with ranks the first are spread."""
    if isinstance(generator, Sequence):
        of_rows = [torch.rand((2, ids.shape[1]), generator=row, dtype=torch.float64) for row in generator]
        draws = torch.stack(of_rows, dim=1).to(ids.device)
    else:
        device = ids.device if generator is None else generator.device
        draws = torch.rand((2, *ids.shape), generator=generator, device=device, dtype=torch.float64).to(ids.device)
    if rank is not None:
        draws[0] = spread_uniform(draws[0, :, :1], rank)
    return draws
