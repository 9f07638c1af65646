"""Every metric loads as an `evaluate` module, offline, and gives what its function gives."""

import importlib
import socket
import subprocess
import sys

import evaluate
import numpy as np
import pytest
import torch

from tests.conftest import tiny_model
from transformers_fsdfm import optional
from transformers_fsdfm.metrics import available_metrics, load_metric

from .scorers import bigram_scorer


NAMES = [
    "diversity",
    "generative_perplexity",
    "infilling_accuracy",
    "likelihood_bound",
    "mauve",
    "memorization",
    "repetition",
    "token_entropy",
]
TEXTS = ["a b c d a b", "d c b a", "a a b b c"]
IDS = [[1, 2, 3, 4, 1, 2], [4, 3, 2, 1], [1, 1, 2, 2, 3]]


def function_of(name):
    return getattr(importlib.import_module(f"transformers_fsdfm.metrics.{name}.functional"), name)


def inputs_of(name) -> dict:
    return {
        "diversity": {"predictions": IDS},
        "generative_perplexity": {"predictions": TEXTS, "scorer": bigram_scorer(bos_token="<s>")},
        "infilling_accuracy": {
            "predictions": IDS,
            "references": [[1, 2, 3, 3, 1, 1], [4, 3, 2, 2], [1, 1, 2, 2, 2]],
            "editable_mask": [[False, False, True, True, True, True], [True] * 4, [False, True, True, True, True]],
            "initial_ids": [[1, 2, 4, 3, 3, 3], [1, 1, 1, 1], [1, 2, 3, 4, 1]],
        },
        "likelihood_bound": {"predictions": IDS, "model": tiny_model(), "num_times": 2},
        "memorization": {"predictions": TEXTS, "training": ["a b c d", "a a b b c"], "n": 3},
        "repetition": {"predictions": TEXTS},
        "token_entropy": {"predictions": IDS, "real_texts": [[1, 1, 2, 3]]},
    }[name]


def test_metrics_are_found_by_name():
    assert list(available_metrics()) == NAMES
    assert all((folder / f"{name}.py").is_file() for name, folder in available_metrics().items())


@pytest.mark.parametrize("name", [name for name in NAMES if name != "mauve"])  # which needs a scorer with features
def test_a_module_gives_what_its_function_gives(name, tmp_path, monkeypatch):
    def no_network(*_):
        raise AssertionError("a metric must not use the network")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    expected = function_of(name)(**inputs_of(name))
    assert load_metric(name, cache_dir=str(tmp_path)).compute(**inputs_of(name)) == expected
    on_disk = evaluate.load(str(available_metrics()[name]), cache_dir=str(tmp_path))
    assert on_disk.compute(**inputs_of(name)) == expected
    assert not list(tmp_path.rglob("*.arrow"))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "mauve"])
def test_values_for_each_prediction_are_plain_numbers(name):
    result = function_of(name)(**inputs_of(name))
    assert result["per_sequence"]
    for values in result["per_sequence"].values():
        assert len(values) == 3
        assert all(type(value) in (int, float) for value in values)
    numbers = {key: value for key, value in result.items() if key not in ("per_sequence", "settings")}
    assert numbers
    assert all(type(value) is float for value in numbers.values())


def test_predictions_may_come_in_batches_and_one_by_one():
    metric = load_metric("repetition")
    metric.add_batch(predictions=IDS[:2])
    metric.add(prediction=IDS[2])
    assert metric.compute() == function_of("repetition")(IDS)
    assert metric.compute(predictions=IDS[:1]) == function_of("repetition")(IDS[:1])


def test_ids_may_be_arrays_and_tensors():
    rows = [[1, 2, 1, 2], [3, 3, 4, 4]]
    expected = function_of("repetition")(rows)
    for predictions in (np.array(rows), torch.tensor(rows), [torch.tensor(row, dtype=torch.int32) for row in rows]):
        assert load_metric("repetition").compute(predictions=predictions) == expected


@pytest.mark.parametrize(
    ("predictions", "error", "message"),
    [
        (None, ValueError, "repetition needs `predictions`"),
        ([], ValueError, "`predictions` is empty"),
        ("one text", TypeError, "must be a list, but is a single str"),
        ([b"bytes"], TypeError, r"`predictions\[0\]` must be a text .* decode it"),
        (["a text", [1, 2]], TypeError, r"`predictions\[1\]` must be a text"),
        ([[0.5, 1.0]], TypeError, "a text or a list of token ids"),
        ([[[1], [2]]], TypeError, "a text or a list of token ids"),
        ([None], TypeError, "a text or a list of token ids"),
        (["fine", "caf\udce9"], ValueError, r"`predictions\[1\]` is not Unicode: .*'\\udce9'.* at character 3"),
    ],
)
def test_bad_predictions_are_refused(predictions, error, message):
    with pytest.raises(error, match=message):
        load_metric("repetition").compute(predictions=predictions)


def test_what_a_metric_does_not_take_is_refused():
    with pytest.raises(TypeError, match="repetition takes no `references`"):
        load_metric("repetition").compute(predictions=IDS, references=IDS)
    with pytest.raises(TypeError, match=r"takes no \['lenght'\]; what it takes is \['n', 'predictions', 'training'\]"):
        load_metric("memorization").compute(predictions=IDS, training=IDS, lenght=3)
    with pytest.raises(TypeError, match="`predictions` must be lists of token ids, but are texts"):
        load_metric("likelihood_bound").compute(predictions=["a text"], model=None)


def test_a_metric_can_be_used_again_after_an_error():
    metric = load_metric("memorization")
    with pytest.raises(ValueError, match="no document"):
        metric.compute(predictions=IDS, training=[[1]], n=2)
    assert metric.compute(predictions=[[1, 2]], training=[[1, 2]], n=2)["memorized_share"] == 1


def test_an_unknown_metric_is_refused():
    with pytest.raises(ValueError, match=r"must be one of diversity, .*, token_entropy, but got 'bleu'"):
        load_metric("bleu")


@pytest.mark.parametrize(
    ("name", "library"),
    [("diversity", "sacrebleu"), ("mauve", "mauve"), ("likelihood_bound", "peft"), ("token_entropy", "evaluate")],
)
def test_a_missing_library_is_named_with_what_to_install(name, library, monkeypatch):
    find_spec = optional.importlib.util.find_spec
    monkeypatch.setattr(
        optional.importlib.util, "find_spec", lambda module: None if module == library else find_spec(module)
    )
    inputs = {"predictions": TEXTS, "references": TEXTS, "scorer": None} if name == "mauve" else {"predictions": IDS}
    inputs |= {"model": None} if name == "likelihood_bound" else {}
    with pytest.raises(ModuleNotFoundError, match=rf'needs {library}: pip install .*; .* "\.\[eval\]"'):
        load_metric(name).compute(**inputs)


def test_the_list_of_metrics_needs_no_heavy_import():
    code = (
        "import sys; from transformers_fsdfm.metrics import available_metrics; assert available_metrics();"
        "assert not {'torch', 'transformers', 'evaluate', 'datasets', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
