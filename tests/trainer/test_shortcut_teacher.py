import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from transformers_fsdfm import FSDFMConfig, Schedule
from transformers_fsdfm.flow_fsdfm import SOLVERS, solver_step
from transformers_fsdfm.trainer.losses import chunked_loss, distillation_part
from transformers_fsdfm.trainer.shortcut_teacher import shortcut_target

from ..conftest import generator, tiny_model


VOCAB, LENGTH = 3, 2


class TableBackbone(nn.Module):
    """Hidden states looked up in a table by the two tokens, shifted by functions of time and step size."""

    def __init__(self, source_distribution):
        super().__init__()
        states = VOCAB + (source_distribution == "mask")
        self.register_buffer("table", 2 * torch.randn(states, states, LENGTH, VOCAB, generator=generator(0)))
        self.register_buffer("slope", torch.randn(2, LENGTH, VOCAB, generator=generator(1)))
        self.dropout = nn.Dropout(0.5)
        self.calls = []

    def forward(self, input_ids, time, step_size, attention_mask=None):
        self.calls.append((time.tolist(), step_size.tolist(), attention_mask, torch.is_grad_enabled()))
        hidden_states = self.table[input_ids[:, 0], input_ids[:, 1]]
        shift = time[:, None, None] * self.slope[0] + torch.log2(step_size)[:, None, None] * self.slope[1] / 4
        return SimpleNamespace(last_hidden_state=self.dropout(hidden_states + shift))


class RecordingHead(nn.Linear):
    def __init__(self):
        super().__init__(VOCAB, VOCAB)
        nn.init.eye_(self.weight)
        nn.init.zeros_(self.bias)
        self.sizes = []

    def forward(self, hidden_states):
        self.sizes.append(len(hidden_states))
        return super().forward(hidden_states)


class TableModel(nn.Module):
    def __init__(self, source_distribution="uniform", schedule="linear"):
        super().__init__()
        self.config = FSDFMConfig(vocab_size=VOCAB, source_distribution=source_distribution, schedule=schedule)
        self.model = TableBackbone(source_distribution)
        self.lm_head = RecordingHead()
        self.eval()

    def logits(self, ids, time, step_size):
        return self.lm_head(self.model(ids, time, step_size).last_hidden_state.flatten(0, 1)).unflatten(0, ids.shape)


def plain_target(model, method, ids, time, step_size, solver, editable_mask, dice, spread=False):
    """Algorithm 1 line by line, with the logits of every position at every stage."""
    half, middle = step_size / 2, time + step_size / 2

    def jump(ids, logits, at):
        return solver_step(
            solver,
            logits,
            ids,
            at[:, None],
            half[:, None],
            model.config.flow_schedule,
            model.config.source_distribution,
            editable_mask,
            dice,
            spread,
        )

    l_1 = model.logits(ids, time, half)
    x_1 = jump(ids, l_1, time)
    l_2 = model.logits(x_1, middle, half)
    if method == "rk2":
        return (l_1 + l_2) / 2
    x_2 = jump(x_1, l_2, middle)
    l_3 = model.logits(x_2, middle, half)
    x_3 = jump(x_2, l_3, middle)
    l_4 = model.logits(x_3, time + step_size, half)
    return (l_1 + 2 * l_2 + 2 * l_3 + l_4) / 6


def random_rows(num_rows, source_distribution, seed=0):
    """Tokens and, row by row, times and step sizes of the grid; h = 1 and t + h = 1 among them."""
    dice = generator(seed)
    ids = torch.randint(VOCAB + (source_distribution == "mask"), (num_rows, LENGTH), generator=dice)
    step_size = 2.0 ** -torch.randint(0, 4, (num_rows,), generator=dice)
    time = (torch.rand(num_rows, generator=dice) * ((1 - step_size) * 8 + 1)).floor() / 8
    assert (time + step_size == 1).any()
    assert (time + step_size < 1).any()
    return ids, time, step_size


