"""Diversity against closed forms and the library's own sentence BLEU."""

import numpy as np
import pytest
from sacrebleu.metrics import BLEU

from transformers_fsdfm.metrics.diversity.functional import diversity


def test_distinct_counts_the_whole_set():
    result = diversity([[1, 2, 3], [1, 2, 4]])
    assert result["distinct_1"] == pytest.approx(4 / 6)
    assert result["distinct_2"] == pytest.approx(3 / 4)
    assert result["distinct_3"] == 1
    assert result["distinct_4"] == 0  # there are none


def test_copies_of_one_text_are_no_more_than_the_text():
    text = list(range(10))
    result = diversity([text] * 8)
    assert result["distinct_1"] == pytest.approx(1 / 8)
    assert result["distinct_4"] == pytest.approx(1 / 8)
    assert result["self_bleu"] == pytest.approx(1)


def test_texts_without_a_word_in_common_have_no_self_bleu():
    assert diversity(["a b c d e", "f g h i j"])["self_bleu"] == 0


@pytest.mark.parametrize("seed", range(10))
def test_self_bleu_is_the_librarys_against_all_others(seed):
    random = np.random.default_rng(seed)
    rows = [random.integers(0, 4, random.integers(2, 15)).tolist() for _ in range(6)]
    texts = [" ".join(map(str, row)) for row in rows]
    bleu = BLEU(tokenize="none", effective_order=True, smooth_method="exp")
    expected = [
        bleu.sentence_score(text, texts[:index] + texts[index + 1 :]).score / 100 for index, text in enumerate(texts)
    ]
    result = diversity(rows)
    assert result["per_sequence"]["self_bleu"] == pytest.approx(expected)
    assert result["self_bleu"] == pytest.approx(np.mean(expected))
    assert diversity(texts)["self_bleu"] == pytest.approx(result["self_bleu"])


@pytest.mark.parametrize("seed", range(5))
def test_values_of_the_sequences_have_the_ratio_of_the_set(seed):
    random = np.random.default_rng(seed)
    rows = [random.integers(0, 3, random.integers(1, 12)).tolist() for _ in range(5)]
    result = diversity(rows)
    for n in (1, 2, 3, 4):
        ngrams = [tuple(row[start : start + n]) for row in rows for start in range(len(row) - n + 1)]
        assert result[f"distinct_{n}"] == pytest.approx(len(set(ngrams)) / max(len(ngrams), 1))
        credit = result["per_sequence"][f"distinct_credit_{n}"]
        assert sum(credit) == pytest.approx(len(set(ngrams)))
        assert sum(result["per_sequence"][f"ngrams_{n}"]) == len(ngrams)


def test_empty_sequences_have_documented_values():
    result = diversity([[], [1, 2, 3, 4]])
    assert result["per_sequence"]["self_bleu"] == [0, 0]
    assert result["distinct_1"] == 1


def test_one_text_cannot_be_compared():
    with pytest.raises(ValueError, match="at least two"):
        diversity([[1, 2, 3]])
