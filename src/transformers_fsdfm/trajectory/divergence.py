# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""
How far a known law is from one that is only known by its samples.

With P the law of one position's token after many small steps, of which there are M independent samples, and Q the
student's law of the same token, which can be computed, KL(P || Q) = CE(P, Q) - H(P). The cross-entropy is estimated
without bias, by the mean of -log Q over the samples; the entropy of P cannot be. [`kl_bounds`] gives two estimates,
of which one is too small and the other too large on average, so that the truth is between them whatever M is.
"""

import torch
from torch import Tensor


# Weights of Q in the predictor of the lower estimate, in samples.
PRIOR_WEIGHTS = tuple(2.0**exponent for exponent in range(17))


def one_step_log_prob(
    solver: str, logits: Tensor, current_ids: Tensor, hazard: Tensor, ids: Tensor, source_distribution: str
) -> Tensor:
    """
    log P(x_{t+h} = id) for one step from a known x_t; see [`jump_candidates`] for the three solvers.

    Args:
        logits (`torch.Tensor` of shape `(positions, vocab_size)`): of the posterior at (x_t, t, h).
        current_ids (`torch.LongTensor` of shape `(positions,)`): x_t; the mask token is `vocab_size`.
        hazard (`torch.DoubleTensor` of shape `()`): of the step; `+inf` if it ends at t = 1.
        ids (`torch.LongTensor` of shape `(positions, n)`): the tokens in question.
        source_distribution (`str`): `"uniform"` or `"mask"`.

    Returns:
        `torch.DoubleTensor` of shape `(positions, n)`.
    """
    vocab_size = logits.shape[-1]
    log_probs = logits.double().log_softmax(-1)
    is_masked = current_ids >= vocab_size
    column = current_ids.masked_fill(is_masked, 0)[:, None]
    current_log_prob = log_probs.gather(-1, column).masked_fill(is_masked[:, None], -torch.inf)
    log_prob = log_probs.gather(-1, ids.clamp_max(vocab_size - 1)).masked_fill(ids >= vocab_size, -torch.inf)
    is_current = ids == current_ids[:, None]

    if torch.isinf(hazard):
        result = log_prob
    elif solver == "cumulative_scalar":
        leave_log_prob = torch.log(-torch.expm1(current_log_prob.clamp_max(-1e-300)))  # log(1 - p(x_t))
        stay_log_prob = -hazard * leave_log_prob.exp()
        jump_log_prob = torch.log(-torch.expm1(stay_log_prob.clamp_max(-1e-300)))
        result = torch.where(is_current, stay_log_prob, jump_log_prob + log_prob - leave_log_prob)
    else:
        redraw_log_prob = torch.log(-torch.expm1(-hazard))
        stay_log_prob = torch.where(is_current, -hazard, -torch.inf)
        result = torch.logaddexp(redraw_log_prob + log_prob, stay_log_prob)
    if source_distribution == "mask":  # what has been unmasked stays
        settled = torch.where(is_current, 0.0, -torch.inf).double()
        result = torch.where(is_masked[:, None], result, settled)
    return result


def kl_bounds(samples: Tensor, log_prob: Tensor) -> tuple[Tensor, Tensor]:
    r"""
    Two estimates of KL(P || Q) for each position: one too small on average, one too large.

    - **Upper**: the mean of -log Q minus the entropy estimate of Zhang (2012, "Entropy estimation in Turing's
      perspective"), `sum_k (n_k / M) (psi(M) - psi(n_k))`, with n_k the number of samples of token k. Its expectation
      is KL + sum_{v >= M} (1/v) sum_k p_k (1 - p_k)^v. The excess falls exponentially in M for a law on few tokens,
      and is large where M samples are few for the law.
    - **Lower**: how much better than Q a predictor foretells a sample, which knows Q and the other M - 1 samples:
      `P'(y) = (n_y - 1 + w Q(y)) / (M - 1 + w)`. No predictor beats P itself, so the mean of log P' / Q is at most KL,
      and short of it by KL(P || P'). The weight w is the best one of [`PRIOR_WEIGHTS`] (or infinite: the estimate 0) on
      the other half of the positions, the even ones for the odd and the other way round.

    Args:
        samples (`torch.LongTensor` of shape `(positions, M)`): M >= 2 independent draws from P at each position.
        log_prob (`torch.DoubleTensor` of shape `(positions, M)`): log Q of each, finite.

    Returns:
        Two `torch.DoubleTensor` of shape `(positions,)`, in nats.
    """
    num_samples = samples.shape[1]
    counts = torch.stack([(row[:, None] == row).sum(-1) for row in samples]).double()
    entropy = (torch.digamma(torch.tensor(num_samples).double()) - torch.digamma(counts)).mean(-1)
    upper = -log_prob.mean(-1) - entropy

    gains = torch.stack([_predictor_gain(counts, log_prob, weight) for weight in PRIOR_WEIGHTS])
    gains = torch.cat([gains, torch.zeros_like(gains[:1])])  # infinite weight: the predictor is Q
    lower = torch.empty_like(upper)
    for parity in (0, 1):
        other_half = gains[:, 1 - parity :: 2]
        best = int(other_half.mean(-1).argmax()) if other_half.shape[1] else -1
        lower[parity::2] = gains[best, parity::2]
    return lower, upper


def _predictor_gain(counts: Tensor, log_prob: Tensor, weight: float) -> Tensor:
    """The mean of log P' / Q over the samples of each position, `(positions,)`."""
    others = (counts - 1).log()
    weight_log = torch.tensor(weight).log()
    gain = (
        torch.logaddexp(others - log_prob, weight_log.to(log_prob)) - torch.tensor(counts.shape[1] - 1 + weight).log()
    )
    return gain.mean(-1)


def pair_difference(samples: Tensor) -> Tensor:
    """
    The probability that two independent samples differ, `(positions,)`: 1 - sum_k p_k^2, without bias.

    Args:
        samples (`torch.LongTensor` of shape `(positions, M)`): M >= 2.
    """
    return _pair_difference(samples, samples)


def squared_distance(samples: Tensor, others: Tensor) -> Tensor:
    """
    sum_k (p_k - q_k)^2 of two laws that are both known by samples alone, without bias whatever M; single estimates may
    be negative. Between 0 and 2.

    Args:
        samples, others (`torch.LongTensor` of shape `(positions, M)`):
            From P and Q, M >= 2. Samples of the same number may depend on each other, all others not.

    Returns:
        `torch.DoubleTensor` of shape `(positions,)`.
    """
    return 2 * _pair_difference(samples, others) - pair_difference(samples) - pair_difference(others)


def _pair_difference(samples: Tensor, others: Tensor) -> Tensor:
    """How often samples of different numbers differ, `(positions,)`."""
    num_samples = samples.shape[1]
    equal = torch.stack([(row[:, None] == other).sum() for row, other in zip(samples, others, strict=True)])
    equal = equal - (samples == others).sum(-1)
    return 1 - equal.double() / (num_samples * (num_samples - 1))
