# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Muon for the weight matrices inside the blocks, AdamW for everything else, as one optimizer."""

import math
from collections.abc import Callable, Container, Iterable
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer


if TYPE_CHECKING:
    from .arguments import DFMTrainingArguments


class CPUMuon(Muon):
    """
    [`torch.optim.Muon`] with `adjust_lr_fn="match_rms_adamw"`, in float32.

    Torch's works in bfloat16, whatever the device. CPUs without bfloat16 arithmetic emulate it so slowly that a step of
    the optimizer takes longer than forward and backward of a small model.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group)

    def _move(self, parameter: nn.Parameter, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        momentum = state["momentum_buffer"].lerp_(grad, 1 - group["momentum"])
        update = grad.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
        update = newton_schulz(update.float(), group["ns_coefficients"], group["ns_steps"], group["eps"])
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update, alpha=-0.2 * math.sqrt(max(parameter.shape)) * group["lr"])


def newton_schulz(matrix: Tensor, coefficients: tuple[float, float, float], num_steps: int, eps: float) -> Tensor:
    """
    Brings the singular values of a matrix near 1 and leaves its singular vectors: each, divided by the Frobenius norm,
    goes through x -> a x + b x^3 + c x^5, `num_steps` times (Jordan et al. 2024).
    """
    is_tall = matrix.shape[0] > matrix.shape[1]
    wide = matrix.T if is_tall else matrix
    wide = wide / wide.norm().clamp_min(eps)
    a, b, c = coefficients
    for _ in range(num_steps):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.T if is_tall else wide


class MuonWithAdamW(Optimizer):
    """
    Steps [`torch.optim.Muon`] (on a CPU [`CPUMuon`]) and [`torch.optim.AdamW`] together.

    Muon (Jordan et al. 2024; scaled to the size of AdamW's updates as in Liu et al., arXiv 2502.16982) makes the update
    of a matrix orthogonal, so that all its directions learn at the same pace. It is meant for the matrices between
    hidden states; embeddings, the head, norms and biases are left to AdamW. Groups, state and learning-rate schedules
    are those of one ordinary optimizer: the two share them.

    Args:
        matrices (`Iterable[dict]`): parameter groups for Muon; matrices alone.
        others (`Iterable[dict]`): parameter groups for AdamW.
        lr (`float`), betas (`tuple[float, float]`), eps (`float`): of AdamW.
        muon_lr (`float`): of Muon.
        kwargs: further arguments of AdamW, such as `fused`.
    """

    def __init__(
        self,
        matrices: Iterable[dict[str, Any]],
        others: Iterable[dict[str, Any]],
        *,
        lr: float,
        muon_lr: float,
        **kwargs: Any,
    ) -> None:
        matrices = list(matrices)
        is_on_cpu = all(parameter.is_cpu for group in matrices for parameter in group["params"])
        muon = CPUMuon if is_on_cpu else Muon
        self._muon = muon(matrices, lr=muon_lr, adjust_lr_fn="match_rms_adamw")
        self._adamw = AdamW(list(others), lr=lr, **kwargs)
        super().__init__([*self._muon.param_groups, *self._adamw.param_groups], {})
        self._share()

    def _share(self) -> None:
        """The two work on this optimizer's own groups and state."""
        num_muon = len(self._muon.param_groups)
        self._muon.param_groups, self._adamw.param_groups = self.param_groups[:num_muon], self.param_groups[num_muon:]
        self._muon.state = self._adamw.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in [`torch.optim.Optimizer`]."""
        super().load_state_dict(state_dict)
        self._share()

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of both."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        self._muon.step()
        self._adamw.step()
        return loss


def muon_with_adamw(model: nn.Module, decay_names: Container[str], args: "DFMTrainingArguments") -> MuonWithAdamW:
    """
    The optimizer of `muon_learning_rate`: Muon for the projections of attention and MLP in the blocks.

    Args:
        model (`nn.Module`): its trainable parameters are taken.
        decay_names (`Container[str]`): the parameters with weight decay.
        args ([`DFMTrainingArguments`]): learning rates, weight decay, and the settings of AdamW.

    Raises:
        `ValueError`: if one of the two has nothing to train, as with most adapters.
    """
    assert args.muon_learning_rate is not None
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            by_muon = parameter.ndim == 2 and "_proj." in name
            groups.setdefault((by_muon, name in decay_names), []).append(parameter)

    if {by_muon for by_muon, _ in groups} != {True, False}:
        raise ValueError("`muon_learning_rate` is for the training of all weights: leave it out with adapters")

    def settings(muon: bool) -> list[dict[str, Any]]:
        return [
            {"params": parameters, "weight_decay": args.weight_decay if decays else 0.0}
            for (by_muon, decays), parameters in groups.items()
            if by_muon == muon
        ]

    return MuonWithAdamW(
        settings(muon=True),
        settings(muon=False),
        lr=args.learning_rate,
        muon_lr=args.muon_learning_rate,
        betas=(args.adam_beta1, args.adam_beta2),
        eps=args.adam_epsilon,
        fused=True,
    )


__all__ = ["CPUMuon", "MuonWithAdamW", "muon_with_adamw", "newton_schulz"]
