# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""
The published FS-DFM checkpoints (`.pth`) to model folders for the Hub, and back.

**The format.** A dictionary written by `torch.save`. The weights of a plain DFM stand in it under `model` or
`teacher_model`, those of an FS-DFM under `student_model` and, averaged, `student_ema_model`; the states of optimizers
and samplers stand beside them and are never read. Names may carry the marks of wrappers (`module.`, `_orig_mod.`).

**Names.** `published_name` translates them. Layers that are followed by an activation may have been saved alone
(`condition_fuser.weight`) or as the first of a sequence (`condition_fuser.0.weight`): both are read; written are
`condition_fuser.0.*` and `time_condition_fuser.0.*`, but `adaLN_modulation.*`. `rotary_emb.inv_freq` is a constant:
it is checked, settles `rope_theta`, and is computed anew on the way back.

**The mask.** With a mask source the published tables have one more row than the vocabulary, the mask's, as their
last. Our embedding has it too; our head does not, because the mask is never predicted. So the last row of the head is
dropped on the way in, and on the way back replaced by one that predicts nothing: zero weights and a bias of -10,000.
"""

import contextlib
import ctypes
import math
import mmap
import os
import re
import shutil
import statistics
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import reduce
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..configuration_fsdfm import FSDFMConfig
from ..hub_ids import why_no_hub_id
from ..modeling_fsdfm import FSDFMForDiffusionLM


logger = logging.get_logger(__name__)

# Which weights -> the entries of the file that hold them, the first that is there. `auto` goes from top to bottom.
WEIGHT_ENTRIES = {"ema": ("student_ema_model",), "student": ("student_model",), "teacher": ("teacher_model", "model")}

# What the published network is, and no file tells
PUBLISHED_OPTIONS = {"layer_norm_eps": 1e-5, "step_size_embedding": "raw", "step_size_fusion": "concat"}
PUBLISHED_NUM_HEADS = {768: 12, 2048: 32}
GPT2_VOCAB_SIZE = 50_257
GPT2_END_OF_TEXT = 50_256
DEFAULT_ROPE_THETA = 10_000.0
MASK_LOGIT_BIAS = -10_000.0
MADV_PAGEOUT = 21  # of Linux 5.4; older ones refuse it, which does no harm
ROTARY_BUFFER = "rotary_emb.inv_freq"

# Our module -> theirs, outside the blocks and inside block i, `model.layers.i.` -> `blocks.i.`
MODULES = {
    "model.embed_tokens": "vocab_embed",
    "model.time_embedding.linear_1": "time_embedding.mlp.0",
    "model.time_embedding.linear_2": "time_embedding.mlp.2",
    "model.step_size_embedding.linear_1": "dt_embedding.mlp.0",
    "model.step_size_embedding.linear_2": "dt_embedding.mlp.2",
    "model.condition_fuser": "time_condition_fuser",
    "model.norm": "output_layer.norm_final",
    "model.modulation.fuser": "output_layer.condition_fuser",
    "model.modulation.linear": "output_layer.adaLN_modulation",
    "lm_head": "output_layer.linear",
}
BLOCK_MODULES = {
    "input_layernorm": "norm1",
    "self_attn.q_proj": "qw",
    "self_attn.k_proj": "kw",
    "self_attn.v_proj": "vw",
    "self_attn.o_proj": "attn_out",
    "post_attention_layernorm": "norm2",
    "mlp.up_proj": "mlp.0",
    "mlp.down_proj": "mlp.2",
    "modulation.fuser": "condition_fuser",
    "modulation.linear": "adaLN_modulation",
}


def published_name(name: str) -> str:
    """Our name of a tensor -> the published one, without the index of a sequence: `condition_fuser.weight`."""
    module, _, leaf = name.rpartition(".")
    if block := re.fullmatch(r"model\.layers\.(\d+)\.(.+)", module):
        return f"blocks.{block[1]}.{BLOCK_MODULES[block[2]]}.{leaf}"
    return f"{MODULES[module]}.{leaf}"


@dataclass(frozen=True)
class ConversionResult:
    """
    What [`convert_published_checkpoint`] did.

    Args:
        folder (`Path`): the model folder.
        entry (`str`): the entry of the file whose weights were taken, e.g. `"student_ema_model"`.
        config ([`FSDFMConfig`]): the configuration found.
        num_parameters (`int`): parameters of the model.
    """

    folder: Path
    entry: str
    config: FSDFMConfig
    num_parameters: int


def convert_published_checkpoint(
    checkpoint: str | os.PathLike,
    output: str | os.PathLike,
    *,
    weights: str = "auto",
    source_distribution: Literal["uniform", "mask"] = "uniform",
    num_attention_heads: int | None = None,
    max_position_embeddings: int = 1024,
    dtype: str | torch.dtype | None = None,
    tokenizer: str | os.PathLike | PreTrainedTokenizerBase | None = None,
    max_shard_size: int | str = "5GB",
    overwrite: bool = False,
) -> ConversionResult:
    """
    Turns a published `.pth` file into a folder that `AutoModel.from_pretrained(..., trust_remote_code=True)` loads.

    The file is mapped into memory and nothing but the wanted weights is read, so that a large file with optimizer
    states costs no more memory than the weights. (Files in torch's old format, before 1.6, cannot be mapped and are
    read whole, with a warning.) Pickled objects other than tensors and plain containers are refused. The folder
    appears under its name when it is complete; after an error nothing is left.

    Args:
        checkpoint (`str` or `os.PathLike`):
            The published file.
        output (`str` or `os.PathLike`):
            The folder to write; it must not exist, or be empty.
        weights (`str`, *optional*, defaults to `"auto"`):
            `"ema"`, the averaged student, `"student"`, `"teacher"` (the DFM), or `"auto"`, the first of these in the
            file.
        source_distribution (`str`, *optional*, defaults to `"uniform"`):
            What the model was trained from, which the file does not tell: `"uniform"` or `"mask"`.
        num_attention_heads (`int`, *optional*):
            Found out from the rotary buffer or, for the published widths 768 and 2048, known.
        max_position_embeddings (`int`, *optional*, defaults to 1024):
            The length that the model was trained on.
        dtype (`str` or `torch.dtype`, *optional*):
            `"float32"`, `"bfloat16"` or `"float16"`; that of the file if not set.
        tokenizer (`str`, `os.PathLike` or `PreTrainedTokenizerBase`, *optional*):
            Saved beside the weights, padding on the left; gives the special token ids. Without one, a model with
            GPT-2's vocabulary gets GPT-2's ids.
        max_shard_size (`int` or `str`, *optional*, defaults to `"5GB"`):
            As in [`~transformers.PreTrainedModel.save_pretrained`].
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether to replace a model folder that stands at `output`, with all that is in it.

    Returns:
        [`ConversionResult`]

    Raises:
        `FileNotFoundError`, `FileExistsError`, `NotADirectoryError`: about the two paths.
        `ValueError`: an argument that means nothing; a file that is damaged, of another kind, or without the wanted
            weights; a tensor that is missing, unknown or of the wrong shape, by its name.
    """
    checkpoint, output = Path(checkpoint), Path(os.path.realpath(output))
    _check_choice("weights", weights, ("auto", *WEIGHT_ENTRIES))
    _check_choice("source_distribution", source_distribution, ("uniform", "mask"))
    if max_position_embeddings < 1:
        raise ValueError(f"`max_position_embeddings` must be at least 1, but got {max_position_embeddings}")
    dtype = _as_dtype(dtype)
    _check_paths(checkpoint, output, overwrite)

    entry, tensors = _select_weights(_open_checkpoint(checkpoint), weights)
    tensors = _plain_names(tensors)
    inv_freq = tensors.pop(ROTARY_BUFFER, None)
    sizes = _infer_sizes(tensors, has_mask=source_distribution == "mask")
    config = FSDFMConfig(
        **sizes,
        **_infer_rotary(inv_freq, sizes["hidden_size"], num_attention_heads),
        source_distribution=source_distribution,
        max_position_embeddings=max_position_embeddings,
    )
    if tokenizer is not None:
        tokenizer = _prepare_tokenizer(tokenizer, config)
    _set_special_tokens(config, tokenizer)
    with torch.device("meta"):
        model = FSDFMForDiffusionLM(config)
    _check_tensors(tensors, _published_shapes(model))

    # The decorator that transformers puts around `to` loses its `self` for type checkers.
    model.to(dtype or _common_dtype(tensors))  # type: ignore[arg-type]
    num_parameters = model.num_parameters()
    with _staged_folder(output) as folder:
        model.save_pretrained(folder, state_dict=_our_state_dict(tensors, model), max_shard_size=max_shard_size)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        card = _model_card(checkpoint.name, entry, config, num_parameters, has_tokenizer=tokenizer is not None)
        (folder / "README.md").write_text(card, encoding="utf-8")
    return ConversionResult(folder=output, entry=entry, config=config, num_parameters=num_parameters)


def export_published_checkpoint(
    model: PreTrainedModel | str | os.PathLike, output: str | os.PathLike, *, overwrite: bool = False
) -> Path:
    """
    The way back: writes a model as a published `.pth` file. Tensors keep their bits and their dtype.

    A DFM goes under `model`; the one set of weights of an FS-DFM goes under `student_model` and `student_ema_model`
    both (and is stored once). The schedule and the trained length have no place in such a file.

    Args:
        model ([`FSDFMForDiffusionLM`], `str` or `os.PathLike`):
            The model, or a folder or Hub id to load it from.
        output (`str` or `os.PathLike`):
            The file to write; it must not exist.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether to replace a file that stands at `output`.

    Returns:
        `Path`: of the file.

    Raises:
        `FileExistsError`, `OSError`: about `output` and about `model`.
        `ValueError`: the model has options that the published network lacks (`step_size_embedding="log2"`,
            `step_size_fusion="add"`, another `layer_norm_eps`), adapters, missing weights, or weights that are not
            plain tensors.
    """
    output = Path(output)
    if output.is_dir() or (output.exists() and not overwrite):
        raise FileExistsError(f"`output` {output} exists" + ("" if output.is_dir() else "; `overwrite` replaces it"))
    if isinstance(model, (str, os.PathLike)):
        model = _load_complete(model)
    _check_has_published_form(model)
    tensors = _published_state_dict(model)
    entries = ("student_model", "student_ema_model") if model.config.step_size_conditioning else ("model",)
    with _staged_file(output) as file:
        torch.save({entry: tensors for entry in entries}, file)
    return output


# Checks at the public edge


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(choices)}, but got {value!r}")


def _as_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    if dtype is None or dtype in (torch.float32, torch.bfloat16, torch.float16):
        return dtype
    _check_choice("dtype", dtype, ("float32", "bfloat16", "float16"))
    return getattr(torch, str(dtype))


def _check_paths(checkpoint: Path, output: Path, overwrite: bool) -> None:
    if not checkpoint.is_file():
        raise FileNotFoundError(f"`checkpoint` {checkpoint} is not a file")
    if output.exists() and not output.is_dir():
        raise NotADirectoryError(f"`output` {output} is a file, not a folder")
    if not output.exists() or not any(output.iterdir()):
        return
    if not overwrite:
        raise FileExistsError(f"`output` {output} is not empty; `overwrite` replaces it")
    if not (output / "config.json").is_file():
        raise FileExistsError(f"`output` {output} is no model folder (no config.json in it): not overwritten")
    if output in checkpoint.resolve().parents:
        raise FileExistsError(f"`output` {output} holds the `checkpoint` itself: not overwritten")


# Reading the file


def _open_checkpoint(path: Path) -> Any:
    """What was given to `torch.save`, its tensors still on disk."""
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
    if not is_zip:
        logger.warning(f"{path.name} is not in the zip format of torch.save and will be read into memory whole")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except UnpicklingError as error:
        if foreign := re.search(r"GLOBAL (\S+) was not an allowed global", str(error)):
            raise ValueError(
                f"`checkpoint` {path} holds a pickled object ({foreign[1]}), which could run code when it is read. If "
                f"you trust the file, load it with torch yourself and save the weights alone"
            ) from error
        raise ValueError(f"`checkpoint` {path} is damaged, or no file of torch.save") from error
    except (OSError, MemoryError):
        raise
    except Exception as error:  # torch raises a dozen types for files that are cut short or of another kind
        reason = re.split(r"\n|\. ", str(error))[0] or type(error).__name__
        raise ValueError(f"`checkpoint` {path} is damaged, or no file of torch.save: {reason}") from error


def _select_weights(content: Any, weights: str) -> tuple[str, Mapping[str, Any]]:
    """The name and the content of the wanted entry."""
    if not isinstance(content, Mapping):
        raise ValueError(f"`checkpoint` must hold a dictionary, but holds a {type(content).__name__}")
    found = {}
    for choice, entries in WEIGHT_ENTRIES.items():
        if held := [entry for entry in entries if isinstance(content.get(entry), Mapping)]:
            found[choice] = held[0]
    if not found:
        known = ", ".join(entry for entries in WEIGHT_ENTRIES.values() for entry in entries)
        raise ValueError(f"`checkpoint` has no weights under any of {known}; it has {_enumerate(map(str, content))}")
    if weights not in ("auto", *found):
        has = ", ".join(f"{choice!r} ({entry})" for choice, entry in found.items())
        raise ValueError(f"`weights`: the checkpoint has no {weights!r} weights; it has {has}")
    entry = next(iter(found.values())) if weights == "auto" else found[weights]
    return entry, content[entry]


def _plain_names(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Names as `published_name` gives them: without the marks of wrappers and the index of a sequence."""
    plain = {}
    for original, tensor in tensors.items():
        name = ".".join(part for part in original.split(".") if part not in ("module", "_orig_mod"))
        name = re.sub(r"(condition_fuser|adaLN_modulation)\.0\.", r"\1.", name)
        if name in plain:
            raise ValueError(f"`checkpoint` has the tensor {name} twice")
        plain[name] = tensor.detach() if isinstance(tensor, Tensor) else tensor
    return plain


