# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The columns of the report: what each one is, and which scores it is computed from."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..metrics.memorization.functional import NGRAM
from .settings import INFILL, EvaluationSettings, Mode
from .statistics import RatioData


@dataclass
class RunScores:
    """
    What the metrics say of the samples of a run.

    Args:
        per_sequence (`dict[str, list[float]]`): numbers for each sequence, under names as `"token_entropy.nats"` or,
            where a scorer judged, `"generative_perplexity[SCORER].nll"`.
        values (`dict[str, float]`): numbers of the whole set that are no means over sequences.
        deviations (`dict[str, list[float]]`): how such a number varies, from [`jackknife_deviations`].
    """

    per_sequence: dict[str, list[float]] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    deviations: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Measure:
    """
    One column.

    Args:
        key (`str`): its name in `scores.jsonl`.
        title, unit (`str`): what stands above it.
        definition (`str`): one sentence for the notes.
        numerator (`str`): of the scores of each sequence; of the values of the set if `is_of_set`.
        denominator (`str`, *optional*): the same; a mean over sequences without one.
        scale (`float`): what the ratio is multiplied with.
        is_exponential (`bool`): whether exp of the ratio is shown. Two systems are then compared by their ratio.
        is_of_set (`bool`): a number of the whole set of a seed, in [0, 1], with a jackknife interval.
        is_tested (`bool`): whether pairs of systems are tested for it.
        table (`str`): the table it stands in.
    """

    key: str
    title: str
    unit: str
    definition: str
    numerator: str
    denominator: str | None = None
    scale: float = 1.0
    is_exponential: bool = False
    is_of_set: bool = False
    is_tested: bool = False
    table: str = "quality"

    def ratio(self, runs: Sequence[RunScores], units: Sequence[Sequence[int]]) -> RatioData | None:
        """
        Numerators and denominators of all sequences of the runs, added up by unit; None if the latter are all 0.

        Args:
            units: the unit of each sequence of each run.
        """
        numerator = [self.scale * number for run in runs for number in run.per_sequence[self.numerator]]
        below = [1.0] * len(numerator)
        if self.denominator is not None:
            below = [number for run in runs for number in run.per_sequence[self.denominator]]
        if not sum(below) > 0:
            return None
        return RatioData.from_sequences(numerator, below, [unit for run in units for unit in run])

    def shown(self, ratio: float) -> float:
        """The number in the table."""
        if not self.is_exponential:
            return ratio
        return math.exp(ratio) if ratio < 700 else math.inf

    def is_in(self, scores: RunScores) -> bool:
        """Whether there are scores to compute it from."""
        return self.numerator in (scores.values if self.is_of_set else scores.per_sequence)


def measures_of(settings: EvaluationSettings, mode: Mode) -> list[Measure]:
    """All columns of a mode, in the order of the tables."""
    makers: Mapping[str, list[Measure]] = {
        "generative_perplexity": [
            measure for scorer in settings.scorer_paths for measure in _perplexities(scorer, mode.kind == INFILL)
        ],
        "infilling_accuracy": _accuracies() if mode.kind == INFILL else [],
        "mauve": [_mauve(scorer) for scorer in settings.scorer_paths],
        "token_entropy": _entropies(),
        "repetition": _repetitions(),
        "diversity": _diversities(),
    }
    found = [measure for metric, found in makers.items() if metric in settings.metrics for measure in found]
    return [*found, *(_memorizations() if settings.training_text else [])]


