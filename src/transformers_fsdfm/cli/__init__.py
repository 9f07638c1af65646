# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""
The command line, `fsdfm`.

Each command is a function in the file of its name, which parses, calls the library and prints. The file is imported
when the command runs, and imports torch or transformers inside the function only: `fsdfm --help` answers at once.

Results go to standard output and all else to standard error, where an error is one line, `fsdfm: error: ...`. The
library's messages name arguments in backticks; here they become what the user typed, e.g. `num_steps` --num-steps.
Arguments that the library calls by another name than the command stand in `LIBRARY_NAMES` of the command's file, those
that are lists of numbers in its `NUMBER_LISTS`.
"""

import contextlib
import importlib
import os
import re
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
    "generate": "Write text, from a prompt or from nothing.",
    "infill": "Fill in the blanks of a text.",
    "timeline": "Show when each token settled.",
    "demo": "Play with a model on a page in the browser.",
    "info": "Show what a checkpoint is, and the devices and versions here.",
    "evaluate": "Sample from models, score, compare and plot: a report with uncertainties.",
    "trajectory": "Measure whether errors compound: few steps against many, from the same noisy text.",
    "convert": "Turn a published .pth checkpoint into a model folder, or back.",
    "pretrain": "Train a discrete flow-matching model (DFM) on text.",
    "distill": "Make a few-step model (FS-DFM) of a DFM.",
    "finetune": "Fine-tune a DFM or an FS-DFM, with LoRA or all weights.",
}


NUMBERS = re.compile(r"\d+(\.\d+)?(,\d+(\.\d+)?)*,?")
# Of the library that typer parses with, which differs from version to version
UsageError: Any = typer.BadParameter.__base__
CommandLineError: Any = UsageError.__base__


class Command(TyperCommand):
    """A command whose errors speak of what was typed, and which takes lists of numbers with commas or with spaces."""

    library_names: dict[str, str] = {}  # noqa: RUF012
    number_lists: tuple[str, ...] = ()

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, self.join_numbers(args))

    def join_numbers(self, arguments: list[str]) -> list[str]:
        """The arguments with `--steps 1 2 4` as `--steps 1,2,4`: else 2 and 4 would be models."""
        spellings = {option for one in self.params if one.name in self.number_lists for option in one.opts}
        joined: list[str] = []
        is_option = is_list = False  # the last word: such an option, numbers of such an option
        for word in arguments:
            if is_list and NUMBERS.fullmatch(word):
                joined[-1] = f"{joined[-1].rstrip(',')},{word}"
                continue
            option, equals, value = word.partition("=")
            is_such = not is_option and option.replace("_", "-") in spellings
            is_list = bool(NUMBERS.fullmatch(word if is_option else value)) and (is_option or is_such)
            is_option = is_such and not equals
            joined.append(word)
        return joined

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            if len(error.args) == 1 and isinstance(error.args[0], str):
                error.args = (self.as_typed(error.args[0]),)
            raise

    def as_typed(self, message: str) -> str:
        """The message with `name` and `name=value` as the user writes them."""
        names = {p.name: p.opts[0] if p.param_type_name == "option" else p.metavar or p.name for p in self.params}
        names.update(self.library_names)

        def translate(match: re.Match[str]) -> str:
            typed = names.get(match["name"])
            return match[0] if typed is None else f"{typed} {match['value']}" if match["value"] else typed

        return re.sub(r"`(?P<name>\w+)(=(?P<value>\w+))?`", translate, message)


class LazyGroup(TyperGroup):
    """Lists the commands from `COMMANDS`, and imports only the one that is run."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.commands = {name: TyperCommand(name, help=summary) for name, summary in COMMANDS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and _import_command(str(command.name)), rest


def _import_command(name: str) -> Any:
    identifier = name.replace("-", "_")
    module = importlib.import_module(f"{__name__}.{identifier}")
    either_spelling = {"token_normalize_func": lambda token: token.replace("_", "-")}  # --num_steps is --num-steps
    settings = getattr(module, "CONTEXT_SETTINGS", either_spelling)
    single = typer.Typer(rich_markup_mode=None, add_completion=False)
    single.command(name, cls=Command, context_settings=settings)(getattr(module, identifier))
    command = get_command(single)
    assert isinstance(command, Command)
    command.library_names = getattr(module, "LIBRARY_NAMES", {})
    command.number_lists = getattr(module, "NUMBER_LISTS", ())
    return command


app = typer.Typer(cls=LazyGroup, rich_markup_mode=None, invoke_without_command=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        packages = ("transformers-fsdfm", "transformers", "torch")
        typer.echo(", ".join(f"{package} {installed_version(package)}" for package in packages))
        raise typer.Exit


@app.callback(epilog="Set FSDFM_TRACEBACK=1 to see where in the code an error came up.")
def fsdfm(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the versions and exit.")
    ] = False,
) -> None:
    """Few-step discrete flow-matching language models (FS-DFM)."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Runs the command line and ends the process: 0 done, 1 an error, 2 wrong usage, 130 and 143 stopped by a signal.

    Args:
        arguments (`Sequence[str]`, *optional*): in place of `sys.argv[1:]`.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that half-written files are cleaned up
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a character is no reason to fail
    try:
        code = app(arguments, prog_name="fsdfm", standalone_mode=False) or 0
    except typer.Abort:  # Ctrl-C, with typer before 0.20
        code = 130
    except CommandLineError as error:
        context = getattr(error, "ctx", None)
        hint = f" (see {context.command_path} --help)" if context is not None else ""
        _print_error(error.format_message().rstrip(".") + hint)
        code = error.exit_code
    except Exception as error:
        if os.environ.get("FSDFM_TRACEBACK"):
            raise
        kind = "" if isinstance(error, (ValueError, OSError, ModuleNotFoundError)) else f"{type(error).__name__}: "
        _print_error(f"{kind}{error}")
        code = 1
    sys.exit(code)


def _print_error(message: str) -> None:
    from ._output import printable

    with contextlib.suppress(BrokenPipeError):
        sys.stderr.write(f"fsdfm: error: {printable(' '.join(message.split()))}\n")
