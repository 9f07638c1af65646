# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""`fsdfm info`."""

import json
import re
import shutil
from importlib import metadata

import pytest
import torch
from transformers import AutoTokenizer

from tests.conftest import tiny_model
from transformers_fsdfm import FSDFMForDiffusionLM, FSDFMGenerationConfig, available_configs


def test_json_has_everything(run, checkpoint):
    code, out, error = run("info", checkpoint, "--json")
    record = json.loads(out)
    assert (code, error) == (0, "")
    assert list(record) == ["checkpoint", "packaged", "devices", "versions"]
    model = FSDFMForDiffusionLM.from_pretrained(checkpoint)
    files = {file.name: file.stat().st_size for file in checkpoint.iterdir()}
    assert record["checkpoint"] == {
        "folder": str(checkpoint),
        "kind": "FS-DFM",
        "num_parameters": model.num_parameters(),
        "dtypes": ["float32"],
        "vocab_size": model.config.vocab_size,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "trained_length": 64,
        "num_steps": 8,
        "sampling": {
            **dict.fromkeys(("final_temperature", "top_k", "top_p")),
            **{"solver": "cumulative_scalar", "time_shift": 1.0, "min_step_size": None},
            **{"spread_candidates": False, "temperature": 1.0},
        },
        "source_distribution": "uniform",
        "schedule": "linear",
        "schedule_exponent": None,
        "tokenizer": {
            "class": type(AutoTokenizer.from_pretrained(checkpoint)).__name__,
            "num_tokens": model.config.vocab_size + 1,
            "eos_token": "<|endoftext|>",
            "pad_token": "<|pad|>",
            "mask_token": "<|mask|>",
        },
        "files": dict(sorted(files.items())),
    }
    assert record["devices"][0]["name"] == "cpu"
    assert record["devices"][0]["threads"] == torch.get_num_threads()
    assert record["versions"]["torch"] == metadata.version("torch")
    assert record["versions"]["transformers-fsdfm"] == metadata.version("transformers-fsdfm")


def test_the_table_says_the_same_to_people(run, checkpoint):
    code, out, _ = run("info", checkpoint)
    num_parameters = FSDFMForDiffusionLM.from_pretrained(checkpoint).num_parameters()
    assert code == 0
    for line in (
        rf"folder +{re.escape(str(checkpoint))}",
        r"kind +FS-DFM, 8 steps by default",
        rf"parameters +{num_parameters:,} \(float32\)",
        r"sizes +2 layers of width 32, 4 heads, vocabulary of \d+",
        r"length +64 tokens",
        r"source +uniform",
        r"schedule +linear",
        r"tokenizer +\w+, \d+ tokens",
        r"[\d,]+ model\.safetensors",
        r"cpu +.*\d+ threads",
        rf"torch +{re.escape(metadata.version('torch'))}",
    ):
        assert re.search(rf"^ +{line}$", out, re.MULTILINE), line


def test_a_plain_dfm_in_another_dtype_with_another_schedule_and_grid(run, tmp_path):
    model = tiny_model(
        step_size_conditioning=False, source_distribution="mask", schedule="polynomial", schedule_exponent=2.0
    )
    model.generation_config = FSDFMGenerationConfig(time_grid=[0.0, 0.5, 0.9, 1.0], top_k=7, spread_candidates=True)
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    record = json.loads(run("info", tmp_path, "--json")[1])["checkpoint"]
    assert (record["kind"], record["dtypes"], record["num_steps"]) == ("DFM", ["bfloat16"], 3)
    assert (record["source_distribution"], record["schedule_exponent"]) == ("mask", 2.0)
    assert record["tokenizer"] is None
    out = run("info", tmp_path)[1]
    assert "polynomial, exponent 2.0" in out
    assert re.search(r"sampling +spread_candidates=True, top_k=7$", out, re.MULTILINE)
    assert re.search(r"tokenizer +none", out)


def test_a_configuration_without_weights(run):
    record = json.loads(run("info", "fsdfm-170m", "--json")[1])["checkpoint"]
    assert record["dtypes"] == []
    assert 160e6 < record["num_parameters"] < 180e6
    assert "(no weights here)" in run("info", "fsdfm-170m")[1]


def test_what_can_generate_is_told_from_what_can_only_be_trained(run, checkpoint, monkeypatch):
    packaged = {"few-step": checkpoint, "fsdfm-170m": available_configs()["fsdfm-170m"]}
    monkeypatch.setattr("transformers_fsdfm.hub_configs.available_configs", lambda: packaged)
    monkeypatch.setattr("transformers_fsdfm.hub_configs.available_scorers", lambda: {"judge": checkpoint})
    assert json.loads(run("info", "--json")[1])["packaged"] == {
        "checkpoints": ["few-step"],
        "configurations": ["fsdfm-170m"],
        "scorers": ["judge"],
    }
    out = run("info")[1]
    assert re.search(r"^ +checkpoints +few-step$", out, re.MULTILINE)
    assert re.search(r"^ +configurations +fsdfm-170m \(no weights; fsdfm pretrain --config_name", out, re.MULTILINE)
    assert re.search(r"^ +scorers +judge$", out, re.MULTILINE)


def test_without_any_checkpoint_it_tells_of_the_machine(run, monkeypatch):
    monkeypatch.setattr("transformers_fsdfm.hub_configs.available_configs", dict)
    code, out, _ = run("info")
    assert code == 0
    assert "none: no MODEL was given, and this installation has no checkpoint" in out
    assert re.search(r"^Versions\n  python", out, re.MULTILINE)
    assert json.loads(run("info", "--json")[1])["checkpoint"] is None


@pytest.mark.parametrize("name", ["nowhere", "some/where"])
def test_a_checkpoint_that_is_not_there_is_an_error(run, name):
    code, out, error = run("info", name)
    assert (code, out) == (1, "")
    assert error.startswith(f"fsdfm: error: MODEL {name} is no folder")


def test_a_damaged_weight_file_is_named(run, checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "copy")
    (folder / "model.safetensors").write_bytes(b"short")
    code, _, error = run("info", folder)
    assert code == 1
    assert "the file model.safetensors is damaged" in error
