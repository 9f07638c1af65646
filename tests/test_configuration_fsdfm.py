"""FSDFMConfig: what it derives, what it refuses, what it keeps."""

import json

import pytest

from tests.conftest import TINY, tiny_config
from transformers_fsdfm import FSDFMConfig


def test_round_trip_keeps_every_field(tmp_path):
    config = tiny_config(schedule="polynomial", schedule_exponent=2.0, step_size_embedding="log2", eos_token_id=[0, 3])
    config.save_pretrained(tmp_path)
    assert FSDFMConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


def test_fields_of_a_newer_version_are_kept(tmp_path):
    tiny_config().save_pretrained(tmp_path / "new")
    saved = json.loads((tmp_path / "new/config.json").read_text())
    (tmp_path / "new/config.json").write_text(json.dumps({**saved, "field_of_the_future": {"a": 1}}))
    FSDFMConfig.from_pretrained(tmp_path / "new").save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again/config.json").read_text())["field_of_the_future"] == {"a": 1}


def test_derived_values():
    config = FSDFMConfig(hidden_size=64, num_attention_heads=4, vocab_size=10, source_distribution="mask")
    assert config.intermediate_size == 256
    assert config.head_dim == 16
    assert config.mask_token_id == 10
    assert config.num_input_embeddings == 11
    assert FSDFMConfig(vocab_size=10).num_input_embeddings == 10


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"vocab_size": 0}, "vocab_size"),
        ({"vocab_size": 60.0}, "vocab_size"),
        ({"hidden_size": 30}, "hidden_size"),
        ({"hidden_size": 36, "num_attention_heads": 12}, "even multiple"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"hidden_dropout_prob": 1.0}, "hidden_dropout_prob"),
        ({"source_distribution": "gaussian"}, "source_distribution"),
        ({"schedule": "quadratic"}, "schedule"),
        ({"schedule_exponent": 0}, "schedule_exponent"),
        ({"step_size_embedding": "log10"}, "step_size_embedding"),
        ({"step_size_fusion": "multiply"}, "step_size_fusion"),
        ({"source_distribution": "mask", "mask_token_id": 3}, "mask_token_id"),
        ({"mask_token_id": 61}, "mask_token_id"),
        ({"eos_token_id": 60}, "eos_token_id"),
        ({"pad_token_id": -1}, "pad_token_id"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings"),
        ({"max_position_embeddings": 0}, "max_position_embeddings"),
    ],
)
def test_bad_value_is_named(changes, named):
    with pytest.raises(Exception, match=named):
        FSDFMConfig(**{**TINY, **changes})
