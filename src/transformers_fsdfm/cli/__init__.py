# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""
The command line, `fsdfm`.

Each command is a function in the file of its name, which parses, calls the library and prints. The file is imported
when the command runs, and imports torch or transformers inside the function only: `fsdfm --help` answers at once.
"""

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version as installed_version
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command


# What `fsdfm --help` says of each command: the first line of the docstring of `NAME` in `cli/NAME.py`.
COMMANDS = {
    "convert": "Turn a published .pth checkpoint into a model folder, or back.",
    "pretrain": "Train a discrete flow-matching model (DFM) on text.",
    "distill": "Make a few-step model (FS-DFM) of a DFM.",
    "finetune": "Fine-tune a DFM or an FS-DFM, with LoRA or all weights.",
}


class LazyGroup(TyperGroup):
    """Lists the commands from `COMMANDS`, and imports only the one that is run."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.commands = {name: TyperCommand(name, help=summary) for name, summary in COMMANDS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and _import_command(command.name), rest


def _import_command(name: str) -> Any:
    identifier = name.replace("-", "_")
    module = importlib.import_module(f"{__name__}.{identifier}")
    single = typer.Typer(rich_markup_mode=None, add_completion=False)
    single.command(name, context_settings=getattr(module, "CONTEXT_SETTINGS", None))(getattr(module, identifier))
    return get_command(single)


app = typer.Typer(cls=LazyGroup, rich_markup_mode=None, no_args_is_help=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        packages = ("transformers-fsdfm", "transformers", "torch")
        typer.echo(", ".join(f"{package} {installed_version(package)}" for package in packages))
        raise typer.Exit


@app.callback(epilog="Set FSDFM_TRACEBACK=1 to see where in the code an error came up.")
def fsdfm(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the versions and exit.")
    ] = False,
) -> None:
    """Few-step discrete flow-matching language models (FS-DFM)."""


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Runs the command line and ends the process: 0 done, 1 an error, 2 wrong usage, 130 and 143 stopped by a signal.

    Args:
        arguments (`Sequence[str]`, *optional*): in place of `sys.argv[1:]`.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that half-written files are cleaned up
    try:
        app(arguments, prog_name="fsdfm")
    except Exception as error:
        if os.environ.get("FSDFM_TRACEBACK"):
            raise
        kind = "" if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: "
        sys.stderr.write(f"fsdfm: error: {kind}{' '.join(str(error).split())}\n")
        sys.exit(1)
