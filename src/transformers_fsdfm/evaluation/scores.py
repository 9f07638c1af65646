# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""
Scores: what each metric says of the samples of a run, computed once and stored.

The name of a file of scores holds a fingerprint of the samples, the metric and the scorer, so that samples can be
scored again by other scorers at any time, and no score of other samples is ever taken for one of these.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import __version__
from ..metrics.generative_perplexity.functional import token_losses
from ..metrics.memorization.functional import NgramIndex
from ..metrics.scorer import Scorer
from .files import written_whole
from .measures import RunScores
from .samples import Samples
from .settings import INFILL, EvaluationSettings, Mode
from .statistics import jackknife_deviations
from .systems import ModelFolder
from .texts import MarkedText


SMOOTH_SET_METRICS = ("diversity", "infilling_accuracy")  # numbers of a set that change little with each sequence
FORMAT = 2  # of the files: those of another one are written anew


@dataclass(frozen=True, order=True)
class Job:
    """
    One metric of the samples of one run.

    Args:
        metric (`str`): its name.
        scorer (`str`, *optional*): the name of the scorer, for metrics that need one.
        pieces (`int`, *optional*, defaults to 1): that MAUVE cuts each text into.
    """

    metric: str
    scorer: str | None = None
    pieces: int = 1

    @property
    def needed_scorer(self) -> str:
        """The scorer, of a metric that needs one."""
        assert self.scorer is not None
        return self.scorer

    @property
    def name(self) -> str:
        """What stands in front of the names of its scores."""
        return self.metric if self.scorer is None else f"{self.metric}[{self.scorer}]"


def jobs_of(settings: EvaluationSettings, mode: Mode) -> list[Job]:
    """What is to be computed for every run of a mode."""
    jobs = []
    for metric in settings.metrics:
        if metric == "generative_perplexity":
            jobs += [Job(metric, scorer) for scorer in settings.scorer_paths]
        elif metric == "mauve":
            jobs += [Job(metric, scorer, settings.mauve_pieces) for scorer in settings.scorer_paths]
        elif metric != "likelihood_bound" and (metric != "infilling_accuracy" or mode.kind == INFILL):
            jobs.append(Job(metric))  # the bound is one of the model, not of samples
    return [*jobs, Job("memorization")] if settings.training_text else jobs


