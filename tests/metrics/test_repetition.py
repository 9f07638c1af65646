"""Repetition against closed forms and brute force."""

import numpy as np
import pytest

from transformers_fsdfm.metrics.repetition.functional import longest_repeat, repetition


def brute_force_longest(ids) -> int:
    best = 0
    for first in range(len(ids)):
        for second in range(first + 1, len(ids)):
            length = 0
            while second + length < len(ids) and ids[first + length] == ids[second + length]:
                length += 1
            best = max(best, length)
    return best


def test_periodic_text_has_the_shares_of_its_period():
    period, length = 3, 30
    result = repetition([list(range(period)) * (length // period)])
    for n in (2, 3, 4):
        assert result[f"rep_{n}"] == pytest.approx(1 - period / (length - n + 1))
    assert result["longest_repeat"] == length - period


def test_text_without_repeats_has_none():
    result = repetition([[1, 2, 3, 4, 5]])
    assert result["rep_2"] == result["rep_3"] == result["rep_4"] == result["longest_repeat"] == 0


def test_rep_is_a_ratio_of_sums_and_seq_rep_a_mean():
    result = repetition([[1, 1, 1], [1, 2, 3, 4, 5]])
    assert result["rep_2"] == pytest.approx(1 / 6)
    assert result["seq_rep_2"] == pytest.approx((1 / 2 + 0) / 2)
    assert result["per_sequence"]["repeats_2"] == [1, 0]
    assert result["per_sequence"]["ngrams_2"] == [2, 4]
    assert result["longest_repeat"] == 1
    assert result["longest_repeat_max"] == 2
    assert result["longest_repeat_share"] == pytest.approx(2 / 8)


def test_repeats_of_other_sequences_do_not_count():
    assert repetition([[1, 2, 3, 4]] * 5)["rep_2"] == 0


@pytest.mark.parametrize("seed", range(20))
def test_counts_are_those_of_brute_force(seed):
    random = np.random.default_rng(seed)
    rows = [random.integers(0, 3, random.integers(0, 40)).tolist() for _ in range(4)]
    result = repetition(rows)
    for n in (2, 3, 4):
        ngrams = [[tuple(row[start : start + n]) for start in range(len(row) - n + 1)] for row in rows]
        assert result["per_sequence"][f"repeats_{n}"] == [len(grams) - len(set(grams)) for grams in ngrams]
    assert result["per_sequence"]["longest_repeat"] == [brute_force_longest(row) for row in rows]


@pytest.mark.parametrize("length", [0, 1, 2, 3, 7, 8, 9])
def test_longest_repeat_of_one_token_said_again_and_again(length):
    assert longest_repeat(np.full(length, 5)) == max(length - 1, 0)


def test_longest_repeat_of_a_long_text_is_found():
    random = np.random.default_rng(0)
    ids = random.integers(0, 50_000, 20_000)
    ids[15_000:15_777] = ids[2_000:2_777]
    assert longest_repeat(ids) >= 777
    assert longest_repeat(ids) == brute_force_longest(ids[[*range(1_990, 2_800), *range(14_990, 15_800)]])


def test_sequences_too_short_to_repeat_have_documented_values():
    result = repetition([[1], []])
    assert all(result[key] == 0 for key in result if key != "per_sequence")
    assert result["per_sequence"]["ngrams_2"] == [0, 0]
    # ... and do not thin out the others'.
    assert repetition([[1, 1, 1], [1], []])["seq_rep_2"] == 0.5
