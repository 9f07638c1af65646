# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""What visitors may ask for."""

import pytest
import torch

from tests.conftest import generator
from tests.demo.conftest import MAX_LENGTH, make_writer
from transformers_fsdfm.demo.inputs import MAX_CHARACTERS_PER_POSITION, Run, Settings


GOOD = {
    "text": "Once upon a time",
    "num_new_tokens": 20,
    "solver": "cumulative_scalar",
    "temperature": 1.0,
    "seed": 0,
    "num_steps": 4,
}


def plan(writer, **changes) -> Run:
    return Run.plan(writer, Settings(**{**GOOD, **changes}))


def generate(run: Run) -> list[int]:
    return run.writer.model.generate(**run.arguments, generator=generator(0))[0].tolist()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"text": None}, "The text must be a string, but got None"),
        ({"text": "a\ud800"}, "lone surrogate"),
        ({"num_new_tokens": 0}, "New tokens must be a whole number from 1 on, but got 0"),
        ({"num_new_tokens": None}, "New tokens must be"),
        ({"num_steps": 0}, "Steps must be a whole number from 1 to 1,024, but got 0"),
        ({"num_steps": 1025}, "Steps must be a whole number from 1 to 1,024, but got 1025"),
        ({"num_steps": 2.5}, "Steps must be"),
        ({"num_steps": True}, "Steps must be"),
        ({"num_steps": "8"}, "Steps must be"),
        ({"seed": -1}, "Seed must be a whole number from 0"),
        ({"seed": 2**31}, "Seed must be"),
        ({"solver": "heun"}, "Solver must be one of cumulative_scalar, euler, posterior, but got 'heun'"),
        ({"solver": ["euler"]}, "Solver must be one of"),
        ({"temperature": 0}, "Temperature must be above 0"),
        ({"temperature": float("nan")}, "Temperature must be above 0"),
        ({"temperature": 11}, "up to 10"),
        ({"temperature": "hot"}, "Temperature must be above 0"),
    ],
)
def test_what_is_not_allowed_is_named(change, words):
    with pytest.raises(ValueError, match=words):
        Settings(**{**GOOD, **change})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_new_tokens": MAX_LENGTH + 1}, "65 tokens are to be written, but the model was trained on 64"),
        ({"num_new_tokens": MAX_LENGTH}, "The text would have .* tokens, but the model was trained on 64"),
        ({"text": "x ___999999___"}, "999,999 tokens are to be written"),
        ({"text": f"go ___{MAX_LENGTH}___ home"}, "The text would have"),
        ({"text": "a ___b___"}, "bad blank '___b___' at character 3"),
        ({"text": "x" * (MAX_CHARACTERS_PER_POSITION * MAX_LENGTH + 1)}, "The text has 1,025 characters, too many"),
    ],
)
def test_what_the_model_cannot_do_is_refused(writer, change, words):
    with pytest.raises(ValueError, match=words):
        plan(writer, **change)


def test_a_text_that_is_too_long_is_not_even_tokenised(writer, monkeypatch):
    monkeypatch.setattr(type(writer.tokenizer), "__call__", lambda *_, **__: pytest.fail("tokenised"))
    with pytest.raises(ValueError, match="characters, too many"):
        plan(writer, text="x" * 100_000)


def test_a_beginning_is_continued(writer):
    run = plan(writer)
    ids = generate(run)
    length = run.given_ids.shape[1]
    assert run.num_written == 20
    assert ids[:length] == writer.tokenizer("Once upon a time")["input_ids"] == run.given_ids[0].tolist()
    assert len(ids) == length + 20
    assert run.text_of(ids).startswith("Once upon a time")


def test_without_a_text_the_model_begins_and_special_tokens_are_shown(writer):
    run = plan(writer, text="")
    assert run.given_ids.shape == (1, 0)
    assert len(generate(run)) == 20
    assert run.text_of([writer.tokenizer.eos_token_id, *writer.tokenizer("dog")["input_ids"]]) == "<|endoftext|>dog"


def test_a_text_ends_where_the_model_ends_it(writer):
    run = plan(writer)
    assert run.arguments["pad_after_eos"]
    prompt, eos, pad = run.given_ids[0].tolist(), writer.tokenizer.eos_token_id, writer.tokenizer.pad_token_id
    assert run.text_of([*prompt, eos, pad, pad]) == "Once upon a time"


def test_blanks_are_filled_and_all_else_stays(writer):
    text = "Once  upon\ta ___5___ went ___2___ home. "
    run = plan(writer, text=text, num_new_tokens=50)
    ids = generate(run)
    assert run.num_written == 7
    assert (run.given_ids == -1).sum() == 7
    kept = run.given_ids[0] >= 0
    assert torch.equal(torch.tensor(ids)[kept], run.given_ids[0][kept])
    filled = run.text_of(ids)
    assert filled.startswith("Once  upon\ta ")
    assert filled.endswith(" home. ")
    assert " went " in filled


def test_special_tokens_that_are_typed_are_text(writer):
    run = plan(writer, text="a <|endoftext|><|mask|> b", num_new_tokens=5)
    special = {writer.tokenizer.eos_token_id, writer.tokenizer.mask_token_id, writer.tokenizer.pad_token_id}
    assert not special & set(run.given_ids[0].tolist())
    assert run.num_written == 5
    assert run.text_of(generate(run)).startswith("a <|endoftext|><|mask|> b")


@pytest.mark.parametrize("text", ["", "Once upon", "Once ___20___"])
def test_masks_of_a_draft_are_no_text(byte_tokenizer, text):
    run = plan(make_writer(byte_tokenizer, source_distribution="mask"), text=text)
    drafts = []
    run.writer.model.generate(
        **run.arguments,
        generator=generator(0),
        callback_on_step_end=lambda model, step, time, tensors: drafts.append(tensors["sequences"][0].tolist()),
    )
    assert run.writer.tokenizer.mask_token_id in drafts[0]
    assert not any("mask" in run.text_of(draft) for draft in drafts)


def test_a_time_grid_of_the_model_has_its_own_number_of_steps(writer):
    writer.model.generation_config.time_grid = [0.0, 0.2, 0.7, 1.0]
    assert writer.num_steps == 3


def test_an_escaped_underscore_is_text(writer):
    assert plan(writer, text=r"a \_\_\_b").text_of([0]) == "a ___b"


def test_all_settings_reach_generate(writer):
    run = plan(writer, solver="euler", temperature=0.7, num_steps=9)
    assert {key: run.arguments[key] for key in ("solver", "temperature", "num_steps", "max_new_tokens")} == {
        "solver": "euler",
        "temperature": 0.7,
        "num_steps": 9,
        "max_new_tokens": 20,
    }
