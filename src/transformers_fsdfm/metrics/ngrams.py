# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The n-grams of a set of sequences, each known by a number."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .inputs import TokenSet


class Ngrams(NamedTuple):
    """
    All n-grams of one n, in the order of the text. None runs over the end of a sequence.

    Attributes:
        n (`int`): tokens in each.
        code (`np.ndarray` of shape `(ngrams,)`): int64, equal where, and only where, the n-grams are equal.
        owner (`np.ndarray` of shape `(ngrams,)`): int64, the number of the sequence.
        total (`np.ndarray` of shape `(sequences,)`): int64, n-grams of each sequence.
    """

    n: int
    code: np.ndarray
    owner: np.ndarray
    total: np.ndarray


def ngrams_up_to(max_n: int, tokens: TokenSet) -> Iterator[Ngrams]:
    """The n-grams for n = 1, ..., `max_n`. Exact: no hashing."""
    token_code = np.unique(tokens.ids, return_inverse=True)[1]
    code, base = token_code, len(token_code)
    for n in range(1, max_n + 1):
        if n > 1:  # an n-gram is an (n-1)-gram and a token
            code = np.unique(code[:-1] * base + token_code[n - 1 :], return_inverse=True)[1]
        owner = tokens.owner[: len(code)]
        within = owner == tokens.owner[n - 1 :]
        yield Ngrams(n, code[within], owner[within], np.maximum(tokens.lengths - n + 1, 0))