# Finding out the configuration


def _infer_sizes(tensors: Mapping[str, Any], has_mask: bool) -> dict[str, Any]:
    """The fields of the configuration that names and shapes tell."""
    num_rows = _usual_size(tensors, "vocab_embed.weight", "output_layer.linear.*")
    if num_rows == GPT2_VOCAB_SIZE + 1 and not has_mask:
        logger.warning(
            f"The token embedding has {num_rows} rows, one more than GPT-2's vocabulary. If the model was trained from "
            'a mask source, convert it with source_distribution="mask" (--source-distribution mask)'
        )
    sizes = {
        "vocab_size": num_rows - has_mask,
        "hidden_size": _usual_size(tensors, "blocks.*.norm1.weight", "blocks.*.norm2.weight"),
        "intermediate_size": _usual_size(tensors, "blocks.*.mlp.0.*"),
        "conditioning_size": _usual_size(tensors, "time_embedding.mlp.*"),
        "step_size_conditioning": any(name.startswith("dt_embedding.") for name in tensors),
    }
    block_indices = [int(block[1]) for name in tensors if (block := re.match(r"blocks\.(\d+)\.", name))]
    return {**sizes, "num_hidden_layers": 1 + max(block_indices)}


def _usual_size(tensors: Mapping[str, Any], *patterns: str) -> int:
    """The most frequent first size of tensors with such names: one of a wrong shape is then the odd one out."""
    matching = [tensor for name, tensor in tensors.items() if any(fnmatchcase(name, pattern) for pattern in patterns)]
    sizes = [tensor.shape[0] for tensor in matching if isinstance(tensor, Tensor) and tensor.ndim]
    if not sizes:
        raise ValueError(
            f"`checkpoint` does not fit the architecture; tensors missing: {patterns[0]}; it has {_enumerate(tensors)}"
        )
    return statistics.mode(sizes)


