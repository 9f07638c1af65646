"""Token entropy against closed forms."""

import math

import pytest

from transformers_fsdfm.metrics.token_entropy.functional import token_entropy


def test_entropy_of_known_shares():
    result = token_entropy([[7, 8, 9, 10], [1, 1, 1, 1], [1, 1, 2, 3]])
    nats = [math.log(4), 0.0, 1.5 * math.log(2)]
    assert result["per_sequence"]["nats"] == pytest.approx(nats)
    assert result["per_sequence"]["bits"] == pytest.approx([2, 0, 1.5])
    assert result["nats"] == pytest.approx(sum(nats) / 3)
    assert result["bits"] == pytest.approx(3.5 / 3)
    assert result["per_sequence"]["tokens"] == [4, 4, 4]


def test_one_token_and_none_have_no_entropy():
    result = token_entropy([[5], []])
    assert str(result["per_sequence"]["nats"]) == "[0.0, 0.0]"
    assert token_entropy([""])["nats"] == 0


def test_texts_are_split_at_whitespace():
    assert token_entropy(["the cat\tthe\n dog"])["bits"] == pytest.approx(1.5)


def test_real_texts_stand_beside():
    result = token_entropy([[1, 1]], real_texts=[[1, 2], [1, 2, 3, 4]])
    assert result["nats"] == 0
    assert result["real_bits"] == pytest.approx(1.5)
    assert result["real_nats"] == pytest.approx(1.5 * math.log(2))
    assert "real_nats" not in token_entropy([[1, 1]])


def test_blind_to_order_so_shuffled_text_passes():
    assert token_entropy([[1, 2, 2, 3]])["nats"] == token_entropy([[2, 3, 1, 2]])["nats"]
