# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Unigram entropy: how evenly a text uses its tokens."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..inputs import token_set


def token_entropy(predictions: Iterable[Any], real_texts: Iterable[Any] | None = None) -> dict[str, Any]:
    """
    Entropy of the token counts of each sequence, - sum_v f(v) ln f(v), with f(v) the share of token v in the sequence.

    At most the logarithm of the length, so that only sequences of about the same length can be compared. A sequence of
    one token, or none, has entropy 0. Work on diffusion of text gives nats or bits without saying which; here are both.

    Args:
        predictions: token ids of each sequence, or texts, which are split at whitespace.
        real_texts (*optional*): of the same kind and length, to stand beside them.

    Returns:
        `dict`: `nats` and `bits`, means over sequences; `real_nats` and `real_bits` with `real_texts`;
        `per_sequence`: `nats`, `bits` and `tokens`.
    """
    nats, lengths = _entropies(predictions, "predictions")
    result: dict[str, Any] = {"nats": float(nats.mean()), "bits": float(nats.mean() / math.log(2))}
    if real_texts is not None:
        real_nats = float(_entropies(real_texts, "real_texts")[0].mean())
        result |= {"real_nats": real_nats, "real_bits": real_nats / math.log(2)}
    per_sequence = {"nats": nats.tolist(), "bits": (nats / math.log(2)).tolist(), "tokens": lengths.tolist()}
    return {**result, "per_sequence": per_sequence}


def _entropies(sequences: Iterable[Any], argument: str) -> tuple[np.ndarray, np.ndarray]:
    tokens = token_set(sequences, argument)
    nats = np.zeros(len(tokens.lengths))
    for index, ids in enumerate(tokens.split()):
        share = np.unique(ids, return_counts=True)[1] / max(len(ids), 1)
        nats[index] = 0.0 - (share * np.log(share)).sum()  # where a minus sign would make -0.0 of 0.0
    return nats, tokens.lengths