def _infer_rotary(inv_freq: Any, hidden_size: int, num_heads: int | None) -> dict[str, Any]:
    """`num_attention_heads` and `rope_theta`, from the rotary buffer where there is one."""
    head_dim = None
    if inv_freq is not None:
        if not _is_float_tensor(inv_freq, None) or inv_freq.ndim != 1 or not inv_freq.numel():
            raise ValueError(f"`checkpoint`: {ROTARY_BUFFER} must be a float vector, but is {_describe(inv_freq)}")
        head_dim = 2 * inv_freq.numel()
    if num_heads is None:
        num_heads = hidden_size // head_dim if head_dim else PUBLISHED_NUM_HEADS.get(hidden_size)
    if num_heads is None:
        raise ValueError(f"`num_attention_heads` is needed: it is not known for models of width {hidden_size}")
    if num_heads < 1 or hidden_size % (2 * num_heads):
        raise ValueError(f"`num_attention_heads` {num_heads} does not divide {hidden_size} into heads of even width")
    if head_dim not in (None, hidden_size // num_heads):
        raise ValueError(
            f"`num_attention_heads` {num_heads} makes heads of width {hidden_size // num_heads}, but {ROTARY_BUFFER} "
            f"is for heads of width {head_dim}"
        )
    return {"num_attention_heads": num_heads, "rope_theta": _infer_rope_theta(inv_freq)}


def _infer_rope_theta(inv_freq: Tensor | None) -> float:
    """The base of inv_freq[i] = theta^(-2i / head_dim)."""
    if inv_freq is None or inv_freq.numel() < 2:
        return DEFAULT_ROPE_THETA
    tolerance = 4 * max(torch.finfo(inv_freq.dtype).eps, 1e-6)
    inv_freq = inv_freq.double()
    slowest = inv_freq[-1].item()
    inferred = slowest ** (-len(inv_freq) / (len(inv_freq) - 1)) if slowest > 0 else math.nan
    for rope_theta in (DEFAULT_ROPE_THETA, float(f"{inferred:.4g}"), inferred):
        if torch.allclose(
            inv_freq, _inverse_frequencies(rope_theta, 2 * len(inv_freq)).double(), rtol=tolerance, atol=0
        ):
            return rope_theta
    raise ValueError(f"`checkpoint`: {ROTARY_BUFFER} does not hold the frequencies of a rotary embedding")


def _inverse_frequencies(rope_theta: float, head_dim: int) -> Tensor:
    return 1.0 / rope_theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)


