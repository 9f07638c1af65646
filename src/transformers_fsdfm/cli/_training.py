# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""What `fsdfm pretrain`, `fsdfm distill` and `fsdfm finetune` have in common."""

import importlib
import os
import sys
from pathlib import Path
from typing import Annotated

import typer


# Every argument but those of the launch goes to the script as it is, `--help` too.
CONTEXT_SETTINGS = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
SCRIPTS = "transformers_fsdfm.trainer"

AccelerateConfig = Annotated[str | None, typer.Option("--accelerate_config", "--accelerate-config")]
NumProcesses = Annotated[int | None, typer.Option("--num_processes", "--num-processes", min=1)]


def run_script(name: str, arguments: list[str], accelerate_config: str | None, num_processes: int | None) -> None:
    """
    Runs a script of the trainer: in this process, or in many that Accelerate launches in its place.

    Args:
        accelerate_config (`str`, *optional*): a name in `trainer/launch`, or a file.
        num_processes (`int`, *optional*): in place of the number in the file.
    """
    if accelerate_config is None:
        if num_processes is not None:
            raise ValueError("--num_processes needs --accelerate_config")
        importlib.import_module(f"{SCRIPTS}.{name}").main(arguments, prog=f"fsdfm {name}")
        return
    launch = ["accelerate.commands.launch", "--config_file", str(find_launch_config(accelerate_config))]
    if num_processes is not None:
        launch += ["--num_processes", str(num_processes)]
    command = [sys.executable, "-m", *launch, "-m", f"{SCRIPTS}.{name}", *arguments]
    os.execv(sys.executable, command)  # signals then reach Accelerate itself


def find_launch_config(name: str) -> Path:
    """The file of `--accelerate_config`."""
    folder = Path(str(importlib.import_module(SCRIPTS).__file__)).parent / "launch"
    known = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if name in known:
        return known[name]
    if not os.path.isfile(name):
        raise ValueError(f"--accelerate_config {name} is no file, and none of {', '.join(known)}")
    return Path(name)
