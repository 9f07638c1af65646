# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The configurations that come with the package."""

import json

import pytest
import torch
from transformers import AutoConfig

from transformers_fsdfm import (
    FSDFMConfig,
    FSDFMForDiffusionLM,
    FSDFMGenerationConfig,
    available_configs,
    available_scorers,
    hub_configs,
)


# name -> layers, width, heads, conditioning, millions of parameters
PUBLISHED = {
    "dfm-170m": (12, 768, 12, 128, 169.6),
    "fsdfm-170m": (12, 768, 12, 128, 170.2),
    "fsdfm-1.3b": (21, 2048, 32, 256, 1334),
    "fsdfm-1.7b": (28, 2048, 32, 256, 1709),
}


def test_scorers_are_no_configurations_of_flows(tmp_path, monkeypatch):
    for name, model_type in (("flow", "fsdfm"), ("judge", "gpt2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"model_type": model_type}))
    monkeypatch.setattr(hub_configs, "__file__", str(tmp_path / "__init__.py"))
    assert available_configs() == {"flow": tmp_path / "flow"}
    assert available_scorers() == {"judge": tmp_path / "judge"}


def test_published_sizes_are_available():
    assert PUBLISHED.keys() <= available_configs().keys()


@pytest.mark.parametrize("name", available_configs())
def test_every_folder_loads(name):
    folder = available_configs()[name]
    config = FSDFMConfig.from_pretrained(folder)
    assert type(AutoConfig.from_pretrained(folder)) is FSDFMConfig
    assert AutoConfig.from_pretrained(folder).to_diff_dict() == config.to_diff_dict()
    assert config.architectures == ["FSDFMForDiffusionLM"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_are_right(name):
    config = FSDFMConfig.from_pretrained(available_configs()[name])
    sizes = (config.num_hidden_layers, config.hidden_size, config.num_attention_heads, config.conditioning_size)
    assert sizes == PUBLISHED[name][:4]
    assert (config.vocab_size, config.max_position_embeddings, config.source_distribution) == (50_257, 1024, "uniform")
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (50_256, 50_256, 50_256)
    assert config.step_size_conditioning == (not name.startswith("dfm"))
    with torch.device("meta"):
        model = FSDFMForDiffusionLM(config)
    assert model.num_parameters() / 1e6 == pytest.approx(PUBLISHED[name][4], rel=0.005)


@pytest.mark.parametrize("name", PUBLISHED)
def test_generation_config_loads_through_the_model_class(name):
    settings = FSDFMForDiffusionLM.generation_config_class.from_pretrained(available_configs()[name])
    assert type(settings) is FSDFMGenerationConfig
    assert settings.num_steps == (1024 if name.startswith("dfm") else 8)
    assert (settings.max_length, settings.eos_token_id, settings.pad_token_id) == (1024, 50_256, 50_256)


@pytest.mark.parametrize("name", PUBLISHED)
def test_files_hold_nothing_of_the_machine_they_were_written_on(name):
    known = {*FSDFMConfig().to_dict(), "architectures", "model_type", "transformers_version"}
    text = (available_configs()[name] / "config.json").read_text()
    assert json.loads(text).keys() <= known - {"_name_or_path", "dtype"}
    for file in available_configs()[name].iterdir():
        assert "/" not in file.read_text()
