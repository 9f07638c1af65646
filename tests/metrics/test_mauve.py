"""MAUVE: its features, its two ends, its settings. The value itself is the library's."""

import contextlib
import logging

import numpy as np
import pytest
import torch

from transformers_fsdfm.evaluation.statistics import jackknife_deviations
from transformers_fsdfm.metrics import load_metric
from transformers_fsdfm.metrics.mauve import functional
from transformers_fsdfm.metrics.mauve.functional import (
    ReferenceFeatures,
    TextFeatures,
    compare,
    mauve,
    mauve_value,
    num_texts,
    reference_features,
    shuffle_words,
    subset,
    text_features,
)

from .scorers import tiny_gpt2, word_tokenizer


def scorer(**special):
    return tiny_gpt2(context=8), word_tokenizer(**special)


def texts(count: int, seed: int, words=("a", "b", "c", "d")) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(words, random.integers(1, 7))) for _ in range(count)]


def cloud(count: int, centre: float, seed: int) -> TextFeatures:
    return TextFeatures(np.random.default_rng(seed).normal(centre, 1, (count, 4)).astype(np.float32), "test", None)


def clouds(predictions_at: float, human: int = 60) -> tuple[TextFeatures, ReferenceFeatures]:
    reference = ReferenceFeatures(cloud(60, 0, 1), cloud(human, 0, 2), cloud(human, 50, 3), seed=0)
    return cloud(60, predictions_at, 4), reference


def test_features_are_the_hidden_states_at_the_last_token():
    model, tokenizer = scorer(bos_token="<s>")
    given = ["a b c", "d", "", "a a a a a a a a a a a a"]
    features = text_features(given, (model, tokenizer), batch_size=2)
    rows = [[0, 1, 2, 3], [0, 4], [0], [0, *[1] * 7]]  # the empty text is its start token; the long one is cut
    for state, row in zip(features.values, rows, strict=True):
        with torch.no_grad():
            expected = model.transformer(torch.tensor([row])).last_hidden_state[0, -1].numpy()
        np.testing.assert_allclose(state, expected, rtol=1e-3, atol=1e-4)
    assert features.max_tokens == 7
    cut = text_features(given, (model, tokenizer), max_tokens=1)
    np.testing.assert_allclose(cut.values[0], cut.values[3], rtol=1e-3, atol=1e-4)


def test_each_piece_of_a_text_has_features_of_its_own():
    given = ["a b c d a b c d a b c", "a b", ""]
    cut = text_features(given, scorer(bos_token="<s>"), pieces=3)
    alone = text_features(["a b c", "d a b c", "d a b c", "a", "b", ""], scorer(bos_token="<s>"))
    assert (cut.pieces, alone.pieces) == (3, 1)
    np.testing.assert_allclose(cut.values, alone.values, rtol=1e-3, atol=1e-4)
    reference = reference_features(["a b c d"] * 4, scorer(bos_token="<s>"), pieces=2)
    assert [len(features.values) for features in reference[:3]] == [4, 4, 4]


def test_some_of_the_texts_have_all_their_pieces():
    given = ["a b c d a b c d a b c", "a b", "c", "d d d"]
    cut = text_features(given, scorer(bos_token="<s>"), pieces=3)
    assert num_texts(cut) == 4
    some = subset(cut, np.array([1, 3]))
    alone = text_features([given[1], given[3]], scorer(bos_token="<s>"), pieces=3)
    np.testing.assert_allclose(some.values, alone.values, rtol=1e-3, atol=1e-4)
    assert num_texts(some) == 2
    assert num_texts(cloud(7, 0, 0)) == 7
    assert np.array_equal(subset(cloud(7, 0, 0), np.array([2])).values, cloud(7, 0, 0).values[2:3])


