# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The models and tokenizers that a script starts from."""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoTokenizer, PreTrainedTokenizerBase, TrainingArguments
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

from transformers_fsdfm import FSDFMConfig, FSDFMForDiffusionLM
from transformers_fsdfm.hub_configs import available_checkpoints, available_configs
from transformers_fsdfm.hub_ids import why_no_hub_id

from .arguments import DFMTrainingArguments
from .packing import check_settings
from .script_arguments import ALL_LINEAR, LoraArguments, NewModelArguments


logger = logging.getLogger(__name__)


def read_model(path: str, tokenizer_path: str | None) -> tuple[FSDFMConfig, PreTrainedTokenizerBase]:
    """
    The configuration and the tokenizer of the model to start from.

    Args:
        path (`str`): `--model_name_or_path`.
        tokenizer_path (`str`, *optional*): `--tokenizer`; in the same place if not set.

    Raises:
        `ValueError`: if there is none, or they do not fit.
    """
    config = _read_config(path)
    tokenizer = load_tokenizer(tokenizer_path or path)
    check_tokenizer(tokenizer, config)
    return config, tokenizer


def _read_config(path: str) -> FSDFMConfig:
    """
    The configuration of a trained model: a folder or a hub id.

    Raises:
        `ValueError`: if that is something else.
    """
    if path.endswith((".pth", ".pt", ".bin", ".safetensors")):
        raise ValueError(f"--model_name_or_path {path} is a file: convert it to a model folder first (fsdfm convert)")
    if os.path.isfile(os.path.join(path, "adapter_config.json")):
        raise ValueError(f"--model_name_or_path {path} is an adapter: merge it into its base first (merge_and_unload)")
    if not os.path.isdir(path) and (reason := why_no_hub_id(path)):
        raise ValueError(
            f"--model_name_or_path {path} is no model folder, and {reason}; the models of this "
            f"package are {', '.join(available_checkpoints())}"
        )
    try:
        settings, _ = FSDFMConfig.get_config_dict(path)
    except OSError as error:
        if os.path.isfile(os.path.join(path, "config.json")):
            raise ValueError(f"--model_name_or_path {path}: {error}") from error
        raise ValueError(
            f"--model_name_or_path {path} is no model folder, and no hub id that can be reached"
        ) from error
    if settings.get("model_type") != FSDFMConfig.model_type:
        raise ValueError(f"--model_name_or_path {path} is a {settings.get('model_type')} model, not a DFM or FS-DFM")
    return _checked_config(_fields(settings))


def new_config(
    args: NewModelArguments, block_size: int | None, tokenizer: PreTrainedTokenizerBase | None
) -> FSDFMConfig:
    """
    The configuration of a DFM that is trained from the beginning, see [`NewModelArguments`].

    Args:
        block_size (`int`, *optional*): the length that it is trained on; that of the configuration if not set.
        tokenizer ([`PreTrainedTokenizerBase`], *optional*): gives the vocabulary. Without one, before it is trained,
            the result only tells whether everything else fits.
    """
    settings = {} if args.config_name is None else _named_config(args.config_name)
    if args.hidden_size is not None and args.intermediate_size is None:
        settings.pop("intermediate_size", None)
    special_tokens = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id", "mask_token_id"))
    settings.update(args.config_changes, **special_tokens, step_size_conditioning=False)
    if block_size is not None:
        settings["max_position_embeddings"] = block_size
    if tokenizer is None:
        return _checked_config({**settings, "vocab_size": args.train_tokenizer_vocab_size or 1})
    settings["vocab_size"] = _num_data_tokens(tokenizer, settings.get("source_distribution", "uniform"))
    for name in special_tokens:
        token_id = getattr(tokenizer, name)
        limit = settings["vocab_size"] + (name == "mask_token_id")
        settings[name] = token_id if token_id is not None and token_id < limit else None
    return _checked_config(settings)


def _checked_config(settings: dict[str, Any]) -> FSDFMConfig:
    try:
        return FSDFMConfig(**settings)
    except StrictDataclassError as error:  # no ValueError, but the cause is one
        raise ValueError(str(error.__cause__ or error)) from error


def _named_config(name: str) -> dict[str, Any]:
    """The fields of a configuration that comes with the package, or of a file or folder."""
    if name in available_configs():
        name = str(available_configs()[name])
    elif not os.path.exists(name):
        raise ValueError(f"--config_name {name} is no file or folder, and none of {', '.join(available_configs())}")
    settings, _ = FSDFMConfig.get_config_dict(name)
    if settings.get("model_type") != FSDFMConfig.model_type:
        raise ValueError(f"--config_name {name} describes a {settings.get('model_type')} model")
    return _fields(settings)


def _fields(settings: dict[str, Any]) -> dict[str, Any]:
    """Of a configuration file, what describes the model."""
    no_fields = ("architectures", "auto_map", "dtype", "model_type", "transformers_version", "_name_or_path")
    return {field: value for field, value in settings.items() if field not in no_fields}


def _num_data_tokens(tokenizer: PreTrainedTokenizerBase, source_distribution: str) -> int:
    """The mask token, if it is the last one, is not counted."""
    size = len(tokenizer)
    if tokenizer.mask_token_id == size - 1:
        return size - 1
    if source_distribution == "mask" and tokenizer.mask_token_id is not None:
        raise ValueError(
            f"The tokenizer's mask token has the id {tokenizer.mask_token_id}; a mask source needs it to be the last"
        )
    return size


