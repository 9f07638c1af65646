# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""`fsdfm convert`."""

import re
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config

from tests.cli.conftest import last_line
from tests.conftest import tiny_model
from tests.conversion.reference_model import published_weights
from transformers_fsdfm import FSDFMForDiffusionLM, export_published_checkpoint
from transformers_fsdfm.cli import main


@pytest.fixture
def published(tmp_path) -> Path:
    path = tmp_path / "published.pth"
    teacher = published_weights(60, with_step_size=False, seed=1)
    torch.save({"teacher_model": teacher, "student_model": published_weights(60, seed=2), "optimizer": {}}, path)
    return path


def test_converts_and_says_what_it_wrote(run, published, tmp_path):
    code, out, _ = run("convert", published, tmp_path / "out")
    assert code == 0
    assert last_line(out) == f"Wrote {tmp_path / 'out'}: an FS-DFM of 0.0M parameters, from student_model"
    assert FSDFMForDiffusionLM.from_pretrained(tmp_path / "out").config.vocab_size == 60


def test_says_that_the_trained_length_is_an_assumption(run, published, tmp_path):
    assert (
        "does not tell the length of the training texts: assumed 1024" in run("convert", published, tmp_path / "out")[2]
    )
    _, _, error = run("convert", published, tmp_path / "known", "--max-position-embeddings", "1024")
    assert "assumed" not in error


@pytest.mark.parametrize(
    "option", ["--max-position-embeddings", "--max_position_embeddings", "--max_position-embeddings"]
)
def test_options_may_be_spelled_with_underscores(run, published, tmp_path, option):
    assert run("convert", published, tmp_path / "out", option, "64")[0] == 0
    assert FSDFMForDiffusionLM.from_pretrained(tmp_path / "out").config.max_position_embeddings == 64


def test_options_reach_the_conversion(run, published, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    options = ["--weights", "teacher", "--source-distribution", "mask", "--num-attention-heads", "4"]
    options += ["--dtype", "bfloat16", "--max-position-embeddings", "64", "--max-shard-size", "10KB"]
    code, out, error = run("convert", published, tmp_path / "out", *options)
    assert code == 0, error
    assert "a DFM of 0.0M parameters, from teacher_model" in out
    model = FSDFMForDiffusionLM.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.bfloat16
    assert (model.config.source_distribution, model.config.vocab_size) == ("mask", 59)
    assert model.config.max_position_embeddings == 64
    assert (tmp_path / "out" / "model.safetensors.index.json").exists()
    code, _, _ = run("convert", published, tmp_path / "out", "--tokenizer", tmp_path / "tokenizer", "--overwrite")
    assert code == 0
    assert (tmp_path / "out" / "tokenizer.json").exists()


def test_to_pth_is_the_way_back(run, tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path / "model")
    code, out, _ = run("convert", "--to-pth", tmp_path / "model", tmp_path / "back.pth")
    assert (code, last_line(out)) == (0, f"Wrote {tmp_path / 'back.pth'}")
    back = torch.load(tmp_path / "back.pth", weights_only=True)["student_ema_model"]
    assert torch.equal(back["vocab_embed.weight"], model.get_input_embeddings().weight)
    assert run("convert", tmp_path / "back.pth", tmp_path / "again")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.pth", "out"], "PATH none.pth is not a file"),
        (["published.pth", "out", "--weights", "ema"], "no 'ema' weights; it has 'student' (student_model)"),
        (["published.pth", "."], "is not empty; --overwrite replaces it"),
        (["--to-pth", "published.pth", "published.pth"], "OUT published.pth exists; --overwrite replaces it"),
        (["--to-pth", "nowhere", "back.pth"], "PATH nowhere is no folder"),
        (["--to-pth", "some/where", "back.pth"], "PATH some/where cannot be loaded"),
        (["published.pth", "published.pth"], "published.pth is a file, not a folder"),
        (["published.pth", "out", "--num-attention-heads", "7"], "--num-attention-heads 7 does not divide"),
    ],
)
def test_errors_are_one_line_and_exit_code_1(run, published, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, _, error = run("convert", *arguments)
    assert code == 1
    assert last_line(error).startswith("fsdfm: error: ")
    assert words in last_line(error)
    assert "Traceback" not in error
    assert [file.name for file in tmp_path.iterdir()] == ["published.pth"]


def test_a_model_of_another_kind_has_no_published_form(run, tmp_path):
    GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=9).save_pretrained(tmp_path / "gpt")
    code, _, error = run("convert", "--to-pth", tmp_path / "gpt", tmp_path / "gpt.pth")
    assert code == 1
    assert last_line(error) == f"fsdfm: error: PATH {tmp_path / 'gpt'} is of the type 'gpt2', not a DFM or FS-DFM"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["convert"], "Missing argument"),
        (["convert", "a.pth", "out", "--weights", "best"], "'best' is not one of"),
        (["convert", "a.pth", "out", "--num-attention-heads", "0"], "--num-attention-heads"),
        (["convert", "--to-pth", "model", "a.pth", "--weights", "ema"], "--to-pth: --weights cannot go with it"),
    ],
)
def test_wrong_usage_is_exit_code_2(run, arguments, words):
    code, _, error = run(*arguments)
    assert code == 2
    assert words in error
    assert re.fullmatch(r"fsdfm: error: .* \(see fsdfm convert --help\)\n", error)


def test_unforeseen_errors_are_named_and_traceable(run, published, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise AttributeError("no\nsuch thing")

    monkeypatch.setattr(FSDFMForDiffusionLM, "save_pretrained", fail)
    code, _, error = run("convert", published, tmp_path / "out")
    assert (code, last_line(error)) == (1, "fsdfm: error: AttributeError: no such thing")
    monkeypatch.setenv("FSDFM_TRACEBACK", "1")
    with pytest.raises(AttributeError):
        main(["convert", str(published), str(tmp_path / "out")])


def test_ctrl_c_leaves_nothing(run, published, tmp_path, monkeypatch):
    def save_half(self, folder, **kwargs):
        (Path(folder) / "model.safetensors").write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(FSDFMForDiffusionLM, "save_pretrained", save_half)
    code, _, error = run("convert", published, tmp_path / "out")
    assert code == 130
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == [published]


def test_round_trip_through_the_command_line_keeps_every_bit(run, tmp_path):
    model = tiny_model(source_distribution="mask", step_size_conditioning=False)
    export_published_checkpoint(model, tmp_path / "first.pth")
    run("convert", tmp_path / "first.pth", tmp_path / "model", "--source-distribution", "mask")
    run("convert", "--to-pth", tmp_path / "model", tmp_path / "second.pth")
    first, second = (torch.load(tmp_path / name, weights_only=True)["model"] for name in ("first.pth", "second.pth"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
