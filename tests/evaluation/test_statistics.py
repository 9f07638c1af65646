# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Intervals and tests on data of which the truth is known."""

import math
from collections import Counter

import numpy as np
import pytest

from transformers_fsdfm.evaluation.statistics import (
    MIN_UNITS,
    RatioData,
    Verdict,
    compare_ratios,
    holm,
    jackknife_deviations,
    ratio_interval,
    share_interval,
)


MARGIN = math.log(1.05)


def losses(random: np.random.Generator, mean: float, difficulty: np.ndarray, noise: float = 0.2) -> RatioData:
    """Skewed nats of texts of unequal length, which depend on how hard a prompt is: sum(nats) / sum(tokens) -> mean."""
    tokens = random.integers(80, 120, len(difficulty)).astype(float)
    own = random.gamma(4, noise / 2, len(difficulty)) - 2 * noise
    return RatioData(tokens * (mean + difficulty + own), tokens)


def pair(random: np.random.Generator, units: int, log_ratio: float, noise: float = 0.2) -> tuple[RatioData, RatioData]:
    difficulty = random.normal(0, 0.5, units)
    return losses(random, 3 + log_ratio, difficulty, noise), losses(random, 3, difficulty, noise)


# ---- Numbers of a whole set ------------------------------------------------------------------------------------------


def standard_error(statistic, units: int, **options) -> float:
    found = jackknife_deviations(lambda kept: {"x": statistic(kept)}, units, **options)["x"]
    assert np.mean(found) == pytest.approx(0, abs=1e-12)
    return float(np.sqrt(np.mean(np.square(found))))


def test_the_jackknife_of_a_mean_has_its_standard_error():
    numbers = np.random.default_rng(0).normal(size=30)
    known = numbers.std(ddof=1) / math.sqrt(30)
    assert standard_error(lambda kept: numbers[kept].mean(), 30) == pytest.approx(known)
    by_halves = standard_error(lambda kept: numbers[kept].mean(), 30, left_out=15, num_subsets=4000)
    assert by_halves == pytest.approx(known, rel=0.05)


def test_of_sets_of_one_size_the_same_units_are_left_out():
    seen = [[], []]
    for kept_sets in seen:
        jackknife_deviations(lambda kept, to=kept_sets: to.append(kept.tolist()) or {"x": 0.0}, 9, left_out=4)
    assert seen[0] == seen[1]
    assert len(seen[0]) == 50
    assert {len(set(kept)) for kept in seen[0]} == {5}
    assert set().union(*seen[0]) == set(range(9))


def test_intervals_of_distinct_words_cover_what_sets_of_their_size_have():
    """Texts of 30 words of which each prefers some; the share of different pairs of words in a set of 24."""
    random = np.random.default_rng(1)

    def texts() -> np.ndarray:
        taste = random.gamma(2, 0.5, (24, 1, 1))
        law = np.cumsum(np.arange(1, 101.0) ** -(0.7 + 0.3 * taste), axis=-1)
        return (random.random((24, 30, 1)) * law[..., -1:] > law).sum(-1)

    def distinct(words: np.ndarray) -> float:
        pairs = words[:, :-1] * 100 + words[:, 1:]
        return len(np.unique(pairs)) / pairs.size

    truth = np.mean([distinct(texts()) for _ in range(1000)])
    covered = 0
    for _ in range(400):
        words = texts()
        found = jackknife_deviations(lambda kept, words=words: {"x": distinct(words[kept])}, 24)["x"]
        interval = share_interval(distinct(words), np.array(found), 24)
        covered += interval.low <= truth <= interval.high
    assert 0.91 <= covered / 400 <= 0.99


def test_a_number_that_is_not_smooth_needs_halves():
    """The largest of 30 numbers: leaving out one changes nothing or too much, leaving out half overstates it less."""
    numbers = np.random.default_rng(2).random((200, 30))
    true = numbers.max(1).std()

    def typical_error(left_out: int) -> float:
        errors = [standard_error(lambda kept, row=row: row[kept].max(), 30, left_out=left_out) for row in numbers]
        return math.sqrt(np.mean(np.square(errors)))

    single, halves = typical_error(1), typical_error(15)
    assert abs(math.log(halves / true)) < abs(math.log(single / true))


