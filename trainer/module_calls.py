# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""
Functions that run where the forward of a module would: between its hooks.

ZeRO-3, FSDP2 and offloading gather the weights of a module in a hook before its forward and let go of them in one
after it. So whoever needs a part of a module, or needs it many times, must do all that in one call of it.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn


Result = TypeVar("Result")


def run_as_forward(
    module: nn.Module, function: Callable[[Callable[..., Any], Tensor], Any], hidden_states: Tensor
) -> Any:
    """
    `function(module.forward, hidden_states)` in the place of `module(hidden_states)`.

    Returns:
        What `function` gives: a tensor or a tuple of tensors, as the hooks expect it.
    """
    own, forward = vars(module).get("forward"), module.forward

    def restore() -> None:
        vars(module).pop("forward", None)
        if own is not None:  # e.g. put there by accelerate
            module.forward = own

    def run_once(hidden_states: Tensor) -> Any:
        restore()  # `function` may call the module as usual
        return function(forward, hidden_states)

    module.forward = run_once
    try:
        return module(hidden_states)
    finally:
        restore()


def run_with_weights(module: nn.Module, function: Callable[[], Result], anchor: Tensor) -> Result:
    """
    `function()`, which may call `module.forward` or any part of the module. The hooks see no graph and so prepare no
    backward; `function` computes gradients or not, as set outside.

    Args:
        anchor (`torch.Tensor`): any tensor on the device of the module that has no graph.
    """
    results, grad_enabled = [], torch.is_grad_enabled()

    def keep_result(forward: Callable[..., Any], anchor: Tensor) -> Tensor:
        with torch.set_grad_enabled(grad_enabled):
            results.append(function())
        return anchor

    with torch.no_grad():
        run_as_forward(module, keep_result, anchor)
    return results[0]


__all__ = ["run_as_forward", "run_with_weights"]
