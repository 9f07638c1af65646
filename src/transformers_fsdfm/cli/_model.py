# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The checkpoint that a command works with: where it is, and loading it."""

import contextlib
import logging
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..hub_configs import available_checkpoints, available_configs, available_scorers
from ..hub_ids import why_no_hub_id


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..configuration_fsdfm import FSDFMConfig
    from ..modeling_fsdfm import FSDFMForDiffusionLM

DEFAULT_CHECKPOINT = "fsdfm-tinystories"
# No code: the classes of this package load every checkpoint
NEEDED_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.md")


def find_checkpoint(model: str | None) -> Path:
    """
    The folder of a checkpoint, or of a configuration without weights.

    Args:
        model (`str`, *optional*): a folder, the name of what comes with the package, or a Hub id, which is downloaded.
            None: the default checkpoint of the package.

    Raises:
        `FileNotFoundError`, `OSError`: there is none.
    """
    if model is None:
        folder = available_checkpoints().get(DEFAULT_CHECKPOINT)
        if folder is None:
            raise FileNotFoundError("`model` is needed (a folder or a Hub id): this installation has no checkpoint")
        return folder
    packaged = available_configs()
    if os.path.isdir(model):
        return Path(model)
    if model in packaged:
        return packaged[model]
    if os.path.isfile(model):
        raise NotADirectoryError(f"`model` {model} is a file; `fsdfm convert` makes a model folder of a published one")
    if model in available_scorers():
        raise ValueError(
            f"`model` {model} is autoregressive: it scores in fsdfm evaluate (--scorer {model}), and runs beside "
            f"a DFM in fsdfm timeline (--ar {model})"
        )
    if reason := why_no_hub_id(model):
        known = ", ".join(available_checkpoints())
        hint = f"; the checkpoints of this package are {known}" if known else ""
        raise FileNotFoundError(f"`model` {model} is no folder, and {reason}{hint}")
    return _download(model)


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(NEEDED_FILES)))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise OSError(f"`model` {hub_id} is no folder, and cannot be had from the Hub: {reason}") from error


def weight_files(folder: Path) -> list[Path]:
    """The files of a checkpoint that hold its weights; none if it is a configuration alone."""
    return sorted(folder.glob("model*.safetensors"))


def has_tokenizer(folder: Path) -> bool:
    """Whether a tokenizer stands beside the weights."""
    return any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json"))


def read_config(folder: Path) -> "FSDFMConfig":
    """
    The configuration of a checkpoint.

    Raises:
        `FileNotFoundError`, `ValueError`: there is none, or it is that of another kind of model.
    """
    from huggingface_hub.errors import StrictDataclassError

    from ..configuration_fsdfm import FSDFMConfig

    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise ValueError(f"`model` {folder} is an adapter; merge it into its base (docs/lora.md: merge_and_unload)")
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"`model` {folder} is no model folder: it has no config.json")
    settings, _ = FSDFMConfig.get_config_dict(folder)
    if settings.get("model_type") != FSDFMConfig.model_type:
        raise ValueError(f"`model` {folder} is of the type {settings.get('model_type')!r}, not a DFM or FS-DFM")
    try:
        return FSDFMConfig.from_dict(settings)
    except StrictDataclassError as error:
        raise ValueError(f"`model` {folder} has a wrong config.json: {error.__cause__ or error}") from error


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hides what libraries remark while they are imported and load; whatever matters to a command is an error."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def load(
    model: str | None = None, *, device: str | None = None, dtype: str | None = None
) -> tuple["FSDFMForDiffusionLM", "PreTrainedTokenizerBase"]:
    """
    A checkpoint, ready to generate, and its tokenizer.

    Args:
        model (`str`, *optional*): see [`find_checkpoint`].
        device (`str`, *optional*): such as `"cpu"` or `"cuda:1"`; by default an accelerator if there is one.
        dtype (`str`, *optional*): `"float32"`, `"bfloat16"` or `"float16"`; that of the file by default.

    Raises:
        `OSError`: there is no such checkpoint, or a part of it is missing.
        `ValueError`: it is another kind of model, its weights or its tokenizer do not fit; `device` does not exist.
    """
    with quiet_libraries():
        from huggingface_hub.errors import HFValidationError
        from safetensors import SafetensorError
        from transformers.utils.logging import disable_progress_bar

        from ..devices import find_device
        from ..modeling_fsdfm import FSDFMForDiffusionLM

        folder = find_checkpoint(model)
        config = read_config(folder)
        torch_device = find_device(device)
        if not weight_files(folder):
            raise FileNotFoundError(
                f"`model` {model or folder} is a configuration without weights; `fsdfm pretrain` trains a model of it"
            )
        tokenizer = _load_tokenizer(folder, config)
        disable_progress_bar()
        try:
            found: Any = FSDFMForDiffusionLM.from_pretrained(
                folder, config=config, dtype=dtype or "auto", output_loading_info=True, local_files_only=True
            )
            loaded, report = found
        except (OSError, RuntimeError, SafetensorError, HFValidationError) as error:
            reason = _first_sentence(error)
            raise ValueError(f"`model` {folder} has weights that cannot be loaded: {reason}") from error
        _check_complete(folder, report)
        return loaded.to(torch_device).eval(), tokenizer


def _load_tokenizer(folder: Path, config: "FSDFMConfig") -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    if not has_tokenizer(folder):
        raise FileNotFoundError(f"`model` {folder} has no tokenizer; save the one it was trained with in that folder")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"`model` {folder} has a tokenizer that cannot be loaded: {_first_sentence(error)}") from error
    ids = set(tokenizer.get_vocab().values()) - {config.mask_token_id}
    if max(ids) >= config.vocab_size:
        raise ValueError(
            f"`model` {folder} has a tokenizer of {len(ids)} tokens and a vocabulary of {config.vocab_size} only"
        )
    return tokenizer


def _check_complete(folder: Path, report: dict[str, Any]) -> None:
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if names := sorted(map(str, report[problem])):
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise ValueError(f"`model` {folder} has weights that do not fit its config.json, {problem}: {shown}")


def _first_sentence(error: BaseException) -> str:
    """Of a message that may be a page long."""
    return re.split(r"\n|\. ", str(error).strip())[0] or type(error).__name__
