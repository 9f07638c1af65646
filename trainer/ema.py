# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The averaged copy of the weights, which teaches during distillation and is saved at the end (FS-DFM eq. 4.1)."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor


class ExponentialMovingAverage:
    """
    theta' <- decay * theta' + (1 - decay) * theta for every trainable parameter; starts as a copy.

    The average lives in float32, for bfloat16 would round the updates away, and covers what this process owns: its
    shard of each parameter under ZeRO-3 and FSDP2. Frozen parameters are not averaged. Two ways to use it as a teacher:

    - *LoRA*: the average covers the adapter alone. [`swap`] puts it into the model while the teacher runs; no second
      base model is needed.
    - *Full training*: pass a second module as `teacher`. Its own parameters then are the average, updated in place, and
      nothing is ever copied.

    Args:
        model (`nn.Module`): the trained model, unwrapped (no DDP around it), sharded already if it will be.
        decay (`float`, *optional*, defaults to 0.9995): beta, in [0, 1).
        teacher (`nn.Module`, *optional*): a module with the same parameter names and shards, float32. Its averaged
            parameters are set to those of `model`.
    """

    def __init__(self, model: nn.Module, decay: float = 0.9995, teacher: nn.Module | None = None) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"`decay` must be in [0, 1), but got {decay}")
        self.decay = decay
        self._model, self._teacher = model, teacher
        _forget_copies(model)  # gathered weights are other tensors than the shards
        self._parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        if not self._parameters:
            raise ValueError("`model` has no trainable parameters to average")
        if teacher is None:
            self._averages = {name: shard.float().clone() for name, shard in self._shards().items()}
        else:
            self._averages = self._adopt(teacher)

    @torch.no_grad()
    def _adopt(self, teacher: nn.Module) -> dict[str, Tensor]:
        """The teacher's own tensors, filled with the model's weights."""
        _forget_copies(teacher)
        theirs = {name: local_shard(parameter) for name, parameter in teacher.named_parameters()}
        averages = {}
        for name, shard in self._shards().items():
            average = theirs.get(name)
            if average is None or average.shape != shard.shape or average.dtype != torch.float32:
                found = "nothing" if average is None else f"{average.dtype} of shape {tuple(average.shape)}"
                raise ValueError(
                    f"`teacher` must hold a torch.float32 parameter {name} of shape {tuple(shard.shape)}, but has "
                    f"{found}"
                )
            averages[name] = average.copy_(shard)
        return averages

    def _shards(self) -> dict[str, Tensor]:
        """Looked up at every use: an engine may have moved the weights to other memory."""
        return {name: local_shard(parameter) for name, parameter in self._parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Call after every optimizer step."""
        averages, shards = list(self._averages.values()), list(self._shards().values())
        if all(shard.dtype == torch.float32 for shard in shards):
            torch._foreach_lerp_(averages, shards, 1 - self.decay)
        else:
            for average, shard in zip(averages, shards, strict=True):  # one float32 copy at a time
                average.lerp_(shard.float(), 1 - self.decay)
        if self._teacher is not None:
            _forget_copies(self._teacher)

    @contextlib.contextmanager
    def swap(self) -> Iterator[None]:
        """
        The averaged weights in the place of the model's own, inside the `with` block.

        Autograd does not notice, so a graph made outside the block may be differentiated outside of it: the weights are
        then back.
        """
        shards = list(self._shards().values())
        own = [shard.clone() for shard in shards]
        try:
            torch._foreach_copy_(shards, list(self._averages.values()))
            _forget_copies(self._model)
            yield
        finally:
            torch._foreach_copy_(shards, own)
            _forget_copies(self._model)

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by parameter name, not copied; under ZeRO-3 and FSDP2 the shards of this process."""
        return dict(self._averages)

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Tensor]) -> None:
        """Takes over averages from [`state_dict`], saved by as many processes."""
        wrong = state_dict.keys() ^ self._averages.keys()
        if wrong:
            raise ValueError(f"`state_dict` does not belong to this model: {sorted(wrong)[:5]} are not in both")
        for name, average in self._averages.items():
            if state_dict[name].shape != average.shape:
                raise ValueError(
                    f"`state_dict` holds {name} of shape {tuple(state_dict[name].shape)} instead of "
                    f"{tuple(average.shape)}; was it saved by another number of processes?"
                )
            average.copy_(state_dict[name])
        if self._teacher is not None:
            _forget_copies(self._teacher)


def local_shard(parameter: Tensor) -> Tensor:
    """What this process holds of a parameter, detached and sharing its memory: ZeRO-3, FSDP2 or whole."""
    if hasattr(parameter, "ds_tensor"):
        return parameter.ds_tensor.data
    if isinstance(parameter, DTensor):
        return parameter._local_tensor.data
    return parameter.data


def _forget_copies(module: nn.Module) -> None:
    """Has the engines gather the weights anew: what they hold was made from shards that have been overwritten."""
    # Autocast keeps low-precision copies of the weights until its block ends.
    torch.clear_autocast_cache()
    # FSDP2 may leave the outermost weights gathered after a forward, ZeRO-3 always does so with small ones.
    for submodule in module.modules():
        if isinstance(submodule, FSDPModule):
            submodule.reshard()
    parameter: Any  # with what ZeRO-3 puts on it
    for parameter in module.parameters():
        if hasattr(parameter, "ds_tensor") and parameter.ds_status.name == "AVAILABLE":
            parameter.partition()
