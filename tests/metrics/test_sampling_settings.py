"""The script that compares settings of `generate` writes a row for each, and a setting does what it says."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from tests.conftest import tiny_model

from .scorers import byte_tokenizer, tiny_gpt2


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def folders(tmp_path):
    tokenizer = byte_tokenizer(bos_token="<s>", eos_token="<|endoftext|>")
    for name in ("model", "scorer"):
        tokenizer.save_pretrained(tmp_path / name)
    tiny_model(vocab_size=len(tokenizer)).save_pretrained(tmp_path / "model")
    tiny_gpt2(len(tokenizer), 64).save_pretrained(tmp_path / "scorer")
    (tmp_path / "valid.txt").write_text("the dog ran over the hill and sang\n<|endoftext|>\n" * 8, encoding="utf-8")
    return tmp_path


def test_every_setting_has_a_row_after_the_real_text(folders, monkeypatch, capsys):
    settings = [{"num_steps": 2}, {"num_steps": 2, "temperature": 0.01}]
    files = ["--scorer", folders / "scorer", "--text", folders / "valid.txt", "--json", folders / "out.json"]
    sizes = ["--num-texts", 3, "--length", 48, "--batch-size", 2]
    options = ["sampling_settings.py", folders / "model", *files, *sizes, "--settings", *map(json.dumps, settings)]
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(sys, "argv", [str(option) for option in options])
    runpy.run_path(str(BENCHMARKS / "sampling_settings.py"), run_name="__main__")
    real, plain, cold = json.loads((folders / "out.json").read_text())["rows"]
    assert real["model"] == "real text"
    assert [json.loads(row["settings"]) for row in (plain, cold)] == settings
    assert plain["network runs"] == 4  # two steps in each of two windows: the model was trained on 32 tokens
    assert cold["entropy (nats)"] < plain["entropy (nats)"]
    assert "| real text |" in capsys.readouterr().out
