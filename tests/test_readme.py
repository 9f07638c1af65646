"""The README's Python blocks run, in order, as one program; then the commands that use the model that it made."""

import re
import runpy
import shlex
from pathlib import Path

import pytest

from transformers_fsdfm.cli import main


ROOT = Path(__file__).parents[1]


def test_readme_examples_run(tmp_path, monkeypatch, capsys):
    readme = (ROOT / "README.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    assert blocks
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)
    assert namespace["output"].sequences.shape == (1, 128)
    assert len(namespace["output"].history) == 9

    commands = re.findall(r"^fsdfm (.*my-story-model.*)$", readme, re.MULTILINE)
    assert commands
    monkeypatch.setattr("signal.signal", lambda *_: None)
    for command in commands:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            main(shlex.split(command))
        assert (exit_info.value.code, bool(capsys.readouterr().out)) == (0, True), command


def test_quickstart_runs(capsys):
    runpy.run_path(str(ROOT / "examples/quickstart.py"), run_name="__main__")
    assert "Once upon a time" in capsys.readouterr().out
