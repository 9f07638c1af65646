# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""`fsdfm pretrain`."""

import typer

from ._training import CONTEXT_SETTINGS, AccelerateConfig, NumProcesses, run_script


def pretrain(
    context: typer.Context, accelerate_config: AccelerateConfig = None, num_processes: NumProcesses = None
) -> None:
    """
    Train a discrete flow-matching model (DFM) on text.

    In many processes with --accelerate_config NAME: a file for `accelerate launch`, or the name of one of
    `trainer/launch` (cpu, multi_gpu, fsdp2, zero1, zero2, zero3). All other arguments are those of the script.
    """
    run_script("pretrain", context.args, accelerate_config, num_processes)


__all__ = ["CONTEXT_SETTINGS", "pretrain"]
