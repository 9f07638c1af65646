# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""`fsdfm trajectory`."""

import importlib.util
import json
from pathlib import Path

import pytest

from tests.cli.conftest import STORY


pytest.importorskip("matplotlib", reason="plots need matplotlib")

SMALL = ["--steps", "1,2,8", "--num-fine-steps", "8", "--lengths", "16,32", "--num-texts", "2", "--num-rollouts", "4"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("data") / "text.txt"
    file.write_text("<|endoftext|>\n".join([STORY] * 30), encoding="utf-8")
    return file


def test_measures_plots_and_says_where(run, checkpoint, data, tmp_path):
    code, out, error = run("trajectory", "--model", checkpoint, "--data", data, "--out", tmp_path / "growth", *SMALL)
    assert code == 0, error
    lines = out.splitlines()
    assert lines[0].split()[:3] == ["length", "from", "t"]
    assert [line.split()[:3] for line in lines[1:6]] == [
        ["16", "0", "1"],
        ["16", "0", "2"],
        ["16", "0", "8"],
        ["16", "0.5", "2"],
        ["16", "0.5", "8"],
    ]
    assert str(tmp_path / "growth" / "trajectory.json") in lines
    record = json.loads((tmp_path / "growth" / "trajectory.json").read_text(encoding="utf-8"))
    assert record["about"]["num_fine_steps"] == 8
    assert (record["about"]["lengths"], record["about"]["num_texts"]) == ([16, 32], 2)
    assert record["about"]["model"] == str(checkpoint)
    assert len(record["by_steps"]) == 2 * (3 + 2)
    same_steps = [row for row in record["by_steps"] if row["num_steps"] == 8]
    assert all(row["differing_share"] == 0 for row in same_steps)


def test_json_is_the_table(run, checkpoint, data, tmp_path):
    options = ("--data", data, "--out", tmp_path, *SMALL, "--start-times", "0", "--json", "--lengths", "16")
    code, out, error = run("trajectory", "--model", checkpoint, *options, "--solver", "euler")
    assert code == 0, error
    assert json.loads((tmp_path / "trajectory.json").read_text(encoding="utf-8"))["about"]["solver"] == "euler"
    rows = json.loads(out)
    assert [(row["length"], row["num_steps"]) for row in rows] == [(16, 1), (16, 2), (16, 8)]


def test_one_step_alone_starts_at_the_beginning(run, checkpoint, data, tmp_path):
    options = ("--data", data, "--out", tmp_path, *SMALL, "--steps", "1", "--json", "--lengths", "16")
    code, out, error = run("trajectory", "--model", checkpoint, *options)
    assert code == 0, error
    assert [row["start_time"] for row in json.loads(out)] == [0.0]


def test_another_reference_is_another_measurement(run, checkpoint, data, tmp_path):
    options = ("--model", checkpoint, "--data", data, "--out", tmp_path, *SMALL, "--reference", checkpoint)
    code, _, error = run("trajectory", *options)
    assert code == 0, error
    code, _, error = run("trajectory", *options, "--seed", "1")
    assert code == 1
    assert "holds measurements with another seed" in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "1,x"], "--steps must be numbers with commas between them, but is '1,x'"),
        (["--steps", "3"], "--steps must divide --num-fine-steps"),
        (["--num-texts", "5000"], "fewer than --num-texts (5000)"),
        (["--lengths", "65"], "length 65 must be in [1, 64]"),
        (["--data", "missing.txt"], "--data 'missing.txt': no such file"),
        (["--lengths", "64", "--data", "short.txt"], "--data holds 4 tokens, fewer than one block (--lengths is 64)"),
        (["--model", "missing"], "--model missing is no folder"),
        (["--reference", "missing"], "--reference missing is no folder"),
    ],
)
def test_bad_arguments_are_named(run, checkpoint, data, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    Path("short.txt").write_text("dogs", encoding="utf-8")
    given = ["--model", checkpoint, "--out", tmp_path / "growth", *SMALL, *options]
    given += [] if "--data" in options else ["--data", data]
    code, _, error = run("trajectory", *given)
    assert code == 1
    assert message in error
    assert not (tmp_path / "growth").exists()


def test_by_default_the_steps_are_those_that_divide_the_many(run, checkpoint, data, tmp_path):
    options = ["--lengths", 16, "--num-texts", 1, "--num-rollouts", 2, "--start-times", 0, "--num-fine-steps", 12]
    code, out, error = run("trajectory", "--model", checkpoint, "--data", data, "--out", tmp_path, *options, "--json")
    assert code == 0, error
    assert [row["num_steps"] for row in json.loads(out)] == [1, 2, 4]


def test_numbers_may_stand_apart(run, checkpoint, data, tmp_path):
    options = ["--num-fine-steps", 8, "--num-texts", 1, "--num-rollouts", 2]
    options += ["--steps", 1, 8, "--lengths", 16, 32, "--start-times", 0, 0.5]
    code, _, error = run("trajectory", "--model", checkpoint, "--data", data, "--out", tmp_path, *options)
    assert code == 0, error
    rows = json.loads((tmp_path / "trajectory.json").read_text(encoding="utf-8"))["by_steps"]
    assert {row["length"] for row in rows} == {16, 32}
    assert {(row["start_time"], row["num_steps"]) for row in rows} == {(0, 1), (0, 8), (0.5, 8)}


def test_missing_matplotlib_is_said_before_the_work(run, checkpoint, data, tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "matplotlib" else find_spec(name, *rest)
    )
    code, _, error = run("trajectory", "--model", checkpoint, "--data", data, "--out", tmp_path / "growth", *SMALL)
    assert code == 1
    assert "A plot needs matplotlib: pip install" in error
    assert '".[eval]"' in error
    assert not (tmp_path / "growth").exists()
