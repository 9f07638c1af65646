# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Texts with blanks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import generator, tiny_model
from transformers_fsdfm import blanks_to_ids, fill_blanks
from transformers_fsdfm.infilling import blank_contents, decode_after, split_blanks


STORY = "Once upon a time there was a tiny dog. He went home. 你好, naïve café 🐶!\n"


@pytest.fixture(scope="module")
def bpe():
    """A byte-level tokenizer as the trainers make them, with merges such as " time"."""
    from transformers_fsdfm.trainer.tokenizer import train_tokenizer

    return train_tokenizer([STORY] * 9, vocab_size=300)


@pytest.mark.parametrize(
    ("text", "pieces", "lengths"),
    [
        ("a ___12___ b", ["a ", " b"], [12]),
        ("___3___", ["", ""], [3]),
        ("___3______04___ x ___5___.", ["", "", " x ", "."], [3, 4, 5]),
        ("__init__ snake_case", ["__init__ snake_case"], []),
        (r"\_\_\_12\_\_\_ is text", ["___12___ is text"], []),
        (r"_\__ and ___2___", ["___ and ", ""], [2]),
        (r"a\\___2___b", ["a\\", "b"], [2]),
        (r"C:\new\x \n ___1___\\", ["C:\\new\\x \\n ", "\\\\"], [1]),
        ("", [""], []),
    ],
)
def test_blanks_and_escapes(text, pieces, lengths):
    assert split_blanks(text) == (pieces, lengths)


@pytest.mark.parametrize(
    ("text", "found", "position"),
    [
        ("a ___ b", "___", 3),
        ("___x___", "___x___", 1),
        ("___0___", "___0___", 1),
        ("one ___-3___", "___", 5),
        ("___12__ b", "___12__", 1),
        ("____12___", "____12___", 1),
        ("___12____", "___12____", 1),
        ("___ 12 ___", "___", 1),
        ("___1234567___", "___1234567___", 1),
        ("___٣___", "___٣___", 1),
        (r"___4___ then \____5___", "____5___", 0),
    ],
)
def test_a_bad_blank_is_named_with_its_place(text, found, position):
    if position == 0:  # the escape takes one underscore, what is left is a blank
        assert split_blanks(text) == (["", " then _", ""], [4, 5])
        return
    with pytest.raises(ValueError, match="write ___12___ for a blank of 12 tokens") as error:
        split_blanks(text)
    assert f"bad blank {found!r} at character {position}:" in str(error.value)


def test_a_text_without_blanks_is_refused(bpe):
    with pytest.raises(ValueError, match="`text` has no blank"):
        blanks_to_ids("Once upon a time", bpe)


def test_ids_hold_the_text_and_room_for_the_blanks(bpe):
    inputs = blanks_to_ids("Once upon a time ___12___ went home.", bpe)
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape == inputs["editable_mask"].shape
    assert inputs["editable_mask"].sum() == 12
    assert inputs["attention_mask"].all()
    kept = inputs["input_ids"][~inputs["editable_mask"]]
    assert kept.tolist() == bpe("Once upon a time")["input_ids"] + bpe(" went home.")["input_ids"]


def test_names_of_special_tokens_are_text(bpe):
    inputs = blanks_to_ids("<|mask|> ___2___<|endoftext|>", bpe)
    special = {bpe.mask_token_id, bpe.eos_token_id}
    assert not special & set(inputs["input_ids"][~inputs["editable_mask"]].tolist())
    assert bpe("<|mask|>")["input_ids"] == [bpe.mask_token_id]  # the tokenizer is as it was


@pytest.mark.parametrize("source", ["uniform", "mask"])
def test_the_model_fills_blanks_and_nothing_else(bpe, source):
    model = tiny_model(vocab_size=len(bpe) - 1, mask_token_id=len(bpe) - 1, source_distribution=source)
    text = "Once ___3___ was ___2___"
    inputs = blanks_to_ids(text, bpe)
    ids = model.generate(**inputs, num_steps=4, generator=generator(0))
    fixed = ~inputs["editable_mask"]
    assert torch.equal(ids[fixed], inputs["input_ids"][fixed])
    first, second = blank_contents(text, ids[0], bpe)
    assert fill_blanks(text, ids[0], bpe) == f"Once {first} was {second}"


def test_the_space_in_front_of_a_blank_stands_there_once(bpe):
    text = "a time ___1___."
    for written in (" dog", "dog"):
        ids = bpe("a time")["input_ids"]
        content = bpe(written)["input_ids"]
        text = f"a time ___{len(content)}___."
        assert fill_blanks(text, ids + content + bpe(".")["input_ids"], bpe) == "a time dog."


def test_special_tokens_in_a_blank_are_left_out(bpe):
    ids = [*bpe("a")["input_ids"], bpe.mask_token_id, *bpe("t")["input_ids"], bpe.eos_token_id]
    assert fill_blanks("a___3___", ids, bpe) == "at"


def test_a_blank_line_stands_between_two_texts_in_a_blank(bpe):
    first, second, end = bpe("a time")["input_ids"], bpe(" was")["input_ids"], bpe.eos_token_id
    ids = [*first, end, end, *second]
    assert fill_blanks(f"___{len(ids)}___.", [*ids, *bpe(".")["input_ids"]], bpe) == "a time\n\n was."


def test_ids_of_another_text_are_refused(bpe):
    with pytest.raises(ValueError, match="`ids` must be the 3 tokens"):
        fill_blanks("___3___", [1, 2], bpe)


def test_words_keep_their_spaces_in_a_tokenizer_that_drops_them(tokenizer):
    ids = tokenizer("w2 w3 w4 w5")["input_ids"]
    assert decode_after(ids[:2], ids[2:], tokenizer) == " w4 w5"
    assert decode_after([], ids, tokenizer) == "w2 w3 w4 w5"
    assert fill_blanks("w2 ___2___ w5", ids, tokenizer) == "w2 w3 w4 w5"


@settings(max_examples=60, deadline=None)
@given(pieces=st.lists(st.text(max_size=8), min_size=2, max_size=4), data=st.data())
def test_kept_text_comes_out_to_the_last_character(bpe, pieces, data):
    escaped = [piece.replace("\\", "").replace("_", r"\_") for piece in pieces]
    pieces = [piece.replace("\\", "") for piece in pieces]
    lengths = data.draw(st.lists(st.integers(1, 4), min_size=len(pieces) - 1, max_size=len(pieces) - 1))
    text = escaped[0] + "".join(f"___{n}___{piece}" for n, piece in zip(lengths, escaped[1:], strict=True))
    inputs = blanks_to_ids(text, bpe)
    ids = inputs["input_ids"].clone()
    seed = data.draw(st.integers(0, 2**32))
    noise = torch.randint(len(bpe), ids.shape, generator=generator(seed))
    ids = torch.where(inputs["editable_mask"], noise, ids)
    contents = blank_contents(text, ids[0], bpe)
    expected = pieces[0] + "".join(content + piece for content, piece in zip(contents, pieces[1:], strict=True))
    assert fill_blanks(text, ids[0], bpe) == expected
