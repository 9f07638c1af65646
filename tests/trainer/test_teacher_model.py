import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from transformers_fsdfm.trainer.arguments import FSDFMTrainingArguments
from transformers_fsdfm.trainer.fsdfm_trainer import FSDFMTrainer
from transformers_fsdfm.trainer.shortcut_teacher import shortcut_target
from transformers_fsdfm.trainer.teacher_model import cast_once, copy_as_teacher

from ..conftest import generator, tiny_model
from .toy import MarkovChain, Rows, arguments, small_model


class CountCasts(TorchDispatchMode):
    """How often the dtype of a tensor is changed."""

    def __init__(self, tensor):
        super().__init__()
        self.address, self.count = tensor.data_ptr(), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._to_copy.default and args[0].data_ptr() == self.address:
            self.count += 1
        return func(*args, **(kwargs or {}))


def test_a_teacher_casts_its_weights_once_for_all_its_calls():
    teacher = copy_as_teacher(tiny_model())
    ids = torch.randint(60, (3, 8), generator=generator(0))
    time, step_size = torch.full((3,), 0.25), torch.full((3,), 0.5)

    def target():
        return shortcut_target(teacher, ids, time, step_size, generator=generator(1))

    with torch.autocast("cpu", torch.bfloat16):
        weight = teacher.model.layers[0].mlp.up_proj.weight
        with CountCasts(weight) as casts:
            expected = target()
        assert casts.count == 4
        with CountCasts(weight) as casts, cast_once(teacher):
            assert torch.equal(target(), expected)
        assert casts.count == 1
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_so_does_the_teacher_of_a_training_step(tmp_path):
    args = arguments(tmp_path, FSDFMTrainingArguments, bf16=True, step_size_policy="uniform")
    trainer = FSDFMTrainer(small_model(), args, Rows(MarkovChain().sample(8)))
    trainer._prepare_for_training(1, None, None)
    weight, batch = trainer.teacher.model.layers[0].mlp.up_proj.weight, {"input_ids": MarkovChain().sample(8)}
    with trainer.compute_loss_context_manager(), CountCasts(weight) as casts:
        loss = trainer.compute_loss(trainer.model, batch)
    assert casts.count == 1
    loss.backward()
    assert all(parameter.grad is not None for parameter in trainer.model.parameters())
    assert all(parameter.grad is None for parameter in trainer.teacher.parameters())


def test_copies_are_dropped_and_gradients_recorded_again_after_the_block():
    frozen, trained = nn.Linear(4, 4).requires_grad_(False), nn.Linear(4, 4)
    inputs = torch.randn(2, 4, generator=generator(0))
    with torch.autocast("cpu", torch.bfloat16):
        with cast_once(nn.Sequential(frozen, trained)), torch.no_grad():
            before = trained(frozen(inputs))
        frozen.weight.zero_()
        after = trained(frozen(inputs))
    assert not torch.equal(before, after)
    after.sum().backward()
    assert trained.weight.grad is not None
    assert frozen.weight.grad is None


def test_weights_that_cannot_have_a_gradient_are_left_alone():
    module = nn.Module()
    module.weight = nn.Parameter(torch.ones(2, dtype=torch.int8), requires_grad=False)
    with cast_once(module):
        assert not module.weight.requires_grad
