# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Every command in docs/cli.md runs, and the JSON has the keys that it lists."""

import io
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from transformers_fsdfm.cli import _model


DOCS = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```", DOCS, re.MULTILINE | re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines()]
LINE = re.compile(r"""(?:echo "(?P<stdin>[^"]*)" \| )?fsdfm (?P<arguments>.*?)(?: > (?P<file>\S+))?""")


@pytest.fixture
def shell(run, checkpoint, tmp_path, monkeypatch):
    """Runs a line of the documentation in a folder that has `my-model` -> exit code, standard output."""
    shutil.copytree(checkpoint, tmp_path / "my-model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_model, "available_configs", lambda: {_model.DEFAULT_CHECKPOINT: checkpoint})

    def shell(line: str) -> tuple[int, str]:
        parts = LINE.fullmatch(line)
        if parts["stdin"] is not None:
            monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO((parts["stdin"] + "\n").encode())))
        code, out, error = run(*shlex.split(parts["arguments"]))
        assert code == 0, error
        if parts["file"] is not None:
            Path(parts["file"]).write_text(out, encoding="utf-8")
        return out

    return shell


def test_there_are_commands():
    assert len(COMMANDS) > 10
    assert all(LINE.fullmatch(line) for line in COMMANDS)


@pytest.mark.parametrize("line", COMMANDS)
def test_documented_commands_run(shell, line):
    out = shell(line)
    assert out or "--out" in line


def test_documented_keys_are_those_of_the_json(shell):
    rows = re.findall(r"^\| (`.*?) \|", DOCS, re.MULTILINE)
    documented = {name for row in rows for name in re.findall(r"`(\w+)`", row)} - {"generate", "infill"}
    found = set()
    for line in ('fsdfm generate "Once" --json', 'fsdfm infill "Once ___2___" --json'):
        record = json.loads(shell(line))
        found |= set(record) | set(record["samples"][0])
    assert documented == found


def test_documented_commands_leave_what_they_say(shell):
    for line in COMMANDS:
        if "stor" in line:
            shell(line)
    assert json.loads(Path("story.json").read_text(encoding="utf-8"))["prompt"] == "Once upon a time"
    assert Path("stories.txt").stat().st_size > 0