@pytest.mark.parametrize("method", ["rk4", "rk2"])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("source_distribution", ["uniform", "mask"])
@pytest.mark.parametrize(("schedule", "spread"), [("linear", False), ("cosine", False), ("linear", True)])
def test_target_equals_the_plain_algorithm_draw_by_draw(method, solver, source_distribution, schedule, spread):
    model = TableModel(source_distribution, schedule)
    ids, time, step_size = random_rows(300, source_distribution)
    editable_mask = torch.rand(ids.shape, generator=generator(3)) < 0.8
    average = shortcut_target(
        model, ids, time, step_size, method, solver, editable_mask, None, generator(7), spread, chunk_size=50
    )
    expected = plain_target(model, method, ids, time, step_size, solver, editable_mask, generator(7), spread)
    assert torch.allclose(model.lm_head(average), expected, atol=1e-5)


# ---- The law of the target, enumerated ----


def step_probability(before, after, probs, time, end):
    """P(x_{t+h} = after | x_t = before) of one uniform-source position, from math.md; linear kappa."""
    if end == 1:
        return probs[after]
    integral = math.log((1 - time) / (1 - end))
    jump_probability = 1 - math.exp(-integral * (1 - probs[before]))
    return 1 - jump_probability if before == after else jump_probability * probs[after] / (1 - probs[before])


def transitions(model, ids, time, half):
    """All next states with their probabilities."""
    logits = model.logits(torch.tensor([ids]), torch.tensor([time]), torch.tensor([half]))[0]
    probs = logits.double().softmax(-1).tolist()
    for after in itertools.product(range(VOCAB), repeat=LENGTH):
        factors = (step_probability(ids[i], after[i], probs[i], time, time + half) for i in range(LENGTH))
        yield after, math.prod(factors)


def expected_rk4_target(model, ids, time, step_size):
    """The mean and the variance of the target over all chains of three jumps."""
    half = step_size / 2

    def logits(state, at):
        return model.logits(torch.tensor([state]), torch.tensor([at]), torch.tensor([half]))[0].double()

    mean, square = 0, 0
    for x_1, p_1 in transitions(model, ids, time, half):
        for x_2, p_2 in transitions(model, x_1, time + half, half):
            for x_3, p_3 in transitions(model, x_2, time + half, half):
                stages = [logits(ids, time), logits(x_1, time + half), logits(x_2, time + half)]
                target = (stages[0] + 2 * stages[1] + 2 * stages[2] + logits(x_3, time + step_size)) / 6
                mean = mean + p_1 * p_2 * p_3 * target
                square = square + p_1 * p_2 * p_3 * target**2
    return mean, square - mean**2


@pytest.mark.parametrize(("time", "step_size"), [(0.25, 0.5), (0.5, 0.5)])
def test_mean_of_the_target_is_that_of_all_chains_of_jumps_enumerated(time, step_size):
    model, draws, ids = TableModel(), 40_000, (0, 2)
    average = shortcut_target(
        model,
        torch.tensor([ids]).expand(draws, LENGTH),
        torch.full((draws,), time),
        torch.full((draws,), step_size),
        generator=generator(0),
    )
    mean, variance = expected_rk4_target(model, ids, time, step_size)
    error = (model.lm_head(average).double().mean(0) - mean).abs()
    assert variance.min() > 0.01
    assert (error < 4.5 * (variance / draws).sqrt()).all()


# ---- How it is computed ----


@pytest.mark.parametrize(("method", "times"), [("rk4", [0.25, 0.5, 0.5, 0.75]), ("rk2", [0.25, 0.5])])
def test_calls_are_conditioned_on_half_the_step_at_the_times_of_the_method(method, times):
    model = TableModel()
    mask = torch.ones(1, LENGTH)
    shortcut_target(
        model, torch.zeros(1, LENGTH, dtype=torch.long), torch.tensor([0.25]), torch.tensor([0.5]), method,
        attention_mask=mask,
    )  # fmt: skip
    assert [call[0][0] for call in model.model.calls] == times
    assert all(call[1] == [0.25] for call in model.model.calls)
    assert all(call[2] is mask for call in model.model.calls)
    assert not any(call[3] for call in model.model.calls)


def test_head_runs_on_candidates_alone_and_in_chunks():
    model = TableModel()
    rows, step_size = 2000, 1 / 8
    shortcut_target(
        model,
        torch.zeros(rows, LENGTH, dtype=torch.long),
        torch.zeros(rows),
        torch.full((rows,), step_size),
        generator=generator(0),
        chunk_size=16,
    )
    assert max(model.lm_head.sizes) == 16
    half = step_size / 2  # linear schedule: a position is a candidate with probability h / (1 - t)
    expected = rows * LENGTH * (half + 2 * half / (1 - half))
    assert sum(model.lm_head.sizes) == pytest.approx(expected, rel=0.1)


