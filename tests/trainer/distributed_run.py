"""One of several processes that train with the scripts; started by `test_distributed_training`, through torchrun."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from transformers_fsdfm.trainer import distill, finetune, pretrain, script_run


SCRIPTS = {"pretrain": pretrain.main, "distill": distill.main, "finetune": finetune.main}


def pretend_to_have_gpus() -> None:
    """Accelerate makes an FSDP run only of a GPU run; this is one on the CPU that says it is one."""
    PartialState._prepare_backend = lambda self, cpu=False, sagemaker_dp=False, backend=None: (
        "gloo",
        DistributedType.MULTI_GPU,
    )


def describe(trainer) -> dict:
    """What must be seen from inside: which strategy it was, and what each process holds."""
    optimizer_state = trainer.optimizer.state.values()
    average = getattr(trainer, "ema", None)
    return {
        "distributed_type": str(trainer.accelerator.distributed_type.value),
        "wrapper": type(trainer.model_wrapped).__name__,
        "num_processes": trainer.args.world_size,
        "zero_stage": getattr(getattr(trainer.accelerator.state, "deepspeed_plugin", None), "zero_stage", None),
        "parameter_type": type(next(iter(trainer.model.parameters()))).__name__,
        "average_bytes": _bytes(average.state_dict().values()) if average else 0,
        "optimizer_bytes": _bytes(value for state in optimizer_state for value in state.values()),
        "has_teacher": getattr(trainer, "teacher", None) is not None,
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "grad_norms": [float(entry["grad_norm"]) for entry in trainer.state.log_history if "loss" in entry],
    }


def _bytes(tensors) -> int:
    """What this process holds of tensors, without the counters of steps."""
    local = (getattr(tensor, "_local_tensor", tensor) for tensor in tensors if isinstance(tensor, torch.Tensor))
    return sum(tensor.numel() * tensor.element_size() for tensor in local if tensor.ndim)


def run(plan: list) -> dict[str, dict]:
    """Runs the scripts one after the other -> a report of each, by the name of its run folder."""
    reports = {}
    train_and_save = script_run.train_and_save

    def train_and_report(trainer, checkpoint):
        metrics = train_and_save(trainer, checkpoint)
        reports[Path(trainer.args.output_dir).name] = {**describe(trainer), "metrics": metrics}
        return metrics

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script_run, "train_and_save", train_and_report)
        patch.setattr(Accelerator, "end_training", lambda self: None)  # the next run needs the process group
        for script, arguments in plan:
            SCRIPTS[script](arguments)
            AcceleratorState._reset_state()
    return reports


def main() -> None:
    """Leaves the reports in a file beside the plan, one for each process."""
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        pretend_to_have_gpus()
    plan_file = sys.argv[1]
    reports = run(json.loads(Path(plan_file).read_text()))
    Path(f"{plan_file}.{os.environ['RANK']}").write_text(json.dumps(reports))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
