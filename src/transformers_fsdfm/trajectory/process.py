# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""
Runs of the sampling process that share their random numbers, however many steps each of them takes.

Every position has a clock that rings at random, at rate 1 on the axis of cumulated hazard, and a random number comes
with each ring. A step that covers a stretch of that axis makes a candidate of the positions whose clock rings in it (at
least once: probability 1 - exp(-hazard), as it must be), and the number of the first ring decides what becomes of it.
So each run has the law of `generate` (without temperature, top-k, top-p or spread candidates), and two runs with the
same clocks differ only where the model's posteriors do.

A ring also starts a race between all tokens, in which token v arrives at the time E_v / p(v), the E_v being
independent exponential times: the winner has the law p. If two runs race with the same E_v and the posteriors p and q,
their winners differ with a probability of at most 2 d / (1 + d), where d is the total variation distance of p and q.
One number and the inverse of the cumulated distribution would tear them apart as soon as an early token's weight
changes.
"""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..flow_fsdfm import CandidatePlan, Schedule, candidate_hazard, jump_candidates


if TYPE_CHECKING:
    from ..modeling_fsdfm import FSDFMForDiffusionLM

# The head runs on so many candidates at a time that their float32 logits fill about this much memory.
LOGITS_CHUNK_BYTES = 2**24


# The constants of SplitMix64, as signed numbers: multiplication wraps around.
GOLDEN = 0x9E3779B97F4A7C15 - 2**64
MIX_FACTORS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)


class Clocks(NamedTuple):
    """
    The rings of all clocks, in no particular order.

    Attributes:
        position (`torch.LongTensor` of shape `(rings,)`): indices into the flattened rows.
        hazard (`torch.DoubleTensor` of shape `(rings,)`): when it rings.
        uniform (`torch.DoubleTensor` of shape `(rings,)`): the random number that comes with it, in [0, 1).
    """

    position: Tensor
    hazard: Tensor
    uniform: Tensor


def draw_clocks(length: int, horizon: float, generators: Sequence[torch.Generator]) -> Clocks:
    """
    Lets the clocks of some rows ring up to `horizon`, and once beyond it, for the last step.

    Args:
        length (`int`): positions of a row.
        horizon (`float`): the largest cumulated hazard at which a last step of a run begins.
        generators (`list[torch.Generator]`): one for each row, on the CPU.
    """
    rows = [_draw_row(length, horizon, generator, row * length) for row, generator in enumerate(generators)]
    return Clocks(*(torch.cat(column) for column in zip(*rows, strict=True)))


def _draw_row(length: int, horizon: float, generator: torch.Generator, offset: int) -> tuple[Tensor, Tensor, Tensor]:
    position = torch.arange(length) + offset
    hazard = torch.zeros(length, dtype=torch.float64)
    rings = []
    while len(position):
        waiting_uniform, uniform = torch.rand((len(position), 2), generator=generator, dtype=torch.float64).unbind(-1)
        hazard = hazard - torch.log1p(-waiting_uniform)
        rings.append((position, hazard, uniform))
        goes_on = hazard < horizon
        position, hazard = position[goes_on], hazard[goes_on]
    position, hazard, uniform = (torch.cat(column) for column in zip(*rings, strict=True))
    return position, hazard, uniform


def step_hazards(solver: str, schedule: Schedule, times: Tensor) -> Tensor:
    """The hazard of each step between successive times, `(steps,)`, float64; `+inf` for one that ends at t = 1."""
    return candidate_hazard(solver, schedule, times[:-1], times.diff())


def last_step_hazard(solver: str, schedule: Schedule, times: Tensor) -> float:
    """The cumulated hazard at which the last step of a run begins: what `draw_clocks` needs to know as `horizon`."""
    return float(step_hazards(solver, schedule, times)[:-1].sum())


def plan_from_clocks(clocks: Clocks, hazards: Tensor) -> CandidatePlan:
    """
    The candidates of each step: positions whose clock rings in it, with the number of the first ring.

    Args:
        hazards (`torch.DoubleTensor` of shape `(steps,)`): from [`step_hazards`].
    """
    step = torch.searchsorted(hazards[:-1].cumsum(0), clocks.hazard, right=True)
    place = step * (int(clocks.position.max()) + 1) + clocks.position
    order = torch.argsort(clocks.hazard)
    order = order[torch.argsort(place[order], stable=True)]
    place = place[order]
    is_first = torch.ones_like(place, dtype=torch.bool)
    is_first[1:] = place[1:] != place[:-1]
    first = order[is_first]
    counts = torch.bincount(step[first], minlength=len(hazards))
    return CandidatePlan(clocks.position[first], clocks.uniform[first], [0, *counts.cumsum(0).tolist()])


@torch.no_grad()
def run_process(
    model: "FSDFMForDiffusionLM", ids: Tensor, times: Tensor, clocks: Clocks, solver: str, record: Collection[int]
) -> dict[int, Tensor]:
    """
    Takes x_t through the times to t = 1.

    Args:
        model ([`FSDFMForDiffusionLM`] or a module with the same `model`, `lm_head` and `config`): in eval mode.
        ids (`torch.LongTensor` of shape `(rows, length)`): x_t at `times[0]`, on the model's device; left unchanged.
        times (`torch.DoubleTensor` of shape `(steps + 1,)`): increasing, the last one is 1.
        clocks ([`Clocks`]): of these rows.
        record (`Collection[int]`): after how many steps the state is wanted; 0 is the start.

    Returns:
        `dict[int, torch.LongTensor]`: number of steps -> state `(rows, length)`.

    Raises:
        `RuntimeError`: if the model's logits are not numbers.
    """
    hazards = step_hazards(solver, model.config.flow_schedule, times)
    plan = plan_from_clocks(clocks, hazards)
    position, uniform = plan.position.to(ids.device), plan.uniform.to(ids.device)
    ids = ids.clone()
    states = {0: ids.clone()} if 0 in record else {}
    for step in range(len(hazards)):
        now = slice(plan.step_offset[step], plan.step_offset[step + 1])
        _take_step(model, ids, times[step : step + 2], hazards[step], position[now], uniform[now], solver)
        if step + 1 in record:
            states[step + 1] = ids.clone()
    return states


def _take_step(
    model: "FSDFMForDiffusionLM",
    ids: Tensor,
    times: Tensor,
    hazard: Tensor,
    position: Tensor,
    uniform: Tensor,
    solver: str,
) -> None:
    """Moves the candidates of one step in place."""
    if model.config.source_distribution == "mask":  # what has been unmasked stays
        is_open = ids.flatten()[position] == model.config.vocab_size
        position, uniform = position[is_open], uniform[is_open]
    if not len(position):
        return
    # Of many short steps, most have candidates in a few rows alone.
    rows, row_of_candidate = (position // ids.shape[1]).unique(return_inverse=True)
    hidden_states = final_hidden_states(model, ids[rows], float(times[0]), float(times[1] - times[0])).flatten(0, 1)
    seen = row_of_candidate * ids.shape[1] + position % ids.shape[1]
    current_ids = ids.flatten()[position]
    size = positions_per_chunk(model.config.vocab_size)
    chunks = [
        _jump_in_race(solver, model.lm_head(hidden_states[at]), current, hazard.to(ids.device), draw)
        for at, current, draw in zip(seen.split(size), current_ids.split(size), uniform.split(size), strict=True)
    ]
    next_ids = torch.cat(chunks)
    if (next_ids < 0).any():
        raise RuntimeError(f"The model's logits were not numbers (NaN or infinite) at t = {float(times[0]):g}")
    ids.view(-1)[position] = next_ids


def _jump_in_race(solver: str, logits: Tensor, current_ids: Tensor, hazard: Tensor, uniform: Tensor) -> Tensor:
    """As [`jump_candidates`], with the race of the ring deciding which token it is."""
    moved = jump_candidates(solver, logits, current_ids, hazard, uniform)
    weights = logits.float().softmax(-1)
    stays = moved < 0  # logits that are no numbers
    if solver == "cumulative_scalar" and not torch.isinf(hazard):  # who jumps takes another token
        stays |= moved == current_ids
        in_vocabulary = current_ids < logits.shape[-1]
        weights[in_vocabulary, current_ids[in_vocabulary]] = 0
    winner = (weights / _exponential_times(uniform, logits.shape[-1])).argmax(-1)
    return torch.where(stays, moved, winner)


def _exponential_times(uniform: Tensor, vocab_size: int) -> Tensor:
    """Exponential times `(rings, vocab_size)`, float32, that depend on the ring's number and the token alone."""
    token = torch.arange(vocab_size, device=uniform.device)
    bits = _mix(_mix(uniform.view(torch.int64))[:, None] + token * GOLDEN)
    fraction = ((bits >> 11) & (2**53 - 1)).double().add_(0.5).mul_(2.0**-53)
    return fraction.log_().neg_().float()


def _mix(bits: Tensor) -> Tensor:
    """The finalizer of SplitMix64 (Steele et al. 2014): neighbouring integers to independent-looking ones."""
    bits = (bits ^ ((bits >> 30) & (2**34 - 1))) * MIX_FACTORS[0]
    bits = (bits ^ ((bits >> 27) & (2**37 - 1))) * MIX_FACTORS[1]
    return bits ^ ((bits >> 31) & (2**33 - 1))


def final_hidden_states(model: "FSDFMForDiffusionLM", ids: Tensor, time: float, step_size: float) -> Tensor:
    """What the head takes, `(rows, length, hidden_size)`, at one t and h for all rows."""
    t, h = (torch.tensor([value], dtype=torch.float32, device=ids.device) for value in (time, step_size))
    takes_step_size = model.config.step_size_conditioning
    return model.model(input_ids=ids, time=t, step_size=h if takes_step_size else None).last_hidden_state


def positions_per_chunk(vocab_size: int) -> int:
    """How many positions' logits exist at a time."""
    return max(1, LOGITS_CHUNK_BYTES // (4 * vocab_size))
