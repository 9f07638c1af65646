# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""
Intervals and tests of means and ratios of sums.

Every number of the report is a ratio of two sums over sequences, R = sum(a) / sum(b): a mean has b = 1, the mean token
loss has nats over tokens, and perplexity is exp(R). What is drawn at random, and therefore resampled, is the *unit*: a
sequence, or, where several seeds share a prompt, the prompt with all its sequences.

- Intervals: the BCa bootstrap over units (Efron, "Better Bootstrap Confidence Intervals", 1987), numerator and
  denominator of a unit together. It is invariant under monotone maps, so that of exp(R) is exp of that of R.
- Numbers of a whole set that are no such ratio (distinct-n, self-BLEU, MAUVE): the delete-d jackknife (Shao and Wu, "A
  General Theory for Jackknife Variance Estimation", 1989). A bootstrap sample holds copies, which such numbers count.
- Tests: R is linear in small changes of the units, R_hat - R ~ mean_i (a_i - R b_i) / mean(b) (the delta method for
  ratios). On these values, or on their differences between two systems, unit by unit, stands Student's t with
  (number of units - 1) degrees of freedom.
- Equivalence: two one-sided tests (Schuirmann 1987). Failing to find a difference shows nothing; equivalence is
  claimed when both "smaller by the margin or more" and "larger by the margin or more" are rejected.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np


# With fewer, the 95 % interval of skewed data covers less than 90 % (see the tests).
MIN_UNITS = 20


class Verdict(str, Enum):
    """What two systems' values say about each other, at the margin and the level asked for."""

    EQUIVALENT = "equivalent"
    LOWER = "lower"
    HIGHER = "higher"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Interval:
    """A value and the ends of its confidence interval, in the value's own unit."""

    value: float
    low: float
    high: float

    def map(self, function: np.ufunc) -> "Interval":
        """The same for an increasing function of the value."""
        return Interval(*(float(function(number)) for number in (self.value, self.low, self.high)))


@dataclass(frozen=True)
class RatioData:
    """
    What R = sum(numerator) / sum(denominator) is made of.

    Args:
        numerator, denominator (`np.ndarray` of shape `(units,)`):
            Sums over the sequences of each unit.
    """

    numerator: np.ndarray
    denominator: np.ndarray

    @classmethod
    def from_sequences(
        cls, numerator: Sequence[float] | np.ndarray, denominator: Sequence[float], unit: Sequence[int]
    ) -> "RatioData":
        """
        Adds up the sequences of each unit.

        Args:
            numerator, denominator (one number for each sequence): as in the class.
            unit (one integer for each sequence): the unit that it belongs to; units are sorted by it.

        Raises:
            `ValueError`: if the lengths differ or the sum of the denominators is 0.
        """
        if not len(numerator) == len(denominator) == len(unit):
            raise ValueError(
                f"`numerator`, `denominator` and `unit` must be of one length, but have {len(numerator)}, "
                f"{len(denominator)} and {len(unit)}"
            )
        names, position = np.unique(np.asarray(unit), return_inverse=True)
        above, below = (
            np.bincount(position, weights=np.asarray(values, dtype=float), minlength=len(names))
            for values in (numerator, denominator)
        )
        if not below.sum() > 0:
            raise ValueError("`denominator` must have a sum > 0: there is nothing to take a mean of")
        return cls(above, below)

    @property
    def value(self) -> float:
        """R itself."""
        return float(self.numerator.sum() / self.denominator.sum())

    @property
    def influence(self) -> np.ndarray:
        """What each unit adds to the error of R, times the number of units; shape `(units,)`, mean 0."""
        return (self.numerator - self.value * self.denominator) / self.denominator.mean()


@dataclass(frozen=True)
class Comparison:
    """
    System A against system B on the same units.

    Args:
        difference ([`Interval`]):
            R_A - R_B; for perplexities the log of their ratio.
        p_difference (`float`):
            Two-sided p-value of "no difference".
        p_equivalence (`float`, *optional*):
            p-value of "different by the margin or more", the larger one of the two one-sided tests. None without a
            margin.
        verdict ([`Verdict`], *optional*):
            `EQUIVALENT`: within the margin, at level alpha. `LOWER`, `HIGHER`: A is below or above B by more than the
            margin, each at level alpha / 2. `UNDECIDED`: these data show none of the three. None without a margin.
    """

    difference: Interval
    p_difference: float
    p_equivalence: float | None = None
    verdict: Verdict | None = None


def ratio_interval(data: RatioData, *, confidence: float = 0.95, num_resamples: int = 2000, seed: int = 0) -> Interval:
    """
    R with its BCa bootstrap interval over units.

    Args:
        data ([`RatioData`]): at least [`MIN_UNITS`] units.
        confidence (`float`, *optional*, defaults to 0.95): share of intervals that cover the true value.
        num_resamples (`int`, *optional*, defaults to 2000): bootstrap samples.
        seed (`int`, *optional*, defaults to 0): of the resampling.

    Raises:
        `ValueError`: with too few units.
    """
    _check_units(data)
    low, high = _bootstrap((data,), confidence, num_resamples, seed)
    return Interval(data.value, low, high)


def compare_ratios(
    first: RatioData,
    second: RatioData,
    *,
    margin: float | None = None,
    alpha: float = 0.05,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """
    A paired comparison of two systems: same units in the same order.

    Args:
        first, second ([`RatioData`]): systems A and B.
        margin (`float`, *optional*): differences smaller than this do not matter, in the unit of R.
        alpha (`float`, *optional*, defaults to 0.05): level of the tests; the interval has confidence 1 - alpha.
        num_resamples, seed (`int`): of the bootstrap.

    Raises:
        `ValueError`: with unequal or too few units, or a margin that is not > 0.
    """
    from scipy.stats import t as student

    if len(first.numerator) != len(second.numerator):
        raise ValueError(
            f"a paired comparison needs the same units, but got {len(first.numerator)} and {len(second.numerator)}"
        )
    if margin is not None and not margin > 0:
        raise ValueError(f"`margin` must be > 0, but got {margin}")
    _check_units(first)
    low, high = _bootstrap((first, second), 1 - alpha, num_resamples, seed)
    difference = Interval(first.value - second.value, low, high)

    units = len(first.numerator)
    error = (first.influence - second.influence).std(ddof=1) / np.sqrt(units)
    law = student(units - 1)
    p_difference = min(1.0, 2 * _upper_tail(law, abs(difference.value), error))
    if margin is None:
        return Comparison(difference, p_difference)
    p_equivalence = max(
        _upper_tail(law, margin + difference.value, error), _upper_tail(law, margin - difference.value, error)
    )
    if p_equivalence < alpha:
        verdict = Verdict.EQUIVALENT
    elif _upper_tail(law, -difference.value - margin, error) < alpha / 2:  # as the two-sided test of a difference
        verdict = Verdict.LOWER
    elif _upper_tail(law, difference.value - margin, error) < alpha / 2:
        verdict = Verdict.HIGHER
    else:
        verdict = Verdict.UNDECIDED
    return Comparison(difference, p_difference, p_equivalence, verdict)


def jackknife_deviations(
    statistic: Callable[[np.ndarray], dict[str, float]],
    num_units: int,
    *,
    left_out: int = 1,
    num_subsets: int = 50,
    seed: int = 0,
) -> dict[str, list[float]]:
    """
    How numbers of a whole set vary when a part of it is left out, scaled so that their mean square is the squared
    standard error of the number of all (delete-d jackknife, Shao and Wu 1989).

    Leave out one for numbers that are smooth in the units, as distinct-n; leave out half for those that are not, as
    MAUVE with its clusters, whose error the former overstates several times (see the tests).

    Args:
        statistic (`Callable`): indices of the units that stay -> numbers by name, the same names each time.
        num_units (`int`): at least 2.
        left_out (`int`, *optional*, defaults to 1): d, less than `num_units`. Each unit is left out once if it is 1.
        num_subsets (`int`, *optional*, defaults to 50): random subsets, if `left_out` is more than 1.
        seed (`int`, *optional*, defaults to 0): of the subsets; sets of one size have the same ones.

    Returns:
        `dict[str, list[float]]`: the deviation of each subset, mean 0.
    """
    random = np.random.default_rng(seed)
    if left_out == 1:
        kept = [np.delete(np.arange(num_units), unit) for unit in range(num_units)]
    else:
        kept = [np.sort(random.permutation(num_units)[left_out:]) for _ in range(num_subsets)]
    found = [statistic(indices) for indices in kept]
    scale = np.sqrt((num_units - left_out) / left_out)
    columns = {name: np.array([one[name] for one in found]) for name in found[0]}
    return {name: (scale * (values - values.mean())).tolist() for name, values in columns.items()}


def share_interval(value: float, deviations: np.ndarray, num_units: int, *, confidence: float = 0.95) -> Interval:
    """
    A number in [0, 1] with the interval of Student's t from its jackknife deviations.

    Args:
        value (`float`): the number.
        deviations (`np.ndarray` of shape `(subsets,)`): from [`jackknife_deviations`].
        num_units (`int`): that it is a number of; one degree of freedom less.
        confidence (`float`, *optional*, defaults to 0.95): share of intervals that cover the expectation.
    """
    from scipy.stats import t as student

    error = float(np.sqrt(np.mean(np.square(deviations))))
    reach = float(student(num_units - 1).ppf((1 + confidence) / 2)) * error
    return Interval(value, max(0.0, value - reach), min(1.0, value + reach))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted so that the chance of any false rejection among all of them keeps the level (Holm 1979)."""
    order = np.argsort(p_values)
    steps = np.asarray(p_values, dtype=float)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(steps))
    return adjusted.tolist()


def _check_units(data: RatioData) -> None:
    if len(data.numerator) < MIN_UNITS:
        raise ValueError(
            f"the bootstrap needs at least {MIN_UNITS} independent sequences (prompts), but got {len(data.numerator)}"
        )


def _upper_tail(law: Any, distance: float, error: float) -> float:
    """P(T > distance / error); without any spread there is no doubt about the sign."""
    if error == 0:
        return 0.5 if distance == 0 else float(distance < 0)
    return float(law.sf(distance / error))


def _bootstrap(data: tuple[RatioData, ...], confidence: float, num_resamples: int, seed: int) -> tuple[float, float]:
    """The BCa interval of R, or of the difference of two, with the units of both drawn together."""
    from scipy.stats import bootstrap

    columns = [column for one in data for column in (one.numerator, one.denominator)]

    def statistic(*columns: np.ndarray, axis: int) -> np.ndarray:
        sums = [column.sum(axis) for column in columns]
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = [above / below for above, below in zip(sums[::2], sums[1::2], strict=True)]
        return ratios[0] if len(ratios) == 1 else ratios[0] - ratios[1]

    influence = data[0].influence if len(data) == 1 else data[0].influence - data[1].influence
    value = float(statistic(*columns, axis=-1))
    if np.allclose(influence, 0, rtol=0, atol=1e-12 * max(1.0, abs(value))):
        return value, value  # every resample gives the same value, which BCa can't rank
    result = bootstrap(
        columns,
        statistic,
        paired=True,
        vectorized=True,
        axis=-1,
        method="BCa",
        confidence_level=confidence,
        n_resamples=num_resamples,
        batch=200,
        rng=np.random.default_rng(seed),
    )
    low, high = result.confidence_interval
    if not np.isfinite([low, high]).all():  # BCa is not defined where all resamples lie on one side of the value
        low, high = np.nanquantile(result.bootstrap_distribution, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


__all__ = [
    "MIN_UNITS",
    "Comparison",
    "Interval",
    "RatioData",
    "Verdict",
    "compare_ratios",
    "holm",
    "jackknife_deviations",
    "ratio_interval",
    "share_interval",
]
