# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""How much the texts of a set differ from each other."""

import bisect
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ...optional import require
from ..inputs import TokenSet, token_set
from ..ngrams import Ngrams, ngrams_up_to


MAX_N = 4  # of BLEU


def diversity(predictions: Iterable[Any]) -> dict[str, Any]:
    """
    Distinct-n over the whole set, and self-BLEU.

    `distinct_n` is the number of different n-grams in all sequences together, divided by the number of n-grams (Li et
    al. 2016). It falls with the size of the set and the length of its sequences: compare sets of the same size.

    Self-BLEU (Zhu et al. 2018) is the mean over sequences of the sentence BLEU of each against all others: up to
    4-grams, those that do not exist in short sequences left out, counts of 0 smoothed (both by `sacrebleu`, its
    `effective_order` and `smooth_method="exp"`). 1 for copies of one text; higher is less diverse. No sampling of
    references is needed: the clipped counts against all others come from the two largest counts of each n-gram.

    Args:
        predictions: token ids of each sequence, or texts, which are split at whitespace; at least two.

    Returns:
        `dict`: `distinct_1` to `distinct_4` and `self_bleu`, in [0, 1]; 0 where there are no n-grams.
        `per_sequence`: `self_bleu`, and `ngrams_n` and `distinct_credit_n`, whose sums have the ratio `distinct_n`: an
        n-gram that stands in the set k times gives 1/k for each.

    Raises:
        `ValueError`: if there is only one prediction.
        `ModuleNotFoundError`: if `sacrebleu` is not installed.
    """
    require("eval", "sacrebleu", what="Diversity")
    tokens = token_set(predictions)
    if len(tokens.lengths) < 2:
        raise ValueError("`predictions` has one entry: diversity compares at least two")
    result: dict[str, Any] = {}
    per_sequence: dict[str, list] = {}
    correct = []
    for ngrams in ngrams_up_to(MAX_N, tokens):
        credit = _distinct_credit(ngrams)
        result[f"distinct_{ngrams.n}"] = float(credit.sum() / max(ngrams.total.sum(), 1))
        per_sequence[f"distinct_credit_{ngrams.n}"] = credit.tolist()
        per_sequence[f"ngrams_{ngrams.n}"] = ngrams.total.tolist()
        correct.append(_matches_in_others(ngrams))
    bleu = list(_sentence_bleu(np.stack(correct, axis=1), tokens))
    return {**result, "self_bleu": float(np.mean(bleu)), "per_sequence": {**per_sequence, "self_bleu": bleu}}


def _distinct_credit(ngrams: Ngrams) -> np.ndarray:
    count = np.bincount(ngrams.code)
    return np.bincount(ngrams.owner, weights=1 / count[ngrams.code], minlength=len(ngrams.total))


def _matches_in_others(ngrams: Ngrams) -> np.ndarray:
    """BLEU's clipped count of each sequence: sum over n-grams of min(its count, the largest count in another one)."""
    # An entry for each n-gram and sequence that has it, those of one n-gram side by side with rising counts.
    num_sequences = len(ngrams.total)
    code_and_owner, count = np.unique(ngrams.code * num_sequences + ngrams.owner, return_counts=True)
    code, owner = np.divmod(code_and_owner, num_sequences)
    order = np.lexsort((count, code))
    code, owner, count = code[order], owner[order], count[order]
    num_codes = int(code[-1]) + 1 if len(code) else 0
    last = np.searchsorted(code, np.arange(num_codes), side="right") - 1  # the sequence that has it most often
    has_second = (last > 0) & (code[last - 1] == np.arange(num_codes))
    second = np.where(has_second, count[last - 1], 0)
    largest_elsewhere = np.where(np.arange(len(code)) == last[code], second[code], count[last][code])
    clipped = np.minimum(count, largest_elsewhere)
    return np.bincount(owner, weights=clipped, minlength=num_sequences).astype(np.int64)


def _sentence_bleu(correct: np.ndarray, tokens: TokenSet) -> Iterator[float]:
    from sacrebleu.metrics import BLEU

    lengths = np.sort(tokens.lengths).tolist()
    for length, matches in zip(tokens.lengths.tolist(), correct.tolist(), strict=True):
        total = [max(length - n + 1, 0) for n in range(1, MAX_N + 1)]
        reference_length = _closest_other(length, lengths)
        score = BLEU.compute_bleu(matches, total, length, reference_length, smooth_method="exp", effective_order=True)
        yield score.score / 100


def _closest_other(length: int, lengths: list[int]) -> int:
    """The length nearest to this one among the others; of two equally near ones the shorter. `lengths` is sorted."""
    place = bisect.bisect_left(lengths, length)
    neighbours = [lengths[index] for index in (place - 1, place + 1) if 0 <= index < len(lengths)]
    return min(neighbours, key=lambda other: (abs(other - length), other))
