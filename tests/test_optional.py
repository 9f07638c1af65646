# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Libraries that only a part of the package needs: what is said where they are missing."""

import importlib.util
import re
from importlib import metadata
from pathlib import Path

import pytest

from transformers_fsdfm.optional import require


ROOT = Path(__file__).parents[1]


@pytest.fixture
def nothing_installed(monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


def message(*arguments: str, **options: str) -> str:
    with pytest.raises(ModuleNotFoundError) as error_info:
        require(*arguments, **options)
    return str(error_info.value)


def test_what_is_there_is_no_error():
    require("eval", "json", "re")


def test_what_is_missing_is_named_with_two_ways_to_install_it(nothing_installed, monkeypatch):
    stated = [
        "torch>=2.6",
        'mauve-text>=0.3; extra == "dev"',
        'mauve-text>=0.4; extra == "eval"',
        'scipy; extra == "eval"',
    ]
    monkeypatch.setattr(metadata, "requires", lambda name: stated)
    assert message("eval", "mauve", "scipy", what="MAUVE") == (
        'MAUVE needs mauve, scipy: pip install "mauve-text>=0.4" "scipy"; or everything of its kind, in a checkout of '
        'transformers-fsdfm: pip install -c constraints.txt ".[eval]"'
    )
    assert 'pip install "mauve-text"; ' in message("lm-eval", "mauve")  # that extra does not ask for it


def test_a_package_that_is_not_installed_itself_knows_the_names_at_least(nothing_installed, monkeypatch):
    def not_there(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", not_there)
    assert message("lm-eval", "lm_eval").startswith('This needs lm_eval: pip install "lm-eval"; ')


def test_nothing_speaks_of_a_package_index_that_does_not_have_this_package():
    files = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    for folder in ("src", "trainer", "examples", "benchmarks"):
        files += (ROOT / folder).rglob("*.py")
    assert len(files) > 100
    assert not [file for file in files if re.search(r"install \S*transformers-fsdfm", file.read_text(encoding="utf-8"))]


def test_every_extra_that_is_asked_for_exists():
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    asked = set()
    for folder in ("src", "trainer"):
        for file in (ROOT / folder).rglob("*.py"):
            asked |= set(re.findall(r'require\("([\w-]+)", ', file.read_text(encoding="utf-8")))
    assert asked >= {"demo", "eval", "lm-eval", "timeline", "train"}
    assert not [extra for extra in asked if f'"{extra}": ' not in setup]
