"""The flow against its closed forms on a vocabulary of three tokens."""

import itertools
import math

import pytest
import torch
from scipy.stats import chisquare

from tests.conftest import generator
from transformers_fsdfm.flow_fsdfm import (
    SCHEDULES,
    SOLVERS,
    SOURCE_DISTRIBUTIONS,
    Schedule,
    candidate_hazard,
    draw_categorical,
    jump_candidates,
    plan_candidates,
    sample_path,
    sample_source,
    solver_step,
)


POSTERIOR = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
LOGITS = POSTERIOR.log().float()
MASK = 3
ALL_SCHEDULES = [Schedule("linear"), Schedule("polynomial", 2.0), Schedule("cosine")]
TIME, STEP_SIZE = 0.4, 0.35


def scalar(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def exact_transition(solver: str, source: str, schedule: Schedule, time: float, step_size: float) -> torch.Tensor:
    """P(x_{t+h} = column | x_t = row) for the frozen posterior, straight from math.md; the last row is the mask."""
    kappa, kappa_end = float(schedule.kappa(scalar(time))), float(schedule.kappa(scalar(time + step_size)))
    is_last = time + step_size >= 1
    matrix = torch.zeros(4, 4, dtype=torch.float64)
    for current in range(4):
        stay, at_current = torch.eye(4, dtype=torch.float64)[current], POSTERIOR[current] if current < 3 else 0.0
        full = torch.cat([POSTERIOR, torch.zeros(1, dtype=torch.float64)])
        if source == "mask" and current != MASK:
            matrix[current] = stay
        elif is_last:
            matrix[current] = full
        elif solver == "cumulative_scalar":
            jump = 1 - ((1 - kappa_end) / (1 - kappa)) ** (1 - at_current)
            others = full * (1 - stay) / (1 - at_current)
            matrix[current] = (1 - jump) * stay + jump * others
        else:
            g = float(schedule.kappa_derivative(scalar(time))) / (1 - kappa)
            rate = 1 - math.exp(-step_size * g) if solver == "euler" else (kappa_end - kappa) / (1 - kappa)
            matrix[current] = (1 - rate) * stay + rate * full
    return matrix


def assert_follows(tokens: torch.Tensor, law: torch.Tensor) -> None:
    """Chi-square test; tokens of probability 0 must not occur at all."""
    counts = torch.bincount(tokens.flatten(), minlength=len(law))
    possible = law > 1e-12
    assert counts[~possible].sum() == 0
    if possible.sum() > 1:
        expected = law[possible] / law[possible].sum() * counts.sum()
        assert chisquare(counts[possible].numpy(), expected.numpy()).pvalue > 1e-3


@pytest.mark.parametrize("schedule", [*ALL_SCHEDULES, Schedule("polynomial", 0.7)], ids=str)
class TestSchedule:
    times = torch.linspace(0.02, 0.97, 40, dtype=torch.float64)

    def test_runs_from_0_to_1(self, schedule):
        ends = schedule.kappa(torch.tensor([0.0, 1.0], dtype=torch.float64))
        assert torch.allclose(ends, torch.tensor([0.0, 1.0], dtype=torch.float64))

    def test_derivative_is_that_of_kappa(self, schedule):
        times = self.times.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(schedule.kappa(times).sum(), times)
        assert torch.allclose(schedule.kappa_derivative(self.times), gradient)

    def test_inverse_undoes_kappa(self, schedule):
        assert torch.allclose(schedule.inverse_kappa(schedule.kappa(self.times)), self.times)

    def test_cumulative_scalar_is_the_integral_of_the_velocity_scalar(self, schedule):
        points = torch.linspace(TIME, TIME + STEP_SIZE, 20001, dtype=torch.float64)
        integral = torch.trapezoid(schedule.velocity_scalar(points), points)
        assert torch.allclose(schedule.cumulative_scalar(scalar(TIME), scalar(STEP_SIZE)), integral, rtol=1e-6)

    def test_cumulative_scalar_is_infinite_in_the_last_step_alone(self, schedule):
        step_size = torch.tensor([1 / 3, 0.3333])
        assert schedule.cumulative_scalar(torch.tensor(2 / 3), step_size).isinf().tolist() == [True, False]


@pytest.mark.parametrize(("name", "exponent"), [("quadratic", 1.0), ("polynomial", 0.0), ("polynomial", math.nan)])
def test_bad_schedule_is_refused(name, exponent):
    with pytest.raises(ValueError, match="`schedule"):
        Schedule(name, exponent)


def test_schedule_names_are_those_tested():
    assert {schedule.name for schedule in ALL_SCHEDULES} == set(SCHEDULES)


def test_sources_are_uniform_tokens_or_masks():
    assert_follows(sample_source((300, 100), 3, "uniform", generator(0)), torch.full((3,), 1 / 3, dtype=torch.float64))
    assert sample_source((2, 5), 3, "mask").tolist() == [[MASK] * 5] * 2
    with pytest.raises(ValueError, match="`source_distribution`"):
        sample_source((2, 5), 3, "gaussian")


@pytest.mark.parametrize("schedule", ALL_SCHEDULES, ids=str)
def test_path_shows_data_with_probability_kappa(schedule):
    times = torch.tensor([0.0, 0.3, 0.8, 1.0])
    noisy = sample_path(torch.ones(4, 20000).long(), torch.zeros(4, 20000).long(), times, schedule, generator(0))
    shares = noisy.double().mean(-1)
    assert shares[0] == 0
    assert shares[3] == 1
    assert torch.allclose(shares, schedule.kappa(times).double(), atol=0.015)


class TestDrawCategorical:
    @pytest.mark.parametrize("columns", [1, 3, 256, 257, 700])
    def test_shares_equal_the_weights(self, columns):
        weights = torch.rand(columns, generator=generator(columns)) ** 4
        uniform = (torch.arange(40000, dtype=torch.float64) + 0.5) / 40000
        drawn = draw_categorical(weights.expand(40000, columns), uniform)
        shares = torch.bincount(drawn, minlength=columns) / 40000
        # Evenly spread numbers leave an error of one count at each end of a column's interval.
        assert (shares - weights / weights.sum()).abs().max() <= 1.01 / 40000

    def test_never_picks_a_column_of_weight_zero(self):
        weights = torch.zeros(1000, 600)
        weights[:, [5, 300, 511]] = torch.tensor([1e-30, 1.0, 1e-7])
        uniform = torch.rand(1000, generator=generator(0), dtype=torch.float64)
        uniform[:4] = torch.tensor([0.0, 1.0, 1 - 2**-53, 5.0], dtype=torch.float64)
        assert set(draw_categorical(weights, uniform).tolist()) <= {5, 300, 511}

    def test_rows_that_are_no_distribution_give_minus_one(self):
        weights = torch.tensor([[math.nan, 1.0], [0.0, 0.0], [0.0, 1.0]])
        assert draw_categorical(weights, torch.full((3,), 0.5, dtype=torch.float64)).tolist() == [-1, -1, 1]


@pytest.mark.parametrize("step_size", [STEP_SIZE, 1 - TIME], ids=["inner", "last"])
@pytest.mark.parametrize("schedule", ALL_SCHEDULES, ids=str)
@pytest.mark.parametrize("source", SOURCE_DISTRIBUTIONS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_one_step_has_the_exact_transition_law(solver, source, schedule, step_size):
    count = 30000
    law = exact_transition(solver, source, schedule, TIME, step_size)
    current = torch.arange(4 if source == "mask" else 3)[:, None].expand(-1, count)
    after = solver_step(
        solver,
        LOGITS.expand(*current.shape, 3),
        current,
        torch.tensor(TIME),
        torch.tensor(step_size),
        schedule,
        source,
        generator=generator(7),
    )
    for token, row in enumerate(after):
        assert_follows(row, law[token])


@pytest.mark.parametrize("solver", SOLVERS)
def test_step_honours_rows_with_their_own_times(solver):
    times, step_sizes = torch.tensor([0.0, 0.3, 0.75]), torch.tensor([0.5, 0.125, 0.25])
    current = torch.full((3, 30000), 1)
    after = solver_step(
        solver,
        LOGITS.expand(3, 30000, 3),
        current,
        times[:, None],
        step_sizes[:, None],
        Schedule(),
        generator=generator(3),
    )
    for row, time, step_size in zip(after, times.tolist(), step_sizes.tolist(), strict=True):
        assert_follows(row, exact_transition(solver, "uniform", Schedule(), time, step_size)[1])


def test_step_leaves_positions_alone_that_are_not_editable():
    current = sample_source((2, 500), 3, generator=generator(0))
    editable = torch.rand(2, 500, generator=generator(1)) < 0.5
    after = solver_step(
        "posterior",
        LOGITS.expand(2, 500, 3),
        current,
        torch.tensor(0.0),
        torch.tensor(1.0),
        Schedule(),
        editable_mask=editable,
        generator=generator(2),
    )
    assert torch.equal(after[~editable], current[~editable])
    assert not torch.equal(after[editable], current[editable])


def test_unknown_solver_is_refused():
    with pytest.raises(ValueError, match="`solver`"):
        candidate_hazard("heun", Schedule(), scalar(0), scalar(0.5))


def test_many_small_steps_converge_to_the_matrix_exponential():
    generator_matrix = POSTERIOR.expand(3, 3) - torch.eye(3, dtype=torch.float64)
    total = math.log(1 / (1 - 0.8))  # from t = 0 to t = 0.8
    limit = torch.linalg.matrix_exp(total * generator_matrix)

    def error(steps: int) -> float:
        grid = torch.linspace(0, 0.8, steps + 1, dtype=torch.float64).tolist()
        product = torch.eye(4, dtype=torch.float64)
        for start, end in itertools.pairwise(grid):
            product = product @ exact_transition("cumulative_scalar", "uniform", Schedule(), start, end - start)
        return float((product[:3, :3] - limit).abs().max())

    assert error(1) > 0.01
    assert error(1000) < 2e-4
    assert error(1000) < 0.6 * error(500)

    current = torch.full((60000,), 2)
    dice = generator(5)
    for start, end in itertools.pairwise(torch.linspace(0, 0.8, 41).tolist()):
        times = torch.tensor(start), torch.tensor(end - start)
        current = solver_step("cumulative_scalar", LOGITS.expand(60000, 3), current, *times, Schedule(), generator=dice)
    assert torch.allclose(torch.bincount(current) / 60000, limit[2].float(), atol=0.012)


def run_thinned(solver: str, source: str, schedule: Schedule, grid: torch.Tensor, count: int, seed: int) -> list:
    """The canvases after each step of a planned run with a frozen posterior, on `count` independent positions."""
    hazards = candidate_hazard(solver, schedule, grid[:-1], grid.diff())
    plan = plan_candidates([torch.arange(count)], hazards, [generator(seed)], once=source == "mask")
    canvases = [sample_source((count,), 3, source, generator(seed + 1))]
    for step, hazard in enumerate(hazards):
        where = plan.position[plan.step_offset[step] : plan.step_offset[step + 1]]
        uniform = plan.uniform[plan.step_offset[step] : plan.step_offset[step + 1]]
        canvas = canvases[-1].clone()
        canvas[where] = jump_candidates(solver, LOGITS.expand(len(where), 3), canvas[where], hazard, uniform)
        canvases.append(canvas)
    return canvases


@pytest.mark.parametrize("schedule", ALL_SCHEDULES, ids=str)
@pytest.mark.parametrize("source", SOURCE_DISTRIBUTIONS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_thinned_sampler_has_the_law_of_the_plain_one(solver, source, schedule):
    grid = torch.tensor([0.0, 0.1, 0.15, 0.5, 0.85, 1.0], dtype=torch.float64)
    canvases = run_thinned(solver, source, schedule, grid, 40000, seed=11)
    for (before, after), (start, end) in zip(
        itertools.pairwise(canvases), itertools.pairwise(grid.tolist()), strict=True
    ):
        law = exact_transition(solver, source, schedule, start, end - start)
        for token in before.unique().tolist():
            assert_follows(after[before == token], law[token])
    # The steps of one position must also be independent: two of them against the product of their matrices.
    two_steps = exact_transition(solver, source, schedule, 0.15, 0.35) @ exact_transition(
        solver, source, schedule, 0.5, 0.35
    )
    for token in canvases[2].unique().tolist():
        assert_follows(canvases[4][canvases[2] == token], two_steps[token])


def test_share_of_candidates_is_the_harmonic_number():
    steps, count = 64, 20000
    grid = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    hazards = candidate_hazard("cumulative_scalar", Schedule(), grid[:-1], grid.diff())
    plan = plan_candidates([torch.arange(count)], hazards, [generator(0)])
    expected = [1 / (steps - step) for step in range(steps)]
    shares = torch.tensor(plan.step_offset).diff() / count
    assert torch.allclose(shares, torch.tensor(expected), atol=0.012)
    assert abs(len(plan.position) / count - sum(expected)) < 0.05


class TestSpreadCandidates:
    """Candidates spread evenly over a row: each position keeps its law, those of one step keep apart."""

    hazards = candidate_hazard("posterior", Schedule(), torch.arange(8).double() / 8, torch.tensor(1 / 8).double())

    def candidates(self, rows: int, length: int, seed: int = 0) -> torch.Tensor:
        """`(steps, rows, length)`: who is a candidate."""
        positions = list(torch.arange(rows * length).view(rows, length))
        generators = [generator(1000 * seed + row) for row in range(rows)]
        plan = plan_candidates(positions, self.hazards, generators, spread=True)
        is_candidate = torch.zeros(8, rows * length, dtype=torch.bool)
        for step in range(8):
            is_candidate[step, plan.position[plan.step_offset[step] : plan.step_offset[step + 1]]] = True
        return is_candidate.view(8, rows, length)

    @pytest.mark.parametrize("position", [0, 5, 11])
    def test_a_single_position_has_the_law_of_independent_steps(self, position):
        rows = 20000
        is_candidate = self.candidates(rows, 12)[:, :, position]
        probability = -torch.expm1(-self.hazards)
        bound = 5 * (probability * (1 - probability) / rows).sqrt() + 1e-12
        assert ((is_candidate.double().mean(1) - probability).abs() <= bound).all()
        for one, other in itertools.combinations(range(7), 2):
            both = float((is_candidate[one] & is_candidate[other]).double().mean())
            assert abs(both - float(probability[one] * probability[other])) < 0.015

    def test_candidates_of_a_step_keep_apart(self):
        for row in self.candidates(4, 1024)[0]:  # an eighth of the positions
            assert set(row.nonzero()[:, 0].diff().tolist()) <= {5, 8, 13}
        shares = self.candidates(4, 1024).double().mean(-1)
        assert ((shares - -torch.expm1(-self.hazards)[:, None]).abs() < 0.02).all()

    def test_what_has_not_moved_before_the_last_step_keeps_apart(self):
        moved = self.candidates(4, 1024)[:-1].any(0)
        assert 0.12 < float((~moved).double().mean()) < 0.13
        for row in ~moved:
            assert int(row.nonzero()[:, 0].diff().min()) == 5

    def test_rows_and_seeds_differ(self):
        first, second = self.candidates(2, 64)[0]
        assert not torch.equal(first, second)
        assert not torch.equal(first, self.candidates(2, 64, seed=1)[0][0])

    def test_a_plain_step_spreads_them_too(self):
        logits, ids = torch.zeros(1).expand(4, 1024, 3), torch.zeros(4, 1024, dtype=torch.long)
        editable = torch.arange(1024).expand(4, -1) % 2 == 1
        times = torch.zeros(4, 1), torch.full((4, 1), 1 / 8)
        after = solver_step(
            "posterior", logits, ids, *times, Schedule(), editable_mask=editable, generator=generator(0), spread=True
        )
        for row in after != ids:
            moved = row.nonzero()[:, 0]
            assert (moved % 2 == 1).all()
            assert (moved.diff() >= 2 * 5).all()  # counted among those that may move

    def test_with_a_mask_source_every_position_moves_once(self):
        plan = plan_candidates([torch.arange(50)], self.hazards, [generator(0)], once=True, spread=True)
        assert sorted(plan.position.tolist()) == list(range(50))


def test_plan_of_a_row_does_not_depend_on_its_batch():
    hazards = torch.tensor([0.3, 0.5, math.inf], dtype=torch.float64)
    alone = plan_candidates([torch.arange(50)], hazards, [generator(4)])
    rows = [torch.arange(30), torch.arange(30, 80), torch.arange(0)]
    together = plan_candidates(rows, hazards, [generator(9), generator(4), generator(2)])
    mine = together.position >= 30
    assert torch.equal(together.position[mine] - 30, alone.position)
    assert torch.equal(together.uniform[mine], alone.uniform)


def test_a_single_step_is_a_draw_from_the_posterior():
    canvases = run_thinned("cumulative_scalar", "uniform", Schedule(), torch.tensor([0.0, 1.0]).double(), 50000, seed=1)
    assert_follows(canvases[-1], POSTERIOR)


def test_nearly_certain_posterior_keeps_its_relative_precision():
    """P(jump) of 1e-12 would vanish if 1 - p(x_t) were computed by subtraction in float32."""
    logits = torch.tensor([[0.0, -math.log(1e12)]])
    edge = 1 - math.exp(-0.5 * 1e-12)
    acceptance = edge / (1 - math.exp(-0.5))
    uniform = torch.tensor([0.9 * acceptance, 1.1 * acceptance], dtype=torch.float64)
    after = jump_candidates("cumulative_scalar", logits.expand(2, 2), torch.zeros(2).long(), scalar(0.5), uniform)
    assert after.tolist() == [1, 0]


@pytest.mark.parametrize("solver", SOLVERS)
def test_logits_that_are_not_numbers_give_minus_one(solver):
    logits = torch.tensor([[0.0, math.nan], [-math.inf, -math.inf], [0.0, 1.0]])
    after = jump_candidates(solver, logits, torch.zeros(3).long(), scalar(1.0), torch.zeros(3, dtype=torch.float64))
    assert after[:2].tolist() == [-1, -1]
    assert after[2] >= 0
