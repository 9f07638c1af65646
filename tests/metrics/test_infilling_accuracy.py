"""Infilling accuracy on counted cases."""

import pytest
import torch

from transformers_fsdfm.metrics.infilling_accuracy.functional import infilling_accuracy


TRUTH = [[1, 2, 3, 4], [5, 5, 6, 7]]
MASK = [[False, True, True, True], [True, True, False, True]]


def test_only_edited_positions_count():
    result = infilling_accuracy([[1, 2, 3, 9], [5, 9, 6, 9]], TRUTH, MASK)
    assert result["accuracy"] == result["raw_accuracy"] == pytest.approx(3 / 6)
    assert result["positions"] == 6
    assert result["excluded"] == 0
    assert result["kept_unchanged"] == 1
    assert result["per_sequence"]["correct"] == [2, 1]
    assert result["per_sequence"]["positions"] == [3, 3]


def test_positions_that_were_right_from_the_start_do_not_count():
    initial = [[1, 2, 8, 4], [5, 8, 6, 8]]  # three of six are right by chance
    untouched = infilling_accuracy(initial, TRUTH, MASK, initial)
    assert untouched["raw_accuracy"] == pytest.approx(3 / 6)
    assert untouched["accuracy"] == 0
    assert untouched["positions"] == untouched["excluded"] == 3
    perfect = infilling_accuracy(TRUTH, TRUTH, MASK, initial)
    assert perfect["accuracy"] == perfect["raw_accuracy"] == 1
    assert perfect["per_sequence"] == {"correct": [1, 2], "positions": [1, 2], "raw_correct": [3, 3], "edited": [3, 3]}


def test_a_mask_source_leaves_nothing_out():
    masked = [[1, 60, 60, 60], [60, 60, 6, 60]]
    assert infilling_accuracy(TRUTH, TRUTH, MASK, masked)["excluded"] == 0


def test_saying_the_most_frequent_token_has_the_majority_accuracy():
    result = infilling_accuracy([[1, 5, 5, 5], [5, 5, 6, 5]], TRUTH, MASK)
    assert result["accuracy"] == result["majority_accuracy"] == pytest.approx(2 / 6)


def test_changed_kept_positions_show():
    result = infilling_accuracy([[9, 2, 3, 4], [5, 5, 6, 7]], TRUTH, MASK)
    assert result["kept_unchanged"] == 0.5
    assert result["accuracy"] == 1
    assert infilling_accuracy([[1]], [[1]], [[True]])["kept_unchanged"] == 1


def test_tensors_are_taken():
    result = infilling_accuracy(*(torch.tensor(rows) for rows in (TRUTH, TRUTH, MASK, TRUTH[::-1])))
    assert result["accuracy"] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"references": TRUTH[:1]}, "`references` has 1 entries, but `predictions` has 2"),
        ({"references": [[1, 2, 3], [5, 5, 6, 7]]}, r"`references\[0\]` has 3 tokens, but `predictions\[0\]` has 4"),
        ({"initial_ids": [[1, 2, 3, 4], [5]]}, r"`initial_ids\[1\]` has 1 tokens"),
        ({"editable_mask": MASK[:1]}, "`editable_mask` has 1 entries"),
        ({"editable_mask": [[True], [True] * 4]}, r"`editable_mask\[0\]` must have 4 booleans"),
        ({"editable_mask": [[0, 1, 2, 3], [True] * 4]}, r"`editable_mask\[0\]` must have 4 booleans"),
        ({"editable_mask": [[False] * 4] * 2}, "false everywhere"),
        ({"initial_ids": TRUTH}, "nothing to infill"),
        ({"predictions": []}, "`predictions` is empty"),
    ],
)
def test_bad_input_is_refused(changes, message):
    inputs = {"predictions": TRUTH, "references": TRUTH, "editable_mask": MASK, **changes}
    with pytest.raises(ValueError, match=message):
        infilling_accuracy(**inputs)
