# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""`fsdfm distill`."""

import typer

from ._training import CONTEXT_SETTINGS, AccelerateConfig, NumProcesses, run_script


def distill(
    context: typer.Context, accelerate_config: AccelerateConfig = None, num_processes: NumProcesses = None
) -> None:
    """
    Make a few-step model (FS-DFM) of a DFM.

    In many processes with --accelerate_config NAME: a file for `accelerate launch`, or the name of one of
    `trainer/launch` (cpu, multi_gpu, fsdp2, zero1, zero2, zero3). All other arguments are those of the script.
    """
    run_script("distill", context.args, accelerate_config, num_processes)


__all__ = ["CONTEXT_SETTINGS", "distill"]
