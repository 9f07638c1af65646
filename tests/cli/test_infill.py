# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""`fsdfm infill`, in this process and with its output in a pipe."""

import io
import json
import re

import pytest


@pytest.fixture
def infill(run, checkpoint):
    """Runs `fsdfm infill ... --model CHECKPOINT`."""
    return lambda *arguments: run("infill", *arguments, "--model", checkpoint)


def test_what_was_given_comes_out_to_the_last_byte(infill):
    text = "\tOnce  upon ___5___ naïve 你好\r\n\x00<|mask|>___3___🐶 \\_\\_\\_ C:\\new end \n"
    code, out, _ = infill(text, "--json", "--seed", 1)
    record = json.loads(out)
    (sample,) = record["samples"]
    first, second = sample["written"]
    kept = ["\tOnce  upon ", " naïve 你好\r\n\x00<|mask|>", "🐶 ___ C:\\new end \n"]
    assert code == 0
    assert sample["text"] == kept[0] + first + kept[1] + second + kept[2]
    _, plain, error = infill(text, "--seed", 1)
    assert plain == sample["text"] + "\n"
    assert re.match(r"8 tokens in 8 steps", error)


def test_json_for_machines(infill, checkpoint):
    code, out, _ = infill("Once ___2___ time", "--json", "--num-samples", 3, "--seed", 4, "--num_steps", 2)
    record = json.loads(out)
    assert code == 0
    assert list(record) == [
        *("model", "template", "seed", "num_steps", "sampling", "num_function_evaluations"),
        *("seconds", "tokens_per_second", "samples"),
    ]
    assert (record["model"], record["template"]) == (str(checkpoint), "Once ___2___ time")
    for sample in record["samples"]:
        (written,) = sample["written"]
        assert sample["text"] == f"Once {written} time"
        assert sum(step > 0 for step in sample["last_changed_step"]) <= 2


def test_the_text_may_come_from_standard_input(infill, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("Once ___1___ naïve.\n".encode())))
    code, out, _ = infill("-")
    assert code == 0
    assert out.startswith("Once ")
    assert out.endswith(" naïve.\n")


def test_a_result_goes_to_a_file(infill, tmp_path):
    out = tmp_path / "filled.txt"
    assert infill("Once ___3___ time", "--out", out)[:2] == (0, "")
    assert re.fullmatch(r"Once .* time\n", out.read_text(), re.DOTALL)
    assert infill("Once ___3___ time", "--out", out)[0] == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Once ___x___ time", "TEXT has a bad blank '___x___' at character 6: write ___12___ for a blank of 12 tokens"),
        ("Once ___ time", "TEXT has a bad blank '___' at character 6"),
        ("Once upon a time", "TEXT has no blank: write ___12___ where 12 tokens are to be filled in"),
        ("", "TEXT has no blank"),
    ],
)
def test_a_bad_blank_is_named_before_a_model_is_loaded(infill, monkeypatch, text, words):
    monkeypatch.setattr("transformers_fsdfm.cli._model.load", None)
    code, out, error = infill(text)
    assert (code, out) == (1, "")
    assert words in error


def test_a_text_longer_than_the_model_is_filled_in_windows(infill):
    text = "Once upon a time " * 20 + "___3___" + " there was" * 20 + " ___90___."
    code, out, _ = infill(text, "--num-steps", 2)
    assert code == 0
    assert out.startswith("Once upon a time " * 20)
