"""Benchmark scripts as a user runs them."""

import runpy
import sys
from pathlib import Path

import pytest


BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run_script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, script: str, *options: object) -> str:
    """Runs `benchmarks/SCRIPT` with a tiny model -> what it prints."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(sys, "argv", [script, "--tiny", *map(str, options)])
    runpy.run_path(str(BENCHMARKS / script), run_name="__main__")
    return capsys.readouterr().out


def table_of(output: str) -> list[dict[str, str]]:
    """The Markdown table in what a script prints, row by row."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in output.splitlines() if line.startswith("|")]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]
