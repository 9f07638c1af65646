# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""From a trained model to the folder that is shipped: half the size, with its tokenizer and its way to generate."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from transformers_fsdfm import FSDFMConfig, FSDFMForDiffusionLM, FSDFMGenerationConfig
from transformers_fsdfm.evaluation.systems import LOADING_NOTES

from .card import read_record, write_card, write_scorer_card


CHECKSUMS = "SHA256SUMS"


def publish_flow(
    stages: Sequence[Path], folder: Path, generation: dict[str, Any], dtype: str = "bfloat16", dfm_share: float = 0.0
) -> None:
    """
    Writes a complete folder of a DFM or FS-DFM with its model card, and the checksums of its weights and tokenizer.

    Args:
        stages (`Sequence[Path]`): the run folders that lead to the model, first to last; the last one has the trained
            model, with tokenizer.
        folder (`Path`): the folder to write.
        generation (`dict[str, Any]`): fields of [`FSDFMGenerationConfig`], such as `num_steps`.
        dtype (`str`, *optional*, defaults to `"bfloat16"`): of the weights in the file. In memory they are float32
            unless the user asks for less: many CPUs have no other arithmetic, and emulate it ten times slower.
        dfm_share (`float`, *optional*, defaults to 0.0): of the DFM that the FS-DFM was distilled from, in a weighted
            mean of the weights that both have; the layers that take the step size stay as they are. Distillation makes
            texts more coherent and less diverse. This gives diversity back, as WiSE-FT (arXiv 2109.01903) gives back
            robustness: there, too, a fine-tuned model is averaged with the one that it began as.

    Raises:
        `ValueError`: a setting means nothing; before anything is written.
    """
    if not 0 <= dfm_share < 1:
        raise ValueError(f"`dfm_share` must be in [0, 1), but got {dfm_share}")
    trained = stages[-1]
    model = FSDFMForDiffusionLM.from_pretrained(trained, dtype=torch.float32)
    if dfm_share:
        _average_with_dfm(model, stages, dfm_share)
    model.generation_config = FSDFMGenerationConfig.from_model_config(model.config)
    unknown = model.generation_config.update(**generation)
    if unknown:
        raise ValueError(f"`generation` has settings that generate does not know: {sorted(unknown)}")
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    _edit_config(folder)
    _save_tokenizer(trained, folder, model.config.max_position_embeddings)
    write_card(folder, model, [read_record(stage) for stage in stages], dfm_share)
    _write_checksums(folder)


def publish_scorer(trained: Path, folder: Path, dtype: str = "bfloat16") -> None:
    """The same for the autoregressive model that scores samples; `trained` is its run folder."""
    model = AutoModelForCausalLM.from_pretrained(trained, dtype=getattr(torch, dtype))
    model.save_pretrained(folder)
    _edit_config(folder)
    _save_tokenizer(trained, folder, model.config.n_positions)
    write_scorer_card(folder, model, trained)
    _write_checksums(folder)


@torch.no_grad()
def _average_with_dfm(model: FSDFMForDiffusionLM, stages: Sequence[Path], share: float) -> None:
    """In place; `stages` hold the DFM from which distillation began."""
    dfms = [stage for stage in stages if not FSDFMConfig.from_pretrained(stage).step_size_conditioning]
    if not dfms or not model.config.step_size_conditioning:
        raise ValueError("`dfm_share` needs an FS-DFM, and the DFM that it came from among the stages before it")
    weights = model.state_dict()
    for name, weight in FSDFMForDiffusionLM.from_pretrained(dfms[-1], dtype=torch.float32).state_dict().items():
        weights[name].lerp_(weight, share)


def _save_tokenizer(trained: Path, folder: Path, length: int) -> None:
    """
    With the length of this model (the tokenizer may come from a stage of shorter texts), and without what transformers
    notes of how it was loaded here.
    """
    tokenizer = AutoTokenizer.from_pretrained(trained)
    tokenizer.model_max_length = length
    for name in LOADING_NOTES:
        tokenizer.init_kwargs.pop(name, None)
    tokenizer.save_pretrained(folder)


def _edit_config(folder: Path) -> None:
    """
    Has the weights loaded in float32, see [`publish_flow`], and by the classes of the package: a copy of their code
    inside of it would be a second one to keep right.
    """
    for file in folder.glob("*.py"):
        file.unlink()
    config = folder / "config.json"
    settings = json.loads(config.read_text(encoding="utf-8"))
    settings.pop("auto_map", None)
    settings["dtype"] = "float32"
    config.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_checksums(folder: Path) -> None:
    lines = [f"{checksum(folder / name)}  {name}\n" for name in ("model.safetensors", "tokenizer.json")]
    (folder / CHECKSUMS).write_text("".join(lines), encoding="utf-8")


def checksum(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


__all__ = ["CHECKSUMS", "checksum", "publish_flow", "publish_scorer"]
