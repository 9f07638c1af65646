# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""
From text to batches: documents -> tokens, EOS after each -> blocks of equal length -> batches.

[`load_documents`] finds the text, [`pack_documents`] makes blocks of it (on disk and cached, or as a stream that can be
resumed), [`tokenize_pairs`] does the same for prompts with completions and [`DataCollatorForDFM`] makes the batches.
"""

import contextlib
import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, Features, IterableDataset, List, Value, load_dataset
from datasets.exceptions import DatasetGenerationError
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from transformers_fsdfm.hub_ids import why_no_hub_id

from .cache import CACHE_FORMAT, digest, open_or_build, row_settings
from .packing import DOCUMENTS_PER_BATCH, PackedStream, check_columns, check_settings, pack_documents, tokenize


logger = logging.get_logger(__name__)

DOCUMENT_SEPARATOR = "<|endoftext|>"
FILE_TYPES = {
    **dict.fromkeys((".txt", ".text", ".md", ".raw", ".tokens"), "text"),
    **dict.fromkeys((".json", ".jsonl"), "json"),
    ".csv": "csv",
    ".parquet": "parquet",
}
IGNORED_LABEL = -100


def load_documents(
    source: str | os.PathLike | list[str],
    *,
    name: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    streaming: bool = False,
    cache_dir: str | os.PathLike | None = None,
) -> Dataset | IterableDataset:
    r"""
    Opens a dataset id, or local text, JSON, CSV or parquet files, as a dataset with one document (or one pair of prompt
    and completion) in each row.

    A plain text file (`.txt`, `.text`, `.md`, `.raw`, `.tokens`; UTF-8) gives a column `text`. Lines that hold only
    `<|endoftext|>` separate its documents; a file without such a line is one document, and is tokenised as one, so
    give separators to large files. Blank documents are left out.

    Args:
        source (`str`, `os.PathLike` or `list[str]`):
            A dataset id; or a file, a glob, a folder (searched recursively) or a list of these, all of one file type.
            Files are read in the order of the list, those of a glob or folder in the order of their names.
        name (`str`, *optional*):
            Configuration of the dataset id.
        split (`str`, *optional*):
            Split of the dataset id, also as in `"train[:1%]"`; `"train"` if not set.
        revision (`str`, *optional*):
            Branch, tag or commit of the dataset id.
        streaming (`bool`, *optional*, defaults to `False`):
            `True`: nothing is downloaded or read before it is needed.
        cache_dir (`str` or `os.PathLike`, *optional*):
            Where `datasets` keeps the rows; its usual cache if not set.

    Returns:
        [`~datasets.Dataset`], or [`~datasets.IterableDataset`] if `streaming`.

    Raises:
        `FileNotFoundError`: if no file matches, or there is no such dataset id.
        `ValueError`: if file types are mixed or unknown, a file is not UTF-8 or not what its name says, there is no
            text in the files, or an argument that belongs to a dataset id is given with files.
    """
    cache_dir = None if cache_dir is None else str(cache_dir)
    files = find_files(source)
    if files is None:
        try:
            return load_dataset(
                str(source), name, split=split or "train", revision=revision, streaming=streaming, cache_dir=cache_dir
            )
        except (FileNotFoundError, ConnectionError) as error:
            raise FileNotFoundError(
                f"`source` {str(source)!r} is no file or folder, and no dataset id that can be reached: {error}"
            ) from error
    for argument, value in (("name", name), ("split", split), ("revision", revision)):
        if value is not None:
            raise ValueError(f"`{argument}` belongs to a dataset id, but `source` {str(source)!r} is local files")
    file_type = _common_file_type(files)
    if not any(os.path.getsize(file) for file in files):
        raise ValueError(f"`source` {str(source)!r} is empty")
    if file_type == "text" and next(read_documents(files), None) is None:
        raise ValueError(f"`source` {str(source)!r} holds no text: every document is blank")
    if streaming and file_type == "text":
        return IterableDataset.from_generator(read_documents, _TEXT_FEATURES, {"files": files})
    if streaming:
        return load_dataset(file_type, data_files=files, split="train", streaming=True)

    # `datasets` caches files by path and time, generators by their arguments: the size and time of each file in the
    # name of the entry make sure that an edited file is read again.
    stats = [(file, os.stat(file).st_size, os.stat(file).st_mtime_ns) for file in files]
    fingerprint = digest({"files": stats, "format": CACHE_FORMAT})
    if file_type == "json":  # read without a check: the first use of a broken row would fail, and not say where it is
        _check_utf8(files)
    try:
        if file_type == "text":
            return Dataset.from_generator(
                read_documents, _TEXT_FEATURES, cache_dir, gen_kwargs={"files": files}, fingerprint=fingerprint
            )
        return load_dataset(file_type, fingerprint, data_files=files, split="train", cache_dir=cache_dir)
    except (DatasetGenerationError, ValueError) as error:
        if file_type != "parquet":
            _check_utf8(files)  # names the file, which the error of `datasets` does not
        reason = error.__cause__ or error
        raise ValueError(f"`source` {str(source)!r} cannot be read as {file_type}: {reason}") from error


# Large strings, because a batch of long documents may hold more than 2 GB of text.
_TEXT_FEATURES = Features({"text": Value("large_string")})


def read_documents(files: list[str]) -> Iterator[dict[str, str]]:
    """Yields `{"text": document}` for each document of plain text files, one document in memory at a time."""
    for file in files:
        lines: list[str] = []
        try:
            with open(file, encoding="utf-8-sig") as stream:
                for line in stream:
                    if line.strip() == DOCUMENT_SEPARATOR:
                        yield from _document(lines)
                        lines = []
                    else:
                        lines.append(line)
        except UnicodeDecodeError as error:
            raise ValueError(f"`source` file {file} is not UTF-8 text: {error}") from error
        yield from _document(lines)


def _document(lines: list[str]) -> Iterator[dict[str, str]]:
    text = "".join(lines).removesuffix("\n")  # that line break belongs to the separator
    if text.strip():
        yield {"text": text}


def as_source(values: Sequence[str]) -> str | list[str]:
    """The `source` of an option that takes several values: a list of files, or the only value, perhaps a dataset id."""
    return values[0] if len(values) == 1 else list(values)


@contextlib.contextmanager
def source_called(name: str, *, aliases: Sequence[str] = ("source",)) -> Iterator[None]:
    """Inside the `with` block, errors about a file or its text call the arguments `aliases` by another name."""
    try:
        yield
    except (FileNotFoundError, ValueError) as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        message = re.sub(f"`({'|'.join(aliases)})`", lambda match: name, str(error))
        raise kind(message) from error


def find_files(source: str | os.PathLike | list[str]) -> list[str] | None:
    """Returns the absolute paths of local files, or `None` for a dataset id."""
    if isinstance(source, (list, tuple)):
        return [file for item in source for file in find_files(Path(item)) or ()]
    text = os.path.expanduser(source)
    if os.path.isdir(text):
        files = sorted(str(path) for path in Path(text).rglob("*") if path.suffix.lower() in FILE_TYPES)
    elif os.path.isfile(text):
        files = [text]
    elif glob.has_magic(text):
        files = sorted(filter(os.path.isfile, glob.glob(text, recursive=True)))
    elif isinstance(source, Path) or text.startswith((".", os.sep)) or Path(text).suffix.lower() in FILE_TYPES:
        files = []
    elif reason := why_no_hub_id(text, needs_organization=False):
        raise FileNotFoundError(f"`source` {str(source)!r} is no file or folder, and {reason}")
    else:
        return None
    if not files:
        raise FileNotFoundError(f"`source` {str(source)!r}: no such file, or no data file in it")
    return [os.path.abspath(file) for file in files]


def _common_file_type(files: list[str]) -> str:
    types = {FILE_TYPES.get(suffix, suffix) for suffix in (Path(file).suffix.lower() for file in files)}
    if len(types) > 1:
        raise ValueError(f"`source` mixes file types ({', '.join(sorted(types))}): give files of one type")
    if not types <= set(FILE_TYPES.values()):
        raise ValueError(f"`source` {files[0]} has an unknown file type; known are {', '.join(FILE_TYPES)}")
    return types.pop()


def _check_utf8(files: list[str]) -> None:
    for file in files:
        try:
            with open(file, encoding="utf-8") as stream:
                while stream.read(1 << 20):
                    pass
        except UnicodeDecodeError as error:
            raise ValueError(f"`source` file {file} is not UTF-8 text: {error}") from None


def tokenize_pairs(
    examples: Dataset | IterableDataset,
    tokenizer: PreTrainedTokenizerBase,
    block_size: int,
    *,
    prompt_column: str = "prompt",
    completion_column: str = "completion",
    num_proc: int | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> Dataset | IterableDataset:
    r"""
    Tokenises pairs of a prompt, which is kept clean, and a completion, which is learned. EOS follows the completion.

    A pair longer than `block_size` is cut there: it loses the end of its completion, and EOS with it. A pair with
    nothing to learn in `block_size` tokens, because the prompt fills them or the completion is blank, is left out, and
    a warning says how many were. Rows are not padded here: [`DataCollatorForDFM`] does that. Special tokens that are
    spelled out become special tokens, as they do when a prompt is tokenised for generation.

    Args:
        examples ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            The pairs, from [`load_documents`] or your own.
        tokenizer ([`PreTrainedTokenizerBase`]):
            A tokenizer with an EOS token.
        block_size (`int`):
            The most tokens that a row may have.
        prompt_column (`str`, *optional*, defaults to `"prompt"`):
            Column of the prompts. They may be empty.
        completion_column (`str`, *optional*, defaults to `"completion"`):
            Column of the completions.
        num_proc, cache_dir:
            As in [`pack_documents`], with a cache of the same kind.

    Returns:
        [`~datasets.Dataset`] or [`~datasets.IterableDataset`], as `examples`, with the columns `input_ids` (int32),
        `labels` (int32, -100 on the prompt) and `attention_mask` (int8, all 1), of one length in a row.

    Raises:
        `ValueError`: if an argument does not fit, `examples` is empty, nothing is left to learn, or a text spells out
            the mask token.
    """
    check_settings(tokenizer, block_size)
    columns = check_columns(examples, "examples", prompt_column=prompt_column, completion_column=completion_column)
    lists = {"input_ids": "int32", "labels": "int32", "attention_mask": "int8"}
    features = Features({column: List(Value(dtype)) for column, dtype in lists.items()})
    options = {
        "batched": True,
        "batch_size": DOCUMENTS_PER_BATCH,
        "input_columns": [prompt_column, completion_column],
        "remove_columns": columns,
        "fn_kwargs": {"tokenizer": tokenizer, "block_size": block_size},
        "features": features,
    }
    examples = examples.with_format(None)
    if isinstance(examples, IterableDataset):
        return examples.map(_encode_pairs, **options)
    settings = row_settings(tokenizer, block_size, prompt_column=prompt_column, completion_column=completion_column)
    settings["examples"] = examples._fingerprint

    def build(folder: Path) -> Iterator[pa.Table]:
        rows = examples.map(
            _encode_pairs,
            **options,
            writer_batch_size=DOCUMENTS_PER_BATCH,
            cache_file_name=str(folder / "rows.arrow"),
            load_from_cache_file=False,
            new_fingerprint="unused",
            num_proc=num_proc,
            desc="Tokenizing",
        )
        if len(rows) == 0:
            raise ValueError(f"`examples` has no completion with a token within block_size={block_size}")
        if len(rows) < len(examples):
            logger.warning(f"Left out {len(examples) - len(rows)} of {len(examples)} pairs: nothing to learn in them")
        return (pa.table(batch) for batch in rows.data.to_batches())

    return open_or_build(cache_dir, settings, features, build)


def _encode_pairs(
    prompts: list[str | None], completions: list[str | None], tokenizer: PreTrainedTokenizerBase, block_size: int
) -> dict[str, list[Any]]:
    kept = [(prompt or "", text) for prompt, text in zip(prompts, completions, strict=True) if text and text.strip()]
    rows: dict[str, list[Any]] = {"input_ids": [], "labels": [], "attention_mask": []}
    prompt_ids = tokenize([prompt for prompt, _ in kept], tokenizer, special_tokens_in_text=True)
    completion_ids = tokenize([text for _, text in kept], tokenizer, special_tokens_in_text=True)
    for prompt, completion in zip(prompt_ids, completion_ids, strict=True):
        if tokenizer.mask_token_id is not None and tokenizer.mask_token_id in prompt + completion:
            raise ValueError(f"`examples` has a text with the mask token {tokenizer.mask_token} in it")
        if completion[-1:] != [tokenizer.eos_token_id]:
            completion = [*completion, tokenizer.eos_token_id]
        if len(prompt) < block_size:
            ids = np.array(prompt + completion, np.int32)[:block_size]
            rows["input_ids"].append(ids)
            rows["labels"].append(np.where(np.arange(len(ids)) < len(prompt), IGNORED_LABEL, ids).astype(np.int32))
            rows["attention_mask"].append(np.ones(len(ids), np.int8))
    return rows


@dataclass
class DataCollatorForDFM:
    r"""
    Makes a batch of the rows of [`pack_documents`] or [`tokenize_pairs`]. It draws nothing at random: times and noise
    are drawn in the training step, where a resumed run draws the same ones.

    Rows of equal length without labels are stacked: `{"input_ids": (batch, length)}`. Others are padded on the right,
    and `labels`, -100 where a token is kept clean or is padding, and `attention_mask` come with them. All are int64.

    Args:
        tokenizer ([`PreTrainedTokenizerBase`]):
            Gives the padding token, or EOS if it has none (padding is neither attended to nor learned).
        pad_to_multiple_of (`int`, *optional*):
            Round the padded length up to a multiple of it. The block size gives each batch the same shape.
    """

    tokenizer: PreTrainedTokenizerBase
    pad_to_multiple_of: int | None = None

    def __post_init__(self) -> None:
        check_settings(self.tokenizer)
        if self.pad_to_multiple_of is not None and self.pad_to_multiple_of < 1:
            raise ValueError(f"`pad_to_multiple_of` must be at least 1, but got {self.pad_to_multiple_of}")

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        input_ids = [torch.as_tensor(row["input_ids"], dtype=torch.int64) for row in rows]
        if rows[0].keys().isdisjoint(("labels", "attention_mask")) and len({len(ids) for ids in input_ids}) == 1:
            return {"input_ids": torch.stack(input_ids)}
        labels = [torch.as_tensor(row.get("labels", row["input_ids"]), dtype=torch.int64) for row in rows]
        attention_mask = [torch.as_tensor(row.get("attention_mask", [1] * len(row["input_ids"]))) for row in rows]
        pad_token_id = self.tokenizer.pad_token_id
        return {
            "input_ids": self._pad(input_ids, self.tokenizer.eos_token_id if pad_token_id is None else pad_token_id),
            "labels": self._pad(labels, IGNORED_LABEL),
            "attention_mask": self._pad(attention_mask, 0).long(),
        }

    def _pad(self, rows: list[torch.Tensor], value: int) -> torch.Tensor:
        multiple = self.pad_to_multiple_of or 1
        length = -(-max(len(row) for row in rows) // multiple) * multiple
        return torch.stack([torch.nn.functional.pad(row, (0, length - len(row)), value=value) for row in rows])


__all__ = [
    "DOCUMENT_SEPARATOR",
    "DataCollatorForDFM",
    "PackedStream",
    "find_files",
    "load_documents",
    "pack_documents",
    "read_documents",
    "tokenize_pairs",
]
