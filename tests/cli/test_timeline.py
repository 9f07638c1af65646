# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""`fsdfm timeline`."""

import re
import shutil

import pytest
import torch
from rich.cells import cell_len
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from tests.cli.conftest import last_line
from tests.conftest import tiny_model
from transformers_fsdfm import FSDFMForDiffusionLM, FSDFMGenerationConfig
from transformers_fsdfm.cli import COMMANDS
from transformers_fsdfm.cli import timeline as timeline_module
from transformers_fsdfm.trainer.tokenizer import train_tokenizer


PROMPT = "Once upon a time"


@pytest.fixture
def timeline(run, checkpoint):
    """Runs `fsdfm timeline ... --model CHECKPOINT`."""
    return lambda *arguments: run("timeline", *arguments, "--model", checkpoint)


@pytest.fixture(scope="session")
def others(tmp_path_factory):
    """A DFM, which takes four steps, and an autoregressive model."""
    folder = tmp_path_factory.mktemp("others")
    tokenizer = train_tokenizer([PROMPT] * 9, vocab_size=270, save_directory=folder / "dfm")
    tokenizer.save_pretrained(folder / "gpt")
    special = {name: getattr(tokenizer, name) for name in ("eos_token_id", "pad_token_id", "mask_token_id")}
    dfm = tiny_model(vocab_size=len(tokenizer) - 1, max_position_embeddings=64, step_size_conditioning=False, **special)
    dfm.generation_config.num_steps = 4
    dfm.save_pretrained(folder / "dfm")
    torch.manual_seed(0)
    size = {"n_embd": 8, "n_layer": 1, "n_head": 1, "n_positions": 128}
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=0, **size)).save_pretrained(
        folder / "gpt"
    )
    return folder


def test_help_says_what_the_list_of_commands_says():
    assert timeline_module.timeline.__doc__.strip().splitlines()[0] == COMMANDS["timeline"]


def test_without_a_file_the_terminal_gets_the_text_and_the_counts(timeline):
    code, out, error = timeline(PROMPT, "--num-steps", 2, "--seed", 1)
    assert code == 0, error
    assert out.startswith(f"FS-DFM, 2 steps\n\n{PROMPT}")
    assert "\x1b" not in out  # no terminal here
    assert re.search(r"^ 4  step 1 +\d+", out, re.MULTILINE)
    assert re.search(r"^ 8  step 2 +\d+", out, re.MULTILINE)
    assert timeline(PROMPT, "--num-steps", 2, "--seed", 1)[1] == out
    assert timeline(PROMPT, "--num-steps", 2, "--seed", 2)[1] != out


