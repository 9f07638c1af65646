# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The second model of full distillation: a float32 copy of the student, placed and sharded as the student is."""

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from .module_calls import run_with_weights


Result = TypeVar("Result")
Model = TypeVar("Model", bound=PreTrainedModel)


def copy_as_teacher(student: Model) -> Model:
    """
    A frozen copy in eval mode and float32, to be made before an engine wraps or shards the student.

    Built anew instead of by `copy.deepcopy`, which would also copy what accelerate has put in the place of `forward`.
    """
    with torch.device("meta"):
        teacher = type(student)(copy.deepcopy(student.config))
    teacher.float().to_empty(device=student.device)
    with _whole_weights(student), torch.no_grad():
        for ours, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
            ours.copy_(theirs)
    teacher.generation_config = copy.deepcopy(student.generation_config)
    return teacher.requires_grad_(False).eval()


@contextlib.contextmanager
def _whole_weights(model: nn.Module) -> Iterator[None]:
    """ZeRO-3 shards a model while it is loaded."""
    parameters = list(model.parameters())
    if not any(hasattr(parameter, "ds_tensor") for parameter in parameters):
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(parameters):
        yield


def shard_teacher(teacher: Model, accelerator: Accelerator) -> Model:
    """Puts the teacher where it works, in shards if the student is sharded; call it when the student is prepared."""
    teacher = teacher.to(accelerator.device)
    if accelerator.distributed_type == DistributedType.FSDP:
        from accelerate.utils.fsdp_utils import fsdp2_prepare_model

        return fsdp2_prepare_model(accelerator, teacher)
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return _shard_by_deepspeed(teacher, accelerator)
    return teacher


def _shard_by_deepspeed(teacher: Model, accelerator: Accelerator) -> Model:
    """Only ZeRO-3 shards weights; below it each process has a whole teacher, as it has a whole student."""
    config = copy.deepcopy(accelerator.state.deepspeed_plugin.deepspeed_config)
    if config.get("zero_optimization", {}).get("stage") != 3:
        return teacher
    import deepspeed

    for entry in ("optimizer", "scheduler", "fp16", "bf16"):  # the average is float32
        config.pop(entry, None)
    deepspeed.initialize(model=teacher, config=config)
    return teacher


def is_sharded(module: nn.Module) -> bool:
    """Whether its forward needs the other processes (ZeRO-3, FSDP2)."""
    return any(isinstance(parameter, DTensor) or hasattr(parameter, "ds_tensor") for parameter in module.parameters())


@contextlib.contextmanager
def cast_once(module: nn.Module) -> Iterator[None]:
    """
    Under autocast, a low-precision copy of each frozen weight, kept to the end of the block; for use without gradient.

    Autocast keeps copies only of weights that require a gradient, and would cast a teacher's at every call. So they do
    require one inside of the block. Engines that shard weights cast them in their own way.
    """
    weights = [] if is_sharded(module) else list(module.parameters())
    frozen = [weight for weight in weights if weight.dtype == torch.float32 and not weight.requires_grad]
    for weight in frozen:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight in frozen:
            weight.requires_grad_(False)
        torch.clear_autocast_cache()


def with_weights_at_hand(module: nn.Module, function: Callable[[], Result], anchor: Tensor) -> Result:
    """
    `function()`, which may call any part of `module`, and not only `module` itself.

    FSDP2 gathers what lies outside of the blocks (embedding, head) for the length of the outermost forward only.

    Args:
        anchor (`torch.Tensor`): any tensor on the device of the module that has no graph.
    """
    if not isinstance(module, FSDPModule):
        return function()
    return run_with_weights(module, function, anchor)
