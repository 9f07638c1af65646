# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Real processes: on a terminal, in a pipe, and stopped by signals."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.cli.terminal import FSDFM, Terminal, heed_ctrl_c
from transformers_fsdfm.cli._output import printable


PROMPT = "Once upon a time"
# Long enough to be interrupted: many windows of many steps
LONG = ["--max-new-tokens", "4000", "--num-steps", "500"]
SUMMARY = re.compile(
    r"\d+ tokens( \(\d+ up to the end of the text\))? in \d+ steps?, \d+\.\d\d s: [\d,]+ tokens/s \(seed \d+\)"
)
ENVIRONMENT = os.environ | {"HF_HUB_OFFLINE": "1"}


def without_spaces(text: str) -> str:
    """On a terminal lines end where there is no more room, and tabs are spaces."""
    return "".join(text.split())


def test_on_a_terminal_drafts_are_shown_and_leave_the_text_alone(run, checkpoint):
    arguments = ["generate", PROMPT, "--model", checkpoint, "--seed", 1, "--max-new-tokens", 300, "--num-steps", 300]
    arguments += ["--keep-after-eos"]
    with Terminal(arguments) as terminal:
        terminal.wait_until(lambda: "step" in terminal.display)
        assert PROMPT in terminal.display
        terminal.resize(50, 10)
        shown = len(re.findall(rb"step \d+", terminal.raw))
        terminal.wait_until(lambda: len(re.findall(rb"step \d+", terminal.raw)) > shown)
        assert terminal.finish() == 0
        everything = terminal.everything
        assert not terminal.screen.cursor.hidden
        assert len(set(re.findall(rb"step (\d+)", terminal.raw))) >= 3
    written = json.loads(run(*arguments, "--json")[1])["samples"][0]["text"]
    shown, expected = without_spaces(everything), without_spaces(printable(written))
    assert shown.startswith(expected)
    assert re.fullmatch(without_spaces(SUMMARY.pattern), shown.removeprefix(expected))


def test_ctrl_c_on_a_terminal_takes_the_draft_away_and_says_nothing(checkpoint, tmp_path):
    out = tmp_path / "story.txt"
    with Terminal(["generate", PROMPT, "--model", checkpoint, "--out", out, *LONG]) as terminal:
        terminal.wait_until(lambda: "step" in terminal.display)
        terminal.press_ctrl_c()
        assert terminal.finish() == 130
        assert terminal.everything in ("", "^C")
        assert not terminal.screen.cursor.hidden
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_ctrl_c_while_loading_says_nothing(checkpoint):
    for wait in (0.0, 0.5, 1.0, 2.0):
        with Terminal(["generate", PROMPT, "--model", checkpoint, *LONG]) as terminal:
            terminal.wait_until(lambda: "Loading" in terminal.display)
            time.sleep(wait)
            terminal.press_ctrl_c()
            assert terminal.finish() == 130
            assert terminal.everything in ("", "^C")


@pytest.mark.slow
def test_infilling_on_a_terminal(checkpoint):
    text = "\x1b[31mOnce upon ___4___ went home."
    with Terminal(["infill", text, "--model", checkpoint, "--num-steps", 3], NO_COLOR="1") as terminal:
        assert terminal.finish() == 0
        assert terminal.display.startswith("␛[31mOnce upon ")
        assert "went home." in terminal.display
        assert SUMMARY.search(terminal.display)
        assert not re.search(rb"\x1b\[[0-9;]*3[0-7]", terminal.raw)


@pytest.mark.slow
def test_a_dumb_terminal_gets_no_control_sequences(checkpoint):
    with Terminal(["generate", PROMPT, "--model", checkpoint, "--num-steps", 3], TERM="dumb") as terminal:
        assert terminal.finish() == 0
        assert b"\x1b" not in terminal.raw
        assert terminal.raw.startswith(PROMPT.encode())


def test_in_a_pipe_standard_output_gets_the_text_alone(checkpoint):
    text = "Once upon ___4___ went home. 你好\n"
    done = subprocess.run(
        [*FSDFM, "infill", text, "--model", str(checkpoint)],
        capture_output=True,
        env=ENVIRONMENT | {"FORCE_COLOR": "1", "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0
    assert done.stdout.startswith(b"Once upon ")
    assert done.stdout.endswith(" went home. 你好\n\n".encode())
    assert SUMMARY.fullmatch(done.stderr.decode().strip())


def test_a_closed_pipe_is_no_reason_to_speak(checkpoint):
    arguments = ["generate", PROMPT, "--model", str(checkpoint), "--num-steps", "1"]
    process = subprocess.Popen([*FSDFM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 1


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)],
)
def test_a_signal_leaves_no_traceback_and_no_half_file(checkpoint, tmp_path, number, code):
    ready, out = tmp_path / "ready", tmp_path / "story.json"
    script = f"""
import importlib
from pathlib import Path
from transformers_fsdfm.cli import main

command = importlib.import_module("transformers_fsdfm.cli.generate")
sample = command.sample

def sample_for_ever(model, *arguments):
    type(model)._take_step = lambda *arguments: Path({str(ready)!r}).touch()
    return sample(model, *arguments)

command.sample = sample_for_ever
main()
"""
    arguments = ["generate", PROMPT, "--json", "--model", str(checkpoint), "--out", str(out), *LONG]
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        preexec_fn=heed_ctrl_c,
    )
    while not ready.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.send_signal(number)
    shown, error = process.communicate(timeout=150)
    assert (process.returncode, shown, error) == (code, b"", b"")
    assert list(tmp_path.iterdir()) == [ready]


@pytest.mark.slow
def test_several_commands_in_one_pipe(checkpoint):
    script = f'echo "{PROMPT}" | $F generate - -m {checkpoint} --json --max-new-tokens 5 | head -c 1000000'
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", script.replace("$F", f"{FSDFM[0]} -c '{FSDFM[2]}'")],
        capture_output=True,
        env=ENVIRONMENT,
        check=True,
    )
    assert json.loads(done.stdout)["prompt"] == PROMPT
