# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Perplexity of generated texts under another language model."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from ..inputs import check_lengths, check_texts
from ..scorer import EncodedText, Scorer, ScorerLike


class Window(NamedTuple):
    """
    A part of a text that the scorer reads at a time.

    Attributes:
        text (`int`): number of the text.
        start, stop (`int`): its tokens; the start token of the scorer, if there is one, comes before them.
        scored_from (`int`): the first token that is scored here; to `stop`.
    """

    text: int
    start: int
    stop: int
    scored_from: int


def generative_perplexity(
    predictions: Iterable[str],
    scorer: ScorerLike,
    *,
    prefixes: Iterable[str] | None = None,
    batch_size: int = 8,
    context: int | None = None,
    stride: int | None = None,
    per_position: bool = False,
    progress: bool = False,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> dict[str, Any]:
    r"""
    Perplexity of texts under a causal language model, the scorer.

    It can be gamed: a scorer finds dull and periodic texts more likely than real ones. Never report it without entropy
    and repetition beside it, nor without the scorer's name. Perplexities per token of scorers with different tokenizers
    can't be compared; bits per byte can.

    Every text is tokenised by the scorer's tokenizer and begins with its BOS token, else EOS, else nothing; then its
    first token is not scored. A text that is longer than `context` is read in windows, each of which begins with the
    same start token, and every token is scored once, after at least `context - stride` tokens unless the text has
    fewer. Empty texts have no tokens: they count in `empty_predictions` and nowhere else.

    Args:
        predictions (`Iterable[str]`): the texts.
        scorer (`str`, `os.PathLike`, pair of model and tokenizer, or [`Scorer`]): name or path of a causal language
            model, or a loaded one.
        prefixes (`Iterable[str]`, *optional*): for each text what comes before it: read as context, and not scored.
        batch_size (`int`, *optional*, defaults to 8): windows at a time; of no influence on the result.
        context (`int`, *optional*): tokens in a window, with the start token; all that the scorer can read by default.
        stride (`int`, *optional*): tokens that a further window scores, from 1 to `context`; half of `context` by
            default.
        per_position (`bool`, *optional*, defaults to `False`): adds the mean NLL of the first, second, ... scored
            token.
        progress (`bool`, *optional*, defaults to `False`): shows a bar.
        device, dtype (*optional*): of a scorer that is given by its path, see [`Scorer.load`].

    Returns:
        `dict`: `perplexity`, exp of the mean NLL of all tokens; `mean_sequence_perplexity`, the mean over texts of each
        one's own, which a single bad text dominates; `nats_per_token`; `bits_per_byte`, bytes of UTF-8; `tokens`;
        `empty_predictions`. `per_sequence`: `nll` (sum, in nats), `tokens` and `bytes`. `per_position`, if asked for:
        `nll` and `count`, the texts that are so long. `settings`: `scorer`, `start_token`, `dtype`, `context`,
        `stride`.

    Raises:
        `TypeError`, `ValueError`: if an argument does not fit, or there is no token to score.
    """
    predictions = check_texts(predictions)
    prefixes = None if prefixes is None else check_texts(prefixes, "prefixes")
    if prefixes is not None:
        check_lengths("prefixes", prefixes, "predictions", predictions)
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, but got {batch_size}")
    scorer = Scorer.load(scorer, device, dtype)
    texts = scorer.encode(predictions, prefixes)
    if not any(len(text.ids) > text.first_scored for text in texts):
        raise ValueError(
            "`predictions` have no token to score: they are empty, or one token and the scorer has no start"
        )
    context, stride = _window_sizes(scorer, texts, context, stride)
    nll = _score(scorer, texts, context, stride, batch_size, progress)
    result = summarize([values.sum() for values in nll], [len(values) for values in nll], [t.num_bytes for t in texts])
    result["empty_predictions"] = float(sum(not text for text in predictions))
    if per_position:
        result["per_position"] = _curve(nll)
    return {**result, "settings": {**scorer.settings, "context": context, "stride": stride}}


def summarize(nll: Sequence[float], tokens: Sequence[int], num_bytes: Sequence[int]) -> dict[str, Any]:
    """
    The result of [`generative_perplexity`] from the sums of each text.

    Args:
        nll: nats of each text; tokens: how many they are of; num_bytes: how many these spell.
    """
    nats, counts, sizes = np.array(nll, np.float64), np.array(tokens), np.array(num_bytes)
    scored = counts > 0
    nats_per_token = nats.sum() / counts.sum()
    with np.errstate(over="ignore"):  # a perplexity beyond 1e308 is infinite
        own_perplexity = np.exp(nats[scored] / counts[scored])
        perplexity = np.exp(nats_per_token)
    return {
        "perplexity": float(perplexity),
        "mean_sequence_perplexity": float(own_perplexity.mean()),
        "nats_per_token": float(nats_per_token),
        "bits_per_byte": float(nats.sum() / math.log(2) / sizes[scored].sum()),
        "tokens": float(counts.sum()),
        "per_sequence": {"nll": nats.tolist(), "tokens": counts.tolist(), "bytes": sizes.tolist()},
    }


def token_losses(scorer: Scorer, texts: list[EncodedText], *, batch_size: int = 8) -> list[np.ndarray]:
    """
    The NLL of each scored token of each text, from `first_scored` on, in nats, float64; windows as by default in
    [`generative_perplexity`].
    """
    context, stride = _window_sizes(scorer, texts, None, None)
    return _score(scorer, texts, context, stride, batch_size, progress=False)


def windows(text: EncodedText, index: int, context: int, stride: int, has_start: bool) -> Iterator[Window]:
    """The windows of a text that score something, in order; together they score each token from `first_scored` once."""
    size = context if has_start else context + 1  # tokens: the last one is predicted, and not read
    scored_to, stop = text.first_scored, min(size, len(text.ids))
    while True:
        if stop > scored_to:
            yield Window(index, max(stop - size, 0), stop, scored_to)
            scored_to = stop
        if stop == len(text.ids):
            return
        stop = min(stop + stride, len(text.ids))


def _window_sizes(scorer: Scorer, texts: list[EncodedText], context: int | None, stride: int | None) -> tuple[int, int]:
    if context is None:
        context = scorer.context or max(len(text.ids) for text in texts)
    elif context < 1 or (scorer.context and context > scorer.context):
        limit = f"in [1, {scorer.context}], what the scorer can read" if scorer.context else "at least 1"
        raise ValueError(f"`context` must be {limit}, but got {context}")
    if stride is None:
        stride = max(context // 2, 1)
    elif not 1 <= stride <= context:
        raise ValueError(f"`stride` must be in [1, `context` = {context}], but got {stride}")
    return context, stride


def _score(
    scorer: Scorer, texts: list[EncodedText], context: int, stride: int, batch_size: int, progress: bool
) -> list[np.ndarray]:
    """The NLL of the scored tokens of each text, in nats, float64."""
    nll = [np.zeros(len(text.ids) - text.first_scored) for text in texts]
    has_start = bool(scorer.start_ids)
    todo = [window for index, text in enumerate(texts) for window in windows(text, index, context, stride, has_start)]
    todo.sort(key=lambda window: window.stop - window.start, reverse=True)  # equal lengths together, the longest first
    with tqdm(total=len(todo), desc="Scoring", unit="window", disable=not progress) as bar:
        for first in range(0, len(todo), batch_size):
            batch = todo[first : first + batch_size]
            inputs = [[*scorer.start_ids, *texts[window.text].ids[window.start : window.stop - 1]] for window in batch]
            targets = [texts[window.text].ids[window.scored_from : window.stop] for window in batch]
            for window, values in zip(batch, scorer.token_nll(inputs, targets), strict=True):
                offset = texts[window.text].first_scored
                nll[window.text][window.scored_from - offset : window.stop - offset] = values.double().numpy()
            bar.update(len(batch))
    return nll


def _curve(nll: list[np.ndarray]) -> dict[str, list]:
    longest = max(len(values) for values in nll)
    count, total = np.zeros(longest, np.int64), np.zeros(longest)
    for values in nll:
        count[: len(values)] += 1
        total[: len(values)] += values
    return {"nll": (total / count).tolist(), "count": count.tolist()}
