# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""How many of the tokens that were taken out come back."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..inputs import TokenSet, check_lengths, token_set


if TYPE_CHECKING:
    from torch import Tensor


def infilling_accuracy(
    predictions: Iterable[Any],
    references: Iterable[Any],
    editable_mask: Iterable["Sequence[bool] | np.ndarray | Tensor"],
    initial_ids: Iterable[Any] | None = None,
) -> dict[str, Any]:
    """
    Share of edited positions whose token is the reference's.

    A position is edited if `editable_mask` is true there. With a uniform source, generation starts from random tokens,
    and at some edited positions these are the reference's already: whoever changes nothing is right there. With
    `initial_ids` these positions do not count:

    - `raw_accuracy`: over all edited positions, #[prediction = reference] / #;
    - `accuracy`: the same over the edited positions at which initial token and reference differ. Without `initial_ids`,
      or from a mask source, no position is left out.

    The edit mask is never guessed from where tokens differ, which takes positions that are equal by chance for kept
    ones. Exact match is a hard measure: a good text with other words has a low accuracy. `majority_accuracy` is what
    somebody reaches on the counted positions who always says the token that is most frequent there.

    Args:
        predictions: token ids of each sequence, with the kept positions.
        references: the true token ids, each sequence as long as its prediction.
        editable_mask: booleans for each sequence, true where the token was taken out.
        initial_ids (*optional*): the tokens that generation started from.

    Returns:
        `dict`: `accuracy`, `raw_accuracy`, `majority_accuracy`; `kept_unchanged`, the share of kept positions that
        still have the reference's token (1 if nothing is wrong, and if none is kept); `positions` counted, and
        `excluded`.
        `per_sequence`: `correct` and `positions` (counted ones), `raw_correct` and `edited`.

    Raises:
        `ValueError`: if lengths differ, nothing is edited, or no edited position differs from the reference at the
            start.
    """
    words: dict[str, int] = {}  # shared, should the tokens be words
    tokens, truth = token_set(predictions, words=words), token_set(references, "references", words)
    edited = _flags(editable_mask, tokens)
    _check_same_shape("references", truth, tokens)
    if not edited.any():
        raise ValueError("`editable_mask` is false everywhere: there is nothing to measure")
    counted = edited
    if initial_ids is not None:
        initial = token_set(initial_ids, "initial_ids", words)
        _check_same_shape("initial_ids", initial, tokens)
        counted = edited & (initial.ids != truth.ids)
        if not counted.any():
            raise ValueError("`initial_ids` equal `references` at every edited position: there was nothing to infill")
    right = tokens.ids == truth.ids
    per_sequence = {
        "correct": _count(right & counted, tokens),
        "positions": _count(counted, tokens),
        "raw_correct": _count(right & edited, tokens),
        "edited": _count(edited, tokens),
    }
    most_frequent = np.unique(truth.ids[counted], return_counts=True)[1].max()
    return {
        "accuracy": float(right[counted].mean()),
        "raw_accuracy": float(right[edited].mean()),
        "majority_accuracy": float(most_frequent / counted.sum()),
        "kept_unchanged": float(right[~edited].mean()) if not edited.all() else 1.0,
        "positions": float(counted.sum()),
        "excluded": float(edited.sum() - counted.sum()),
        "per_sequence": {name: counts.tolist() for name, counts in per_sequence.items()},
    }


def _flags(masks: Iterable["Sequence[bool] | np.ndarray | Tensor"], tokens: TokenSet) -> np.ndarray:
    """The masks of all sequences, one after the other."""
    flags = [np.asarray(mask.cpu() if hasattr(mask, "cpu") else mask) for mask in masks]
    check_lengths("editable_mask", flags, "predictions", tokens.lengths)
    for index, (mask, length) in enumerate(zip(flags, tokens.lengths, strict=True)):
        if mask.shape != (length,) or not np.isin(mask, (0, 1)).all():
            raise ValueError(
                f"`editable_mask[{index}]` must have {length} booleans, one for each token of the prediction"
            )
    return np.concatenate(flags).astype(bool)


def _check_same_shape(argument: str, others: TokenSet, tokens: TokenSet) -> None:
    check_lengths(argument, others.lengths, "predictions", tokens.lengths)
    if (different := np.flatnonzero(others.lengths != tokens.lengths)).size:
        index = different[0]
        raise ValueError(
            f"`{argument}[{index}]` has {others.lengths[index]} tokens, but `predictions[{index}]` has "
            f"{tokens.lengths[index]}"
        )


def _count(flags: np.ndarray, tokens: TokenSet) -> np.ndarray:
    return np.bincount(tokens.owner[flags], minlength=len(tokens.lengths))