def _prepare_tokenizer(
    tokenizer: str | os.PathLike | PreTrainedTokenizerBase, config: FSDFMConfig
) -> PreTrainedTokenizerBase:
    """Makes it pad on the left, as generation wants, and know the mask token of a mask source."""
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        tokenizer = AutoTokenizer.from_pretrained(tokenizer)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if config.source_distribution == "mask" and tokenizer.mask_token is None and len(tokenizer) == config.vocab_size:
        tokenizer.add_special_tokens({"mask_token": "<|mask|>"})
    num_known = config.vocab_size + (tokenizer.mask_token_id == config.vocab_size)
    if len(tokenizer) > num_known:
        raise ValueError(f"`tokenizer` has {len(tokenizer)} tokens, but the model knows {num_known}")
    return tokenizer


def _set_special_tokens(config: FSDFMConfig, tokenizer: PreTrainedTokenizerBase | None) -> None:
    if tokenizer is not None:
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(config, name, getattr(tokenizer, name))
        if config.source_distribution == "uniform":
            config.mask_token_id = tokenizer.mask_token_id
    elif config.vocab_size == GPT2_VOCAB_SIZE:
        config.bos_token_id = config.eos_token_id = config.pad_token_id = GPT2_END_OF_TEXT


# Checking and translating the tensors


