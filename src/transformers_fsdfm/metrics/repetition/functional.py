# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""How much of a text repeats earlier parts of it."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from ..inputs import token_set
from ..ngrams import Ngrams, ngrams_up_to


def repetition(predictions: Iterable[Any]) -> dict[str, Any]:
    """
    Shares of repeated n-grams within each sequence, and the longest repeat.

    Of a sequence's n-grams, all but the first of each kind are repeats. `rep_n` is the share of repeats among the
    n-grams of all sequences (Su et al. 2022); `seq_rep_n` is the mean over sequences of each one's own share (Welleck
    et al. 2020). The longest repeat of a sequence is the greatest number of tokens that stand in it twice, overlaps
    allowed: 6 in a text of period 2 and 8 tokens. Where there is nothing that could repeat, all values are 0.

    Args:
        predictions: token ids of each sequence, or texts, which are split at whitespace.

    Returns:
        `dict`: `rep_2`, `rep_3`, `rep_4`, `seq_rep_2`, `seq_rep_3`, `seq_rep_4`, in [0, 1]; `longest_repeat` (mean over
        sequences) and `longest_repeat_max`, in tokens; `longest_repeat_share`, of all tokens;
        `per_sequence`: `rep_n`, `repeats_n` and `ngrams_n` for each n, `longest_repeat` and `tokens`.
    """
    tokens = token_set(predictions)
    result: dict[str, Any] = {}
    per_sequence: dict[str, list] = {}
    for ngrams in ngrams_up_to(4, tokens):
        if (n := ngrams.n) == 1:
            continue
        repeats = ngrams.total - _kinds(ngrams)
        shares = repeats / np.maximum(ngrams.total, 1)
        result[f"rep_{n}"] = float(repeats.sum() / max(ngrams.total.sum(), 1))
        result[f"seq_rep_{n}"] = float(shares[ngrams.total > 0].mean()) if ngrams.total.any() else 0.0
        per_sequence[f"rep_{n}"] = shares.tolist()
        per_sequence[f"repeats_{n}"] = repeats.tolist()
        per_sequence[f"ngrams_{n}"] = ngrams.total.tolist()
    longest = np.array([longest_repeat(ids) for ids in tokens.split()])
    per_sequence |= {"longest_repeat": longest.tolist(), "tokens": tokens.lengths.tolist()}
    result["longest_repeat"] = float(longest.mean())
    result["longest_repeat_max"] = float(longest.max())
    result["longest_repeat_share"] = float(longest.sum() / max(tokens.lengths.sum(), 1))
    return {**result, "per_sequence": per_sequence}


def _kinds(ngrams: Ngrams) -> np.ndarray:
    """How many different n-grams each sequence has."""
    base = int(ngrams.code.max(initial=0)) + 1
    return np.bincount(np.unique(ngrams.owner * base + ngrams.code) // base, minlength=len(ngrams.total))


def longest_repeat(ids: np.ndarray) -> int:
    """
    The length of the longest run of tokens that stands in `ids` at two places, which may overlap; 0 if all differ.

    With the runs of 2^k tokens numbered by prefix doubling, runs of any length are pairs of such runs, so the length is
    found by bisection, sorting once for each guess.
    """
    code = np.unique(ids, return_inverse=True)[1].astype(np.int64)
    length = 1  # of the runs that `code` numbers
    if not _has_repeat(code):
        return 0
    while 2 * length <= len(ids):
        doubled = _pairs(code, length)
        if not _has_repeat(doubled):
            break
        code, length = np.unique(doubled, return_inverse=True)[1], 2 * length
    low, high = length, min(2 * length, len(ids))  # repeats of `low` tokens exist, of `high` they do not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _has_repeat(_pairs(code, middle - length)) else (low, middle)
    return low


def _pairs(code: np.ndarray, distance: int) -> np.ndarray:
    """A number for each pair of runs that begin `distance` apart."""
    return code[: len(code) - distance] * len(code) + code[distance:]


def _has_repeat(code: np.ndarray) -> bool:
    return len(np.unique(code)) < len(code)
