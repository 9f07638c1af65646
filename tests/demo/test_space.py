# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The three files of a Space fit the package."""

import re
import runpy
from pathlib import Path

import pytest
import yaml

from transformers_fsdfm import __version__


ROOT = Path(__file__).parents[2]
SPACE = ROOT / "examples" / "space"
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}


def start(monkeypatch) -> list[str]:
    """Runs the app -> the arguments of `fsdfm` that it starts."""
    started = []
    monkeypatch.setattr("transformers_fsdfm.cli.main", started.append)
    runpy.run_path(str(SPACE / "app.py"), run_name="__main__")
    return started[0]


def test_app_listens_where_a_space_is_asked(monkeypatch):
    for name in ("FSDFM_MODEL", "FSDFM_DFM"):
        monkeypatch.delenv(name, raising=False)
    assert start(monkeypatch) == ["demo", "--host", "0.0.0.0", "--port", "7860"]


def test_variables_choose_the_models(monkeypatch):
    monkeypatch.setenv("FSDFM_MODEL", "me/fsdfm")
    monkeypatch.setenv("FSDFM_DFM", "me/dfm")
    assert start(monkeypatch)[5:] == ["--model", "me/fsdfm", "--dfm", "me/dfm"]


def test_header_names_the_app_and_the_tested_gradio():
    header = yaml.safe_load((SPACE / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert header["sdk"] == "gradio"
    assert (SPACE / header["app_file"]).is_file()
    assert f"gradio=={header['sdk_version']}" in (ROOT / "constraints.txt").read_text().splitlines()
    # What the Hub accepts
    assert len(header["short_description"]) <= 60
    assert {header["colorFrom"], header["colorTo"]} <= COLOURS


@pytest.mark.parametrize("line", (SPACE / "requirements.txt").read_text().splitlines())
def test_requirements_are_this_version(line):
    assert re.fullmatch(rf"transformers-fsdfm\[demo\]=={re.escape(__version__)}", line)
