# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The plain way to sample from an FS-DFM: the logits, the posterior and the rates of every position at every step.

This is what a solver does that follows the published description to the letter. It has the law of
`model.generate(solver="cumulative_scalar")` and none of its savings; the benchmark measures against it.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel


@torch.no_grad()
def plain_generate(
    model: PreTrainedModel,
    num_steps: int = 8,
    batch_size: int = 1,
    length: int | None = None,
    generator: torch.Generator | None = None,
    draw_everywhere: bool = False,
) -> Tensor:
    """
    Samples unconditionally in equal steps.

    Args:
        model ([`FSDFMForDiffusionLM`]): a model with a uniform source, with or without step-size conditioning.
        num_steps (`int`, *optional*, defaults to 8): steps from t = 0 to t = 1.
        batch_size (`int`, *optional*, defaults to 1): number of texts.
        length (`int`, *optional*, defaults to the model's `max_position_embeddings`): tokens of each text.
        generator (`torch.Generator`, *optional*): source of all randomness, on the model's device.
        draw_everywhere (`bool`, *optional*, defaults to `False`): draw a token at every position in every step, as the
            solver of the Flow Matching library does, and not only where one is needed. The law is the same.

    Returns:
        `torch.LongTensor` of shape `(batch_size, length)`.
    """
    config, device = model.config, model.device
    if config.source_distribution != "uniform":
        raise ValueError(f"`model` must have a uniform source, but has {config.source_distribution!r}")
    shape = (batch_size, length or config.max_position_embeddings)
    ids = torch.randint(config.vocab_size, shape, generator=generator, device=device)
    step_size = torch.full((batch_size,), 1 / num_steps, device=device)
    for step in range(num_steps):
        time = torch.full((batch_size,), step / num_steps, device=device)
        step_size_input = {"step_size": step_size} if config.step_size_conditioning else {}
        logits = model(input_ids=ids, time=time, **step_size_input).logits
        probs = torch.softmax(logits.float(), dim=-1)
        if step == num_steps - 1:  # the rates are infinite: every position takes a token of the posterior
            ids = _categorical(probs, generator)
        else:
            scalar = config.flow_schedule.cumulative_scalar(time.double(), step_size.double())
            ids = plain_step(probs, ids, scalar.to(probs), step_size, generator, draw_everywhere)
    return ids


def plain_step(
    probs: Tensor,
    ids: Tensor,
    scalar: Tensor,
    step_size: Tensor,
    generator: torch.Generator | None = None,
    draw_everywhere: bool = False,
) -> Tensor:
    """
    One step of the jump process with the rates u = G / h (p - delta_x), held fixed.

    Args:
        probs (`torch.FloatTensor` of shape `(batch, length, vocab_size)`): p, the posterior of every position.
        ids (`torch.LongTensor` of shape `(batch, length)`): x_t.
        scalar (`torch.FloatTensor` of shape `(batch,)`): G(t, h), finite.
        step_size (`torch.FloatTensor` of shape `(batch,)`): h.
        generator (`torch.Generator`, *optional*): source of all randomness.
        draw_everywhere (`bool`, *optional*, defaults to `False`): as in [`plain_generate`].

    Returns:
        `torch.LongTensor` of shape `(batch, length)`.
    """
    current = F.one_hot(ids, probs.shape[-1])  # (batch, length, vocab)
    rates = (scalar / step_size)[:, None, None] * (probs - current)
    rates = torch.where(current == 1, 0.0, rates)  # staying is not a jump
    exit_rate = rates.sum(-1)
    uniform = torch.rand(ids.shape, generator=generator, device=ids.device)
    jumps = uniform < 1 - torch.exp(-step_size[:, None] * exit_rate)
    if draw_everywhere:
        return torch.where(jumps, _categorical(rates, generator), ids)
    next_ids = ids.clone()
    if jumps.any():
        next_ids[jumps] = _categorical(rates[jumps], generator)
    return next_ids


def _categorical(weights: Tensor, generator: torch.Generator | None) -> Tensor:
    """(..., vocab) -> (...): one draw for each row, in float64."""
    flat = weights.double().flatten(0, -2)
    return torch.multinomial(flat, 1, replacement=True, generator=generator).view(weights.shape[:-1])
