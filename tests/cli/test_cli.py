# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""`fsdfm` itself: help, versions, the style of errors."""

import importlib
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.main import get_command

from tests.cli.conftest import last_line
from transformers_fsdfm import cli
from transformers_fsdfm.cli import Command, main


def test_help_and_version_need_neither_torch_nor_transformers():
    script = """
import sys
from transformers_fsdfm.cli import app
commands = ("convert", "generate", "infill", "info")
for arguments in (["--help"], ["--version"], *([command, "--help"] for command in commands)):
    app(arguments, standalone_mode=False)
print(*sorted(name for name in ("torch", "transformers", "numpy", "rich") if name in sys.modules), "|")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=os.environ)
    assert last_line(done.stdout) == "|", done.stderr
    assert re.search(r"convert +Turn a published .pth checkpoint", done.stdout)
    assert "--num-attention-heads" in done.stdout
    assert f"torch {version('torch')}" in done.stdout


def test_help_lists_every_command_file_by_the_first_line_of_its_function():
    files = {file.stem for file in Path(cli.__file__).parent.glob("[!_]*.py")}
    assert {name.replace("-", "_") for name in cli.COMMANDS} == files
    for name, summary in cli.COMMANDS.items():
        identifier = name.replace("-", "_")
        command = getattr(importlib.import_module(f"transformers_fsdfm.cli.{identifier}"), identifier)
        assert command.__doc__.strip().splitlines()[0] == summary


@pytest.mark.parametrize("command", ["generate", "infill", "info"])
def test_help_has_examples_and_one_spelling_of_each_option(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0
    assert re.search(rf"Examples:\n    fsdfm {command}", out)
    assert not re.search(r"--\w+_", out)


def test_without_a_command_the_help_is_shown_as_wrong_usage(run):
    code, out, error = run()
    assert (code, out) == (2, "")
    assert "Usage: fsdfm" in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["convrt"], "Did you mean 'convert'? (see fsdfm --help)"),
        (["--colour"], "No such option: --colour (see fsdfm --help)"),
        (["generate", "--num-stepz", "3"], "--num-stepz"),
        (["generate", "--num-steps", "0"], "--num-steps"),
        (["generate", "--solver", "magic"], "--solver"),
        (["generate", "--max-new-tokens", "3", "--length", "9"], "give one of --max-new-tokens and --length"),
        (["generate", "--overwrite"], "--overwrite: is of no use without --out"),
        (["infill"], "Missing argument 'TEXT' (see fsdfm infill --help)"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(run, arguments, words):
    code, out, error = run(*arguments)
    assert (code, out) == (2, "")
    assert words in error
    assert re.fullmatch(r"fsdfm: error: .* \(see fsdfm( \w+)? --help\)\n", error)


@pytest.mark.parametrize("name", ["generate", "infill", "timeline", "evaluate", "trajectory"])
def test_the_number_of_steps_has_one_documented_name_and_one_other(name):
    command = cli._import_command(name)
    (steps,) = (option for option in command.params if "--steps" in option.opts)
    assert steps.opts == ["--steps", "--num-steps"]
    assert command.as_typed("`num_steps`") == "--steps"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("a b --steps 1 2 4 --json", "a b --steps 1,2,4 --json"),
        ("--num_steps 1, 2, 4 a", "--num_steps 1,2,4 a"),
        ("--steps=1 2 --seeds 0 1", "--steps=1,2 --seeds 0,1"),
        ("--steps 1,2 4,8 a 16", "--steps 1,2,4,8 a 16"),
        ("--steps 1 two 4", "--steps 1 two 4"),
        ("--num-samples 20 30 --out --steps 1", "--num-samples 20 30 --out --steps 1"),
        ("--steps", "--steps"),
    ],
)
def test_lists_of_numbers_may_have_spaces_between_them(typed, meant):
    assert cli._import_command("evaluate").join_numbers(typed.split()) == meant.split()


def test_errors_name_what_was_typed():
    def example(
        prompt: Annotated[str, typer.Argument(metavar="PROMPT")], num_steps: Annotated[int, typer.Option()] = 8
    ) -> None: ...

    single = typer.Typer(add_completion=False)
    single.command(cls=Command)(example)
    command = get_command(single)
    command.library_names = {"input_ids": "PROMPT"}
    message = "`num_steps` and `input_ids`, `prompt`; `num_steps=3`, but `other` and `other=1` and `x.y` stay"
    assert command.as_typed(message) == (
        "--num-steps and PROMPT, PROMPT; --num-steps 3, but `other` and `other=1` and `x.y` stay"
    )


def test_an_error_holds_nothing_that_a_terminal_obeys(run):
    code, _, error = run("info", "\x1b[2Jevil")
    assert code == 1
    assert "MODEL ␛[2Jevil is no folder" in error


def test_ctrl_c_is_exit_code_130_without_a_word(run, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("transformers_fsdfm.cli._output.check_target", stop)
    assert run("generate") == (130, "", "")


def test_a_program_error_keeps_its_type_and_its_traceback_on_request(run, monkeypatch):
    def fail(*args, **kwargs):
        raise AttributeError("no `num_steps`\nhere")

    monkeypatch.setattr("transformers_fsdfm.cli._output.check_target", fail)
    assert run("generate") == (1, "", "fsdfm: error: AttributeError: no --steps here\n")
    monkeypatch.setenv("FSDFM_TRACEBACK", "1")
    with pytest.raises(AttributeError):
        main(["generate"])
