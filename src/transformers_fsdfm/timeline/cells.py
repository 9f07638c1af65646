# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""From tokens to what is shown: whole characters, nothing invisible."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from operator import itemgetter
from typing import Literal, cast

import regex
from tokenizers import decoders
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode


# Marks a line break. Renderers break the line after it; where a text itself has this character it is shown by number.
NEWLINE = "↵"
# A character of more tokens than this, such as a letter under a hundred accents, is shown in parts.
MAX_TOKENS_PER_CELL = 32

_BYTE_OF_SYMBOL = {symbol: byte for byte, symbol in bytes_to_unicode().items()}
_BYTE_TOKEN = regex.compile(r"<0x([0-9A-Fa-f]{2})>")
_CHARACTER = regex.compile(r"\X")
# Control characters, line separators, and what has no glyph or turns the direction of the text around. Kept are the
# joiners inside words and emoji, and behind a black flag the letters that make it the flag of Scotland.
_HIDDEN = regex.compile(
    rf"(?V1)[\p{{Cc}}\p{{Zl}}\p{{Zp}}{NEWLINE}]"
    r"|[[\p{Cf}&&\p{Default_Ignorable_Code_Point}]--[\u200c\u200d\U000e0020-\U000e007f]]"
    r"|(?<!\U0001f3f4[\U000e0020-\U000e007f]*)[\U000e0020-\U000e007f]"
)

Kind = Literal["written", "given", "cleared"]


@dataclass(frozen=True)
class Cell:
    """
    One token, or neighbours that share a character, and what they were in the course of the steps.

    Args:
        history (`tuple[tuple[int, str], ...]`):
            Changes alone: the step, 0 for the start, and the text from then on, made visible.
        kind (`str`):
            `"written"` by the model; `"given"`, such as a prompt; or `"cleared"`, replaced after the end of the text.
        settled_step (`int`, *optional*): the step of the last change; None unless it was written.
        is_special (`bool`): whether it is an end-of-sequence, padding or other special token.
    """

    history: tuple[tuple[int, str], ...]
    kind: Kind
    settled_step: int | None = None
    is_special: bool = False

    @property
    def text(self) -> str:
        """What is shown in the end."""
        return self.history[-1][1]

    def text_at(self, step: int) -> str:
        """What is shown after a step."""
        return self.history[bisect_right(self.history, step, key=itemgetter(0)) - 1][1]


