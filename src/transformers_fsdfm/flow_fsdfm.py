# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The discrete flow: schedules, source distributions, the mixture path and the solvers.

Everything here is a pure function of tensors and an explicit `torch.Generator`; no model is involved, so each piece can
be tested against its closed form on a vocabulary of three tokens. The symbols follow FS-DFM (arXiv 2509.20624),
"Discrete Flow Matching" (arXiv 2407.15595) and the Flow Matching guide (arXiv 2412.06264).

One sampling step moves every editable position, independently, by a continuous-time Markov chain whose posterior
p = p(x_1 | x_t) is held fixed over the step:

    P(jump) = 1 - exp(-G (1 - p(x_t))),    G = ln[(1 - kappa(t)) / (1 - kappa(t + h))],

and a position that jumps takes a token from p without its current one. `r = 1 - exp(-G)` bounds that probability from
above and needs no model, so a step may first draw *candidates* with probability r, look at the posterior of the
candidates alone, and let a candidate jump with probability P(jump) / r: the same law, at a fraction of the cost.
The *hazard* of a step is the number Lambda with r = 1 - exp(-Lambda); hazards of successive steps add up.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


SCHEDULES = ("linear", "polynomial", "cosine")
SOURCE_DISTRIBUTIONS = ("uniform", "mask")
SOLVERS = ("cumulative_scalar", "euler", "posterior")

# A step that ends this close to t = 1 is the last one: two float32 numbers seldom add up to exactly 1.
END_TOLERANCE = 1e-6
# Width of a block in the two-level inverse CDF; near the square root of usual vocabularies.
CDF_BLOCK = 256
TINY = torch.finfo(torch.float64).tiny
# Multiples of it, modulo 1, fill every interval as evenly as can be (three-distance theorem).
GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Schedule:
    """
    The probability kappa(t) that a position of x_t already shows the data token: kappa(0) = 0, kappa(1) = 1.

    Args:
        name (`str`, *optional*, defaults to `"linear"`):
            `"linear"` kappa(t) = t; `"polynomial"` kappa(t) = t^exponent; `"cosine"` kappa(t) = 1 - cos(pi t / 2).
        exponent (`float`, *optional*, defaults to 1.0):
            The exponent of the polynomial schedule, > 0. The other schedules do not read it.
    """

    name: str = "linear"
    exponent: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in SCHEDULES:
            raise ValueError(f"`schedule` must be one of {SCHEDULES}, but got {self.name!r}")
        if not self.exponent > 0:
            raise ValueError(f"`schedule_exponent` must be > 0, but got {self.exponent}")

    def kappa(self, time: Tensor) -> Tensor:
        """kappa(t), elementwise."""
        if self.name == "cosine":
            return 1 - torch.cos(time * (math.pi / 2))
        return time if self.name == "linear" else time**self.exponent

    def kappa_derivative(self, time: Tensor) -> Tensor:
        """kappa'(t), elementwise."""
        if self.name == "cosine":
            return torch.sin(time * (math.pi / 2)) * (math.pi / 2)
        return torch.ones_like(time) if self.name == "linear" else self.exponent * time ** (self.exponent - 1)

    def inverse_kappa(self, kappa: Tensor) -> Tensor:
        """The time at which a share `kappa` of the positions shows data."""
        if self.name == "cosine":
            return torch.acos(1 - kappa) * (2 / math.pi)
        return kappa if self.name == "linear" else kappa ** (1 / self.exponent)

    def velocity_scalar(self, time: Tensor) -> Tensor:
        """g(t) = kappa'(t) / (1 - kappa(t)), the rate at which positions turn into data; singular at t = 1."""
        return self.kappa_derivative(time) / (1 - self.kappa(time))

    def cumulative_scalar(self, time: Tensor, step_size: Tensor) -> Tensor:
        """G(t, h) = ln[(1 - kappa(t)) / (1 - kappa(t + h))], the integral of g over the step (FS-DFM eq. 4.3, times h).

        `+inf` where t + h reaches 1.
        """
        end = time + step_size
        ends_at_data = end >= 1 - END_TOLERANCE
        inner_end = end.masked_fill(ends_at_data, 0.5)  # any time inside: keeps the logarithm finite
        scalar = torch.log1p(-self.kappa(time)) - torch.log1p(-self.kappa(inner_end))
        return scalar.masked_fill(ends_at_data, math.inf)


