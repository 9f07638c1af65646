# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""What the metrics take: texts, and sequences of tokens. Bad ones are refused here, once."""

from collections.abc import Iterable, Sized
from typing import Any, NamedTuple

import numpy as np


class TokenSet(NamedTuple):
    """
    All tokens of a set of sequences, sequence after sequence.

    Attributes:
        ids (`np.ndarray` of shape `(tokens,)`): int64.
        owner (`np.ndarray` of shape `(tokens,)`): int64, the number of the sequence that a token belongs to;
            increasing.
        lengths (`np.ndarray` of shape `(sequences,)`): int64, tokens of each sequence; may be 0.
    """

    ids: np.ndarray
    owner: np.ndarray
    lengths: np.ndarray

    def split(self) -> list[np.ndarray]:
        """The tokens of each sequence."""
        return np.split(self.ids, self.lengths.cumsum()[:-1])


def check_texts(texts: Iterable[str], argument: str = "predictions") -> list[str]:
    """
    Texts as a list.

    Raises:
        `TypeError`: if this is one text and not many, or there is something else than a `str`.
        `ValueError`: if there is no text, or one that is not Unicode: it holds half a surrogate pair, which is what
            bytes that are not UTF-8 become under `errors="surrogateescape"`.
    """
    texts = _as_list(texts, argument)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            hint = "; decode it with errors='replace'" if isinstance(text, bytes) else ""
            raise TypeError(f"`{argument}[{index}]` must be a text (str), but is {type(text).__name__}{hint}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"`{argument}[{index}]` is not Unicode: half a surrogate pair ({text[error.start]!a}) at "
                f"character {error.start}; decode its bytes with errors='replace'"
            ) from None
    return texts


def check_sequences(sequences: Iterable[Any], argument: str = "predictions") -> list[str] | list[list[int]]:
    """
    Texts, or sequences of token ids (lists, arrays or tensors; also one of shape `(sequences, length)`), as plain
    lists.

    Raises:
        `TypeError`: if these are neither, or some of both.
        `ValueError`: as for [`check_texts`].
    """
    sequences = _as_list(sequences, argument)
    if any(isinstance(sequence, (str, bytes)) for sequence in sequences):
        return check_texts(sequences, argument)
    return [_check_ids(sequence, f"{argument}[{index}]") for index, sequence in enumerate(sequences)]


def token_set(sequences: Iterable[Any], argument: str = "predictions", words: dict[str, int] | None = None) -> TokenSet:
    """
    The tokens of all sequences: ids as they are; texts are split at whitespace, and each word gets an id.

    Args:
        sequences: what [`check_sequences`] takes.
        words (`dict[str, int]`, *optional*): the ids of known words; new words are added to it.
    """
    checked = check_sequences(sequences, argument)
    if isinstance(checked[0], str):
        words = {} if words is None else words
        checked = [[words.setdefault(word, len(words)) for word in text.split()] for text in checked]
    lengths = np.array([len(ids) for ids in checked], dtype=np.int64)
    ids = np.fromiter((token for ids in checked for token in ids), dtype=np.int64, count=int(lengths.sum()))
    return TokenSet(ids, np.repeat(np.arange(len(lengths)), lengths), lengths)


def check_lengths(argument: str, values: Sized, other: str, others: Sized) -> None:
    """Refuses lists that do not belong together."""
    if len(values) != len(others):
        raise ValueError(f"`{argument}` has {len(values)} entries, but `{other}` has {len(others)}")


def _as_list(sequences: Iterable[Any], argument: str) -> list[Any]:
    if isinstance(sequences, (str, bytes)):
        raise TypeError(f"`{argument}` must be a list, but is a single {type(sequences).__name__}: put it into a list")
    sequences = list(sequences)
    if not sequences:
        raise ValueError(f"`{argument}` is empty: there is nothing to measure")
    return sequences


def _check_ids(sequence: Any, argument: str) -> list[int]:
    sequence = sequence.detach().cpu() if hasattr(sequence, "detach") else sequence
    ids = np.asarray(sequence)
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise TypeError(f"`{argument}` must be a text or a list of token ids, but is {sequence!r:.80}")
    return ids.astype(np.int64).tolist()
