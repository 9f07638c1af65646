"""Functions in the place of a module's forward."""

import pytest
import torch
from torch import nn

from transformers_fsdfm.trainer.module_calls import run_as_forward, run_with_weights


def watched_linear() -> tuple[nn.Linear, list[str]]:
    """A layer, and the hooks that have run."""
    linear, ran = nn.Linear(3, 2), []
    linear.register_forward_pre_hook(lambda module, inputs: ran.append("before"))
    linear.register_forward_hook(lambda module, inputs, output: ran.append("after"))
    return linear, ran


def test_hooks_run_once_however_often_the_forward_is_called():
    linear, ran = watched_linear()
    inputs = torch.randn(4, 3)
    output = run_as_forward(linear, lambda forward, x: torch.cat([forward(half) for half in x.split(2)]), inputs)
    assert ran == ["before", "after"]
    torch.testing.assert_close(output, inputs @ linear.weight.T + linear.bias)


def test_the_module_is_as_before_even_after_an_error():
    linear, _ = watched_linear()
    own = linear.forward = lambda x: 2 * x
    with pytest.raises(ZeroDivisionError):
        run_as_forward(linear, lambda forward, x: 1 / 0, torch.zeros(3))
    assert linear.forward is own
    del linear.forward
    with pytest.raises(ZeroDivisionError):
        run_as_forward(linear, lambda forward, x: 1 / 0, torch.zeros(3))
    assert "forward" not in vars(linear)


def test_inside_the_module_can_be_called_as_usual():
    linear, ran = watched_linear()
    inputs = torch.randn(3)
    torch.testing.assert_close(run_as_forward(linear, lambda forward, x: linear(x), inputs), linear(inputs))
    assert ran == ["before", "before", "after", "after", "before", "after"]


@pytest.mark.parametrize("with_grad", [True, False])
def test_weights_are_at_hand_and_gradients_are_computed_as_set_outside(with_grad):
    linear, ran = watched_linear()
    seen = []
    linear.register_forward_hook(lambda module, inputs, output: seen.append(torch.is_grad_enabled()))
    inputs = torch.randn(3)
    with torch.set_grad_enabled(with_grad):
        text, output = run_with_weights(linear, lambda: ("any result", linear.forward(inputs)), torch.zeros(()))
    assert text == "any result"
    assert ran == ["before", "after"]
    assert seen == [False]
    assert output.requires_grad == with_grad
