# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The law of one step in closed form, and estimates of a KL divergence from samples: on which side they err."""

import pytest
import torch

from tests.conftest import generator
from transformers_fsdfm.flow_fsdfm import Schedule, candidate_hazard, solver_step
from transformers_fsdfm.trajectory.divergence import kl_bounds, one_step_log_prob, pair_difference, squared_distance

from .toy import kl_divergence


P = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
Q = torch.tensor([0.25, 0.25, 0.2, 0.3], dtype=torch.float64)
KL = float(kl_divergence(P, Q))


@pytest.mark.parametrize("solver", ["cumulative_scalar", "euler", "posterior"])
@pytest.mark.parametrize(("time", "step_size"), [(0.0, 0.25), (0.5, 0.25), (0.5, 0.5)])
@pytest.mark.parametrize("source", ["uniform", "mask"])
def test_the_law_of_a_step_is_that_of_the_solver(solver, time, step_size, source):
    logits = torch.randn((2, 5), generator=generator(0))
    current_ids = torch.tensor([2, 5 if source == "mask" else 4])
    states = torch.arange(6 if source == "mask" else 5)
    time, step_size = torch.tensor(time).double(), torch.tensor(step_size).double()
    hazard = candidate_hazard(solver, Schedule(), time, step_size)
    law = one_step_log_prob(solver, logits, current_ids, hazard, states.expand(2, -1), source).exp()
    assert torch.allclose(law.sum(-1), torch.ones(2).double())

    runs = 100_000
    moved = solver_step(
        *(solver, logits.repeat(runs, 1), current_ids.repeat(runs), time, step_size, Schedule(), source),
        generator=generator(1),
    ).view(runs, 2)
    observed = torch.stack([torch.bincount(moved[:, place], minlength=len(states)) for place in (0, 1)]) / runs
    assert (observed - law).abs().max() < 0.006


def test_a_posterior_that_is_certain_gives_finite_laws():
    logits = torch.tensor([[200.0, 0.0, 0.0], [200.0, 0.0, 0.0]])
    hazard, ids = torch.tensor(0.5).double(), torch.arange(3).expand(2, 3)
    log_prob = one_step_log_prob("cumulative_scalar", logits, torch.tensor([0, 1]), hazard, ids, "uniform")
    assert torch.isfinite(log_prob).all()
    assert log_prob[0].exp().tolist() == pytest.approx([1, 0, 0], abs=1e-12)
    assert log_prob[1].exp().tolist() == pytest.approx([1 - 0.60653066, 0.60653066, 0], abs=1e-6)


def draw(law: torch.Tensor, positions: int, num_samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples of the law at many positions, and log Q of each."""
    samples = torch.multinomial(law.expand(positions, -1), num_samples, replacement=True, generator=generator(0))
    return samples, Q.log()[samples]


@pytest.mark.parametrize("num_samples", [2, 8, 32])
def test_the_upper_estimate_exceeds_the_divergence_by_exactly_its_documented_bias(num_samples):
    _, upper = kl_bounds(*draw(P, 10_000, num_samples))
    excess = sum(float((P * (1 - P) ** order).sum()) / order for order in range(num_samples, 5000))
    error = float(upper.std()) / 100
    assert float(upper.mean()) == pytest.approx(KL + excess, abs=4 * error)


@pytest.mark.parametrize("num_samples", [2, 8, 32])
def test_the_lower_estimate_stays_below_and_comes_closer_with_more_samples(num_samples):
    lower, _ = kl_bounds(*draw(P, 10_000, num_samples))
    error = float(lower.std()) / 100
    assert float(lower.mean()) < KL + 4 * error
    assert float(lower.mean()) > KL - 2 / num_samples


def test_both_estimates_meet_at_the_divergence():
    lower, upper = kl_bounds(*draw(P, 100, 1000))
    assert float(lower.mean()) == pytest.approx(KL, abs=0.01)
    assert float(upper.mean()) == pytest.approx(KL, abs=0.01)


def test_equal_laws_have_a_lower_estimate_of_nothing():
    lower, upper = kl_bounds(*draw(Q, 20_000, 16))
    assert float(lower.mean()) == pytest.approx(0, abs=0.002)
    assert 0 <= float(upper.mean()) < 0.05


def test_a_law_on_more_tokens_than_samples_is_bracketed_widely_and_not_wrongly():
    uniform = torch.full((1000,), 1e-3, dtype=torch.float64)
    samples = torch.multinomial(uniform.expand(400, -1), 8, replacement=True, generator=generator(0))
    lower, upper = kl_bounds(samples, uniform.log()[samples])  # P = Q
    assert float(lower.mean()) == pytest.approx(0, abs=0.01)
    assert float(upper.mean()) > 2


def test_a_single_position_has_nothing_to_choose_the_predictor_by():
    lower, upper = kl_bounds(*draw(P, 1, 50))
    assert lower.tolist() == [0.0]
    assert torch.isfinite(upper).all()


def test_the_share_of_differing_pairs_is_without_bias():
    difference = pair_difference(draw(P, 10_000, 3)[0])
    assert float(difference.mean()) == pytest.approx(1 - float((P**2).sum()), abs=0.006)


def test_the_squared_distance_of_two_sampled_laws_is_without_bias():
    samples = draw(P, 10_000, 3)[0]
    others = torch.multinomial(Q.expand(10_000, -1), 3, replacement=True, generator=generator(1))
    exact = float((P - Q).square().sum())
    assert float(squared_distance(samples, others).mean()) == pytest.approx(exact, abs=0.015)


def test_samples_of_one_number_may_depend_on_each_other():
    samples = draw(P, 10_000, 4)[0]
    assert squared_distance(samples, samples).abs().max() < 1e-12  # the same runs twice
    partly = torch.where(
        torch.rand(samples.shape, generator=generator(1)) < 0.5, samples, draw(P, 10_000, 4)[0].roll(1, 0)
    )
    assert float(squared_distance(samples, partly).mean()) == pytest.approx(0, abs=0.01)