class TokenTable:
    """The bytes that each token stands for, and which tokens are special."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._added = tokenizer.added_tokens_decoder
        self._special_ids = {*tokenizer.all_special_ids, *(i for i, token in self._added.items() if token.special)}
        self._is_byte_level = _is_byte_level(tokenizer)
        self._bytes: dict[int, bytes] = {}

    def is_special(self, token_id: int) -> bool:
        """Whether it is no text: also a number that the tokenizer does not know."""
        return token_id in self._special_ids or self._tokenizer.convert_ids_to_tokens(token_id) is None

    def to_bytes(self, token_id: int) -> bytes:
        """What the token adds to a text, in UTF-8; may be part of a character."""
        if token_id not in self._bytes:
            self._bytes[token_id] = self._look_up(token_id)
        return self._bytes[token_id]

    def _look_up(self, token_id: int) -> bytes:
        token = cast("str | None", self._tokenizer.convert_ids_to_tokens(token_id))
        if token is None:
            return f"⟨{token_id}⟩".encode()
        if token_id in self._added or token_id in self._special_ids:
            return token.encode()
        if self._is_byte_level and _BYTE_OF_SYMBOL.keys() >= set(token):
            return bytes(_BYTE_OF_SYMBOL[symbol] for symbol in token)
        if match := _BYTE_TOKEN.fullmatch(token):
            return bytes.fromhex(match[1])
        # What it adds after another word: many tokenizers drop the space in front of the first.
        alone, twice = self._decode([token_id]), self._decode([token_id, token_id])
        return twice.removeprefix(alone).encode()

    def _decode(self, ids: list[int]) -> str:
        # A list of texts for a list of lists alone.
        return cast(str, self._tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def _is_byte_level(tokenizer: PreTrainedTokenizerBase) -> bool:
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    return isinstance(decoder, decoders.ByteLevel) or "ByteLevel(" in repr(decoder)


def build_cells(
    histories: Sequence[Sequence[tuple[int, int]]],
    kinds: Sequence[Kind],
    settled_steps: Sequence[int | None],
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[Cell, ...]:
    """
    The cells of a text.

    Args:
        histories: for each position its changes: step and token, -1 for a token that is not there yet.
        kinds, settled_steps: for each position; see [`Cell`].
    """
    table = TokenTable(tokenizer)
    final_ids = [changes[-1][1] for changes in histories]
    is_special = [table.is_special(token_id) for token_id in final_ids]
    cells = []
    for group in group_tokens([table.to_bytes(token_id) for token_id in final_ids], is_special):
        settled = [step for position in group if (step := settled_steps[position]) is not None]
        cells.append(
            Cell(
                history=_join_histories([histories[position] for position in group], table),
                kind="written" if settled else kinds[group[0]],
                settled_step=max(settled, default=None),
                is_special=is_special[group[0]],
            )
        )
    return _drop_first_space(cells, final_ids, tokenizer)


def group_tokens(pieces: Sequence[bytes], is_special: Sequence[bool]) -> list[range]:
    """
    Splits positions into the smallest groups that end where a character ends: what readers take for one, such as a
    letter with its accents or an emoji with its skin colour. Bytes that are no characters, and special tokens, stand
    alone.
    """
    groups = []
    for special, positions in groupby(range(len(pieces)), key=is_special.__getitem__):
        run = list(positions)
        if special:
            groups += [range(position, position + 1) for position in run]
        else:
            groups += _group_text(pieces, range(run[0], run[-1] + 1))
    return groups


def _group_text(pieces: Sequence[bytes], run: range) -> list[range]:
    # An invalid byte becomes one lone surrogate, so lengths in bytes are kept.
    text = b"".join(pieces[run.start : run.stop]).decode("utf-8", "surrogateescape")
    character_ends = _byte_ends(_CHARACTER.findall(text))
    code_point_ends = _byte_ends(text)
    groups, start = [], run.start
    for position, end in zip(run, accumulate(len(pieces[position]) for position in run), strict=True):
        is_full = position + 1 - start >= MAX_TOKENS_PER_CELL
        if end in character_ends or (is_full and end in code_point_ends):
            groups.append(range(start, position + 1))
            start = position + 1
    return groups


def _byte_ends(parts: Sequence[str]) -> set[int]:
    return {0, *accumulate(len(part.encode("utf-8", "surrogateescape")) for part in parts)}


def _join_histories(histories: Sequence[Sequence[tuple[int, int]]], table: TokenTable) -> tuple[tuple[int, str], ...]:
    """The text of neighbours after each step in which any of them changed."""
    changes = [(step, place, token_id) for place, changes in enumerate(histories) for step, token_id in changes]
    changes.sort(key=itemgetter(0))
    pieces, joined = [b""] * len(histories), []
    for step, same_step in groupby(changes, key=itemgetter(0)):
        for _, place, token_id in same_step:
            pieces[place] = b"" if token_id < 0 else table.to_bytes(token_id)
        joined.append((step, make_visible(b"".join(pieces).decode("utf-8", "replace"))))
    return tuple(joined)


def _drop_first_space(
    cells: list[Cell], final_ids: Sequence[int], tokenizer: PreTrainedTokenizerBase
) -> tuple[Cell, ...]:
    """Where the tokenizer drops the space in front of the first word, so does the first cell."""
    if cells and cells[0].text.startswith(" ") and not str(tokenizer.decode(list(final_ids))).startswith(" "):
        first = cells[0]
        history = tuple((step, text.removeprefix(" ")) for step, text in first.history)
        cells[0] = Cell(history, first.kind, first.settled_step, first.is_special)
    return tuple(cells)


def make_visible(text: str) -> str:
    """
    Puts marks in place of characters that cannot be seen: "↵" for a line break, "⇥" for a tab, "␛" for an escape,
    "⟨U+202E⟩" for one that has no picture of its own. Spaces stay.
    """
    return _HIDDEN.sub(lambda match: _mark(match[0]), text)


def _mark(character: str) -> str:
    named = {"\n": NEWLINE, "\t": "⇥", "\x7f": "␡"}
    if character in named:
        return named[character]
    return chr(0x2400 + ord(character)) if character < " " else f"⟨U+{ord(character):04X}⟩"