def _published_shapes(model: FSDFMForDiffusionLM) -> dict[str, tuple[int, ...]]:
    shapes = {published_name(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if model.config.source_distribution == "mask":
        for name in ("output_layer.linear.weight", "output_layer.linear.bias"):
            num_rows, *row = shapes[name]
            shapes[name] = (num_rows + 1, *row)
    return shapes


def _check_tensors(tensors: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Names every tensor that is not as it should be, or the first ones if there are many."""
    problems = {
        "missing": [name for name in shapes if name not in tensors],
        "unknown": [name for name in tensors if name not in shapes],
        "misshapen": [
            f"{name} (is {_describe(tensors[name])}, should be {shape})"
            for name, shape in shapes.items()
            if name in tensors and not _is_float_tensor(tensors[name], shape)
        ],
    }
    if found := [f"{kind}: {_enumerate(names)}" for kind, names in problems.items() if names]:
        raise ValueError(f"`checkpoint` does not fit the architecture; tensors {'; '.join(found)}")


def _is_float_tensor(value: Any, shape: tuple[int, ...] | None) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and shape in (None, tuple(value.shape))


def _describe(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return str(tuple(value.shape)) if value.is_floating_point() else f"{tuple(value.shape)} of {value.dtype}"


def _enumerate(names: Iterable[str], limit: int = 5) -> str:
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more if names else "nothing"


def _common_dtype(tensors: Mapping[str, Tensor]) -> torch.dtype:
    """The dtype of the file, or the one that holds all of them without loss."""
    return reduce(torch.promote_types, {tensor.dtype for tensor in tensors.values()})


def _our_state_dict(tensors: dict[str, Tensor], model: FSDFMForDiffusionLM) -> dict[str, Tensor]:
    """Our names -> tensors in the dtype of the model, taken out of `tensors`. Those that need no cast stay on disk."""
    state_dict = {}
    for name, parameter in model.state_dict().items():
        tensor = tensors.pop(published_name(name))[: parameter.shape[0]]
        state_dict[name] = _own_storage(tensor if tensor.dtype == parameter.dtype else _cast(tensor, parameter.dtype))
    return state_dict


def _cast(tensor: Tensor, dtype: torch.dtype, rows_at_once: int = 4096) -> Tensor:
    """A copy in another dtype. Of the original, no more than a few rows are in memory at any time."""
    result = torch.empty(tensor.shape, dtype=dtype)
    for source, target in zip(tensor.split(rows_at_once), result.split(rows_at_once), strict=True):
        target.copy_(source)
        _page_out(source)
    return result


def _page_out(tensor: Tensor) -> None:
    """Hints that these pages of the mapped file will not be read again. Changes no content; only Linux listens."""
    if sys.platform == "linux":
        start = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        num_bytes = tensor.data_ptr() + tensor.nbytes - start
        if num_bytes > 0:
            ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(num_bytes), MADV_PAGEOUT)


def _own_storage(tensor: Tensor) -> Tensor:
    """Copies a part of a larger storage out of it: torch.save would write all of it, transformers take it for tied."""
    tensor = tensor.contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


# The way back


def _load_complete(path: str | os.PathLike) -> FSDFMForDiffusionLM:
    reason = None if os.path.isdir(path) else why_no_hub_id(str(path))
    if reason is not None:
        raise NotADirectoryError(f"`model` {path} is no folder, and {reason}")
    try:
        _check_is_flow(path)
        loaded: Any = FSDFMForDiffusionLM.from_pretrained(path, dtype="auto", output_loading_info=True)
        model, info = loaded
    except OSError as error:
        raise OSError(f"`model` {path} cannot be loaded: {error}") from error
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if names := sorted(map(str, info[problem])):
            raise ValueError(f"`model` {path} has {problem.replace('_', ' ')}: {_enumerate(names)}")
    return model


def _check_is_flow(path: str | os.PathLike) -> None:
    """Of another kind of model, its configuration would be misread as one of ours."""
    settings, _ = FSDFMConfig.get_config_dict(path)
    if settings.get("model_type") != FSDFMConfig.model_type:
        raise ValueError(f"`model` {path} is of the type {settings.get('model_type')!r}, not a DFM or FS-DFM")


def _check_has_published_form(model: PreTrainedModel) -> None:
    # By name: remote code has classes of its own. Adapters rename layers.
    is_ours = type(model).__name__ == FSDFMForDiffusionLM.__name__
    if not is_ours or not all(_has_published_name(name) for name in model.state_dict()):
        raise ValueError(f"`model` must be an FSDFMForDiffusionLM without adapters, but is a {type(model).__name__}")
    config = model.config
    for name, published in PUBLISHED_OPTIONS.items():
        is_used = config.step_size_conditioning or not name.startswith("step_size")
        if is_used and getattr(config, name) != published:
            raise ValueError(f"`model` has no published form: {name} is {getattr(config, name)!r}, not {published!r}")
    for name, tensor in model.state_dict().items():
        if type(tensor) is not Tensor or not tensor.is_floating_point() or tensor.is_meta:
            raise ValueError(f"`model` must hold plain tensors, but {name} is quantized, distributed or offloaded")


def _has_published_name(name: str) -> bool:
    with contextlib.suppress(KeyError):
        return bool(published_name(name))
    return False


def _published_state_dict(model: PreTrainedModel) -> dict[str, Tensor]:
    """Published names, as their modules have them, -> tensors on the CPU."""
    config = model.config
    tensors = {published_name(name): _own_storage(tensor.cpu()) for name, tensor in model.state_dict().items()}
    if config.source_distribution == "mask":
        weight, bias = tensors["output_layer.linear.weight"], tensors["output_layer.linear.bias"]
        tensors["output_layer.linear.weight"] = torch.cat([weight, weight.new_zeros(1, config.hidden_size)])
        tensors["output_layer.linear.bias"] = torch.cat([bias, bias.new_full((1,), MASK_LOGIT_BIAS)])
    tensors = {name.replace("condition_fuser.", "condition_fuser.0."): tensor for name, tensor in tensors.items()}
    return {ROTARY_BUFFER: _inverse_frequencies(config.rope_theta, config.head_dim), **tensors}


# Writing all or nothing


@contextlib.contextmanager
def _staged_folder(output: Path) -> Iterator[Path]:
    """A folder beside `output` that takes its place, and that of all in it, when the block ends without an error."""
    staged = output.with_name(f".{output.name}.{uuid.uuid4().hex[:8]}.tmp")
    replaced = staged.with_suffix(".old")
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        staged.mkdir()
        yield staged
        if output.exists():
            output.rename(replaced)
        staged.rename(output)
    except BaseException:  # Ctrl-C as well
        shutil.rmtree(staged, ignore_errors=True)
        if replaced.exists() and not output.exists():
            replaced.rename(output)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


@contextlib.contextmanager
def _staged_file(output: Path) -> Iterator[Path]:
    """The same for a file."""
    staged = output.with_name(f".{output.name}.{uuid.uuid4().hex[:8]}.tmp")
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield staged
        staged.replace(output)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise


def _model_card(file_name: str, entry: str, config: FSDFMConfig, num_parameters: int, has_tokenizer: bool) -> str:
    kind, num_steps = "DFM (discrete flow matching)", 1024
    if config.step_size_conditioning:
        kind, num_steps = "FS-DFM (few-step discrete flow matching)", 8
    original_tokenizer = "openai-community/gpt2" if config.vocab_size == GPT2_VOCAB_SIZE else "THE_ORIGINAL_TOKENIZER"
    # Without trust, AutoTokenizer would ask the user about the configuration's code.
    own_tokenizer = '"PATH_OR_ID_OF_THIS_FOLDER", trust_remote_code=True'
    return MODEL_CARD.format(
        kind=kind,
        file_name=file_name,
        entry=entry,
        size=f"{num_parameters / 1e6:,.1f}M",
        config=config,
        num_steps=num_steps,
        tokenizer=own_tokenizer if has_tokenizer else f'"{original_tokenizer}"',
    )


MODEL_CARD = """---
library_name: transformers
pipeline_tag: text-generation
license: other
tags:
- fsdfm
- discrete-flow-matching
- text-diffusion
---

# {kind} language model

Converted from the published checkpoint `{file_name}`, entry `{entry}`, by transformers-fsdfm. The weights keep the
licence of the original file; look it up there before you use or pass them on. The Python files in this folder are
under the Apache License 2.0.

| parameters | layers | width | heads | vocabulary | trained length | source |
|---|---|---|---|---|---|---|
| {size} | {config.num_hidden_layers} | {config.hidden_size} | {config.num_attention_heads} | {config.vocab_size:,} \
| {config.max_position_embeddings:,} | {config.source_distribution} |

## Use

```python
from transformers import AutoModel, AutoTokenizer

model = AutoModel.from_pretrained("PATH_OR_ID_OF_THIS_FOLDER", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained({tokenizer})
prompt = tokenizer("Once upon a time", return_tensors="pt")
tokens = model.generate(**prompt, num_steps={num_steps}, max_new_tokens=256)
print(tokenizer.batch_decode(tokens)[0])
```

All positions of a text are written in parallel, in `num_steps` steps.
"""
