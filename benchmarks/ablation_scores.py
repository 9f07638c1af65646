# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Samples of the ablation and their scores: for each text its likelihood, entropy and repetition."""

import json
import time as clock
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from ablation_variants import Scale
from transformers import PreTrainedTokenizerBase

from transformers_fsdfm import FSDFMForDiffusionLM
from transformers_fsdfm.evaluation.files import written_whole
from transformers_fsdfm.metrics.generative_perplexity.functional import generative_perplexity
from transformers_fsdfm.metrics.repetition.functional import repetition
from transformers_fsdfm.metrics.scorer import Scorer
from transformers_fsdfm.metrics.token_entropy.functional import token_entropy
from transformers_fsdfm.trainer.noise import seeded_generator


FEW_STEPS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Scores:
    """
    Of the texts of one variant, seed and number of steps; all lists have one entry for each text.

    Args:
        nll, tokens: nats under the scorer, and the scorer's tokens that they are of.
        entropy: of the text's tokens, in nats.
        repeats, ngrams: 4-grams of the text that stood in it before, and all its 4-grams.
        token_ids: the texts themselves.
    """

    nll: list[float]
    tokens: list[float]
    entropy: list[float]
    repeats: list[float]
    ngrams: list[float]
    token_ids: list[list[int]]


@dataclass(frozen=True)
class Result:
    """
    What is kept of one variant and seed.

    Args:
        seconds (`float`): of sampling and scoring, by the wall clock.
        scores (`dict[int, Scores]`): by number of sampling steps.
    """

    seconds: float
    scores: dict[int, Scores]

    def write(self, path: Path) -> None:
        """Writes the file, whole or not at all."""
        with written_whole(path) as unfinished:
            unfinished.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Result":
        """What [`write`] has written."""
        content = json.loads(path.read_text(encoding="utf-8"))
        scores = {int(steps): Scores(**values) for steps, values in content.pop("scores").items()}
        return cls(scores=scores, **content)


def sample_and_score(
    model: FSDFMForDiffusionLM,
    solver: str,
    seed: int,
    scale: Scale,
    tokenizer: PreTrainedTokenizerBase,
    scorer: Scorer,
) -> Result:
    """
    Texts with 1, 2, 4, 8, 16 and `scale.many_steps` steps, and their scores.

    The noise of text number i under a seed is the same for all models, solvers and numbers of steps, so that
    differences between variants are those of pairs.
    """
    start, scores = clock.perf_counter(), {}
    model.eval()
    for num_steps in (*FEW_STEPS, scale.many_steps):
        generators = [seeded_generator("ablation", seed, number) for number in range(scale.samples)]
        token_ids = model.generate(
            num_steps=num_steps,
            solver=solver,
            max_length=scale.length,
            num_return_sequences=scale.samples,
            generator=generators,
        )
        scores[num_steps] = score(token_ids.numpy(), tokenizer, scorer)
    return Result(clock.perf_counter() - start, scores)


def score(token_ids: np.ndarray, tokenizer: PreTrainedTokenizerBase, scorer: Scorer) -> Scores:
    """
    The likelihood of the decoded texts; all else of the tokens. The end of a document is kept as what it is, for the
    scorer has the same special tokens and has learned what follows.

    Args:
        token_ids (`np.ndarray` of shape `(texts, length)`): int64.
    """
    texts = tokenizer.batch_decode(token_ids, clean_up_tokenization_spaces=False)
    likelihood = generative_perplexity(texts, scorer, batch_size=64)["per_sequence"]
    repeats = repetition(token_ids)["per_sequence"]
    return Scores(
        nll=likelihood["nll"],
        tokens=likelihood["tokens"],
        entropy=token_entropy(token_ids)["per_sequence"]["nats"],
        repeats=repeats["repeats_4"],
        ngrams=repeats["ngrams_4"],
        token_ids=token_ids.tolist(),
    )
