# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""`fsdfm generate`, in this process and with its output in a pipe."""

import io
import json
import re

import pytest
import torch
from transformers import AutoTokenizer

from tests.conftest import generator, tiny_model
from transformers_fsdfm import FSDFMForDiffusionLM
from transformers_fsdfm.cli import _options
from transformers_fsdfm.flow_fsdfm import SOLVERS


PROMPT = "Once upon a time"
SUMMARY = r"\d+ tokens( \(\d+ up to the end of the text\))? in \d+ steps?, \d+\.\d\d s: [\d,]+ tokens/s \(seed \d+\)\n"


@pytest.fixture
def generate(run, checkpoint):
    """Runs `fsdfm generate ... --model CHECKPOINT`."""
    return lambda *arguments: run("generate", *arguments, "--model", checkpoint)


def type_on_stdin(monkeypatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_standard_output_gets_the_text_alone(generate, checkpoint):
    code, out, error = generate(PROMPT, "--seed", 3, "--num-steps", 4, "--keep-after-eos")
    assert code == 0
    model = FSDFMForDiffusionLM.from_pretrained(checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    ids = model.generate(**tokenizer(PROMPT, return_tensors="pt"), num_steps=4, generator=generator(3))
    assert out == tokenizer.decode(ids[0]) + "\n"
    assert re.fullmatch(SUMMARY, error)
    assert "(seed 3)" in error


def test_a_seed_that_was_drawn_brings_the_text_back(generate):
    _, first, error = generate(PROMPT)
    _, second, _ = generate(PROMPT)
    assert first != second
    seed = re.search(r"seed (\d+)", error)[1]
    assert generate(PROMPT, "--seed", seed)[1] == first


def test_json_for_machines(generate, checkpoint):
    options = ["--num-steps", 4, "--max-new-tokens", 20, "--num-samples", 2, "--seed", 5, "--final-temperature", 0.9]
    code, out, _ = generate(PROMPT, "--json", *options)
    record = json.loads(out)
    assert code == 0
    assert list(record) == [
        *("model", "prompt", "seed", "num_steps", "sampling", "num_function_evaluations"),
        *("seconds", "tokens_per_second", "samples"),
    ]
    assert (record["model"], record["prompt"], record["seed"]) == (str(checkpoint), PROMPT, 5)
    assert record["num_steps"] == 4
    assert record["sampling"] == {
        "solver": "cumulative_scalar",
        "time_shift": 1.0,
        "min_step_size": None,
        "spread_candidates": False,
        "temperature": 1.0,
        "final_temperature": 0.9,
        "top_k": None,
        "top_p": None,
    }
    assert 0 < record["num_function_evaluations"] <= 4
    assert record["tokens_per_second"] == pytest.approx(40 / record["seconds"], rel=0.05)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    prompt_ids = tokenizer(PROMPT)["input_ids"]
    assert len(record["samples"]) == 2
    for sample in record["samples"]:
        assert list(sample) == ["text", "written", "token_ids", "last_changed_step"]
        assert sample["text"] == PROMPT + sample["written"][0]
        assert sample["token_ids"][: len(prompt_ids)] == prompt_ids
        assert len(sample["token_ids"]) == len(sample["last_changed_step"]) == len(prompt_ids) + 20
        assert max(sample["last_changed_step"]) <= 4
    plain = generate(PROMPT, *options)[1]
    assert plain == "\n".join(sample["text"] + "\n" for sample in record["samples"])


@pytest.mark.parametrize(
    ("option", "setting"),
    [
        (["--num-steps", 3], {"num_steps": 3}),
        (["--num_steps", 3], {"num_steps": 3}),
        (["--max-new-tokens", 9], {"max_new_tokens": 9}),
        (["--length", 30], {"max_length": 30}),
        (["--temperature", 0.5], {"temperature": 0.5}),
        (["--final-temperature", 0], {"final_temperature": 0.0}),
        (["--top-k", 5], {"top_k": 5}),
        (["--top-p", 0.9], {"top_p": 0.9}),
        (["--time-shift", 3], {"time_shift": 3.0}),
        (["--min-step-size", 0.25], {"min_step_size": 0.25}),
        (["--spread"], {"spread_candidates": True}),
        (["--spread-candidates"], {"spread_candidates": True}),
        (["--no-spread"], {"spread_candidates": False}),
        (["--solver", "euler"], {"solver": "euler"}),
        (["--solver", "cumulative_scalar"], {"solver": "cumulative_scalar"}),
        (["--solver", "cumulative-scalar"], {"solver": "cumulative_scalar"}),
        (["--max-time", 20], {"max_time": 20.0}),
        (["--num-samples", 2], {"num_return_sequences": 2}),
    ],
)
def test_options_reach_the_library(generate, calls, option, setting):
    assert generate(PROMPT, *option)[0] == 0
    (call,) = calls
    own = {"input_ids", "attention_mask", "generator", "callback_on_step_end", "return_dict_in_generate"}
    assert {name: value for name, value in call.items() if name not in own} == {"num_return_sequences": 1} | setting


def test_the_choices_of_solver_and_dtype_are_those_of_the_library():
    assert {choice.value for choice in _options.Solver} == set(SOLVERS)
    assert all(isinstance(getattr(torch, choice.value), torch.dtype) for choice in _options.DType)


def test_device_and_dtype_reach_the_model(generate, monkeypatch):
    seen = []
    monkeypatch.setattr(
        FSDFMForDiffusionLM, "_check_state", lambda self, streamer: seen.append((self.dtype, self.device.type))
    )
    assert generate("--dtype", "bfloat16", "--device", "cpu")[0] == 0
    assert seen == [(torch.bfloat16, "cpu")]


def test_without_a_prompt_a_whole_block_is_written(generate, calls):
    record = json.loads(generate("--json")[1])
    assert record["prompt"] == ""
    assert len(record["samples"][0]["token_ids"]) == 64
    assert "input_ids" not in calls[0]


def test_json_holds_nothing_that_a_terminal_obeys(generate):
    prompt = 'a\x1b[2J\x9b2J\x7f"你'
    _, out, _ = generate(prompt, "--json", "--num-steps", 1)
    assert json.loads(out)["prompt"] == prompt
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", out)
    assert "你" in out


@pytest.mark.parametrize("line_end", [b"", b"\n", b"\r\n"])
def test_the_prompt_may_come_from_standard_input(generate, monkeypatch, line_end):
    type_on_stdin(monkeypatch, "Once,\r\nnaïve 🐶".encode() + line_end)
    record = json.loads(generate("-", "--json")[1])
    assert record["prompt"] == "Once,\r\nnaïve 🐶"


def test_standard_input_that_is_no_text_is_refused(generate, monkeypatch):
    type_on_stdin(monkeypatch, b"Once \xff upon")
    assert generate("-") == (1, "", "fsdfm: error: PROMPT: standard input is not UTF-8, see byte 6\n")
    assert generate("Once \udcff") == (1, "", "fsdfm: error: PROMPT is not UTF-8, see character 6\n")


@pytest.fixture
def ending_checkpoint(checkpoint, tmp_path):
    """A model that writes nothing but the end-of-text token."""
    model = FSDFMForDiffusionLM.from_pretrained(checkpoint)
    model.lm_head.bias.data[model.config.eos_token_id] = 1000
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_text_ends_at_the_end_of_text_token(run, ending_checkpoint):
    options = ["--max-new-tokens", 3, "--model", ending_checkpoint]
    _, out, error = run("generate", PROMPT, *options)
    assert out == PROMPT + "\n"
    assert error.startswith("3 tokens (0 up to the end of the text) in 8 steps")
    assert run("generate", PROMPT, "--keep-after-eos", *options)[1] == PROMPT + "<|endoftext|>" * 3 + "\n"
    assert run("generate", *options)[1] == "<|endoftext|>" * 3 + "\n"


def test_the_space_after_a_prompt_stands_there_once(generate, checkpoint):
    with_space = json.loads(generate(PROMPT + " ", "--json", "--seed", 1)[1])
    without = json.loads(generate(PROMPT, "--json", "--seed", 1)[1])
    assert with_space["samples"][0]["token_ids"] == without["samples"][0]["token_ids"]
    written = without["samples"][0]["written"][0]
    assert with_space["samples"][0]["text"] == PROMPT + " " + written.removeprefix(" ")


def test_a_result_goes_to_a_file(generate, tmp_path):
    out = tmp_path / "story.txt"
    code, shown, error = generate(PROMPT, "--seed", 2, "--out", out)
    assert (code, shown) == (0, "")
    assert re.fullmatch(SUMMARY + f"Wrote {re.escape(str(out))}\n", error)
    text = generate(PROMPT, "--seed", 2)[1]
    assert out.read_bytes() == text.encode()
    code, _, error = generate(PROMPT, "--out", out)
    assert (code, error) == (1, f"fsdfm: error: --out {out} exists; --overwrite replaces it\n")
    assert out.read_bytes() == text.encode()
    assert generate(PROMPT, "--json", "--out", out, "--overwrite")[0] == 0
    assert json.loads(out.read_text())["prompt"] == PROMPT
    assert list(tmp_path.iterdir()) == [out]


def test_a_link_stays_a_link(generate, tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    assert generate(PROMPT, "--out", tmp_path / "link", "--overwrite")[0] == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text().startswith(PROMPT)


@pytest.mark.parametrize(
    ("out", "words"),
    [("no/such/folder.txt", "there is no folder"), (".", "is no file"), ("/dev/null", "--out /dev/null is no file")],
)
def test_a_file_that_cannot_be_written_is_refused_at_once(generate, calls, tmp_path, monkeypatch, out, words):
    monkeypatch.chdir(tmp_path)
    code, _, error = generate(PROMPT, "--out", out, "--overwrite")
    assert code == 1
    assert words in error
    assert not calls


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_no_half_file_is_left(generate, tmp_path, monkeypatch, failure):
    out = tmp_path / "story.txt"
    out.write_text("old")

    def fail(descriptor):
        raise failure

    monkeypatch.setattr("os.fsync", fail)
    code, _, error = generate(PROMPT, "--out", out, "--overwrite")
    assert code == (130 if failure is KeyboardInterrupt else 1)
    assert "Traceback" not in error
    assert out.read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


def test_a_file_that_appeared_meanwhile_is_kept(generate, tmp_path, monkeypatch):
    out = tmp_path / "story.txt"
    monkeypatch.setattr("os.fsync", lambda descriptor: out.write_text("somebody else's"))
    code, _, error = generate(PROMPT, "--out", out)
    assert (code, out.read_text()) == (1, "somebody else's")
    assert f"--out {out} exists by now; --overwrite replaces it" in error
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--temperature", "0"], "--temperature must be a number > 0, but got 0.0; --final-temperature 0 makes"),
        (["--temperature", "nan"], "--temperature must be a number > 0"),
        (["--top-p", "1.5"], "--top-p must be in (0, 1], but got 1.5"),
        (["--max-time", "0"], "--max-time must be a number > 0"),
        (
            ["Once upon a time there was", "--length", "3"],
            "of PROMPT within --length=3; pass a larger",
        ),
        (["Once<|mask|>time"], "PROMPT holds <|mask|>; `fsdfm infill` fills in blanks"),
        (["--device", "cuda:77"], "--device cuda:77 cannot be used"),
        (["--device", "toaster"], "--device toaster cannot be used"),
    ],
)
def test_bad_values_are_one_line_and_exit_code_1(generate, arguments, words):
    code, out, error = generate(*arguments)
    assert (code, out) == (1, "")
    assert error.startswith("fsdfm: error: ")
    assert error.count("\n") == 1
    assert words in error


def test_settings_are_checked_before_a_model_is_loaded(generate, monkeypatch):
    monkeypatch.setattr("transformers_fsdfm.cli._model.load", None)
    assert generate("--temperature", "-1")[0] == 1


def test_several_windows_and_many_tokens(generate):
    record = json.loads(generate(PROMPT, "--max-new-tokens", 150, "--num-steps", 2, "--json")[1])
    assert len(record["samples"][0]["token_ids"]) > 150
    assert record["num_steps"] > 2


def test_a_mask_source_is_served_too(run, checkpoint, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    special = {name: getattr(tokenizer, name) for name in ("eos_token_id", "pad_token_id", "mask_token_id")}
    model = tiny_model(
        vocab_size=len(tokenizer) - 1, source_distribution="mask", step_size_conditioning=False, **special
    )
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    code, out, _ = run("generate", PROMPT, "--model", tmp_path, "--num-steps", 5)
    assert code == 0
    assert out.startswith(PROMPT)
