# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""`fsdfm info`."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import _options as options


if TYPE_CHECKING:
    from ..generation_fsdfm import FSDFMGenerationConfig


PACKAGES = ("transformers-fsdfm", "torch", "transformers", "tokenizers", "safetensors", "huggingface-hub")
OPTIONAL_PACKAGES = ("accelerate", "datasets", "deepspeed", "evaluate", "gradio", "peft")
# In safetensors -> in torch
DTYPE_NAMES = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def info(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help=options.MODEL_HELP)] = None,
    as_json: options.JsonOption = False,
) -> None:
    """
    Show what a checkpoint is, and the devices and versions here.

    Also what comes with the package: checkpoints, which can generate, configurations without weights, which fsdfm
    pretrain takes, and scorers for fsdfm evaluate. The weights are not loaded.

    \b
    Examples:
      fsdfm info
      fsdfm info my-model --json
    """
    from ._model import quiet_libraries
    from ._output import to_json, write_stdout

    with quiet_libraries():
        record = {
            "checkpoint": _describe_checkpoint(model),
            "packaged": _packaged(),
            "devices": _devices(),
            "versions": _versions(),
        }
    write_stdout(to_json(record) if as_json else "\n".join(_table(record)) + "\n")


def _describe_checkpoint(model: str | None) -> dict[str, Any] | None:
    """None: no model was named, and none comes with the package."""
    from ._model import find_checkpoint, read_config

    try:
        folder = find_checkpoint(model)
    except FileNotFoundError:
        if model is not None:
            raise
        return None
    config = read_config(folder)
    settings = _generation_settings(folder, config)
    return {
        "folder": str(folder),
        "kind": "FS-DFM" if config.step_size_conditioning else "DFM",
        "num_parameters": _count_parameters(config),
        "dtypes": _stored_dtypes(folder),
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "trained_length": config.max_position_embeddings,
        "num_steps": settings.num_steps if settings.time_grid is None else len(settings.time_grid) - 1,
        "sampling": {name: getattr(settings, name) for name in settings._sampling},
        "source_distribution": config.source_distribution,
        "schedule": config.schedule,
        "schedule_exponent": config.schedule_exponent if config.schedule == "polynomial" else None,
        "tokenizer": _describe_tokenizer(folder),
        "files": {file.name: file.stat().st_size for file in sorted(folder.iterdir()) if file.is_file()},
    }


def _packaged() -> dict[str, list[str]]:
    """What comes with the package, by name."""
    from .. import hub_configs

    checkpoints = hub_configs.available_checkpoints()
    return {
        "checkpoints": list(checkpoints),
        "configurations": [name for name in hub_configs.available_configs() if name not in checkpoints],
        "scorers": list(hub_configs.available_scorers()),
    }


def _count_parameters(config: Any) -> int:
    import torch

    from ..modeling_fsdfm import FSDFMForDiffusionLM

    with torch.device("meta"):
        return FSDFMForDiffusionLM(config).num_parameters()


def _stored_dtypes(folder: Path) -> list[str]:
    """The dtypes in the weight files, by torch's names; empty without such files."""
    from safetensors import SafetensorError, safe_open

    from ._model import weight_files

    found = set()
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="pt") as tensors:
                found |= {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"`model` {folder}: the file {file.name} is damaged ({error})") from error
    return sorted(DTYPE_NAMES.get(name, name) for name in found)


def _generation_settings(folder: Path, config: Any) -> "FSDFMGenerationConfig":
    """What `generate` goes by if the call says nothing."""
    from ..generation_fsdfm import FSDFMGenerationConfig

    has_settings = (folder / "generation_config.json").is_file()
    settings = FSDFMGenerationConfig.from_pretrained(folder) if has_settings else FSDFMGenerationConfig()
    assert isinstance(settings, FSDFMGenerationConfig)
    settings.set_unset(FSDFMGenerationConfig.from_model_config(config))
    return settings