def set_trained_length(model: FSDFMForDiffusionLM, length: int) -> None:
    """A model that is trained on another length from now on: it also generates that much by default."""
    before = model.config.max_position_embeddings
    if length < before:
        logger.warning(
            f"The model was trained on {before:,} tokens, and is now on {length:,} (--block_size): it will write longer"
            f" texts in windows of that size. For texts of {before:,} tokens in one piece, train on such blocks last"
        )
    if model.generation_config.max_length == model.config.max_position_embeddings:
        model.generation_config.max_length = length
    model.config.max_position_embeddings = length


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """A tokenizer that pads on the left, as prompts need, and has an EOS token."""
    if not os.path.exists(path) and (reason := why_no_hub_id(path, needs_organization=False)):
        raise ValueError(f"--tokenizer {path} is no folder, and {reason}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    except (OSError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} has no tokenizer that can be loaded (set --tokenizer): {reason}") from error
    check_settings(tokenizer)
    return tokenizer


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, config: FSDFMConfig) -> None:
    """
    Raises:
        `ValueError`: if the tokenizer has tokens that the model does not know.
    """
    num_tokens = _num_data_tokens(tokenizer, config.source_distribution)
    if num_tokens > config.vocab_size:
        raise ValueError(f"The tokenizer has {num_tokens} tokens, the model only {config.vocab_size}; pass --tokenizer")


def check_step_sizes(args: DFMTrainingArguments, config: FSDFMConfig) -> None:
    """
    Args:
        config ([`FSDFMConfig`]): of the model that is trained.

    Raises:
        `ValueError`: if step sizes are set for a model that takes none.
    """
    if not config.step_size_conditioning and args.num_step_size_levels != DFMTrainingArguments.num_step_size_levels:
        raise ValueError("--num_step_size_levels has no effect on a plain DFM, which takes no step size")


def new_model(config: FSDFMConfig, seed: int) -> FSDFMForDiffusionLM:
    """A model with random weights, the same in all processes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FSDFMForDiffusionLM(config)


def load_model(
    path: str, training_args: TrainingArguments, dtype: torch.dtype = torch.float32, whole: bool = False
) -> FSDFMForDiffusionLM:
    """
    A trained model, in float32 if nothing else is asked for.

    Args:
        whole (`bool`, *optional*, defaults to `False`):
            `True`: no shards, even if ZeRO-3 will train it; to make another model of it.
    """
    with _zero3_suspended(training_args) if whole else contextlib.nullcontext():
        return FSDFMForDiffusionLM.from_pretrained(path, dtype=dtype)


@contextlib.contextmanager
def _zero3_suspended(args: TrainingArguments) -> Iterator[None]:
    """transformers shards what it loads while a ZeRO-3 configuration is registered."""
    if args.deepspeed_plugin is None:
        yield
        return
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        set_hf_deepspeed_config(args.deepspeed_plugin.dschf)


def few_step_base(path: str, args: Any, dtype: torch.dtype, is_resumed: bool) -> FSDFMForDiffusionLM:
    """
    The FS-DFM below an adapter, made of a DFM and saved in `base` of the run folder: the adapter is of no use without.

    Args:
        args ([`FSDFMTrainingArguments`]): say how the step size enters.
        is_resumed (`bool`): whether it is there already.
    """
    folder = Path(args.output_dir, "base")
    if not (is_resumed and folder.is_dir()):
        with torch.random.fork_rng(devices=[]), args.main_process_first(local=False, desc="making the FS-DFM"):
            torch.manual_seed(args.seed)
            if args.process_index == 0:
                dfm = load_model(path, args, dtype, whole=True)
                fsdfm = FSDFMForDiffusionLM.from_dfm(dfm, args.step_size_embedding, args.step_size_fusion)
                fsdfm.save_pretrained(folder)
    return load_model(str(folder), args, dtype)


def check_modules(args: LoraArguments, config: FSDFMConfig) -> None:
    """
    Args:
        config ([`FSDFMConfig`]): of the model below the adapter.

    Raises:
        `ValueError`: if the adapter is to have modules that the model lacks; peft passes over them.
    """
    with torch.device("meta"):
        names = [name for name, _ in FSDFMForDiffusionLM(config).named_modules()]
    known = sorted({name.rpartition(".")[2] for name in names if not name[-1:].isdigit()} - {""})
    for argument in ("lora_target_modules", "lora_modules_to_save"):
        for wanted in getattr(args, argument) or ():
            if wanted != ALL_LINEAR and not any(f".{name}".endswith(f".{wanted}") for name in names):
                raise ValueError(f"--{argument}: the model has no {wanted}, only {', '.join(known)}")


def describe(model: Any) -> str:
    """Kind and size of a model."""
    kind = "an FS-DFM" if model.config.step_size_conditioning else "a DFM"
    parameters = list(model.parameters())
    total = sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in parameters)
    trained = sum(
        getattr(parameter, "ds_numel", parameter.numel()) for parameter in parameters if parameter.requires_grad
    )
    return f"{kind} of {total / 1e6:,.1f}M parameters" + (f", {trained / 1e6:,.2f}M trained" if trained < total else "")


def save_merged(adapter: str, model: FSDFMForDiffusionLM, folder: str) -> None:
    """Saves `model`, the base of a saved adapter, with the adapter merged into it."""
    from peft import PeftModel

    PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(folder)


__all__ = [
    "check_modules",
    "check_step_sizes",
    "check_tokenizer",
    "describe",
    "few_step_base",
    "load_model",
    "load_tokenizer",
    "new_config",
    "new_model",
    "read_model",
    "save_merged",
    "set_trained_length",
]
