"""Memorization against brute force."""

import numpy as np
import pytest

from transformers_fsdfm.metrics.memorization.functional import NgramIndex, memorization


def ngrams(row, n) -> list[tuple]:
    return [tuple(row[start : start + n]) for start in range(len(row) - n + 1)]


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_counts_are_those_of_brute_force(n):
    random = np.random.default_rng(n)
    training = [random.integers(0, 4, random.integers(0, 20)).tolist() for _ in range(10)]
    rows = [random.integers(0, 5, random.integers(0, 20)).tolist() for _ in range(10)]
    known = {gram for row in training for gram in ngrams(row, n)}
    result = memorization(rows, training, n)
    assert result["per_sequence"]["memorized"] == [sum(gram in known for gram in ngrams(row, n)) for row in rows]
    assert result["per_sequence"]["ngrams"] == [len(ngrams(row, n)) for row in rows]
    total = sum(result["per_sequence"]["ngrams"])
    assert result["memorized_share"] == pytest.approx(sum(result["per_sequence"]["memorized"]) / total)


def test_the_training_set_itself_is_caught():
    random = np.random.default_rng(0)
    training = random.integers(0, 1000, (20, 40)).tolist()
    result = memorization(training[:5], training)
    assert result["memorized_share"] == result["copied_share"] == 1
    assert result["settings"] == {"n": 13}
    assert memorization(random.integers(0, 1000, (5, 40)), training)["memorized_share"] == 0


def test_copied_share_counts_sequences_copied_whole():
    result = memorization([[1, 2, 3], [1, 2, 9], [7]], [[1, 2, 3, 4]], n=2)
    assert result["copied_share"] == 0.5  # of the two that are long enough
    assert result["memorized_share"] == pytest.approx(3 / 4)


def test_texts_are_compared_word_by_word():
    result = memorization(["the cat sat  on", "a dog sat on"], ["the cat sat\non the mat"], n=2)
    assert result["per_sequence"]["memorized"] == [3, 1]


def test_nothing_runs_over_the_end_of_a_document():
    assert memorization([[2, 3]], [[1, 2], [3, 4]], n=2)["memorized_share"] == 0


def test_an_index_is_used_many_times():
    index = NgramIndex(["a b c", "b c d"], n=2)
    assert len(index) == 3
    assert memorization(["a b"], index)["memorized_share"] == 1
    assert memorization(["new words"], index)["memorized_share"] == 0
    assert memorization(["words new"], index)["memorized_share"] == 0  # looking up does not add
    with pytest.raises(ValueError, match="`n` = 3, but `training` is an index of 2-grams"):
        memorization(["a b"], index, n=3)


def test_texts_and_ids_do_not_mix():
    with pytest.raises(TypeError, match="of one kind"):
        memorization([[1, 2]], ["a b"], n=1)
    with pytest.raises(TypeError, match="of one kind"):
        memorization(["a b"], [[1, 2]], n=1)


def test_short_predictions_have_documented_values():
    result = memorization([[1], []], [[1, 2, 3]], n=2)
    assert result["memorized_share"] == result["copied_share"] == 0
    assert result["per_sequence"] == {"memorized": [0, 0], "ngrams": [0, 0]}


def test_training_text_without_ngrams_is_refused():
    with pytest.raises(ValueError, match="no document of `n` = 13 tokens"):
        memorization([[1, 2]], [[1, 2, 3]])
    with pytest.raises(ValueError, match="`n` must be at least 1"):
        memorization([[1, 2]], [[1, 2, 3]], n=0)
    with pytest.raises(ValueError, match="`training` is empty"):
        memorization([[1, 2]], [])