def test_positions_that_are_not_editable_never_move():
    model = TableModel()
    seen = []
    model.model.register_forward_pre_hook(lambda _, __, inputs: seen.append(inputs["input_ids"]), with_kwargs=True)
    ids = torch.zeros(500, LENGTH, dtype=torch.long)
    editable_mask = torch.tensor([True, False]).expand(500, LENGTH)
    shortcut_target(model, ids, torch.zeros(500), torch.ones(500), editable_mask=editable_mask)
    assert len(seen) == 4
    assert all((later[:, 1] == 0).all() for later in seen)
    assert (seen[-1][:, 0] != 0).any()
    assert (ids == 0).all()


def test_with_a_mask_source_what_is_unmasked_stays_and_the_mask_is_never_drawn():
    model = TableModel("mask")
    seen = []
    model.model.register_forward_pre_hook(lambda _, __, inputs: seen.append(inputs["input_ids"]), with_kwargs=True)
    shortcut_target(model, torch.full((500, LENGTH), VOCAB), torch.zeros(500), torch.full((500,), 0.5))
    for before, after in itertools.pairwise(seen):
        assert (before == after)[before != VOCAB].all()
    assert 0 < (seen[-1] == VOCAB).float().mean() < 1


def test_teacher_ignores_dropout_and_returns_to_its_mode():
    model = TableModel().train()
    ids, time, step_size = random_rows(200, "uniform")
    noisy = [shortcut_target(model, ids, time, step_size, generator=generator(0)) for _ in range(2)]
    assert torch.equal(*noisy)
    assert model.model.dropout.training
    assert not noisy[0].requires_grad


def test_a_generator_repeats_the_target_and_another_seed_changes_it():
    model = TableModel()
    ids, time, step_size = random_rows(50, "uniform")
    first, second, third = (shortcut_target(model, ids, time, step_size, generator=generator(s)) for s in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_a_consistent_model_is_its_own_teacher_and_has_zero_distillation_loss():
    """Tokens independent of one another and of noise: one step of any size says the same as two of half of it."""
    model = TableModel()
    model.model.table.copy_(model.model.table[:1, :1].clone())
    model.model.slope.zero_()
    ids, time, step_size = random_rows(100, "uniform")
    for method in ("rk4", "rk2"):
        target = shortcut_target(model, ids, time, step_size, method)
        hidden_states = model.model(ids, time, step_size).last_hidden_state
        loss = chunked_loss(model.lm_head, hidden_states, distillation_part(ids, model.lm_head, target))
        assert loss.loss.abs() < 1e-6


def test_target_of_a_real_model_in_bfloat16_autocast_is_near_that_of_float32():
    model = tiny_model()
    ids = torch.randint(60, (3, 8), generator=generator(0))
    time, step_size = torch.tensor([0.0, 0.25, 0.5]), torch.tensor([2.0**-10, 2.0**-10, 2.0**-10])
    exact = shortcut_target(model, ids, time, step_size, generator=generator(0))
    with torch.autocast("cpu", torch.bfloat16):
        rough = shortcut_target(model, ids, time, step_size, generator=generator(0))
    assert exact.shape == (3, 8, model.config.hidden_size)
    assert (rough.float() - exact).abs().max() < 0.1 * exact.abs().max()


def test_logits_that_are_no_numbers_give_a_target_that_is_none():
    model = TableModel()
    model.model.table.fill_(math.nan)
    ids, time, step_size = random_rows(50, "uniform")
    assert shortcut_target(model, ids, time, step_size).isnan().all()


def test_mistakes_are_named():
    model, ids = TableModel(), torch.zeros(2, LENGTH, dtype=torch.long)
    with pytest.raises(ValueError, match="`method`"):
        shortcut_target(model, ids, torch.zeros(2), torch.ones(2), method="euler")
    with pytest.raises(ValueError, match="`step_size`"):
        shortcut_target(model, ids, torch.zeros(2), torch.ones(1))
    with pytest.raises(ValueError, match="`solver`"):
        shortcut_target(model, ids, torch.zeros(2), torch.ones(2), solver="heun")


def test_schedule_of_the_stand_in_is_the_one_of_the_formulas():
    assert TableModel().config.flow_schedule == Schedule()