@dataclass
class Judge:
    """
    Computes scores; loads each scorer when it is first needed.

    Args:
        folders (`dict[str, ModelFolder]`): the scorers by name.
        real_texts (`list[str]`): what MAUVE compares with: real text that is no prompt.
        device (`torch.device`): where scorers run.
        dtype (`str`): of their weights.
        batch_size (`int`): texts at a time.
        training ([`NgramIndex`], *optional*): the text that models were trained on, for memorization.
    """

    folders: dict[str, ModelFolder]
    real_texts: list[str]
    device: torch.device
    dtype: str
    batch_size: int
    training: NgramIndex | None = None
    _scorers: dict[str, Scorer] = field(default_factory=dict, repr=False)
    _features: dict[str, Any] = field(default_factory=dict, repr=False)

    def scorer(self, name: str) -> Scorer:
        """
        Raises:
            `ValueError`: if it can't be loaded, or is no causal language model.
        """
        if name not in self._scorers:
            self._scorers[name] = Scorer.load(str(self.folders[name].path), self.device, self.dtype)
        return self._scorers[name]

    def compute(self, job: Job, samples: Samples, real: Samples) -> RunScores:
        """
        Args:
            real ([`Samples`]): the real text in the same mode; for its own scores the same as `samples`.
        """
        metric = getattr(self, f"_{job.metric}")
        result = metric(job, samples, real)
        if job.metric in SMOOTH_SET_METRICS:

            def of_some(kept: np.ndarray) -> dict[str, float]:
                some = samples.subset(kept)
                return _numbers(metric(job, some, some if samples is real else real.subset(kept)))

            result["deviations"] = jackknife_deviations(of_some, len(samples.token_ids))

        def named(part: dict[str, Any]) -> dict[str, Any]:
            return {f"{job.name}.{name}": value for name, value in part.items()}

        return RunScores(
            named(result.get("per_sequence", {})), named(_numbers(result)), named(result.get("deviations", {}))
        )

    def _generative_perplexity(self, job: Job, samples: Samples, real: Samples) -> dict[str, Any]:
        return {"per_sequence": written_nll(self.scorer(job.needed_scorer), samples.texts, self.batch_size)}

    def _mauve(self, job: Job, samples: Samples, real: Samples) -> dict[str, Any]:
        from ..metrics.mauve.functional import (
            compare,
            mauve_value,
            num_texts,
            reference_features,
            subset,
            text_features,
        )

        name = job.needed_scorer
        scorer = self.scorer(name)
        options: dict[str, Any] = {"pieces": job.pieces, "batch_size": self.batch_size}
        if name not in self._features:
            self._features[name] = reference_features(self.real_texts, scorer, **options)
        reference = self._features[name]
        if samples is real:
            features = reference.second_half
        else:
            features = text_features([one.text for one in samples.texts], scorer, **options)
        result = compare(features, reference)
        count = num_texts(features)
        buckets = result["settings"]["num_buckets"]
        result["deviations"] = jackknife_deviations(
            lambda kept: {"mauve": mauve_value(subset(features, kept), reference.first_half, buckets)},
            count,
            left_out=count // 2,
        )
        shown = ("pieces", "num_buckets", "num_references", "scaling_factor", "seed")
        return {**result, **{name: result["settings"][name] for name in shown}}

    def _token_entropy(self, job: Job, samples: Samples, real: Samples) -> dict[str, Any]:
        from ..metrics.token_entropy.functional import token_entropy

        return token_entropy(samples.written_ids)

    def _repetition(self, job: Job, samples: Samples, real: Samples) -> dict[str, Any]:
        from ..metrics.repetition.functional import repetition

        return repetition(samples.written_ids)

    def _diversity(self, job: Job, samples: Samples, real: Samples) -> dict[str, Any]:
        from ..metrics.diversity.functional import diversity

        return diversity(samples.written_ids)

    def _memorization(self, job: Job, samples: Samples, real: Samples) -> dict[str, Any]:
        assert self.training is not None  # as the settings ask for it
        runs = [samples.written_runs(number) for number in range(len(samples.token_ids))]
        found, total = self.training.count([run for of_sequence in runs for run in of_sequence])
        owner = np.repeat(np.arange(len(runs)), [len(of_sequence) for of_sequence in runs])
        sums = [np.bincount(owner, weights=count, minlength=len(runs)).tolist() for count in (found, total)]
        return {"per_sequence": {"memorized": sums[0], "ngrams": sums[1]}}

    def _infilling_accuracy(self, job: Job, samples: Samples, real: Samples) -> dict[str, Any]:
        from ..metrics.infilling_accuracy.functional import infilling_accuracy

        if samples is real:
            return {}  # it is right everywhere
        return infilling_accuracy(samples.token_ids, real.token_ids, samples.editable, samples.initial_ids)


def _numbers(result: dict[str, Any]) -> dict[str, float]:
    """What a metric says of the whole set."""
    others = ("per_sequence", "settings", "deviations")
    return {name: float(value) for name, value in result.items() if name not in others}