def _describe_tokenizer(folder: Path) -> dict[str, Any] | None:
    from transformers import AutoTokenizer

    from ._model import has_tokenizer

    if not has_tokenizer(folder):
        return None
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return {
        "class": type(tokenizer).__name__,
        "num_tokens": len(tokenizer),
        "eos_token": tokenizer.eos_token,
        "pad_token": tokenizer.pad_token,
        "mask_token": tokenizer.mask_token,
    }


def _devices() -> list[dict[str, Any]]:
    import torch

    cpu = {"name": "cpu", "description": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    devices = [cpu | {"cores": os.cpu_count()}]
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is not None:
        kind = accelerator.type
        for index in range(torch.accelerator.device_count()):
            devices.append({"name": f"{kind}:{index}"} | _accelerator(kind, index))
    return devices


def _accelerator(kind: str, index: int) -> dict[str, Any]:
    import torch

    module = getattr(torch, kind)
    if not hasattr(module, "get_device_properties"):
        return {}
    properties = module.get_device_properties(index)
    return {"description": properties.name, "memory_bytes": properties.total_memory}


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in (*PACKAGES, *OPTIONAL_PACKAGES):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def _table(record: dict[str, Any]) -> list[str]:
    """The record for people: headings, and names and values in two columns."""
    checkpoint = record["checkpoint"]
    lines = ["Checkpoint"]
    if checkpoint is None:
        lines.append("  none: no MODEL was given, and this installation has no checkpoint")
    else:
        lines += [f"  {name:<14}{value}" for name, value in _checkpoint_rows(checkpoint)]
    lines.append("In the package")
    for kind, names in record["packaged"].items():
        note = (
            " (no weights; fsdfm pretrain --config_name NAME trains one)" if kind == "configurations" and names else ""
        )
        lines.append(f"  {kind:<16}{', '.join(names) or 'none'}{note}")
    lines.append("Devices")
    for device in record["devices"]:
        details = [device.get("description"), _gigabytes(device.get("memory_bytes"))]
        details += [f"{device[count]} {count}" for count in ("cores", "threads") if count in device]
        lines.append(f"  {device['name']:<14}{', '.join(detail for detail in details if detail)}")
    lines.append("Versions")
    lines += [f"  {name:<20}{version or 'not installed'}" for name, version in record["versions"].items()]
    return lines


def _checkpoint_rows(checkpoint: dict[str, Any]) -> list[tuple[str, str]]:
    tokenizer = checkpoint["tokenizer"]
    exponent = checkpoint["schedule_exponent"]
    num_bytes = sum(checkpoint["files"].values())
    return [
        ("folder", checkpoint["folder"]),
        ("kind", f"{checkpoint['kind']}, {checkpoint['num_steps']} steps by default"),
        ("parameters", f"{checkpoint['num_parameters']:,} ({', '.join(checkpoint['dtypes']) or 'no weights here'})"),
        (
            "sizes",
            f"{checkpoint['num_hidden_layers']} layers of width {checkpoint['hidden_size']}, "
            f"{checkpoint['num_attention_heads']} heads, vocabulary of {checkpoint['vocab_size']:,}",
        ),
        ("sampling", _sampling(checkpoint["sampling"])),
        ("length", f"{checkpoint['trained_length']:,} tokens"),
        ("source", checkpoint["source_distribution"]),
        ("schedule", checkpoint["schedule"] + (f", exponent {exponent}" if exponent is not None else "")),
        ("tokenizer", f"{tokenizer['class']}, {tokenizer['num_tokens']:,} tokens" if tokenizer else "none"),
        ("files", f"{len(checkpoint['files'])}, {num_bytes:,} bytes"),
        *((f"{size:>13,} ", name) for name, size in checkpoint["files"].items()),
    ]


def _sampling(settings: dict[str, Any]) -> str:
    """The settings that are not those of a model without any."""
    from ..generation_fsdfm import FSDFMGenerationConfig

    own = FSDFMGenerationConfig(**settings).unusual_sampling()
    return ", ".join(f"{name}={value}" for name, value in own.items()) or "the defaults of generate"


def _gigabytes(num_bytes: int | None) -> str | None:
    return None if num_bytes is None else f"{num_bytes / 2**30:.1f} GiB"
