# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Runs that share their random numbers: each has the law of the process, together they stay close."""

import pytest
import torch

from tests.conftest import generator, tiny_model
from transformers_fsdfm.flow_fsdfm import Schedule, jump_candidates
from transformers_fsdfm.trajectory.measure import times_from
from transformers_fsdfm.trajectory.process import (
    _exponential_times,
    _jump_in_race,
    draw_clocks,
    last_step_hazard,
    plan_from_clocks,
    run_process,
    step_hazards,
)

from .toy import CHAIN, TableModel, exact_law


RUNS = 12_000
START = torch.tensor([0, 2, 1])


def hazards(steps: int, solver: str = "cumulative_scalar") -> torch.Tensor:
    return step_hazards(solver, Schedule(), times_from(0.0, steps))


def many_runs(model: TableModel, steps: int, clocks, start_time: float = 0.0, start=START) -> torch.Tensor:
    times = times_from(start_time, steps)
    last = len(times) - 1
    return run_process(model, start.expand(RUNS, 3), times, clocks, "cumulative_scalar", {last})[last]


def clocks_of_many_runs(seed: int, steps: int = 32):
    """One generator for all rows: thousands of them would take their time."""
    horizon = last_step_hazard("cumulative_scalar", Schedule(), times_from(0.0, steps))
    return draw_clocks(3 * RUNS, horizon, [generator(seed)])


def frequencies(model: TableModel, ids: torch.Tensor) -> torch.Tensor:
    place = CHAIN.vocab_size ** torch.arange(CHAIN.length - 1, -1, -1)
    return torch.bincount((ids * place).sum(-1), minlength=len(model.texts)) / len(ids)


@pytest.mark.parametrize("steps", [1, 2, 8, 32])
def test_every_run_has_the_exact_law_of_its_process(steps):
    model = TableModel()
    exact = exact_law(model, START, times_from(0.0, steps))
    observed = frequencies(model, many_runs(model, steps, clocks_of_many_runs(steps)))
    assert (observed - exact).abs().sum() / 2 < 0.03


def test_a_run_from_the_middle_has_the_exact_law_too():
    model = TableModel()
    exact = exact_law(model, START, times_from(0.5, 8))
    observed = frequencies(model, many_runs(model, 8, clocks_of_many_runs(1), start_time=0.5))
    assert (observed - exact).abs().sum() / 2 < 0.03


@pytest.mark.parametrize("solver", ["cumulative_scalar", "euler"])
def test_a_position_is_a_candidate_as_often_as_its_hazard_says(solver):
    of_steps = hazards(8, solver)
    clocks = draw_clocks(100_000, float(of_steps[:-1].sum()), [generator(0)])
    plan = plan_from_clocks(clocks, of_steps)
    counts = torch.tensor(plan.step_offset).diff()
    assert torch.allclose(counts / 100_000, -torch.expm1(-of_steps).float(), atol=0.006)
    assert counts[-1] == 100_000
    for step in range(8):
        in_step = plan.position[plan.step_offset[step] : plan.step_offset[step + 1]]
        assert len(in_step) == len(in_step.unique())
    assert abs(float(plan.uniform.mean()) - 0.5) < 0.005


def test_a_step_takes_the_number_of_the_first_ring():
    clocks = draw_clocks(50, 3.0, [generator(0)])
    plan = plan_from_clocks(clocks, torch.tensor([torch.inf], dtype=torch.float64))  # one step: all rings are in it
    for position, uniform in zip(plan.position.tolist(), plan.uniform.tolist(), strict=True):
        own = clocks.position == position
        assert uniform == clocks.uniform[own][clocks.hazard[own].argmin()]


def test_shared_clocks_keep_runs_together():
    model, clocks = TableModel(), clocks_of_many_runs(0)
    many = many_runs(model, 32, clocks)
    differ = {steps: float((many_runs(model, steps, clocks) != many).float().mean()) for steps in (1, 4, 16, 32)}
    independent = float((many_runs(model, 32, clocks_of_many_runs(1)) != many).float().mean())
    assert differ[32] == 0
    assert differ[16] < differ[4] < differ[1] < independent
    assert differ[16] < independent / 3


def test_no_coupling_can_differ_less_than_the_laws_do():
    model, clocks = TableModel(), clocks_of_many_runs(0)
    differ = (many_runs(model, 1, clocks) != many_runs(model, 32, clocks)).any(-1).float().mean()
    laws = [exact_law(model, START, times_from(0.0, steps)) for steps in (1, 32)]
    assert differ > (laws[0] - laws[1]).abs().sum() / 2 - 0.02


