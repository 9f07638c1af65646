import pytest
import torch

from transformers_fsdfm.trainer.step_sizes import StepSizeGrid, draw_times, evaluation_times

from ..conftest import generator


def shares(grid, global_step=0, rows=100_000):
    draw = grid.draw(rows, generator(0), global_step)
    return torch.bincount(draw.level, minlength=grid.num_levels) / rows


def test_step_sizes_are_powers_of_two_and_the_level_tells_which():
    draw = StepSizeGrid(policy="uniform").draw(10_000, generator(0))
    assert torch.equal(draw.step_size, 2.0**-draw.level)
    assert draw.level.unique().tolist() == list(range(11))
    assert [StepSizeGrid().step_size(level) for level in (0, 1, 10)] == [1.0, 0.5, 2.0**-10]
    assert StepSizeGrid(num_levels=4).finest_level == 3


def test_times_are_uniform_multiples_of_the_finest_step_within_reach():
    grid = StepSizeGrid(num_levels=4, policy="uniform")
    draw = grid.draw(100_000, generator(0))
    assert torch.equal(draw.time * 8, (draw.time * 8).round())
    for level in range(4):
        times, counts = draw.time[draw.level == level].unique(return_counts=True)
        assert times.tolist() == [index / 8 for index in range(8 - 2 ** (3 - level) + 1)]
        expected = counts.sum() / len(counts)
        assert ((counts - expected).abs() < 5 * expected.sqrt()).all()


def test_the_finest_step_ends_before_one_where_its_weight_would_be_infinite():
    grid = StepSizeGrid(num_levels=3, policy="uniform")
    for ends_before_one in (False, True):
        draw = grid.draw(10_000, generator(0), finest_ends_before_one=ends_before_one)
        end = draw.time + draw.step_size
        assert end[draw.level == 2].max() == (0.75 if ends_before_one else 1)
        assert end[draw.level == 1].max() == end[draw.level == 0].max() == 1
    assert StepSizeGrid(num_levels=2).draw(50, generator(0), finest_ends_before_one=True).time.max() == 0


def test_policies_give_each_level_its_share():
    assert torch.allclose(shares(StepSizeGrid(4, "uniform")), torch.full((4,), 0.25), atol=0.01)
    assert torch.allclose(shares(StepSizeGrid(4)), torch.tensor([1, 2, 4, 8]) / 15, atol=0.01)
    weighted = StepSizeGrid(4, "weighted", weights=(3, 0, 1, 0))
    assert torch.allclose(shares(weighted), torch.tensor([0.75, 0, 0.25, 0]), atol=0.01)


def test_annealing_doubles_every_weight_each_interval_up_to_the_largest():
    grid = StepSizeGrid(11, "annealed", anneal_interval=20)
    published = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]
    for step in (0, 19, 20, 65, 199, 200, 10_000_000):
        doubled = torch.tensor([min(weight * 2 ** (step // 20), 1024) for weight in published], dtype=torch.float64)
        assert torch.allclose(grid.level_weights(step), doubled / doubled.sum())
    assert shares(grid, 0)[10] == pytest.approx(1024 / 2047, abs=0.01)
    assert shares(grid, 200)[10] == pytest.approx(1 / 11, abs=0.01)


def test_annealing_never_draws_a_level_of_weight_zero():
    grid = StepSizeGrid(3, "annealed", weights=(1, 0, 4), anneal_interval=1)
    assert torch.allclose(grid.level_weights(10**6), torch.tensor([0.5, 0, 0.5], dtype=torch.float64))


def test_other_policies_do_not_read_the_step():
    assert torch.equal(StepSizeGrid().level_weights(0), StepSizeGrid().level_weights(10**6))


def test_draws_repeat_with_the_generator():
    first, second, third = (StepSizeGrid().draw(20, generator(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first.time, third.time)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"num_levels": 1}, "num_levels"),
        ({"num_levels": 25}, "num_levels"),
        ({"policy": "random"}, "policy"),
        ({"policy": "uniform", "weights": (1,) * 11}, "weights"),
        ({"weights": (1, 2)}, "weights"),
        ({"num_levels": 2, "weights": (1, -1)}, "weights"),
        ({"num_levels": 2, "weights": (0, 0)}, "weights"),
        ({"num_levels": 2, "weights": (1, float("nan"))}, "weights"),
        ({"anneal_interval": 0}, "anneal_interval"),
    ],
)
def test_bad_settings_are_named(arguments, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        StepSizeGrid(**arguments)


@pytest.mark.parametrize("low_discrepancy", [False, True])
def test_pre_training_times_are_uniform_up_to_epsilon(low_discrepancy):
    dice = generator(0)
    times = torch.cat([draw_times(8, dice, 0.1, low_discrepancy) for _ in range(5000)])
    assert times.dtype == torch.float32
    assert 0 <= times.min() < 1e-3
    assert 0.899 < times.max() <= 0.9
    counts = torch.histc(times, 9, 0, 0.9)
    assert torch.allclose(counts / len(times), torch.full((9,), 1 / 9), atol=0.01)


def test_low_discrepancy_puts_one_time_in_each_part_in_random_order():
    dice = generator(0)
    times = torch.stack([draw_times(8, dice, 1e-3, low_discrepancy=True) for _ in range(200)])
    parts = (times / (1 - 1e-3) * 8).floor()
    assert torch.equal(parts.sort(-1).values, torch.arange(8.0).expand(200, 8))
    assert parts[:, 0].unique().numel() == 8
    plain = torch.stack([draw_times(8, dice, 1e-3) for _ in range(200)])
    assert times.mean(-1).std() < 0.2 * plain.mean(-1).std()


def test_evaluation_times_are_the_middles_of_equal_parts():
    assert torch.allclose(evaluation_times(4, 0.2), torch.tensor([0.1, 0.3, 0.5, 0.7]))
    assert torch.equal(evaluation_times(4), evaluation_times(4))


def test_bad_times_are_named():
    with pytest.raises(ValueError, match="`time_epsilon`"):
        draw_times(2, generator(0), 0.0)
    with pytest.raises(ValueError, match="`time_epsilon`"):
        evaluation_times(2, 1.0)
    with pytest.raises(ValueError, match="`num_times`"):
        evaluation_times(0)
