# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Tokenised data on disk, under names that tell apart everything that the rows depend on."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets import Dataset, Features
from filelock import FileLock
from transformers import PreTrainedTokenizerBase


CACHE_FORMAT = 1  # raise it when the code puts other rows into an entry with the same settings


def digest(value: Any) -> str:
    """Returns 32 hexadecimal digits that stand for a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def row_settings(tokenizer: PreTrainedTokenizerBase, block_size: int, **others: Any) -> dict[str, Any]:
    """Everything that the rows depend on, apart from the text itself, as a JSON value."""
    return {
        "format": CACHE_FORMAT,
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "block_size": block_size,
        **others,
    }


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Stands for the contents of a tokenizer, wherever it was loaded from and whatever it was used for before."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # one written in Python; at worst its pickle changes and the rows are built again
        return datasets.fingerprint.Hasher.hash(tokenizer)
    # Truncation and padding are left over from the last call of a tokenizer, and no part of what it is.
    return digest({**json.loads(backend.to_str()), "truncation": None, "padding": None})


def open_or_build(
    cache_dir: str | os.PathLike | None,
    settings: dict[str, Any],
    features: Features,
    build: Callable[[Path], Iterable[pa.Table]],
) -> Dataset:
    """
    Opens the cache entry of `settings`, after building it if there is none.

    An entry is written next to its place and moved there when it is complete, so what an interrupted run leaves is
    never taken for one. Other processes that want the same entry wait for it.

    Args:
        cache_dir (`str` or `os.PathLike`, *optional*):
            Folder of the entries; `fsdfm` in the cache of `datasets` if not set.
        settings (`dict`):
            A JSON value that determines the rows.
        features ([`~datasets.Features`]):
            Columns of the rows.
        build (`Callable`):
            Gets a folder for files of its own, which are removed afterwards, and returns the rows as tables.

    Returns:
        [`~datasets.Dataset`]: memory-mapped, giving out numpy arrays.
    """
    folder = Path(cache_dir or Path(datasets.config.HF_DATASETS_CACHE) / "fsdfm")
    folder.mkdir(parents=True, exist_ok=True)
    key = digest(settings)
    entry, unfinished = folder / key, folder / f"{key}.unfinished"
    with FileLock(folder / f"{key}.lock"):
        if not entry.exists():
            shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
            (unfinished / "work").mkdir(parents=True)
            try:
                _write_arrow(unfinished / "data.arrow", features, build(unfinished / "work"))
                shutil.rmtree(unfinished / "work")
                (unfinished / "settings.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
                unfinished.rename(entry)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    return Dataset.from_file(str(entry / "data.arrow")).with_format("numpy")


def _write_arrow(path: Path, features: Features, tables: Iterable[pa.Table]) -> None:
    schema = features.arrow_schema  # with the features in its metadata, where `datasets` finds them again
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for table in tables:
            writer.write_table(table.cast(schema))


__all__ = ["CACHE_FORMAT", "digest", "open_or_build", "row_settings", "tokenizer_fingerprint"]