@pytest.mark.slow
def test_leaving_out_half_says_how_much_sets_of_texts_scatter():
    """Texts of four pieces each that have much in common, at three distances from the real ones."""
    random = np.random.default_rng(0)

    def texts(centre: float) -> TextFeatures:
        pieces = random.normal(centre, 0.7, (24, 1, 16)) + random.normal(0, 1, (24, 4, 16))
        return TextFeatures(pieces.reshape(96, 16).astype(np.float32), "test", None, 4, np.arange(96) // 4)

    real = texts(0)
    for centre in (0, 0.3, 0.6):
        scatter = np.std([mauve_value(texts(centre), real, 10) for _ in range(40)])
        errors = []
        for _ in range(8):
            some = texts(centre)
            deviations = jackknife_deviations(
                lambda kept, some=some: {"x": mauve_value(subset(some, kept), real, 10)}, 24, left_out=12
            )
            errors.append(np.mean(np.square(deviations["x"])))
        assert 0.5 < np.sqrt(np.mean(errors)) / scatter < 2


def test_equal_distributions_are_near_one_and_apart_ones_near_zero():
    near = compare(*clouds(predictions_at=0))
    far = compare(*clouds(predictions_at=50))
    assert near["mauve"] > 0.9
    assert near["mauve_human"] > 0.9
    assert near["mauve_shuffled"] < 0.1
    assert far["mauve"] < 0.1
    assert near["per_sequence"] == {}


def test_the_clustering_says_nothing_of_few_texts(capfd, caplog):
    with caplog.at_level(logging.INFO):  # at which faiss says how it is loaded
        compare(*clouds(0))
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_that_it_says_nothing_changes_no_value(capfd, monkeypatch):
    quiet = compare(*clouds(1))
    monkeypatch.setattr(functional, "_quiet_faiss", contextlib.nullcontext)
    assert compare(*clouds(1)) == quiet
    assert "please provide at least" in capfd.readouterr().err


def test_the_result_carries_its_settings():
    result = compare(*clouds(0), num_buckets=5, scaling_factor=2.0, seed=3)
    assert result["settings"] == {
        "scorer": "test",
        "max_tokens": None,
        "pieces": 1,
        "num_buckets": 5,
        "scaling_factor": 2.0,
        "seed": 3,
        "split_seed": 0,
        "num_predictions": 60,
        "num_references": 60,
        "num_human": 60,
    }
    assert compare(*clouds(0))["settings"]["num_buckets"] == 6  # a tenth of the smallest set
    assert compare(*clouds(0, human=20))["settings"]["num_buckets"] == 2


def test_options_matter_and_seeds_hold():
    base = compare(*clouds(1), num_buckets=6, seed=0)
    assert compare(*clouds(1), num_buckets=6, seed=0) == base
    assert compare(*clouds(1), num_buckets=6, scaling_factor=10.0)["mauve"] < base["mauve"]
    assert compare(*clouds(1), num_buckets=20)["mauve"] != base["mauve"]
    assert len({compare(*clouds(1), num_buckets=6, seed=seed)["mauve"] for seed in range(3)}) > 1


def test_references_are_split_into_halves_at_random():
    references = [f"{'a ' * length}b" for length in range(7)]
    first = reference_features(references, scorer(bos_token="<s>"), seed=0)
    assert len(first.first_half.values) == 3
    assert len(first.second_half.values) == len(first.shuffled.values) == 4
    again = reference_features(references, scorer(bos_token="<s>"), seed=0)
    other = reference_features(references, scorer(bos_token="<s>"), seed=1)
    np.testing.assert_array_equal(first.first_half.values, again.first_half.values)
    assert not np.array_equal(first.first_half.values, other.first_half.values)
    np.testing.assert_array_equal(first.shuffled.values, again.shuffled.values)
    assert not np.array_equal(first.shuffled.values, first.second_half.values)


def test_shuffled_texts_have_the_same_words():
    given = ["one two three four five six", "seven", ""]
    shuffled = list(shuffle_words(given, np.random.default_rng(0)))
    assert [sorted(text.split()) for text in shuffled] == [sorted(text.split()) for text in given]
    assert shuffled[0] != given[0]
    assert shuffled[1:] == ["seven", ""]


def test_the_module_does_all_steps(tmp_path):
    model, tokenizer = scorer(bos_token="<s>")
    predictions, references = texts(20, 0), texts(41, 1)
    result = mauve(predictions, references, (model, tokenizer), num_buckets=3, seed=2, max_tokens=5, pieces=2)
    reference = reference_features(references, (model, tokenizer), seed=2, max_tokens=5, pieces=2)
    features = text_features(predictions, (model, tokenizer), max_tokens=5, pieces=2)
    assert result == compare(features, reference, num_buckets=3, seed=2)
    assert 0 < result["mauve"] <= 1
    metric = load_metric("mauve", cache_dir=str(tmp_path))
    options = {"scorer": (model, tokenizer), "num_buckets": 3, "seed": 2, "max_tokens": 5, "pieces": 2}
    assert metric.compute(predictions=predictions, references=references, **options) == result


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"predictions": []}, "`predictions` is empty"),
        ({"predictions": ["a"]}, "`predictions` has one text"),
        ({"references": ["a", "b", "c"]}, "`references` must be at least 4 texts"),
        ({"num_buckets": 1}, r"`num_buckets` must be in \[2, 4\]"),
        ({"num_buckets": 5}, r"`num_buckets` must be in \[2, 4\]"),
        ({"scaling_factor": 0}, "`scaling_factor` must be > 0"),
        ({"max_tokens": 0}, r"`max_tokens` must be in \[1, 7\]"),
        ({"max_tokens": 8}, r"`max_tokens` must be in \[1, 7\]"),
        ({"pieces": 0}, "`pieces` must be at least 1"),
        ({"scorer": scorer(), "predictions": ["a", ""]}, "no start token to stand for it"),
    ],
)
def test_bad_input_is_refused(changes, message):
    inputs = {"predictions": texts(4, 0), "references": texts(8, 1), "scorer": scorer(bos_token="<s>"), **changes}
    with pytest.raises(ValueError, match=message):
        mauve(**inputs)


def test_features_of_different_scorers_are_not_compared():
    predictions, reference = clouds(0)
    with pytest.raises(ValueError, match=r"features of other .* but `references` of test"):
        compare(predictions._replace(scorer="other"), reference)
    with pytest.raises(ValueError, match="`max_tokens` = 9"):
        compare(predictions._replace(max_tokens=9), reference)
    with pytest.raises(ValueError, match="`pieces` = 4"):
        compare(predictions._replace(pieces=4), reference)
