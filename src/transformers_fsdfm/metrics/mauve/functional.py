# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""MAUVE: how close the distribution of generated texts is to that of real ones."""

import contextlib
import itertools
import logging
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from tqdm.auto import tqdm

from ...optional import require
from ..inputs import check_texts
from ..scorer import Scorer, ScorerLike


class TextFeatures(NamedTuple):
    """
    Attributes:
        values (`np.ndarray` of shape `(pieces of all texts, hidden_size)`): float32.
        scorer (`str`): the model that they are of.
        max_tokens (`int`, *optional*): of each piece that it read; `None`: all.
        pieces (`int`, *optional*, defaults to 1): that each text was cut into.
        owner (`np.ndarray` of shape `(pieces of all texts,)`, *optional*): the text of each piece; `None`: its own.
    """

    values: np.ndarray
    scorer: str
    max_tokens: int | None
    pieces: int = 1
    owner: np.ndarray | None = None


class ReferenceFeatures(NamedTuple):
    """
    Attributes:
        first_half ([`TextFeatures`]): of one half of the real texts, with which everything is compared.
        second_half ([`TextFeatures`]): of the other half: the upper end.
        shuffled ([`TextFeatures`]): of the other half with the words of each text in random order: the lower end.
        seed (`int`): of the split and the shuffling.
    """

    first_half: TextFeatures
    second_half: TextFeatures
    shuffled: TextFeatures
    seed: int


def mauve(
    predictions: Iterable[str],
    references: Iterable[str],
    scorer: ScorerLike,
    *,
    num_buckets: int | None = None,
    scaling_factor: float = 5.0,
    seed: int = 0,
    max_tokens: int | None = None,
    pieces: int = 1,
    batch_size: int = 8,
    progress: bool = False,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> dict[str, Any]:
    r"""
    MAUVE (Pillutla et al. 2021) between generated and real texts, with the two ends of its scale.

    Texts become the last hidden state, at their last token, of a causal language model; not the vectors of a sentence
    encoder, which are blind to the order of words. A value depends on the number of texts, of buckets, the length of
    the texts and the model, so that it says nothing without the two ends, which are measured in the same way: the real
    texts are split into two halves, and the generated texts, the second half (`mauve_human`) and the second half with
    the words of each text shuffled (`mauve_shuffled`) are each compared with the first half. Give twice as many
    references as predictions: then all three compare sets of equal size.

    [`text_features`], [`reference_features`] and [`compare`] are its steps, for references that are used many times.

    Args:
        predictions, references (`Iterable[str]`): generated and real texts, at least 2 and 4, best of the same length.
        scorer: name or path of a causal language model, a pair of model and tokenizer, or a [`Scorer`].
        num_buckets, scaling_factor: see [`compare`].
        seed (`int`, *optional*, defaults to 0): of the split, the shuffling and the clustering.
        max_tokens, pieces, batch_size, progress, device, dtype: see [`text_features`].

    Returns:
        `dict`: see [`compare`].
    """
    require("eval", "mauve", what="MAUVE")
    scorer = Scorer.load(scorer, device, dtype)
    options: dict[str, Any] = {
        "max_tokens": max_tokens,
        "pieces": pieces,
        "batch_size": batch_size,
        "progress": progress,
    }
    predictions = check_texts(predictions)
    reference = reference_features(references, scorer, seed=seed, **options)
    features = text_features(predictions, scorer, **options)
    return compare(features, reference, num_buckets=num_buckets, scaling_factor=scaling_factor, seed=seed)


def text_features(
    texts: Iterable[str],
    scorer: ScorerLike,
    *,
    max_tokens: int | None = None,
    pieces: int = 1,
    batch_size: int = 8,
    progress: bool = False,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> TextFeatures:
    """
    The last hidden state of a causal language model at the last token of each text, or of each piece of it. A text
    without tokens has that of the start token.

    Args:
        texts (`Iterable[str]`): the texts.
        scorer, device, dtype: see [`Scorer.load`].
        max_tokens (`int`, *optional*): the most tokens of a piece that are read, from its beginning; all that the
            scorer can read by default.
        pieces (`int`, *optional*, defaults to 1): how many pieces of equal length, in tokens of the scorer, each text
            is cut into, no empty ones. Each counts as a text: more to compare, and of a text longer than the scorer can
            read, more than its beginning.
        batch_size (`int`, *optional*, defaults to 8): pieces at a time; of no influence on the result.
        progress (`bool`, *optional*, defaults to `False`): shows a bar.
    """
    texts = check_texts(texts, "texts")
    scorer = Scorer.load(scorer, device, dtype)
    limit = None if scorer.context is None else scorer.context - len(scorer.start_ids)
    if max_tokens is not None and (max_tokens < 1 or (limit and max_tokens > limit)):
        raise ValueError(f"`max_tokens` must be in [1, {limit or 'any'}] for this scorer, but got {max_tokens}")
    if pieces < 1:
        raise ValueError(f"`pieces` must be at least 1, but got {pieces}")
    max_tokens = max_tokens or limit
    of_texts = [_cut(text.ids, pieces) for text in scorer.encode(texts)]
    cut = [piece for text in of_texts for piece in text]
    owner = np.repeat(np.arange(len(texts)), [len(text) for text in of_texts])
    rows = [[*scorer.start_ids, *piece[:max_tokens]] for piece in cut]
    if not all(rows):
        raise ValueError("`texts` has an empty text, and the scorer no start token to stand for it")
    values: list[Any] = [None] * len(rows)
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]), reverse=True)
    with tqdm(total=len(rows), desc="Features", unit="text", disable=not progress) as bar:
        for first in range(0, len(rows), batch_size):
            batch = order[first : first + batch_size]
            for index, state in zip(batch, scorer.last_hidden_states([rows[index] for index in batch]), strict=True):
                values[index] = state.numpy()
            bar.update(len(batch))
    return TextFeatures(np.stack(values), scorer.name, max_tokens, pieces, owner)


