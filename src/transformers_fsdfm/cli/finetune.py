# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""`fsdfm finetune`."""

import typer

from ._training import CONTEXT_SETTINGS, AccelerateConfig, NumProcesses, run_script


def finetune(
    context: typer.Context, accelerate_config: AccelerateConfig = None, num_processes: NumProcesses = None
) -> None:
    """
    Fine-tune a DFM or an FS-DFM, with LoRA or all weights.

    In many processes with --accelerate_config NAME: a file for `accelerate launch`, or the name of one of
    `trainer/launch` (cpu, multi_gpu, fsdp2, zero1, zero2, zero3). All other arguments are those of the script.
    """
    run_script("finetune", context.args, accelerate_config, num_processes)


__all__ = ["CONTEXT_SETTINGS", "finetune"]
