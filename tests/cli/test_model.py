# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Finding and loading the checkpoint of a command."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.conftest import tiny_model
from transformers_fsdfm import available_configs, hub_configs
from transformers_fsdfm.cli._model import DEFAULT_CHECKPOINT, find_checkpoint, load


@pytest.fixture
def copy(checkpoint, tmp_path) -> Path:
    """A copy of the checkpoint, to be damaged."""
    return shutil.copytree(checkpoint, tmp_path / "copy")


def change_config(folder: Path, **changes) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_loads_a_folder_ready_to_generate(checkpoint):
    model, tokenizer = load(str(checkpoint))
    assert not model.training
    assert model.dtype == torch.float32
    assert len(tokenizer) == model.config.vocab_size + 1
    assert load(str(checkpoint), dtype="bfloat16")[0].dtype == torch.bfloat16


def test_names_of_the_package_are_known():
    assert find_checkpoint("fsdfm-170m") == available_configs()["fsdfm-170m"]


def test_a_folder_of_that_name_comes_first(tmp_path, monkeypatch):
    (tmp_path / "fsdfm-170m").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint("fsdfm-170m") == Path("fsdfm-170m")


def test_nothing_named_is_the_checkpoint_of_the_package(checkpoint, monkeypatch):
    monkeypatch.setattr(hub_configs, "available_configs", lambda: {DEFAULT_CHECKPOINT: checkpoint})
    assert find_checkpoint(None) == checkpoint


@pytest.mark.parametrize("has_configuration", [False, True])
def test_nothing_named_where_the_package_has_no_checkpoint(monkeypatch, has_configuration):
    packaged = {DEFAULT_CHECKPOINT: available_configs()["fsdfm-170m"]} if has_configuration else {}
    monkeypatch.setattr(hub_configs, "available_configs", lambda: packaged)
    with pytest.raises(FileNotFoundError, match=r"`model` is needed \(a folder or a Hub id\)"):
        load(None)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "nowhere",
            "is no folder, and no Hub id .organization/name.; the checkpoints of this package are "
            "dfm-tinystories, fsdfm-tinystories$",
        ),
        ("no/such/folder", "is no folder, and no Hub id"),
        ("tests/nowhere", "tests/nowhere is no folder, and not taken for a Hub id"),
        ("organization/model", "is no folder, and cannot be had from the Hub"),
        ("fsdfm-170m", "`model` fsdfm-170m is a configuration without weights; `fsdfm pretrain` trains"),
    ],
)
def test_a_model_that_is_not_there(name, words, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    with pytest.raises(OSError, match=words):
        load(name)


def test_among_what_is_there_are_checkpoints_alone(checkpoint, monkeypatch):
    packaged = {"with-weights": checkpoint, "without": available_configs()["fsdfm-170m"]}
    monkeypatch.setattr(hub_configs, "available_configs", lambda: packaged)
    assert hub_configs.available_checkpoints() == {"with-weights": checkpoint}
    assert hub_configs.find_checkpoint("with-weights") == checkpoint
    assert [hub_configs.find_checkpoint(other) for other in ("without", "gpt2")] == ["without", "gpt2"]
    with pytest.raises(FileNotFoundError, match=r"the checkpoints of this package are with-weights$"):
        load("with-wieghts")


def test_a_scorer_does_not_generate():
    with pytest.raises(ValueError, match="`model` gpt2-tinystories is autoregressive: it scores in fsdfm evaluate"):
        load("gpt2-tinystories")


def test_a_file_is_no_model_folder(tmp_path):
    (tmp_path / "fs_dfm.pth").touch()
    with pytest.raises(OSError, match="is a file; `fsdfm convert` makes a model folder"):
        load(str(tmp_path / "fs_dfm.pth"))


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("config.json", "is no model folder: it has no config.json"),
        ("model.safetensors", "is a configuration without weights"),
        ("tokenizer*.json", "has no tokenizer; save the one it was trained with"),
    ],
)
def test_an_incomplete_folder_is_named_with_what_is_missing(copy, missing, words):
    for file in copy.glob(missing):
        file.unlink()
    with pytest.raises(FileNotFoundError, match=words):
        load(str(copy))


def test_an_adapter_alone_is_no_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="is an adapter; merge it into its base"):
        load(str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "gpt2"}, "is of the type 'gpt2', not a DFM or FS-DFM"),
        ({"num_attention_heads": 5}, "has a wrong config.json: `hidden_size` must be an even multiple"),
        ({"hidden_size": "wide"}, "has a wrong config.json"),
        ({"num_hidden_layers": 3}, "has weights that do not fit its config.json, missing_keys: model.layers.2"),
        ({"num_hidden_layers": 1}, "has weights that do not fit its config.json, unexpected_keys: model.layers.1"),
        ({"hidden_size": 64}, "has weights that"),
    ],
)
def test_a_configuration_that_does_not_fit(copy, changes, words):
    change_config(copy, **changes)
    with pytest.raises(ValueError, match=words):
        load(str(copy))


def test_damaged_files_are_named(copy):
    tokenizer = (copy / "tokenizer.json").read_text()
    (copy / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="has a tokenizer that cannot be loaded"):
        load(str(copy))
    (copy / "tokenizer.json").write_text(tokenizer)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="has weights that cannot be loaded"):
        load(str(copy))
    (copy / "config.json").write_text("{")
    with pytest.raises((ValueError, OSError), match=r"config\.json"):
        load(str(copy))


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(copy):
    tiny_model(vocab_size=100, mask_token_id=None).save_pretrained(copy)
    with pytest.raises(ValueError, match="has a tokenizer of 319 tokens and a vocabulary of 100 only"):
        load(str(copy))


def test_code_in_the_folder_is_never_run(copy):
    (copy / "modeling_fsdfm.py").write_text("raise RuntimeError('run')")
    (copy / "configuration_fsdfm.py").write_text("raise RuntimeError('run')")
    assert type(load(str(copy))[0]).__module__ == "transformers_fsdfm.modeling_fsdfm"


def test_loading_says_nothing(checkpoint, capfd):
    load(str(checkpoint))
    assert capfd.readouterr() == ("", "")
