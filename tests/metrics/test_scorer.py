"""The scorer: what it reads, what it refuses, and what its head computes."""

import subprocess
import sys

import pytest
import torch
from transformers import BertConfig, BertLMHeadModel, Gemma2Config, Gemma2ForCausalLM

from tests.conftest import tiny_model
from transformers_fsdfm import hub_configs
from transformers_fsdfm.metrics import scorer as scorer_module
from transformers_fsdfm.metrics.scorer import Scorer

from .scorers import VOCAB_SIZE, bigram_scorer, byte_tokenizer, tiny_gpt2, word_tokenizer


def direct_nll(model, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        log_probs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return -log_probs[:-1].gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]


def tiny_gemma(softcap: float | None):
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=16,
        final_logit_softcapping=softcap,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=2.0,
    )
    return Gemma2ForCausalLM(config)


@pytest.mark.parametrize(
    ("special", "start_token", "start_ids"),
    [
        ({"bos_token": "<s>", "eos_token": "d"}, "bos", [0]),
        ({"eos_token": "d"}, "eos", [4]),
        ({}, "none", []),
    ],
)
def test_a_text_starts_with_bos_else_eos_else_nothing(special, start_token, start_ids):
    scorer = Scorer(*bigram_scorer(**special))
    assert (scorer.start_token, scorer.start_ids) == (start_token, start_ids)
    assert scorer.settings["start_token"] == start_token


@pytest.mark.parametrize("chunk_bytes", [1, 2**27])
@pytest.mark.parametrize("model", [tiny_gpt2(), tiny_gemma(softcap=None), tiny_gemma(softcap=0.5)])
def test_likelihoods_are_those_of_the_whole_model(model, chunk_bytes, monkeypatch):
    monkeypatch.setattr(scorer_module, "LOGITS_CHUNK_BYTES", chunk_bytes)
    rows = [[0, 1, 2, 3, 4, 1], [0, 4], [2, 2, 1, 3]]
    scorer = Scorer(model, word_tokenizer())
    nll = scorer.token_nll([row[:-1] for row in rows], [row[1:] for row in rows])
    for values, row in zip(nll, rows, strict=True):
        torch.testing.assert_close(values, direct_nll(scorer.model, row), rtol=1e-4, atol=1e-5)
    (last_two,) = scorer.token_nll([rows[0][:-1]], [rows[0][-2:]])
    torch.testing.assert_close(last_two, nll[0][-2:], rtol=1e-4, atol=1e-5)


def test_the_head_runs_on_the_needed_positions_alone():
    model = tiny_gpt2()
    scorer = Scorer(model, word_tokenizer())
    sizes = []
    model.lm_head.register_forward_hook(lambda _, inputs, __: sizes.append(inputs[0].shape[:-1].numel()))
    scorer.token_nll([[0, 1, 2, 3, 4], [0, 1]], [[3, 4], [2]])
    assert sizes == [3]


def test_logits_that_are_more_than_the_head_are_taken_whole():
    assert Scorer(tiny_gemma(softcap=None), word_tokenizer())._has_plain_head
    assert not Scorer(tiny_gemma(softcap=0.5), word_tokenizer())._has_plain_head


def test_hidden_states_are_those_of_the_last_token():
    model = tiny_gpt2()
    rows = [[0, 1, 2, 3], [4], [1, 1]]
    states = Scorer(model, word_tokenizer()).last_hidden_states(rows)
    for state, row in zip(states, rows, strict=True):
        with torch.no_grad():
            expected = model.transformer(torch.tensor([row])).last_hidden_state[0, -1]
        torch.testing.assert_close(state, expected, rtol=1e-4, atol=1e-5)


def test_bytes_are_those_of_utf8():
    scorer = Scorer(tiny_gpt2(257, 64), byte_tokenizer(bos_token="<s>"))
    (text,) = scorer.encode(["naïve 🙂"])
    assert text.num_bytes == len(text.ids) == 11
    assert text.first_scored == 0


def test_without_a_start_token_the_first_token_and_its_bytes_do_not_count():
    (text,) = Scorer(tiny_gpt2(), word_tokenizer()).encode(["a b c"])
    assert text == ([1, 2, 3], 1, len(" b c"))


