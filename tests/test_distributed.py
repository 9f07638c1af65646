"""Two real processes on the CPU: a wrapped model generates, and saves the folder that the plain one saves."""

import os
import subprocess
import sys

import pytest
import torch

from tests.conftest import generator, tiny_model
from tests.test_remote_code import files_of, visit


WORKER = """
import sys
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.nn.parallel import DistributedDataParallel
from transformers_fsdfm import FSDFMForDiffusionLM

strategy, source, target = sys.argv[1:]
dist.init_process_group("gloo")
model = FSDFMForDiffusionLM.from_pretrained(source).train()
ids = torch.arange(20)[None] + dist.get_rank()
times = {"time": torch.tensor(0.5), "step_size": torch.tensor(0.25)}
if strategy == "ddp":
    wrapped = DistributedDataParallel(model)
    wrapped(ids, labels=ids, **times).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    state_dict = model.state_dict()
else:
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (2,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    register_fsdp_forward_method(model, "generate")
    assert type(model).__name__ == "FSDPFSDFMForDiffusionLM"
    assert type(model.lm_head.weight).__name__ == "DTensor"
    model(ids, labels=ids, **times).loss.backward()
    state_dict = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
model.eval()
tokens = model.generate(ids, num_steps=4, max_new_tokens=8, generator=torch.Generator().manual_seed(3))
if dist.get_rank() == 0:
    torch.save(tokens, target + "-tokens.pt")
model.save_pretrained(target, is_main_process=dist.get_rank() == 0, state_dict=state_dict)
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_wrapped_model_generates_and_saves_like_the_plain_one(strategy, tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path / "plain")
    (tmp_path / "worker.py").write_text(WORKER)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    arguments = [strategy, tmp_path / "plain", tmp_path / "wrapped"]
    done = subprocess.run(
        [*launch, tmp_path / "worker.py", *arguments], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr

    tokens = model.generate(torch.arange(20)[None], num_steps=4, max_new_tokens=8, generator=generator(3))
    assert torch.equal(torch.load(tmp_path / "wrapped-tokens.pt", weights_only=True), tokens)
    assert files_of(tmp_path / "wrapped") == files_of(tmp_path / "plain")
    for name in files_of(tmp_path / "plain"):
        assert (tmp_path / "wrapped" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    (tmp_path / "again").mkdir()
    assert visit(tmp_path / "wrapped", tmp_path / "again", tmp_path)["num_steps"] == 8
