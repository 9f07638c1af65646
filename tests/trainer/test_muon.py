"""Muon for the matrices of the blocks, AdamW for the rest: the same steps as the two optimizers on their own."""

import copy

import pytest
import torch
from peft import LoraConfig
from torch.optim import AdamW, Muon

from transformers_fsdfm.trainer.dfm_trainer import DFMTrainer
from transformers_fsdfm.trainer.muon import MuonWithAdamW, newton_schulz

from ..conftest import generator
from .toy import MarkovChain, Rows, arguments, small_model


def make_parameters() -> tuple[torch.nn.Parameter, torch.nn.Parameter, torch.nn.Parameter]:
    shapes = ((6, 4), (5, 4), (4,))
    return tuple(torch.nn.Parameter(torch.randn(shape, generator=generator(0))) for shape in shapes)


def make_optimizer(matrix, table, bias) -> MuonWithAdamW:
    others = [{"params": [table], "weight_decay": 0.1}, {"params": [bias], "weight_decay": 0.0}]
    return MuonWithAdamW([{"params": [matrix], "weight_decay": 0.2}], others, lr=0.01, muon_lr=0.03, betas=(0.8, 0.9))


def take_steps(parameters, optimizers, first: int, last: int, schedulers=()) -> None:
    for step in range(first, last):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator(step))
        for stepped in (*optimizers, *schedulers):
            stepped.step()


def halving(optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)


def test_steps_are_those_of_the_two_optimizers():
    ours, theirs = make_parameters(), make_parameters()
    optimizer = make_optimizer(*ours)
    matrix, table, bias = theirs
    separate = [
        Muon([{"params": [matrix], "weight_decay": 0.2}], lr=0.03, adjust_lr_fn="match_rms_adamw"),
        AdamW([{"params": [table], "weight_decay": 0.1}, {"params": [bias], "weight_decay": 0.0}], 0.01, (0.8, 0.9)),
    ]
    take_steps(ours, [optimizer], 0, 4, [halving(optimizer)])
    take_steps(theirs, separate, 0, 4, [halving(each) for each in separate])
    torch.testing.assert_close(ours[0], matrix, rtol=0, atol=0.03 * 0.02)  # torch's Muon rounds to bfloat16
    assert torch.equal(ours[1], table)
    assert torch.equal(ours[2], bias)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
def test_newton_schulz_is_a_polynomial_of_the_singular_values(shape):
    matrix = torch.randn(shape, generator=generator(2), dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    a, b, c = coefficients = (3.4445, -4.7750, 2.0315)
    values = values / values.norm()
    for _ in range(5):
        values = a * values + b * values**3 + c * values**5
    ours = newton_schulz(matrix, coefficients, 5, 1e-7)
    torch.testing.assert_close(ours, left @ values.diag() @ right)
    assert torch.linalg.svdvals(ours).sub(1).abs().max() < 0.35


def test_state_goes_on_exactly():
    whole, stopped = make_parameters(), make_parameters()
    optimizer = make_optimizer(*whole)
    take_steps(whole, [optimizer], 0, 5)
    first = make_optimizer(*stopped)
    take_steps(stopped, [first], 0, 2)
    state = copy.deepcopy(first.state_dict())
    second = make_optimizer(*stopped)
    second.load_state_dict(state)
    take_steps(stopped, [second], 2, 5)
    for one, other in zip(whole, stopped, strict=True):
        assert torch.equal(one, other)


def test_closure_is_evaluated_with_gradients():
    matrix, table, bias = parameters = make_parameters()
    optimizer = make_optimizer(*parameters)

    def closure():
        optimizer.zero_grad()
        loss = (matrix.square().sum() + table.square().sum() + bias.square().sum()).sqrt()
        loss.backward()
        return loss

    with torch.no_grad():
        losses = [optimizer.step(closure).item() for _ in range(3)]
    assert losses[0] > losses[1] > losses[2]


def trainer(tmp_path, **settings) -> DFMTrainer:
    peft_config = settings.pop("peft_config", None)
    data = Rows(MarkovChain().sample(64))
    return DFMTrainer(small_model(), arguments(tmp_path, **settings), data, peft_config=peft_config)


def test_the_trainer_gives_muon_the_projections_of_the_blocks(tmp_path):
    optimizer = trainer(tmp_path, muon_learning_rate=0.02, weight_decay=0.1).create_optimizer()
    by_rate = {}
    for group in optimizer.param_groups:
        by_rate.setdefault(group["lr"], []).extend(group["params"])
    assert set(by_rate) == {0.02, 1e-3}
    assert len(by_rate[0.02]) == 2 * 6  # q, k, v, o, up, down of two blocks
    assert all(parameter.ndim == 2 for parameter in by_rate[0.02])
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.1}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(small_model().parameters()))


def test_training_with_muon_differs_and_learns(tmp_path):
    settings = {"max_steps": 30, "loss_type": "cross_entropy", "seed": 1}
    logs = {}
    for name, rate in (("adamw", None), ("muon", 0.02)):
        run = trainer(tmp_path / name, muon_learning_rate=rate, **settings)
        run.train()
        losses = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
        logs[name] = losses
    assert logs["muon"] != logs["adamw"]
    assert sum(logs["muon"][-5:]) < 0.97 * sum(logs["muon"][:5])


def test_an_adapter_is_refused(tmp_path):
    lora = LoraConfig(r=2, target_modules=["q_proj", "up_proj"])
    with pytest.raises(ValueError, match="`muon_learning_rate` is for the training of all weights"):
        trainer(tmp_path, muon_learning_rate=0.02, peft_config=lora).create_optimizer()


def test_wrong_rates_are_refused(tmp_path):
    for rate in (0.0, -1.0):
        with pytest.raises(ValueError, match="`muon_learning_rate` must be > 0"):
            arguments(tmp_path, muon_learning_rate=rate)
