# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The models and scorers of a report: found, checked, and told apart by what is in their files."""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from .. import FSDFMConfig, FSDFMForDiffusionLM, FSDFMGenerationConfig
from ..hub_configs import available_checkpoints, available_scorers, find_scorer
from ..hub_ids import why_no_hub_id


WEIGHT_FILES = ("model*.safetensors", "pytorch_model*.bin")
# What else decides about samples and scores. A run folder also holds logs, which don't.
SETTING_FILES = ("config.json", "generation_config.json")
CODE_FILES = ("*.py",)
TOKENIZER_FILES = ("tokenizer*.json", "special_tokens_map.json", "vocab.json", "merges.txt", "*.model")
# What transformers notes in tokenizer_config.json of how a tokenizer was loaded when it was saved. It decides nothing.
LOADING_NOTES = ("is_local", "local_files_only", "name_or_path")


@dataclass(frozen=True)
class ModelFolder:
    """
    A model on disk, not loaded yet.

    Args:
        name (`str`): what the report calls it.
        path (`Path`): its folder.
    """

    name: str
    path: Path

    @classmethod
    def find(cls, name: str, path: str) -> "ModelFolder":
        """
        The folder itself, or that of a checkpoint of this package or of a Hub id.

        Raises:
            `ValueError`: if there is no such model, or it has no weights.
        """
        source = find_scorer(path)
        folder = cls(name, Path(source) if os.path.isdir(source) else _download(path))
        if (folder.path / "adapter_config.json").is_file():
            raise ValueError(f"model {path} is an adapter: merge it into its base first (merge_and_unload)")
        if not (folder.path / "config.json").is_file():
            raise ValueError(f"model {path} is no model folder: it has no config.json")
        if not folder.files(WEIGHT_FILES):
            raise ValueError(
                f"model {path} has no weights: no file {' or '.join(WEIGHT_FILES)} in it; `fsdfm pretrain` trains "
                "a model of a configuration"
            )
        folder._check_weight_files()
        return folder

    def files(self, patterns: Iterable[str]) -> list[Path]:
        """The files that match any of the patterns, sorted by name."""
        return sorted({file for pattern in patterns for file in self.path.glob(pattern)})

    def _check_weight_files(self) -> None:
        """Reads what stands at the beginning of each file, and whether the file is as long as that says."""
        for file in self.files(("model*.safetensors",)):
            try:
                with safe_open(file, framework="pt"):
                    pass
            except (SafetensorError, OSError) as error:
                raise ValueError(f"model {self.path}: {file.name} is broken or incomplete ({error})") from error

    @cached_property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that stand for the weights, the tokenizer and the settings saved beside them."""
        total = hashlib.blake2b(digest_size=16)
        for file in self.files((*WEIGHT_FILES, *SETTING_FILES, *TOKENIZER_FILES)):
            total.update(file.name.encode() + _file_digest(file))
        return total.hexdigest()

    @cached_property
    def config(self) -> dict[str, Any]:
        """`config.json` as it is."""
        try:
            return json.loads((self.path / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"model {self.path}: its config.json can't be read ({error})") from error

    @property
    def generation_config(self) -> FSDFMGenerationConfig:
        """What a flow sets for its sampling; nothing if it has no `generation_config.json`."""
        config = FSDFMGenerationConfig()
        if (self.path / "generation_config.json").is_file():
            config.set_unset(FSDFMGenerationConfig.from_pretrained(self.path))
        return config

    @property
    def is_flow(self) -> bool:
        """Whether it is a DFM or FS-DFM."""
        return self.config.get("model_type") == FSDFMConfig.model_type

    @property
    def kind(self) -> str:
        """What kind of flow it is."""
        return "FS-DFM" if FSDFMConfig(**self.config).step_size_conditioning else "DFM"


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download

    known = f"; those of this package are {', '.join([*available_checkpoints(), *available_scorers()])}"
    if reason := why_no_hub_id(hub_id, needs_organization=False):
        raise ValueError(f"model {hub_id} is no folder, and {reason}{known}")
    try:
        wanted = [*WEIGHT_FILES, "*.json", *TOKENIZER_FILES, *CODE_FILES]
        return Path(snapshot_download(hub_id, allow_patterns=wanted))
    except Exception as error:  # offline, unknown, forbidden, or no valid id at all
        raise ValueError(f"model {hub_id} is no folder, and no Hub id that can be reached{known}") from error


def _file_digest(file: Path) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    if file.name == "tokenizer_config.json":
        settings = json.loads(file.read_text(encoding="utf-8"))
        kept = {name: value for name, value in settings.items() if name not in LOADING_NOTES}
        digest.update(json.dumps(kept, sort_keys=True).encode())
        return digest.digest()
    with open(file, "rb") as stream:
        while chunk := stream.read(1 << 24):
            digest.update(chunk)
    return digest.digest()


def find_flows(paths: dict[str, str]) -> dict[str, ModelFolder]:
    """
    The models under test, by name.

    Raises:
        `ValueError`: if one can't be found or is something else.
    """
    folders = {name: ModelFolder.find(name, path) for name, path in paths.items()}
    for folder in folders.values():
        if not folder.is_flow:
            raise ValueError(
                f"model {folder.path} is a {folder.config.get('model_type')} model, not a DFM or FS-DFM: other models "
                "are `scorers`, `baselines` (autoregressive ones) or `systems`"
            )
    return folders


def find_others(paths: dict[str, str], trust_remote_code: bool) -> dict[str, ModelFolder]:
    """
    Systems that are not of this package, by name.

    Raises:
        `ValueError`: if one can't be found, is a flow, or brings code that may not run.
    """
    folders = {name: ModelFolder.find(name, path) for name, path in paths.items()}
    for folder in folders.values():
        if folder.is_flow:
            raise ValueError(f"model {folder.path} is a DFM or FS-DFM: name it among the models")
        if "auto_map" in folder.config and not trust_remote_code:
            raise ValueError(f"model {folder.path} brings its own code: read it, then pass `trust_remote_code`")
    return folders


def find_scorers(paths: dict[str, str]) -> dict[str, ModelFolder]:
    """
    The judges, by name.

    Raises:
        `ValueError`: if one can't be found, or is a flow.
    """
    folders = {}
    for name, path in paths.items():
        try:
            folders[name] = ModelFolder.find(name, path)
        except ValueError as error:
            raise ValueError(f"`scorers`: {error}") from error
        if folders[name].is_flow:
            raise ValueError(
                f"`scorers`: model {path} is a DFM or FS-DFM, not a causal language model; its own measure is the "
                "metric likelihood_bound"
            )
    return folders


def common_tokenizer(folders: Iterable[ModelFolder]) -> PreTrainedTokenizerBase:
    """
    The tokenizer of all models.

    Raises:
        `ValueError`: if one is missing, or two differ: prompts and lengths in tokens would not be the same.
    """
    from ..trainer.cache import tokenizer_fingerprint

    first, *others = folders
    common = _load_tokenizer(first)
    for folder in others:
        if tokenizer_fingerprint(common) != tokenizer_fingerprint(_load_tokenizer(folder)):
            raise ValueError(
                f"models {first.path} and {folder.path} have different tokenizers, so their sequences can't be of one "
                "length nor share prompts: make a report for each"
            )
    return common


def _load_tokenizer(folder: ModelFolder) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder.path, padding_side="left")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"model {folder.path} has no tokenizer beside its weights: save one there") from error
    if tokenizer.eos_token_id is None:
        raise ValueError(f"model {folder.path}: its tokenizer has no EOS token, which ends documents")
    return tokenizer


def load_flow(folder: ModelFolder, dtype: str, device: torch.device) -> FSDFMForDiffusionLM:
    """
    A DFM or FS-DFM, ready to sample.

    Raises:
        `ValueError`: if its weights do not fit its configuration.
    """
    loaded: Any = FSDFMForDiffusionLM.from_pretrained(
        folder.path, dtype=getattr(torch, dtype), output_loading_info=True
    )
    model, found = loaded
    if found["missing_keys"] or found["mismatched_keys"]:
        wrong = sorted(map(str, [*found["missing_keys"], *found["mismatched_keys"]]))
        raise ValueError(f"model {folder.path}: its weights do not fit its config.json, see {wrong[0]}")
    return model.to(device).eval()


__all__ = ["LOADING_NOTES", "ModelFolder", "common_tokenizer", "find_flows", "find_others", "find_scorers", "load_flow"]