def test_a_prefix_is_read_and_not_scored():
    scorer = Scorer(tiny_gpt2(257, 64), byte_tokenizer(bos_token="<s>"))
    with_prefix, without = scorer.encode(["é b", "c"], ["a ", ""])
    assert with_prefix.first_scored == 2
    assert with_prefix.num_bytes == 4
    assert with_prefix.ids == scorer.encode(["a é b"])[0].ids
    assert (without.first_scored, without.num_bytes) == (0, 1)


def test_a_token_that_begins_in_the_prefix_counts_as_text():
    scorer = Scorer(tiny_gpt2(), word_tokenizer(bos_token="<s>"))
    (text,) = scorer.encode(["x c"], ["a b"])  # "bx" is one word, unknown
    assert text.ids == [1, 0, 3]
    assert text.first_scored == 1
    assert text.num_bytes == 3


def test_a_path_is_loaded(tmp_path):
    tiny_gpt2().save_pretrained(tmp_path)
    word_tokenizer(bos_token="<s>").save_pretrained(tmp_path)
    scorer = Scorer.load(tmp_path, dtype="bfloat16")
    assert scorer.name == str(tmp_path)
    assert scorer.context == 8
    assert scorer.settings["dtype"] == "torch.bfloat16"
    assert Scorer.load(str(tmp_path), device="cpu").model.dtype == torch.float32
    assert Scorer.load(scorer) is scorer


def test_a_scorer_of_the_package_is_found_by_its_name(tmp_path, monkeypatch):
    tiny_gpt2(257, 64).save_pretrained(tmp_path)
    byte_tokenizer(bos_token="<s>").save_pretrained(tmp_path)
    monkeypatch.setattr(hub_configs, "available_scorers", lambda: {"gpt2-tinystories": tmp_path})
    scorer = Scorer.load("gpt2-tinystories")
    assert scorer.name == "gpt2-tinystories"
    assert scorer.model.config.vocab_size == 257


def test_what_is_no_causal_language_model_is_refused(tmp_path):
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    bidirectional = BertLMHeadModel(BertConfig(vocab_size=VOCAB_SIZE, initializer_range=1.0, **small))
    with pytest.raises(ValueError, match="is not causal"):
        Scorer(bidirectional, word_tokenizer())
    with pytest.raises(TypeError, match=r"is a flow, .* `likelihood_bound`"):
        Scorer(tiny_model(), word_tokenizer())
    with pytest.raises(TypeError, match=r"is a flow, .* `likelihood_bound`"):
        Scorer.load("fsdfm-tinystories")
    with pytest.raises(TypeError, match="must be a path, or a pair"):
        Scorer.load(5)
    with pytest.raises(TypeError, match="got GPT2LMHeadModel and str"):
        Scorer.load((tiny_gpt2(), "tokenizer"))
    with pytest.raises(ValueError, match="cannot be loaded as a causal language model"):
        Scorer.load(tmp_path / "nothing")
    with pytest.raises(ValueError, match="`device` and `dtype` are for a `scorer` given by its path"):
        Scorer.load((tiny_gpt2(), word_tokenizer()), dtype="bfloat16")


def test_the_tokenizer_of_another_model_is_refused():
    with pytest.raises(ValueError, match="tokens beyond the 5 of the model"):
        Scorer(tiny_gpt2(VOCAB_SIZE), byte_tokenizer()).encode(["zebra"])


def test_likelihoods_that_are_no_numbers_are_refused():
    model = tiny_gpt2()
    scorer = Scorer(model, word_tokenizer())
    torch.nn.init.constant_(model.transformer.ln_f.bias, torch.nan)
    with pytest.raises(ValueError, match=r"gives NaN in torch\.float32"):
        scorer.token_nll([[0, 1]], [[1]])


def test_a_flow_is_refused_before_the_classes_of_the_package_are_known():
    code = (
        "from transformers_fsdfm.metrics.scorer import Scorer\n"
        "try:\n    Scorer.load('fsdfm-tinystories')\n"
        "except TypeError as error:\n    print(error)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.startswith("`scorer` is a flow")
    assert "vocabulary" not in found.stderr