def test_an_interval_stays_between_nothing_and_all():
    interval = share_interval(0.98, np.array([0.1, -0.1]), 24)
    assert (interval.value, interval.high) == (0.98, 1)
    assert 0.75 < interval.low < 0.8


# ---- Data ------------------------------------------------------------------------------------------------------------


def test_a_ratio_is_one_of_sums_and_its_units_add_up():
    data = RatioData.from_sequences([1, 2, 3, 4], [1, 1, 2, 4], unit=[7, 3, 7, 3])
    assert data.numerator.tolist() == [6, 4]
    assert data.denominator.tolist() == [5, 3]
    assert data.value == 10 / 8


def test_influence_is_the_derivative_of_the_ratio():
    data, _ = pair(np.random.default_rng(0), 30, 0)
    for unit in (0, 11):
        weight = np.ones(30)
        weight[unit] += 1e-6
        changed = (weight @ data.numerator) / (weight @ data.denominator)
        assert (changed - data.value) / 1e-6 * 30 == pytest.approx(data.influence[unit], rel=1e-4)
    assert data.influence.mean() == pytest.approx(0, abs=1e-12)


def test_data_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="of one length"):
        RatioData.from_sequences([1], [1, 2], [0, 1])
    with pytest.raises(ValueError, match="sum > 0"):
        RatioData.from_sequences([1, 2], [0, 0], [0, 1])
    few = RatioData(np.ones(MIN_UNITS - 1), np.ones(MIN_UNITS - 1))
    with pytest.raises(ValueError, match=f"at least {MIN_UNITS} independent"):
        ratio_interval(few)
    with pytest.raises(ValueError, match=f"at least {MIN_UNITS} independent"):
        compare_ratios(few, few)
    first, second = pair(np.random.default_rng(0), 30, 0)
    with pytest.raises(ValueError, match="the same units, but got 30 and 29"):
        compare_ratios(first, RatioData(second.numerator[1:], second.denominator[1:]))
    with pytest.raises(ValueError, match="`margin` must be > 0"):
        compare_ratios(first, second, margin=0)


# ---- Intervals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("units", "lowest"), [(MIN_UNITS, 0.88), (100, 0.92)])
def test_intervals_cover_the_true_ratio_as_often_as_they_say(units, lowest):
    random = np.random.default_rng(units)
    covered = []
    for _ in range(300):
        interval = ratio_interval(losses(random, 3, random.normal(0, 0.5, units)), num_resamples=300)
        assert interval.low <= interval.value <= interval.high
        covered.append(interval.low <= 3 <= interval.high)
    assert lowest < np.mean(covered) < 0.98


def test_sequences_of_one_prompt_do_not_count_as_independent():
    random = np.random.default_rng(0)
    naive, right = [], []
    for _ in range(150):
        difficulty = np.tile(random.normal(0, 0.5, 25), 4)  # 25 prompts under 4 seeds
        data = losses(random, 3, difficulty)
        by_prompt = RatioData.from_sequences(data.numerator, data.denominator, list(range(25)) * 4)
        for covered, one in ((naive, data), (right, by_prompt)):
            interval = ratio_interval(one, num_resamples=200)
            covered.append(interval.low <= 3 <= interval.high)
    assert np.mean(naive) < 0.8
    assert np.mean(right) > 0.88


def test_intervals_depend_on_the_seed_alone_and_shrink_with_confidence():
    data, _ = pair(np.random.default_rng(0), 40, 0)
    first = ratio_interval(data, seed=3)
    assert first == ratio_interval(data, seed=3) != ratio_interval(data, seed=4)
    wide, narrow = ratio_interval(data, confidence=0.99), ratio_interval(data, confidence=0.8)
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_without_spread_the_interval_is_a_point():
    interval = ratio_interval(RatioData(np.full(30, 2.0), np.full(30, 4.0)))
    assert (interval.value, interval.low, interval.high) == (0.5, 0.5, 0.5)


def test_a_share_of_nearly_nothing_still_has_an_interval():
    found = np.zeros(40)
    found[3] = 1
    interval = ratio_interval(RatioData(found, np.full(40, 10.0)))
    assert 0 <= interval.low <= 1 / 400 <= interval.high < 0.02