def test_the_rows_of_a_batch_do_not_share_random_numbers():
    model = TableModel()
    times = times_from(0.0, 8)
    horizon = last_step_hazard("cumulative_scalar", Schedule(), times)

    def run(seeds: list[int]) -> torch.Tensor:
        clocks = draw_clocks(3, horizon, [generator(seed) for seed in seeds])
        return run_process(model, START.expand(len(seeds), 3), times, clocks, "cumulative_scalar", {8})[8]

    together = run([5, 6, 7, 8, 9])
    assert torch.equal(together, torch.cat([run([seed]) for seed in (5, 6, 7, 8, 9)]))
    assert len(together.unique(dim=0)) > 1


def test_what_has_been_unmasked_stays():
    model, clocks = TableModel("mask"), clocks_of_many_runs(0, steps=8)
    start = torch.tensor([2, 3, 3])  # the mask token is 3
    states = run_process(model, start.expand(RUNS, 3), times_from(0.25, 8), clocks, "cumulative_scalar", range(7))
    assert (states[6][:, 0] == 2).all()
    assert (states[6] < 3).all()
    for before, after in zip(range(6), range(1, 7), strict=True):
        settled = states[before] < 3
        assert torch.equal(states[after][settled], states[before][settled])


def test_steps_without_candidates_do_not_run_the_network():
    model = TableModel()
    times = times_from(0.0, 64)
    clocks = draw_clocks(3, last_step_hazard("cumulative_scalar", Schedule(), times), [generator(0)])
    run_process(model, START[None], times, clocks, "cumulative_scalar", {64})
    assert 0 < model.num_calls < 20


def test_the_start_is_recorded_and_left_alone():
    model, clocks, start = TableModel(), clocks_of_many_runs(0), START.repeat(RUNS, 1)
    states = run_process(model, start, times_from(0.0, 2), clocks, "cumulative_scalar", {0, 2})
    assert set(states) == {0, 2}
    assert torch.equal(states[0], START.expand(RUNS, 3))
    assert torch.equal(start, START.expand(RUNS, 3))
    assert not torch.equal(states[2], start)


def test_logits_that_are_no_numbers_are_an_error():
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.bias.fill_(torch.nan)
    times = times_from(0.0, 2)
    clocks = draw_clocks(8, 3.0, [generator(0)])
    with pytest.raises(RuntimeError, match="not numbers"):
        run_process(model, torch.zeros(1, 8, dtype=torch.long), times, clocks, "cumulative_scalar", {2})


def test_races_have_the_law_of_the_posterior_and_seldom_differ():
    draws = 20_000
    uniform = torch.rand(draws, generator=generator(0), dtype=torch.float64)
    p = torch.full((400,), 1 / 400)
    q = p * torch.where(torch.arange(400) < 200, 0.9, 1.1)  # total variation distance 0.05

    def winners(law: torch.Tensor) -> torch.Tensor:
        hazard = torch.tensor(torch.inf, dtype=torch.float64)
        return _jump_in_race("posterior", law.log().expand(draws, -1), torch.zeros(draws).long(), hazard, uniform)

    first, second = winners(p), winners(q)
    assert float((second < 200).float().mean()) == pytest.approx(0.45, abs=0.015)
    assert torch.bincount(first, minlength=400).float().std() == pytest.approx(50**0.5, rel=0.15)  # Poisson of 50
    assert 0.045 < float((first != second).float().mean()) < 0.1


def test_times_of_a_race_are_exponential_and_independent():
    times = _exponential_times(torch.rand(4000, generator=generator(0), dtype=torch.float64), 50)
    assert float(times.mean()) == pytest.approx(1, abs=0.01)
    assert float((times > 2).float().mean()) == pytest.approx(0.1353, abs=0.004)
    correlation = torch.corrcoef(times.T) - torch.eye(50)
    assert correlation.abs().max() < 5 / 4000**0.5
    by_ring = torch.corrcoef(times[:50]) - torch.eye(50)
    assert by_ring.abs().mean() < 1.2 / 50**0.5


@pytest.mark.parametrize("solver", ["cumulative_scalar", "euler", "posterior"])
def test_a_jump_decided_by_a_race_has_the_law_of_the_solver(solver):
    draws, hazard = 40_000, torch.tensor(0.7, dtype=torch.float64)
    logits = torch.tensor([0.3, -1.0, 1.2, 0.0]).expand(draws, -1)
    current = torch.full((draws,), 2)
    uniform = torch.rand(draws, generator=generator(0), dtype=torch.float64)
    raced = torch.bincount(_jump_in_race(solver, logits, current, hazard, uniform), minlength=4) / draws
    drawn = torch.bincount(jump_candidates(solver, logits, current, hazard, uniform), minlength=4) / draws
    assert (raced - drawn).abs().max() < 0.01
