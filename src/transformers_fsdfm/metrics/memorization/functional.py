# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""How much of a set of texts stands word for word in the training text."""

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..inputs import check_sequences, token_set


NGRAM = 13  # tokens or words, if nothing else is said


class NgramIndex:
    """
    The n-grams of a training text, to look others up in. None runs over the end of a document.

    Holds a 64-bit hash of each different n-gram, 8 bytes apiece. The probability that a foreign n-gram is taken for one
    of them is their number / 2^64: below 1e-10 for a billion.

    Args:
        documents: token ids of each document, or texts, which are split at whitespace.
        n (`int`, *optional*, defaults to 13): tokens, or words, that must be equal in a row.

    Raises:
        `ValueError`: if no document has `n` tokens.
    """

    def __init__(self, documents: Iterable[Any], n: int = NGRAM) -> None:
        if n < 1:
            raise ValueError(f"`n` must be at least 1, but got {n}")
        documents = check_sequences(documents, "training")
        self.n = n
        self._word_ids: dict[str, int] | None = {} if isinstance(documents[0], str) else None
        self._hashes = np.unique(self._hash(documents, "training")[0])
        if not len(self._hashes):
            raise ValueError(f"`training` has no document of `n` = {n} tokens, so that nothing could ever match")

    def __len__(self) -> int:
        return len(self._hashes)

    @property
    def fingerprint(self) -> str:
        """Stands for what is found in it."""
        return hashlib.blake2b(self._hashes.tobytes(), digest_size=16).hexdigest()

    def count(self, sequences: Iterable[Any]) -> tuple[np.ndarray, np.ndarray]:
        """
        Of each sequence, the n-grams that stand in the training text, and all of them.

        Returns:
            `tuple[np.ndarray, np.ndarray]`: both int64 of shape `(sequences,)`.

        Raises:
            `TypeError`: if texts are looked up in an index of token ids, or the other way round.
        """
        sequences = check_sequences(sequences)
        if isinstance(sequences[0], str) != (self._word_ids is not None):
            raise TypeError("`predictions` and `training` must be of one kind, texts or token ids")
        hashes, owner = self._hash(sequences, "predictions")
        place = np.searchsorted(self._hashes, hashes)
        found = self._hashes[place.clip(max=len(self) - 1)] == hashes
        num_sequences = len(sequences)
        return np.bincount(owner[found], minlength=num_sequences), np.bincount(owner, minlength=num_sequences)

    def _hash(self, sequences: list[Any], argument: str) -> tuple[np.ndarray, np.ndarray]:
        """A hash of each n-gram, and the number of its sequence."""
        tokens = token_set(sequences, argument, self._word_ids)
        num_places = max(len(tokens.ids) - self.n + 1, 0)
        hashes = np.zeros(num_places, dtype=np.uint64)
        for offset in range(self.n):
            hashes = _mix(hashes ^ tokens.ids[offset : offset + num_places].astype(np.uint64))
        within = tokens.owner[:num_places] == tokens.owner[self.n - 1 :]
        return hashes[within], tokens.owner[:num_places][within]


def memorization(
    predictions: Iterable[Any], training: Iterable[Any] | NgramIndex, n: int | None = None
) -> dict[str, Any]:
    """
    The share of n-grams that stand in the training text.

    No number is good or bad by itself: real texts share n-grams, too, all the more where the language is simple. The
    value of held-out real text is the one to compare with; a set copied from the training text has 1. Sequences shorter
    than `n` have no n-grams and do not count.

    Args:
        predictions: token ids of each sequence, or texts, which are split at whitespace.
        training: the documents of the training text, of the same kind; or a [`NgramIndex`], to use it more than once.
        n (`int`, *optional*): as in [`NgramIndex`], whose own holds if one is given.

    Returns:
        `dict`: `memorized_share`, of all n-grams, and `copied_share`, of sequences (of those with n-grams) all of whose
        n-grams stand in the training text; in [0, 1], 0 where there are no n-grams.
        `per_sequence`: `memorized` and `ngrams`, counts. `settings`: `n`.
    """
    if not isinstance(training, NgramIndex):
        predictions = check_sequences(predictions)
        training = NgramIndex(training) if n is None else NgramIndex(training, n)
    elif n not in (None, training.n):
        raise ValueError(f"`n` = {n}, but `training` is an index of {training.n}-grams")
    memorized, total = training.count(predictions)
    long_enough = total > 0
    copied = (memorized == total)[long_enough]
    return {
        "memorized_share": float(memorized.sum() / max(total.sum(), 1)),
        "copied_share": float(copied.mean()) if len(copied) else 0.0,
        "per_sequence": {"memorized": memorized.tolist(), "ngrams": total.tolist()},
        "settings": {"n": training.n},
    }


def _mix(values: np.ndarray) -> np.ndarray:
    """A bijection of 64-bit numbers in which every bit of the input changes half of the output's: SplitMix64."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