def test_a_terminal_gets_colours_unless_it_wants_none(timeline, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "50"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    _, out, _ = timeline(PROMPT, "--num-steps", 2, "--seed", 1)
    assert "\x1b[38;5;232;48;5;" in out
    text = re.sub(r"\x1b\[[0-9;]*m", "", out).split("\n\n")[1]
    assert 40 < max(map(cell_len, text.splitlines())) <= 50
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in timeline(PROMPT, "--num-steps", 2, "--seed", 1)[1]


def test_a_file_is_of_the_kind_that_its_name_says(timeline, tmp_path):
    for name, start in (("t.html", "<!DOCTYPE html>"), ("t.txt", f"FS-DFM, 2 steps\n\n{PROMPT}")):
        code, out, error = timeline(PROMPT, "--steps", 2, "--seed", 5, "--out", tmp_path / name)
        assert code == 0, error
        assert out == ""
        assert last_line(error) == f"Wrote {tmp_path / name} (seed 5)"
        assert (tmp_path / name).read_text(encoding="utf-8").startswith(start)
    assert ">Once<" in (tmp_path / "t.html").read_text(encoding="utf-8")


def test_pictures_are_written(timeline, tmp_path):
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    for name, start in (("t.png", b"\x89PNG"), ("t.gif", b"GIF89a"), ("t.svg", b"<?xml")):
        code, _, error = timeline(PROMPT, "--steps", 2, "--out", tmp_path / name)
        assert code == 0, error
        assert (tmp_path / name).read_bytes().startswith(start)


def test_options_reach_generate(timeline, calls):
    options = [
        *("--temperature", 0.7, "--final-temperature", 0.6, "--top-k", 40, "--top-p", 0.9, "--time-shift", 2),
        *("--min-step-size", 0.5, "--spread", "--solver", "euler"),
        *("--max-new-tokens", 5, "--steps", 3, "--dtype", "bfloat16"),
    ]
    code, out, error = timeline(PROMPT, *options, "--device", "cpu")
    assert code == 0, error
    (call,) = calls
    expected = {"temperature": 0.7, "final_temperature": 0.6, "top_k": 40, "top_p": 0.9, "time_shift": 2.0}
    expected |= {"min_step_size": 0.5, "spread_candidates": True, "solver": "euler"}
    expected |= {"max_new_tokens": 5, "num_steps": 3}
    assert {name: call[name] for name in expected} == expected
    counts = [int(number) for number in re.findall(r"^ \d  step \d +(\d+)", out, re.MULTILINE)]
    assert sum(counts) <= 5


def test_the_seed_is_told_without_a_file_too(timeline):
    _, out, error = timeline(PROMPT, "--steps", 1)
    seed = re.search(r"^seed (\d+)$", error, re.MULTILINE)[1]
    assert timeline(PROMPT, "--steps", 1, "--seed", seed)[1] == out


def test_nothing_is_shown_after_the_end_of_the_text(run, checkpoint, tmp_path):
    settings = {"--steps": 3, "--max-new-tokens": 25, "--seed": 1}
    options = [word for pair in settings.items() for word in pair]
    tokens = AutoTokenizer.from_pretrained(checkpoint)
    whole = FSDFMForDiffusionLM.from_pretrained(checkpoint).eval()
    inputs = tokens(PROMPT, return_tensors="pt")
    ids = whole.generate(
        **inputs, num_steps=3, max_new_tokens=25, generator=torch.Generator().manual_seed(1), pad_after_eos=False
    )[0].tolist()
    prompt_length = inputs["input_ids"].shape[1]
    shutil.copytree(checkpoint, tmp_path / "ending")
    config = FSDFMGenerationConfig.from_pretrained(checkpoint)
    config.eos_token_id = ids[prompt_length + 4]  # what stands there ends the text
    config.save_pretrained(tmp_path / "ending")
    end = ids.index(config.eos_token_id, prompt_length) + 1
    _, out, _ = run("timeline", PROMPT, *options, "--model", tmp_path / "ending")
    counts = [int(number) for number in re.findall(r"^ \d  step \d +(\d+)", out, re.MULTILINE)]
    assert sum(counts) <= end - prompt_length <= 5
    assert tokens.pad_token not in out


def test_no_prompt_writes_a_whole_block(timeline, calls):
    code, out, _ = timeline("--steps", 2)
    assert code == 0
    assert "given" not in out
    assert "input_ids" not in calls[0]


def test_models_run_side_by_side(timeline, others, calls, tmp_path):
    path = tmp_path / "race.html"
    options = ["--dfm", others / "dfm", "--ar", others / "gpt", "--steps", 2, "--max-new-tokens", 6]
    options += ["--min-step-size", 0.25]  # which means nothing to the DFM
    code, _, error = timeline(PROMPT, *options, "--out", path)
    assert code == 0, error
    html = path.read_text(encoding="utf-8")
    titles = re.findall(r"<h2[^>]*>(.*?)</h2>", html)
    assert titles[:2] == ["FS-DFM, 2 steps", "DFM, 4 steps"]
    assert re.fullmatch(r"Autoregressive, \d tokens", titles[2])
    assert html.count("data-seconds=") == 3
    assert [call["num_steps"] for call in calls if "callback_on_step_end" not in call] == [1, 1]  # warming up
    code, out, _ = timeline(PROMPT, *options)
    assert code == 0
    assert "DFM, 4 steps\n" in out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--out", "t.pdf"], 1, "--out must end in .html, .png, .svg, .gif, .txt, but is t.pdf"),
        (["--out", "none/t.html"], 1, "there is no folder"),
        (["--out", "old.html"], 1, "--out old.html exists; --overwrite replaces it"),
        (["--ar", "gpt", "--out", "t.txt"], 1, "--out must end in .html, .png, .svg, .gif, but is t.txt"),
        (
            ["--ar", "nowhere"],
            1,
            "--ar nowhere is no folder, and no Hub id (organization/name); this package has gpt2-",
        ),
        (["--ar", "."], 1, "--ar . is no model folder: it has no config.json"),
        (["--dfm", "nowhere"], 1, "--dfm nowhere is no folder, and no Hub id"),
        (["--dfm", "gpt2-tinystories"], 1, "in fsdfm timeline (--ar gpt2-tinystories)"),
        (["--temperature", "0"], 1, "--temperature must be a number > 0"),
        (["--steps", "0"], 2, "--steps"),
        (["--overwrite"], 2, "--overwrite"),
    ],
)
def test_errors_are_one_line_and_come_before_any_work(timeline, calls, tmp_path, monkeypatch, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.html").write_text("old")
    done, out, error = timeline(PROMPT, *arguments)
    assert (done, out) == (code, "")
    assert words in last_line(error)
    assert last_line(error).startswith("fsdfm: error: ")
    assert not calls
    assert (tmp_path / "old.html").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["old.html"]


def test_overwrite_replaces_the_file(timeline, tmp_path):
    (tmp_path / "t.txt").write_text("old")
    assert timeline(PROMPT, "--steps", 1, "--out", tmp_path / "t.txt", "--overwrite")[0] == 0
    assert (tmp_path / "t.txt").read_text(encoding="utf-8") != "old"


def test_a_flow_is_no_autoregressive_model(timeline, others):
    code, _, error = timeline(PROMPT, "--ar", others / "dfm", "--steps", 1)
    assert code == 1
    assert "is a DFM or FS-DFM: name it in --dfm" in last_line(error)
