# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""CONTRIBUTING.md names files that exist, and names that stand in them."""

import re
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
STEPS = re.findall(r"^\d+\. (?:.+\n)(?:   .+\n)*", TEXT, re.MULTILINE)
IS_PATH = re.compile(r"\.?[\w.-]+(/[\w.-]*)+|[\w-]+\.(py|md|txt|toml)")


def code_in(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", text)


def test_every_path_exists():
    paths = [code for code in code_in(TEXT) if IS_PATH.fullmatch(code) and code != "build/api/index.html"]
    assert len(paths) > 30
    assert not [path for path in paths if path != "__init__.py" and not (ROOT / path).exists()]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.split("`")[1])
def test_every_name_of_a_step_stands_in_a_file_of_the_step(step):
    codes = [code for code in code_in(step) if code not in ("__init__.py", "evaluate", "eval")]
    files = [ROOT / code for code in codes if IS_PATH.fullmatch(code)]
    sources = "\n".join(file.read_text(encoding="utf-8") for file in files)
    names = [code for code in codes if not IS_PATH.fullmatch(code)]
    assert files
    assert not [name for name in names if not re.search(rf"\b{re.escape(name)}\b", sources)]


def test_the_layout_has_every_part():
    package = ROOT / "src/transformers_fsdfm"
    parts = [path for path in package.iterdir() if path.suffix in ("", ".py") and not path.name.startswith("__")]
    parts += [ROOT / name for name in ("trainer", "hub_configs", "benchmarks", "docs", "tests")]
    layout = {code.rstrip("/") for code in re.findall(r"^\| `([^`]+)` \|", TEXT, re.MULTILINE)}
    assert {path.relative_to(ROOT).as_posix() for path in parts} <= layout


def test_there_are_steps_for_a_solver_a_teacher_and_a_metric():
    assert re.findall(r"^## Add a (\w+)", TEXT, re.MULTILINE) == ["solver", "teacher", "metric"]
    assert len(STEPS) == 20