def sample_source(
    shape: tuple[int, ...],
    vocab_size: int,
    source_distribution: str = "uniform",
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """
    Draws x_0: tokens uniform over the vocabulary, or the mask token, whose id is `vocab_size`, everywhere.

    Returns:
        `torch.LongTensor` of the given shape.
    """
    if source_distribution not in SOURCE_DISTRIBUTIONS:
        raise ValueError(
            f"`source_distribution` must be one of {SOURCE_DISTRIBUTIONS}, but got {source_distribution!r}"
        )
    if source_distribution == "mask":
        return torch.full(shape, vocab_size, dtype=torch.long, device=device)
    return torch.randint(vocab_size, shape, generator=generator, device=device)


def sample_path(
    clean_ids: Tensor, source_ids: Tensor, time: Tensor, schedule: Schedule, generator: torch.Generator | None = None
) -> Tensor:
    """
    Draws x_t of the mixture path (Gat et al. eq. 8): each position shows x_1 with probability kappa(t), else x_0.

    Args:
        clean_ids, source_ids (`torch.LongTensor` of shape `(batch, length)`): x_1 and x_0.
        time (`torch.Tensor` of shape `(batch,)`): t in [0, 1].
    """
    show_data = torch.rand(clean_ids.shape, generator=generator, device=clean_ids.device)
    return torch.where(show_data < schedule.kappa(time)[:, None], clean_ids, source_ids)


def spread_uniform(offset: Tensor, rank: Tensor) -> Tensor:
    """
    `offset + rank * phi` modulo 1, phi the golden ratio: each number is uniform on [0, 1) if `offset` is, and numbers
    close to each other belong to ranks that are not.

    Args:
        offset (`torch.Tensor`, broadcastable to `rank`): draws from [0, 1).
        rank (`torch.LongTensor`): of each position among those that may change.

    Returns:
        `torch.DoubleTensor` of the shape of `rank`.
    """
    return (offset.double() + GOLDEN_RATIO * rank.double()) % 1


def candidate_hazard(solver: str, schedule: Schedule, time: Tensor, step_size: Tensor) -> Tensor:
    """
    The hazard Lambda of a step: a position becomes a candidate with probability r = 1 - exp(-Lambda).

    `cumulative_scalar` and `posterior` use the exact integral G(t, h); `euler` uses h g(t), the rate at the start of
    the step. `+inf` in the step that ends at t = 1: there every solver draws every position from the full posterior.

    Args:
        time, step_size (`torch.Tensor`, broadcastable): t and h. Use float64 where many steps are added up.
    """
    if solver not in SOLVERS:
        raise ValueError(f"`solver` must be one of {SOLVERS}, but got {solver!r}")
    exact = schedule.cumulative_scalar(time, step_size)
    if solver != "euler":
        return exact
    return torch.where(torch.isinf(exact), exact, step_size * schedule.velocity_scalar(time))


def jump_candidates(
    solver: str,
    logits: Tensor,
    current_ids: Tensor,
    hazard: Tensor,
    uniform: Tensor,
    workspace: Tensor | None = None,
) -> Tensor:
    """
    Moves candidates, one random number each. A step: become a candidate with probability 1 - exp(-hazard), then this.

    - `cumulative_scalar`: jumps with probability (1 - exp(-G (1 - p(x_t)))) / (1 - exp(-G)), to a token of p other than
      x_t (FS-DFM App. B.1).
    - `euler`: takes a token of p, which may be x_t itself (the sampler of Gat et al. and of the Flow Matching guide).
    - `posterior`: takes a token of p; the exact bridge given that the end point is drawn from p.

    Args:
        logits (`torch.Tensor` of shape `(candidates, vocab_size)`): any floating dtype; the mask token has no logit.
        current_ids (`torch.LongTensor` of shape `(candidates,)`): x_t; the mask token is `vocab_size`.
        hazard (`torch.Tensor` of shape `(candidates,)` or `()`): from [`candidate_hazard`]; `+inf` in the last step.
        uniform (`torch.DoubleTensor` of shape `(candidates,)`): independent draws from [0, 1).
        workspace (`torch.FloatTensor` of shape `(>= candidates, vocab_size)`, *optional*): memory to work in. Worth
            passing where many calls follow each other on a CPU: fresh pages cost more than the arithmetic.

    Returns:
        `torch.LongTensor` of shape `(candidates,)`: the next tokens; -1 where the logits were not numbers.
    """
    weights = torch.empty_like(logits, dtype=torch.float32) if workspace is None else workspace[: len(logits)]
    torch.softmax(weights.copy_(logits.detach()), dim=-1, out=weights)
    if solver != "cumulative_scalar":
        return draw_categorical(weights, uniform)

    # Take the current token's weight out, except in the last step. What remains is summed anew instead of subtracted
    # from 1, so that a nearly certain posterior keeps its full relative precision.
    in_vocabulary = current_ids < logits.shape[-1]
    removable = in_vocabulary & ~torch.isinf(hazard)
    column = torch.where(in_vocabulary, current_ids, 0)[:, None]
    column_weight = weights.gather(-1, column)[:, 0]
    weights.scatter_(-1, column, torch.where(removable, 0.0, column_weight)[:, None])
    stay_weight = torch.where(removable, column_weight, 0.0).double()

    block_cdf = _block_cdf(weights)
    rest_weight, hazard = block_cdf[:, -1], hazard.double()
    leave_probability = rest_weight / (rest_weight + stay_weight)
    accept_probability = torch.expm1(-hazard * leave_probability) / torch.expm1(-hazard)
    accept_probability = torch.where(torch.isinf(hazard), 1.0, accept_probability)
    # Given acceptance, uniform / accept_probability is again uniform on [0, 1): one number serves both draws.
    next_ids = _pick_column(weights, block_cdf, uniform / accept_probability.clamp_min(TINY))
    next_ids = torch.where(uniform < accept_probability, next_ids, current_ids)
    return torch.where(leave_probability.isnan(), -1, next_ids)


def draw_categorical(weights: Tensor, uniform: Tensor) -> Tensor:
    """
    Draws a column of each row in proportion to its weight, by a two-level inverse CDF: first a block of columns, then a
    column in it. Reads the weights once, needs one random number a row, and never picks a column of weight 0.

    Args:
        weights (`torch.FloatTensor` of shape `(rows, columns)`): non-negative, need not be normalised.
        uniform (`torch.DoubleTensor` of shape `(rows,)`): draws from [0, 1); larger values count as just below 1.

    Returns:
        `torch.LongTensor` of shape `(rows,)`; -1 in rows whose weights are not numbers or all 0.
    """
    block_cdf = _block_cdf(weights)
    return torch.where(block_cdf[:, -1] > 0, _pick_column(weights, block_cdf, uniform), -1)


def _block_cdf(weights: Tensor) -> Tensor:
    """(rows, columns) -> (rows, blocks), float64: cumulated weight up to the end of each block of CDF_BLOCK columns."""
    rows, columns = weights.shape
    num_whole = columns // CDF_BLOCK
    whole = weights[:, : num_whole * CDF_BLOCK].view(rows, num_whole, CDF_BLOCK).sum(-1)
    rest = weights[:, num_whole * CDF_BLOCK :].sum(-1, keepdim=True)  # may be of no columns: a block of weight 0
    return torch.cat([whole, rest], dim=-1).double().cumsum(-1)


def _pick_column(weights: Tensor, block_cdf: Tensor, uniform: Tensor) -> Tensor:
    """The column at which the cumulated weight passes `uniform * total`."""
    columns, total = weights.shape[-1], block_cdf[:, -1]
    target = _just_below(uniform * total, total)[:, None]
    block = torch.searchsorted(block_cdf, target, right=True).clamp_max(block_cdf.shape[-1] - 1)
    before_block = torch.where(block > 0, block_cdf.gather(-1, (block - 1).clamp_min(0)), 0.0)

    column = block * CDF_BLOCK + torch.arange(min(CDF_BLOCK, columns), device=weights.device)
    inside = weights.gather(-1, column.clamp_max(columns - 1)).double()
    inner_cdf = inside.masked_fill_(column >= columns, 0).cumsum(-1)
    inner_target = _just_below(target - before_block, inner_cdf[:, -1:])
    inner = torch.searchsorted(inner_cdf, inner_target, right=True)
    return (block * CDF_BLOCK + inner)[:, 0].clamp_max(columns - 1)


def _just_below(value: Tensor, bound: Tensor) -> Tensor:
    return torch.minimum(value, torch.nextafter(bound, torch.zeros_like(bound)))


def solver_step(
    solver: str,
    logits: Tensor,
    current_ids: Tensor,
    time: Tensor,
    step_size: Tensor,
    schedule: Schedule,
    source_distribution: str = "uniform",
    editable_mask: Tensor | None = None,
    generator: torch.Generator | None = None,
    spread: bool = False,
) -> Tensor:
    """
    One whole step x_t -> x_{t+h} from the logits of every position (Apple's and Meta's solvers have this form).

    `generate` goes through [`plan_candidates`] instead, which needs the logits of candidates alone.

    Args:
        logits (`torch.Tensor` of shape `(..., vocab_size)`)
        current_ids (`torch.LongTensor` of shape `(...)`): x_t.
        time, step_size (`torch.Tensor`, broadcastable to `(...)`): t and h.
        editable_mask (`torch.BoolTensor` of shape `(...)`, *optional*): positions that may change; all by default.
        spread (`bool`, *optional*, defaults to `False`): spread the candidates evenly over each row (the last
            dimension), see [`plan_candidates`].

    Returns:
        `torch.LongTensor` of shape `(...)`. With a mask source a position that is no longer a mask never changes.
    """
    shape, device = current_ids.shape, current_ids.device
    hazard = candidate_hazard(solver, schedule, time.double(), step_size.double()).expand(shape)
    candidate_uniform, uniform = torch.rand((2, *shape), generator=generator, device=device, dtype=torch.float64)
    can_move = torch.ones_like(current_ids, dtype=torch.bool) if editable_mask is None else editable_mask
    if spread:
        candidate_uniform = spread_uniform(candidate_uniform[..., :1], can_move.cumsum(-1) - 1)
    is_candidate = can_move & (candidate_uniform < -torch.expm1(-hazard))
    if source_distribution == "mask":
        is_candidate &= current_ids == logits.shape[-1]
    moved = jump_candidates(solver, logits.flatten(0, -2), current_ids.flatten(), hazard.flatten(), uniform.flatten())
    return torch.where(is_candidate, moved.view(shape), current_ids)


class CandidatePlan(NamedTuple):
    """
    Who is a candidate in which step, for a whole run: known before the first step, for it does not depend on the model.

    Attributes:
        position (`torch.LongTensor` of shape `(events,)`): indices into the flattened canvas, sorted by step.
        uniform (`torch.DoubleTensor` of shape `(events,)`): the random number of each event.
        step_offset (`list[int]` of length `num_steps + 1`): step s owns the events `step_offset[s]:step_offset[s + 1]`.
    """

    position: Tensor
    uniform: Tensor
    step_offset: list[int]


def plan_candidates(
    positions: list[Tensor],
    hazards: Tensor,
    generators: list[torch.Generator],
    once: bool = False,
    spread: bool = False,
) -> CandidatePlan:
    """
    Draws the candidates of all steps at once: each position waits an exponential time on the axis of cumulated hazard,
    is a candidate in the step where that time ends, and starts to wait anew at the next step. Same law as one
    Bernoulli(1 - exp(-hazard)) for each position and step, with H_S instead of S draws a position for S linear steps.

    Args:
        positions (`list[torch.LongTensor]`): for each row of the batch, the flat indices of its editable positions.
        hazards (`torch.DoubleTensor` of shape `(num_steps,)`): from [`candidate_hazard`]; the last one is `+inf`.
        generators (`list[torch.Generator]`): one for each row, on the CPU, so that a row's draws do not depend on
            the rest of its batch nor on the device.
        once (`bool`, *optional*, defaults to `False`): stop after a position's first event (mask source: what has
            been unmasked stays).
        spread (`bool`, *optional*, defaults to `False`): spread the candidates of a step evenly over the positions of
            the row, in place of drawing them independently. The law of each single position, over all steps, stays the
            same: the numbers behind the waiting times come from [`spread_uniform`].
    """
    num_steps = len(hazards)
    cumulated = hazards[:-1].cumsum(0)
    events = [
        _plan_row(row_positions, cumulated, generator, once, spread)
        for row_positions, generator in zip(positions, generators, strict=True)
    ]
    position, step, uniform = (torch.cat(column) for column in zip(*events, strict=True))
    order = torch.argsort(step, stable=True)
    counts = torch.bincount(step, minlength=num_steps)
    return CandidatePlan(position[order], uniform[order], [0, *counts.cumsum(0).tolist()])


def _plan_row(
    positions: Tensor, cumulated: Tensor, generator: torch.Generator, once: bool, spread: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The events (position, step, uniform) of one row; `cumulated[s]` is the total hazard of the steps 0 to s."""
    last_step = len(cumulated)
    events = []
    waited = torch.zeros(len(positions), dtype=torch.float64)
    while len(positions):
        waiting_uniform, uniform = torch.rand((len(positions), 2), generator=generator, dtype=torch.float64).unbind(-1)
        if spread:
            waiting_uniform = spread_uniform(waiting_uniform[0], torch.arange(len(positions)))
        step = torch.searchsorted(cumulated, waited - torch.log1p(-waiting_uniform), right=True)
        events.append((positions, step, uniform))
        goes_on = (step < last_step) & (not once)
        positions, waited = positions[goes_on], cumulated[step[goes_on]]
    if not events:
        return positions, positions.clone(), waited
    position, step, uniform = (torch.cat(column) for column in zip(*events, strict=True))
    return position, step, uniform