def num_texts(features: TextFeatures) -> int:
    """How many texts the pieces are of."""
    return len(features.values) if features.owner is None else len(np.unique(features.owner))


def subset(features: TextFeatures, texts: np.ndarray) -> TextFeatures:
    """The features of some of the texts, given by their numbers, without copies."""
    owner = np.arange(len(features.values)) if features.owner is None else features.owner
    is_kept = np.isin(owner, texts)
    return features._replace(values=features.values[is_kept], owner=owner[is_kept])


def _cut(ids: list[int], pieces: int) -> list[list[int]]:
    """Pieces of equal length, give or take a token; fewer if there are fewer tokens, but at least one."""
    count = max(1, min(pieces, len(ids)))
    bounds = [len(ids) * piece // count for piece in range(count + 1)]
    return [ids[start:end] for start, end in itertools.pairwise(bounds)]


def reference_features(
    references: Iterable[str], scorer: ScorerLike, *, seed: int = 0, **options: Any
) -> ReferenceFeatures:
    """
    Features of real texts, split at random into two halves, and of the second half with shuffled words.

    Args:
        references (`Iterable[str]`): at least 4.
        scorer, options: see [`text_features`].
        seed (`int`, *optional*, defaults to 0): of the split and the shuffling.
    """
    references = check_texts(references, "references")
    if len(references) < 4:
        raise ValueError(f"`references` must be at least 4 texts, two for each half, but there are {len(references)}")
    random = np.random.default_rng(seed)
    order = random.permutation(len(references))
    middle = len(references) // 2
    first_half, second_half = ([references[index] for index in half] for half in (order[:middle], order[middle:]))
    shuffled = list(shuffle_words(second_half, random))
    return ReferenceFeatures(
        text_features(first_half, scorer, **options),
        text_features(second_half, scorer, **options),
        text_features(shuffled, scorer, **options),
        seed,
    )


def shuffle_words(texts: Iterable[str], random: np.random.Generator) -> Iterator[str]:
    """The words of each text in random order."""
    for text in texts:
        yield " ".join(random.permutation(text.split()).tolist())


def compare(
    predictions: TextFeatures,
    references: ReferenceFeatures,
    *,
    num_buckets: int | None = None,
    scaling_factor: float = 5.0,
    seed: int = 0,
) -> dict[str, Any]:
    """
    MAUVE from features.

    Args:
        predictions ([`TextFeatures`]): of generated texts.
        references ([`ReferenceFeatures`]): of real ones, by the same scorer.
        num_buckets (`int`, *optional*): clusters that pieces are counted in; a tenth of the smallest set by default,
            but at least 2. The same for all three comparisons.
        scaling_factor (`float`, *optional*, defaults to 5.0): c > 0 of the paper; a larger one makes every value
            smaller.
        seed (`int`, *optional*, defaults to 0): of the clustering.

    Returns:
        `dict`: `mauve`, `mauve_human`, `mauve_shuffled`, in (0, 1]. `per_sequence` is empty, for a distribution has no
        value for each text. `settings`: `scorer`, `max_tokens`, `pieces`, `num_buckets`, `scaling_factor`, `seed`,
        `split_seed`, `num_predictions`, `num_references`, `num_human`: the pieces in the compared sets.

    Raises:
        `ValueError`: if the features are of different scorers, lengths or pieces, or there are fewer pieces than
            buckets.
        `ModuleNotFoundError`: if `mauve-text` is not installed.
    """
    require("eval", "mauve", what="MAUVE")
    others = references.first_half
    if predictions[1:4] != others[1:4]:
        raise ValueError(
            f"`predictions` have features of {predictions.scorer} with `max_tokens` = {predictions.max_tokens} and "
            f"`pieces` = {predictions.pieces}, but `references` of {others.scorer} with {others.max_tokens} and "
            f"{others.pieces}"
        )
    smallest = min(len(predictions.values), len(others.values), len(references.second_half.values))
    if smallest < 2:
        raise ValueError("`predictions` has one text: MAUVE compares distributions, give at least 2")
    if num_buckets is None:
        num_buckets = max(2, round(smallest / 10))
    elif not 2 <= num_buckets <= smallest:
        raise ValueError(
            f"`num_buckets` must be in [2, {smallest}], the texts of the smallest set, but got {num_buckets}"
        )
    if not scaling_factor > 0:
        raise ValueError(f"`scaling_factor` must be > 0, but got {scaling_factor}")
    sets = {"mauve": predictions, "mauve_human": references.second_half, "mauve_shuffled": references.shuffled}
    values = {
        name: mauve_value(features, others, num_buckets, scaling_factor=scaling_factor, seed=seed)
        for name, features in sets.items()
    }
    settings = {
        "scorer": others.scorer,
        "max_tokens": others.max_tokens,
        "pieces": others.pieces,
        "num_buckets": num_buckets,
        "scaling_factor": scaling_factor,
        "seed": seed,
        "split_seed": references.seed,
        "num_predictions": len(predictions.values),
        "num_references": len(others.values),
        "num_human": len(references.second_half.values),
    }
    return {**values, "per_sequence": {}, "settings": settings}


def mauve_value(
    features: TextFeatures, others: TextFeatures, num_buckets: int, *, scaling_factor: float = 5.0, seed: int = 0
) -> float:
    """
    MAUVE between two sets alone, see [`compare`].

    Args:
        features, others ([`TextFeatures`]): of the same scorer.
        num_buckets, scaling_factor, seed: as in [`compare`].
    """
    with _quiet_faiss():
        from mauve import compute_mauve

        result = compute_mauve(
            p_features=features.values,
            q_features=others.values,
            num_buckets=num_buckets,
            mauve_scaling_factor=scaling_factor,
            seed=seed,
            verbose=False,
        )
    return float(result.mauve)


@contextlib.contextmanager
def _quiet_faiss() -> Iterator[None]:
    """
    Inside the `with` block, faiss says neither how it is loaded nor that its clusters have few points: ten texts for
    each are usual. It says that from C++, past logging and `sys.stderr`; the number below which it does so has no other
    effect.
    """
    loader = logging.getLogger("faiss.loader")
    level = loader.level
    loader.setLevel(logging.WARNING)
    try:
        import faiss

        with mock.patch.object(faiss, "Kmeans", partial(faiss.Kmeans, min_points_per_centroid=1)):
            yield
    finally:
        loader.setLevel(level)
