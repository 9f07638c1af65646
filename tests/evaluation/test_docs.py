# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The commands and the code of docs/evaluation.md ask for what exists."""

import re
import shlex
from pathlib import Path

import pytest

from transformers_fsdfm import evaluation
from transformers_fsdfm.cli import main


PAGE = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
START = {"fsdfm": "fsdfm evaluate ", "accelerate": "-m transformers_fsdfm.evaluation "}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture
def asked(monkeypatch) -> list:
    """The settings that evaluations were asked for; nothing is evaluated."""
    asked = []
    monkeypatch.setattr(evaluation, "evaluate_models", lambda settings, **_: asked.append(settings), raising=False)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    return asked


@pytest.mark.parametrize("command", blocks("bash"))
def test_commands_are_understood(asked, command):
    arguments = command.split(START[command.split()[0]])[1].replace("\\\n", " ")
    with pytest.raises(SystemExit) as end:
        main(["evaluate", *shlex.split(arguments)])
    assert not end.value.code
    assert asked[0].pairs() or "--compare" not in command
    assert str(asked[0].out) == "report"


@pytest.mark.parametrize("code", blocks("python"))
def test_code_runs(asked, code):
    exec(code, {})
    assert len(asked[0].pairs()) == 1


def test_what_the_page_says_of_defaults_and_limits_holds():
    assert len(blocks("bash")) == 3
    assert evaluation.EvaluationSettings.equivalence_margin == 0.05
    from transformers_fsdfm.evaluation.statistics import MIN_UNITS

    assert f"At least {MIN_UNITS} sequences for each seed" in PAGE