def _perplexities(scorer: str, is_infilling: bool) -> list[Measure]:
    source = f"generative_perplexity[{scorer}]"
    found = [
        Measure(
            f"perplexity[{scorer}]",
            f"perplexity, {scorer}",
            "per scorer token",
            f"exp of (nats of all written tokens / number of written tokens), by {scorer}. Tokens that were given are "
            "read as context and not counted.",
            f"{source}.nll",
            f"{source}.tokens",
            is_exponential=True,
            is_tested=True,
        ),
        Measure(
            f"bits_per_byte[{scorer}]",
            f"bits per byte, {scorer}",
            "bits/byte",
            "The same nats, in bits, divided by the bytes (UTF-8) of the written text; comparable between scorers.",
            f"{source}.nll",
            f"{source}.bytes",
            scale=1 / math.log(2),
        ),
        Measure(
            f"mean_sequence_perplexity[{scorer}]",
            f"mean of sequence perplexities, {scorer}",
            "per scorer token",
            "Mean over sequences of each one's own perplexity, as some papers report; a few bad sequences decide it.",
            f"{source}.perplexity",
            f"{source}.is_scored",
            table="more",
        ),
    ]
    if is_infilling:
        found.append(
            Measure(
                f"full_text_perplexity[{scorer}]",
                f"perplexity of the full text, {scorer}",
                "per scorer token",
                "The same over all tokens, those that were given included.",
                f"{source}.full_nll",
                f"{source}.full_tokens",
                is_exponential=True,
                table="more",
            )
        )
    return found


def _accuracies() -> list[Measure]:
    return [
        Measure(
            "infilling_accuracy",
            "infilling accuracy",
            "share",
            "Share of the edited positions that have the real text's token. Positions that had it by chance before "
            "sampling began do not count.",
            "infilling_accuracy.correct",
            "infilling_accuracy.positions",
            is_tested=True,
        ),
        Measure(
            "majority_accuracy",
            "accuracy of the most frequent token",
            "share",
            "What always writing the token that is most frequent at the counted positions would give.",
            "infilling_accuracy.majority_accuracy",
            is_of_set=True,
            table="more",
        ),
    ]


def _mauve(scorer: str) -> Measure:
    return Measure(
        f"mauve[{scorer}]",
        f"MAUVE, {scorer}",
        "0 to 1",
        f"MAUVE between the samples of a seed and the real text, on the last-token states of {scorer}. The row of the "
        "real text holds one half of it against the other.",
        f"mauve[{scorer}].mauve",
        is_of_set=True,
    )


def _entropies() -> list[Measure]:
    definition = "Unigram entropy of the written tokens of a sequence, mean over sequences."
    return [
        Measure(
            "token_entropy_nats", "entropy", "nats", definition, "token_entropy.nats", is_tested=True, table="diversity"
        ),
        Measure("token_entropy_bits", "entropy", "bits", definition, "token_entropy.bits", table="more"),
    ]


def _repetitions() -> list[Measure]:
    shares = [
        Measure(
            f"rep_{n}",
            f"rep-{n}",
            "share",
            f"Share of the {n}-grams of written tokens that occurred before in their sequence.",
            f"repetition.repeats_{n}",
            f"repetition.ngrams_{n}",
            is_tested=n == 4,
            table="diversity" if n == 4 else "more",
        )
        for n in (4, 2, 3)
    ]
    longest = Measure(
        "longest_repeat",
        "longest repeat",
        "tokens",
        "Length of the longest run of tokens that occurs twice in a sequence, mean over sequences.",
        "repetition.longest_repeat",
        table="more",
    )
    return [*shares, longest]


def _diversities() -> list[Measure]:
    distinct = [
        Measure(
            f"distinct_{n}",
            f"distinct-{n}",
            "share",
            f"Share of different ones among all {n}-grams of the samples of a seed.",
            f"diversity.distinct_{n}",
            is_of_set=True,
            table="diversity" if n == 2 else "more",
        )
        for n in (2, 1, 3, 4)
    ]
    self_bleu = Measure(
        "self_bleu",
        "self-BLEU",
        "0 to 1",
        "BLEU of each sequence against all others of its seed, mean; high where they resemble each other.",
        "diversity.self_bleu",
        is_of_set=True,
        table="diversity",
    )
    return [*distinct, self_bleu]


def _memorizations() -> list[Measure]:
    return [
        Measure(
            "memorized",
            f"memorized {NGRAM}-grams",
            "share",
            f"Share of the runs of {NGRAM} written tokens that stand in a document of the training text. Real text "
            "that is not in it has some, too.",
            "memorization.memorized",
            "memorization.ngrams",
            table="diversity",
        )
    ]


__all__ = ["Measure", "RunScores", "measures_of"]
