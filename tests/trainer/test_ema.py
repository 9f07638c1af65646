import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from transformers_fsdfm.trainer.ema import ExponentialMovingAverage, local_shard


def small_model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def shift(model, by=1.0):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(by)


def values(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


def equal(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_average_follows_the_formula():
    model = small_model()
    average = ExponentialMovingAverage(model, decay=0.75)
    expected = values(model)
    for step in range(5):
        shift(model, by=float(step))
        average.update()
        expected = [0.75 * old + 0.25 * new for old, new in zip(expected, values(model), strict=True)]
    for value, other in zip(average.state_dict().values(), expected, strict=True):
        assert torch.allclose(value, other, atol=1e-6)


def test_weights_that_stand_still_are_averaged_exactly():
    model = small_model()
    average = ExponentialMovingAverage(model)
    for _ in range(10):
        average.update()
    assert equal(average.state_dict().values(), values(model))


def test_bfloat16_weights_have_a_float32_average_that_still_moves():
    model = small_model().bfloat16()
    average = ExponentialMovingAverage(model, decay=0.9995)
    before = {name: value.clone() for name, value in average.state_dict().items()}
    shift(model)
    for _ in range(3):
        average.update()
    moved = average.state_dict()["0.weight"] - before["0.weight"]
    assert moved.dtype == torch.float32
    assert torch.allclose(moved, torch.tensor(1 - 0.9995**3), rtol=0.02)


def test_swap_shows_the_average_and_gives_the_weights_back():
    model = small_model()
    average = ExponentialMovingAverage(model, decay=0.5)
    start = values(model)
    shift(model)
    own = values(model)
    with average.swap():
        assert equal(values(model), start)
    assert equal(values(model), own)
    with pytest.raises(RuntimeError, match="inside"), average.swap():
        raise RuntimeError("inside")
    assert equal(values(model), own)


def test_only_trainable_parameters_are_averaged_and_swapped():
    model = small_model()
    model[0].requires_grad_(False)
    average = ExponentialMovingAverage(model, decay=0.5)
    assert list(average.state_dict()) == ["1.weight", "1.bias"]
    frozen = model[0].weight.detach().clone()
    storage = model[0].weight.data_ptr()
    with average.swap():
        assert torch.equal(model[0].weight, frozen)
    assert model[0].weight.data_ptr() == storage


def test_with_lora_the_teacher_is_the_base_with_the_averaged_adapter():
    from peft import LoraConfig, inject_adapter_in_model

    model = inject_adapter_in_model(LoraConfig(target_modules=["0"], r=2), small_model())
    inputs = torch.randn(5, 3)
    average = ExponentialMovingAverage(model, decay=0.5)
    assert all("lora_" in name for name in average.state_dict())
    before = model(inputs)
    with torch.no_grad():
        model[0].lora_B["default"].weight.add_(1)
    after = model(inputs)
    with average.swap():
        assert torch.equal(model(inputs), before)
    assert torch.equal(model(inputs), after)
    assert not torch.equal(before, after)


def test_a_graph_made_before_a_swap_keeps_its_gradient():
    model, inputs = small_model(), torch.randn(5, 3)
    average = ExponentialMovingAverage(model)
    shift(model)
    expected = torch.autograd.grad(model(inputs).square().sum(), list(model.parameters()))
    loss = model(inputs).square().sum()
    with average.swap(), torch.no_grad():
        model(inputs)
    assert equal(torch.autograd.grad(loss, list(model.parameters())), expected)


def test_autocast_does_not_mix_up_the_weights_before_in_and_after_a_swap():
    """Autocast caches low-precision weights: without care the teacher would run on those of the student."""
    model, inputs = small_model(), torch.randn(5, 3)
    average = ExponentialMovingAverage(model)
    shift(model)
    with torch.autocast("cpu", torch.bfloat16):
        own = model(inputs)
    with torch.autocast("cpu", torch.bfloat16):
        first = model(inputs)
        with average.swap(), torch.no_grad():
            teacher = model(inputs)
        last = model(inputs)
    assert torch.equal(first, own)
    assert torch.equal(last, own)
    assert not torch.equal(teacher, own)
    assert all(gradient is not None for gradient in torch.autograd.grad(last.sum(), list(model.parameters())))


def test_a_second_module_can_hold_the_average_in_its_own_parameters():
    model, teacher = small_model(0), small_model(1)
    storage = [parameter.data_ptr() for parameter in teacher.parameters()]
    average = ExponentialMovingAverage(model, decay=0.5, teacher=teacher)
    start = values(model)
    assert equal(values(teacher), start)
    shift(model)
    average.update()
    expected = [old + 0.5 for old in start]
    assert all(torch.allclose(value, other) for value, other in zip(values(teacher), expected, strict=True))
    assert [parameter.data_ptr() for parameter in teacher.parameters()] == storage
    assert average.state_dict()["0.weight"].data_ptr() == storage[0]


def test_both_kinds_of_average_agree():
    models = small_model(0), small_model(0)
    averages = [
        ExponentialMovingAverage(models[0], decay=0.9),
        ExponentialMovingAverage(models[1], decay=0.9, teacher=small_model(1)),
    ]
    for model, average in zip(models, averages, strict=True):
        for _ in range(3):
            shift(model, 0.3)
            average.update()
    assert equal(averages[0].state_dict().values(), averages[1].state_dict().values())


def test_a_teacher_that_cannot_hold_the_average_is_refused():
    with pytest.raises(ValueError, match=r"`teacher`.*0\.weight.*bfloat16"):
        ExponentialMovingAverage(small_model(), teacher=small_model().bfloat16())
    with pytest.raises(ValueError, match=r"`teacher`.*1\.weight.*nothing"):
        ExponentialMovingAverage(small_model(), teacher=small_model()[:1])


def test_a_saved_average_goes_on_as_if_nothing_had_happened():
    model, decay = small_model(), 0.9
    average = ExponentialMovingAverage(model, decay)
    shift(model)
    average.update()
    saved = copy.deepcopy(average.state_dict())
    resumed = ExponentialMovingAverage(model, decay)
    resumed.load_state_dict(saved)
    shift(model)
    average.update()
    resumed.update()
    assert equal(average.state_dict().values(), resumed.state_dict().values())


def test_a_saved_average_of_another_model_is_refused():
    average = ExponentialMovingAverage(small_model())
    state = average.state_dict()
    with pytest.raises(ValueError, match=r"`state_dict`.*1\.bias"):
        average.load_state_dict({name: value for name, value in state.items() if name != "1.bias"})
    with pytest.raises(ValueError, match=r"`state_dict`.*0\.weight.*processes"):
        average.load_state_dict({**state, "0.weight": torch.zeros(1, 3)})


def test_local_shards_share_memory_with_what_the_engine_owns():
    parameter = nn.Parameter(torch.zeros(2))
    assert local_shard(parameter).data_ptr() == parameter.data_ptr()
    parameter.ds_tensor = torch.zeros(1)  # as under ZeRO-3
    assert local_shard(parameter).data_ptr() == parameter.ds_tensor.data_ptr()


@pytest.fixture
def process_group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def sharded(model):
    mesh = init_device_mesh("cpu", (1,))
    fully_shard(model[0], mesh=mesh)
    return fully_shard(model, mesh=mesh)


@torch.no_grad()
def test_under_fsdp2_swaps_and_updates_reach_weights_that_were_left_gathered(process_group):
    inputs = torch.randn(5, 3)
    plain, model, teacher = small_model(), sharded(small_model()), sharded(small_model(1))
    before = plain(inputs)
    assert torch.equal(model(inputs), before)
    assert not any(isinstance(parameter, DTensor) for parameter in model[1].parameters())  # left gathered
    swapped, adopted = ExponentialMovingAverage(model, decay=0.5), ExponentialMovingAverage(model, 0.5, teacher)
    assert torch.equal(teacher(inputs), before)
    model.reshard()
    shift(model)
    shift(plain)
    after = plain(inputs)
    assert torch.equal(model(inputs), after)
    with swapped.swap():
        assert torch.equal(model(inputs), before)
    assert torch.equal(model(inputs), after)
    adopted.update()
    shift(plain, -0.5)
    assert torch.allclose(teacher(inputs), plain(inputs), atol=1e-6)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_decay_must_be_below_one(decay):
    with pytest.raises(ValueError, match="`decay`"):
        ExponentialMovingAverage(small_model(), decay)


def test_a_frozen_model_has_nothing_to_average():
    with pytest.raises(ValueError, match="trainable"):
        ExponentialMovingAverage(small_model().requires_grad_(False))
