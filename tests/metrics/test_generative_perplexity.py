"""Generative perplexity against closed forms and direct computations."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transformers_fsdfm.metrics.generative_perplexity.functional import generative_perplexity, token_losses, windows
from transformers_fsdfm.metrics.scorer import EncodedText, Scorer

from .scorers import WORDS, bigram_probs, bigram_scorer, byte_tokenizer, tiny_gpt2, uniform_gpt2, word_tokenizer


TEXTS = ["a b c d a", "d", "c c c b a b d d"]


def bigram_nll(text: str, start: int | None) -> float:
    ids = [WORDS.index(word) for word in text.split()]
    ids = ids if start is None else [start, *ids]
    return -sum(math.log(bigram_probs()[before, after]) for before, after in itertools.pairwise(ids))


@pytest.mark.parametrize("vocab_size", [257, 1000])
def test_a_scorer_that_knows_nothing_gives_the_size_of_its_vocabulary(vocab_size):
    scorer = (uniform_gpt2(vocab_size), byte_tokenizer(bos_token="<s>"))
    result = generative_perplexity(["hello", "wörld, at length"], scorer)
    assert result["perplexity"] == pytest.approx(vocab_size, rel=1e-5)
    assert result["mean_sequence_perplexity"] == pytest.approx(vocab_size, rel=1e-5)
    assert result["bits_per_byte"] == pytest.approx(math.log2(vocab_size), rel=1e-5)  # a token is a byte here
    assert result["tokens"] == 5 + 17


def test_known_probabilities_give_known_values():
    result = generative_perplexity(TEXTS, bigram_scorer(bos_token="<s>"))
    nll = [bigram_nll(text, start=0) for text in TEXTS]
    tokens = [5, 1, 8]
    assert result["per_sequence"]["nll"] == pytest.approx(nll, rel=1e-5)
    assert result["per_sequence"]["tokens"] == tokens
    assert result["per_sequence"]["bytes"] == [len(text) for text in TEXTS]
    assert result["perplexity"] == pytest.approx(math.exp(sum(nll) / 14), rel=1e-5)
    own = [math.exp(value / count) for value, count in zip(nll, tokens, strict=True)]
    assert result["mean_sequence_perplexity"] == pytest.approx(sum(own) / 3, rel=1e-5)
    assert result["bits_per_byte"] == pytest.approx(sum(nll) / math.log(2) / sum(map(len, TEXTS)), rel=1e-5)


def test_without_bos_a_text_starts_with_eos():
    result = generative_perplexity(TEXTS, bigram_scorer(eos_token="d"))
    assert result["settings"]["start_token"] == "eos"
    assert result["per_sequence"]["nll"] == pytest.approx([bigram_nll(text, start=4) for text in TEXTS], rel=1e-5)


def test_without_bos_and_eos_the_first_token_is_not_scored():
    result = generative_perplexity(TEXTS, bigram_scorer())
    assert result["settings"]["start_token"] == "none"
    assert result["per_sequence"]["nll"] == pytest.approx([bigram_nll(text, start=None) for text in TEXTS], rel=1e-5)
    assert result["per_sequence"]["tokens"] == [4, 0, 7]
    assert result["per_sequence"]["bytes"] == [8, 0, 14]


def test_prefixes_are_context_and_not_scored():
    prefixes = ["b a ", "", "d "]
    result = generative_perplexity(TEXTS, bigram_scorer(bos_token="<s>"), prefixes=prefixes)
    expected = [
        bigram_nll(prefix + text, 0) - bigram_nll(prefix, 0) for prefix, text in zip(prefixes, TEXTS, strict=True)
    ]
    assert result["per_sequence"]["nll"] == pytest.approx(expected, rel=1e-4)
    assert result["per_sequence"]["tokens"] == [5, 1, 8]


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_padding_and_batches_do_not_matter(batch_size):
    scorer = (tiny_gpt2(context=32), word_tokenizer(bos_token="<s>"))  # GPT-2 has no padding token
    texts = [*TEXTS, "a a a d c b a d c a a b", "b"]
    alone = [generative_perplexity([text], scorer)["per_sequence"]["nll"][0] for text in texts]
    together = generative_perplexity(texts, scorer, batch_size=batch_size)
    assert together["per_sequence"]["nll"] == pytest.approx(alone, rel=1e-4)


@pytest.mark.parametrize("special", [{"bos_token": "<s>"}, {}])
@pytest.mark.parametrize(("context", "stride"), [(8, 4), (8, 1), (8, 8), (5, 2), (None, None), (1, 1)])
def test_long_texts_are_read_in_windows(context, stride, special):
    model, tokenizer = tiny_gpt2(context=8), word_tokenizer(**special)
    words = [WORDS[index] for index in torch.randint(1, 5, (37,), generator=torch.Generator().manual_seed(0))]
    result = generative_perplexity([" ".join(words)], (model, tokenizer), context=context, stride=stride)
    context, stride = context or 8, stride or 4
    assert result["settings"]["context"] == context
    assert result["settings"]["stride"] == stride
    start, ids = [0] if special else [], [WORDS.index(word) for word in words]
    size = context + 1 - len(start)
    expected = 0.0
    for token in range(0 if special else 1, len(ids)):
        further = max(0, -(-(token + 1 - size) // stride))  # windows after the first one, up to the one with this token
        stop = min(size + further * stride, len(ids))
        window = [*start, *ids[max(stop - size, 0) : token]]
        with torch.no_grad():
            expected -= model(torch.tensor([window])).logits[0, -1].log_softmax(-1)[ids[token]].item()
    assert result["per_sequence"]["nll"] == pytest.approx([expected], rel=1e-4)


@given(
    length=st.integers(0, 60),
    first_scored=st.integers(0, 60),
    context=st.integers(1, 20),
    stride=st.integers(1, 20),
    has_start=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_windows_score_each_token_once_after_enough_others(length, first_scored, context, stride, has_start):
    stride = min(stride, context)
    first_scored = min(max(first_scored, 0 if has_start else 1), length)
    scored = []
    for window in windows(EncodedText(list(range(length)), first_scored, 0), 0, context, stride, has_start):
        assert window.stop - window.start - 1 + has_start <= context  # what the model reads
        for token in range(window.scored_from, window.stop):
            scored.append(token)
            assert token - window.start >= min(token, context - stride)
    assert scored == list(range(first_scored, length))


def test_the_curve_is_the_mean_of_each_place():
    result = generative_perplexity(TEXTS, bigram_scorer(bos_token="<s>"), per_position=True)
    curve = result["per_position"]
    assert curve["count"] == [3, 2, 2, 2, 2, 1, 1, 1]
    assert sum(nll * count for nll, count in zip(curve["nll"], curve["count"], strict=True)) == pytest.approx(
        sum(result["per_sequence"]["nll"])
    )
    first = [-math.log(bigram_probs()[0, WORDS.index(text[0])]) for text in TEXTS]
    assert curve["nll"][0] == pytest.approx(sum(first) / 3, rel=1e-5)
    assert "per_position" not in generative_perplexity(TEXTS, bigram_scorer(bos_token="<s>"))


def test_losses_of_tokens_add_up_to_those_of_texts():
    scorer = Scorer(tiny_gpt2(context=8), word_tokenizer(bos_token="<s>"))
    texts = [*TEXTS, "a b " * 10]
    losses = token_losses(scorer, scorer.encode(texts), batch_size=3)
    result = generative_perplexity(texts, scorer)
    assert [len(values) for values in losses] == result["per_sequence"]["tokens"]
    assert [values.sum() for values in losses] == pytest.approx(result["per_sequence"]["nll"], rel=1e-5)


def test_a_bar_shows_on_request(capsys):
    generative_perplexity(TEXTS, bigram_scorer(bos_token="<s>"))
    assert capsys.readouterr().err == ""
    generative_perplexity(TEXTS, bigram_scorer(bos_token="<s>"), progress=True)
    assert "3/3" in capsys.readouterr().err


def test_dtype_and_device_are_those_asked_for(tmp_path):
    tiny_gpt2().save_pretrained(tmp_path)
    word_tokenizer(bos_token="<s>").save_pretrained(tmp_path)
    exact = generative_perplexity(TEXTS, tmp_path, device="cpu")
    rough = generative_perplexity(TEXTS, tmp_path, device="cpu", dtype="bfloat16")
    assert rough["settings"]["dtype"] == "torch.bfloat16"
    assert rough["perplexity"] != exact["perplexity"]
    assert rough["perplexity"] == pytest.approx(exact["perplexity"], rel=0.2)
    with pytest.raises(ValueError, match="`device` and `dtype` are for"):
        generative_perplexity(TEXTS, Scorer.load(tmp_path), device="cpu")


def test_empty_texts_have_documented_values():
    result = generative_perplexity(["", "a b", ""], bigram_scorer(bos_token="<s>"))
    assert result["empty_predictions"] == 2
    assert result["per_sequence"]["tokens"] == [0, 2, 0]
    assert result["per_sequence"]["nll"][0] == result["per_sequence"]["bytes"][0] == 0
    assert result["perplexity"] == result["mean_sequence_perplexity"]
    assert result["perplexity"] == generative_perplexity(["a b"], bigram_scorer(bos_token="<s>"))["perplexity"]


def test_a_text_that_cannot_be_is_infinitely_perplexing():
    model, tokenizer = bigram_scorer(bos_token="<s>")
    model.table.weight[0, 1] = -torch.inf
    assert generative_perplexity(["a"], (model, tokenizer))["perplexity"] == math.inf


def test_periodic_text_wins_against_random_text_under_a_scorer_that_copies():
    """Why perplexity alone is no judge: the scorer prefers what it has just seen."""
    model, tokenizer = bigram_scorer(bos_token="<s>")
    model.table.weight.copy_((torch.eye(5) * 0.9 + 0.02).log())
    periodic = generative_perplexity(["a a a a a a a a"], (model, tokenizer))["perplexity"]
    assert periodic < generative_perplexity(["a b d c a c b d"], (model, tokenizer))["perplexity"]


@pytest.mark.parametrize(
    ("predictions", "options", "message"),
    [
        ([], {}, "`predictions` is empty"),
        (["", ""], {}, "no token to score"),
        (["b\udc80"], {}, "not Unicode"),
        (TEXTS, {"prefixes": ["a"]}, "`prefixes` has 1 entries, but `predictions` has 3"),
        (TEXTS, {"batch_size": 0}, "`batch_size` must be at least 1"),
        (TEXTS, {"context": 9}, r"`context` must be in \[1, 8\]"),
        (TEXTS, {"context": 0}, r"`context` must be in \[1, 8\]"),
        (TEXTS, {"stride": 0}, r"`stride` must be in \[1, `context` = 8\]"),
        (TEXTS, {"context": 4, "stride": 5}, r"`stride` must be in \[1, `context` = 4\]"),
    ],
)
def test_bad_input_is_refused(predictions, options, message):
    with pytest.raises(ValueError, match=message):
        generative_perplexity(predictions, (tiny_gpt2(context=8), word_tokenizer(bos_token="<s>")), **options)


def test_one_token_needs_a_scorer_with_a_start():
    with pytest.raises(ValueError, match="no token to score"):
        generative_perplexity(["a"], bigram_scorer())
    assert generative_perplexity(["a"], bigram_scorer(bos_token="<s>"))["tokens"] == 1