# ---- Comparisons -----------------------------------------------------------------------------------------------------


def shares(log_ratio: float, units: int, runs: int, noise: float = 0.2) -> Counter:
    """How often each verdict is given."""
    random = np.random.default_rng(units)
    pairs = (pair(random, units, log_ratio, noise) for _ in range(runs))
    verdicts = Counter(compare_ratios(*one, margin=MARGIN, num_resamples=100).verdict for one in pairs)
    return Counter({verdict: count / runs for verdict, count in verdicts.items()})


@pytest.mark.parametrize(("sign", "beyond"), [(-1, Verdict.LOWER), (1, Verdict.HIGHER)])
def test_at_the_margin_one_case_in_twenty_is_called_equivalent_and_one_in_forty_different(sign, beyond):
    found = shares(sign * MARGIN, units=60, runs=400, noise=0.05)
    assert 0.02 < found[Verdict.EQUIVALENT] < 0.085
    assert 0.005 < found[beyond] < 0.055
    assert found.keys() == {Verdict.EQUIVALENT, Verdict.UNDECIDED, beyond}


def test_equal_systems_are_found_equivalent_with_enough_data():
    assert shares(0, units=100, runs=60, noise=0.06)[Verdict.EQUIVALENT] > 0.9


def test_a_missing_difference_is_no_equivalence():
    assert shares(0, units=MIN_UNITS, runs=60, noise=1.0)[Verdict.UNDECIDED] > 0.9


@pytest.mark.parametrize(("verdict", "log_ratio"), [(Verdict.HIGHER, 0.3), (Verdict.LOWER, -0.3)])
def test_differences_beyond_the_margin_are_found_with_their_direction(verdict, log_ratio):
    assert shares(log_ratio, units=100, runs=40)[verdict] > 0.95


def test_equal_systems_are_called_different_in_one_case_of_twenty():
    random = np.random.default_rng(0)
    found = [compare_ratios(*pair(random, 60, 0), num_resamples=100) for _ in range(400)]
    assert 0.025 < np.mean([one.p_difference < 0.05 for one in found]) < 0.085
    covered = np.mean([one.difference.low <= 0 <= one.difference.high for one in found])
    assert 0.9 < covered < 0.98
    assert all(one.verdict is None and one.p_equivalence is None for one in found)


def test_pairing_makes_small_differences_visible():
    first, second = pair(np.random.default_rng(0), 100, 0.1)
    shuffled = RatioData(np.roll(second.numerator, 1), np.roll(second.denominator, 1))
    assert compare_ratios(first, second).p_difference < 0.01 < compare_ratios(first, shuffled).p_difference


def test_p_values_are_those_of_the_t_test_where_all_denominators_are_one():
    from scipy.stats import ttest_rel

    random = np.random.default_rng(0)
    first, second = random.normal(0.1, 1, 50), random.normal(0, 1, 50)
    ones = np.ones(50)
    found = compare_ratios(RatioData(first, ones), RatioData(second, ones), margin=0.5)
    assert found.p_difference == pytest.approx(ttest_rel(first, second).pvalue)
    lower = ttest_rel(first + 0.5, second, alternative="greater").pvalue
    upper = ttest_rel(first - 0.5, second, alternative="less").pvalue
    assert found.p_equivalence == pytest.approx(max(lower, upper))


def test_a_system_is_equivalent_to_itself():
    data, _ = pair(np.random.default_rng(0), 30, 0)
    found = compare_ratios(data, data, margin=MARGIN)
    assert (found.difference.low, found.difference.value, found.difference.high) == (0, 0, 0)
    assert (found.p_difference, found.p_equivalence, found.verdict) == (1, 0, Verdict.EQUIVALENT)


def test_a_constant_difference_is_beyond_doubt():
    data = RatioData(np.arange(30.0), np.ones(30))
    found = compare_ratios(RatioData(data.numerator + 1, data.denominator), data, margin=MARGIN)
    assert (found.p_difference, found.p_equivalence, found.verdict) == (0, 1, Verdict.HIGHER)


def test_holm_adjusts_the_smallest_most_and_keeps_the_order():
    assert holm([0.04, 0.01, 0.03, 0.5]) == pytest.approx([0.09, 0.04, 0.09, 0.5])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []
