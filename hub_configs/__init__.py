# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The configurations and checkpoints that come with the package, one folder each, as they would stand on the Hub."""

import json
from pathlib import Path


MODEL_TYPE = "fsdfm"


def available_configs() -> dict[str, Path]:
    """
    The configurations of DFM and FS-DFM that come with the package, some with trained weights: name -> folder.

    Example:

    ```python
    >>> from transformers_fsdfm import FSDFMConfig, available_configs

    >>> config = FSDFMConfig.from_pretrained(available_configs()["fsdfm-170m"])
    ```
    """
    return {name: folder for name, (model_type, folder) in _folders().items() if model_type == MODEL_TYPE}


def available_checkpoints() -> dict[str, Path]:
    """Those of [`available_configs`] that have weights, and can thus generate: name -> folder."""
    return {name: folder for name, folder in available_configs().items() if any(folder.glob("model*.safetensors"))}


def find_checkpoint(path: str) -> str | Path:
    """The folder of a checkpoint that comes with the package; a path of a folder or a Hub id as it is."""
    return path if Path(path).is_dir() else available_checkpoints().get(path, path)


def available_scorers() -> dict[str, Path]:
    """The autoregressive models that come with the package, only to score what others write: name -> folder."""
    return {name: folder for name, (model_type, folder) in _folders().items() if model_type != MODEL_TYPE}


def find_scorer(path: str) -> str | Path:
    """
    The folder of a model that comes with the package; a path of a folder or a Hub id as it is. Flows are found as well,
    so that whoever loads one can say that it is none.
    """
    return path if Path(path).is_dir() else {**available_configs(), **available_scorers()}.get(path, path)


def _folders() -> dict[str, tuple[str, Path]]:
    """Name -> type of the model, folder."""
    files = sorted(Path(__file__).parent.glob("*/config.json"))
    return {
        file.parent.name: (json.loads(file.read_text(encoding="utf-8"))["model_type"], file.parent) for file in files
    }