def written_nll(scorer: Scorer, texts: list[MarkedText], batch_size: int = 8) -> dict[str, list[float]]:
    """
    How likely a scorer finds the written part of texts.

    The scorer reads the whole text. A token counts as written if any of its characters was: so one that begins in a
    given part and ends in a written one counts. In infilling a scorer knows what stands to the left alone, so that a
    text which fits badly to its right neighbour pays at that neighbour, which only the sums over the full text see.

    Args:
        scorer ([`Scorer`]): the causal language model.
        texts (`list[MarkedText]`): they may be empty.
        batch_size (`int`, *optional*, defaults to 8): texts at a time.

    Returns:
        `dict[str, list[float]]`: for each text `nll` (sum over written tokens, nats), `tokens`, `bytes` (UTF-8, of the
        written characters), `perplexity` (its own; 0 without a written token) and `is_scored` (1 or 0); `full_nll` and
        `full_tokens`, of all tokens.
    """
    columns: dict[str, list[float]] = {
        name: [] for name in ("nll", "tokens", "bytes", "perplexity", "is_scored", "full_nll", "full_tokens")
    }
    encoded = scorer.encode([one.text for one in texts])
    losses = token_losses(scorer, encoded, batch_size=batch_size)
    for one, text, nll in zip(texts, encoded, losses, strict=True):
        if one.written == ((0, len(one.text)),):  # all of it: needs no tokenizer that tells where its tokens are
            is_written, num_bytes = np.ones(len(nll), dtype=bool), text.num_bytes
        else:
            is_written, num_bytes = _find_written(scorer, one, text.first_scored)
        own, count = float(nll[is_written].sum()), int(is_written.sum())
        row = (
            own,
            count,
            num_bytes,
            np.exp(min(own / count, 700)) if count else 0.0,
            float(count > 0),
            nll.sum(),
            len(nll),
        )
        for name, value in zip(columns, row, strict=True):
            columns[name].append(float(value))
    return columns


def _find_written(scorer: Scorer, one: MarkedText, first_scored: int) -> tuple[np.ndarray, int]:
    """Which of the scored tokens were written, bool, and how many bytes the written characters of those are."""
    spans = scorer.tokenizer(one.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)[
        "offset_mapping"
    ]
    is_written_char = np.zeros(len(one.text) + 1, dtype=bool)
    for start, end in one.written:
        is_written_char[start:end] = True
    # A token of spaces may have an empty span: it is where it stands.
    flags = [bool(is_written_char[start : max(end, start + 1)].any()) for start, end in spans[first_scored:]]
    begin = spans[first_scored - 1][1] if first_scored else 0
    num_bytes = sum(len(one.text[max(start, begin) : end].encode()) for start, end in one.written)
    return np.array(flags, dtype=bool), num_bytes


class ScoreStore:
    """
    The files of a report's scores.

    Args:
        folder (`Path`): where they are.
        scorers (`dict[str, ModelFolder]`): by name.
        settings: what else scores depend on, a JSON value.
        training (`str`, *optional*): stands for the training text, on which memorization depends.
    """

    def __init__(
        self, folder: Path, scorers: dict[str, ModelFolder], settings: Any, training: str | None = None
    ) -> None:
        self.folder, self._scorers, self._training = folder, scorers, training
        self._settings = hashlib.blake2b(json.dumps(settings).encode(), digest_size=16).hexdigest()

    def path(self, job: Job, samples: Samples, mode: str) -> Path:
        """The file of a job."""
        scorer = None if job.scorer is None else self._scorers[job.scorer].fingerprint
        training = self._training if job.metric == "memorization" else None
        content = [__version__, FORMAT, job.metric, job.pieces, scorer, samples.fingerprint, self._settings, training]
        digest = hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=10).hexdigest()
        return self.folder / mode / f"{job.name}--{digest}.json"

    def save(self, path: Path, scores: RunScores) -> None:
        """Writes a file in one piece."""
        with written_whole(path) as file:
            file.write_text(json.dumps(vars(scores)), encoding="utf-8")

    def load(self, paths: Iterable[Path]) -> RunScores:
        """All scores of a run, from the files of its jobs."""
        scores = RunScores()
        for path in paths:
            part = json.loads(path.read_text(encoding="utf-8"))
            scores.per_sequence.update(part["per_sequence"])
            scores.values.update(part["values"])
            scores.deviations.update(part["deviations"])
        return scores


__all__ = ["Job", "Judge", "ScoreStore", "jobs_of", "written_nll"]
