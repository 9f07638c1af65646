# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
r"""
Texts with blanks, such as `Once upon a time ___12___ went home.`, where twelve tokens are to be written.

A blank is a number between two runs of three underscores. An underscore that is text can be escaped as `\_` (and a
backslash in front of it as `\\`); this is needed only where three or more of them stand together. All other characters,
the names of special tokens included, are text.

A space in front of a blank is not given to the model: in the tokenizers in use a word's first token begins with its
space, so a space on its own would ask for a text that goes on without a word. The blank's first token is free to bring
the space along, and [`fill_blanks`] sees to it that it stands there exactly once.
"""

import itertools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_BLANK_DIGITS = 6
SYNTAX = re.compile(
    r"(?P<backslashes>\\+)(?P<underscore>_)"
    rf"|___(?P<length>0*[1-9][0-9]{{0,{MAX_BLANK_DIGITS - 1}}})___(?!__?(?!_))"
    r"|(?P<stray>_{3,}\w*)"
)


def split_blanks(text: str) -> tuple[list[str], list[int]]:
    r"""
    Takes a text with blanks apart.

    Args:
        text (`str`): such as `"Once upon a time ___12___ went home."`.

    Returns:
        `tuple[list[str], list[int]]`: the pieces of text, with escapes undone, and between them the lengths of the
        blanks in tokens; there is one piece more than there are blanks, and pieces may be empty.

    Raises:
        `ValueError`: underscores that are neither a blank nor escaped.
    """
    pieces, lengths, end = [""], [], 0
    while match := SYNTAX.search(text, end):
        pieces[-1] += text[end : match.start()]
        end = match.end()
        if match["stray"]:
            raise ValueError(
                f"`text` has a bad blank {_shortened(match['stray'])!r} at character {match.start() + 1}: write "
                f"___12___ for a blank of 12 tokens (1 to {10**MAX_BLANK_DIGITS - 1:,}), and "
                r"\_ for an underscore that is text"
            )
        if match["length"]:
            lengths.append(int(match["length"]))
            pieces.append("")
            continue
        backslashes = len(match["backslashes"])
        pieces[-1] += "\\" * (backslashes // 2)
        if backslashes % 2:
            pieces[-1] += "_"
        else:
            end -= 1  # the underscore is not escaped: it may begin a blank
    pieces[-1] += text[end:]
    return pieces, lengths


def _shortened(text: str) -> str:
    return text if len(text) <= 20 else text[:17] + "..."


def require_blanks(text: str) -> tuple[list[str], list[int]]:
    """[`split_blanks`] for a text that must have a blank: raises a `ValueError` if it has none."""
    pieces, lengths = split_blanks(text)
    if not lengths:
        raise ValueError("`text` has no blank: write ___12___ where 12 tokens are to be filled in")
    return pieces, lengths


def blanks_to_ids(text: str, tokenizer: "PreTrainedTokenizerBase") -> dict[str, Tensor]:
    """
    What `generate` needs to fill in the blanks of a text.

    Example:

    ```python
    >>> inputs = blanks_to_ids("Once upon a time ___12___ went home.", tokenizer)
    >>> ids = model.generate(**inputs, num_steps=8)
    >>> fill_blanks("Once upon a time ___12___ went home.", ids[0], tokenizer)
    ```

    Args:
        text (`str`): with one blank or more, see [`split_blanks`].
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): of the model.

    Returns:
        `dict[str, Tensor]`: `input_ids`, `attention_mask` (all ones) and `editable_mask` (True in blanks), each of
        shape `(1, sequence_length)`; the ids in blanks mean nothing.

    Raises:
        `ValueError`: `text` has no blank, or a bad one.
    """
    pieces, lengths = require_blanks(text)
    ids, editable = [], []
    for piece, length in zip(_encode_pieces(pieces, tokenizer), [*lengths, 0], strict=True):
        ids += piece + [0] * length
        editable += [False] * len(piece) + [True] * length
    input_ids = torch.tensor([ids])
    return {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "editable_mask": torch.tensor([editable]),
    }


def fill_blanks(text: str, ids: Tensor | Sequence[int], tokenizer: "PreTrainedTokenizerBase") -> str:
    """
    The text with its blanks filled in. What stood around them is taken from `text`, not from tokens, so it is the same
    to the last byte whatever the tokenizer does to it.

    Args:
        text (`str`): as it was given to [`blanks_to_ids`].
        ids (`torch.LongTensor` of shape `(sequence_length,)`, or a list): a row of what `generate` returned.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): the same as before.

    Raises:
        `ValueError`: `ids` are not as many as `text` has; `text` as in [`blanks_to_ids`].
    """
    pieces, _ = require_blanks(text)
    filled = pieces[0]
    for content, piece in zip(blank_contents(text, ids, tokenizer), pieces[1:], strict=True):
        filled += content + piece
    return filled


def blank_contents(text: str, ids: Tensor | Sequence[int], tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """What stands in each blank in the result of [`fill_blanks`]; arguments and errors as there."""
    pieces, lengths = require_blanks(text)
    ids = ids.tolist() if isinstance(ids, Tensor) else list(ids)
    encoded = _encode_pieces(pieces, tokenizer)
    expected = sum(lengths) + sum(map(len, encoded))
    if len(ids) != expected:
        raise ValueError(f"`ids` must be the {expected} tokens of `text` and its blanks, but are {len(ids)}")
    contents, start = [], 0
    for piece, piece_ids, length in zip(pieces, encoded, lengths, strict=False):
        start += len(piece_ids)
        content = _decode_texts(ids[:start], ids[start : start + length], tokenizer)
        contents.append(content.removeprefix(" ") if piece.endswith(" ") else content)
        start += length
    return contents


def _decode_texts(before: Sequence[int], ids: Sequence[int], tokenizer: "PreTrainedTokenizerBase") -> str:
    """As [`decode_after`]; where `ids` end a text and begin the next one, a blank line stands between them."""
    texts = [""]
    for is_end, group in itertools.groupby(ids, key=lambda token_id: token_id == tokenizer.eos_token_id):
        if is_end:
            before = [tokenizer.eos_token_id]
        else:
            texts.append(decode_after(before, list(group), tokenizer))
    return "\n\n".join(texts[1:])


def decode_after(
    before: Sequence[int],
    ids: Sequence[int],
    tokenizer: "PreTrainedTokenizerBase",
    skip_special_tokens: bool = True,
) -> str:
    """
    The text that `ids` add to the text of the tokens `before`.

    Decoded on their own, the first token would lose its space in tokenizers that strip the one at the start of a text.
    """

    def decode(some_ids: list[int]) -> str:
        options = {"skip_special_tokens": skip_special_tokens, "clean_up_tokenization_spaces": False}
        return cast(str, tokenizer.decode(some_ids, **options))  # a list of texts for a list of lists alone

    context = list(before[-1:])
    start, whole = decode(context), decode([*context, *ids])
    return whole.removeprefix(start) if whole.startswith(start) else decode(list(ids))


def _encode_pieces(pieces: list[str], tokenizer: "PreTrainedTokenizerBase") -> list[list[int]]:
    """The ids of each piece, without the space in front of a blank."""
    given = [*(piece.removesuffix(" ") for piece in pieces[:-1]), pieces[-1]]
    return [
        tokenizer(piece, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
        if piece
        else []
        for piece in given
    ]


__all__ = ["blank_contents", "blanks_to_ids", "decode_after", "fill_blanks", "require_blanks", "split_blanks"]
