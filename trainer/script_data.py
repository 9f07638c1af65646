# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""From the data arguments of a script to the rows that a trainer takes."""

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerBase, TrainingArguments

from .data import DataCollatorForDFM, as_source, find_files, load_documents, source_called, tokenize_pairs
from .packing import PackedStream, pack_documents
from .script_arguments import DataArguments, FinetuningDataArguments


logger = logging.getLogger(__name__)

ID_VALIDATION_SPLIT = "validation"
STREAMED_VALIDATION_DOCUMENTS = 1000


class Splits(NamedTuple):
    """Something to train on and, if there is any, something to evaluate on: documents, or rows of tokens."""

    train: Any
    validation: Any = None


def check_sources(args: DataArguments) -> None:
    """
    Looks for all files, before the first is read.

    Raises:
        `FileNotFoundError`: if there is no such file.
        `ValueError`: if arguments that belong to a dataset id are given with files alone.
    """
    is_id = []
    for name in ("train_data", "validation_data"):
        if data := getattr(args, name):
            with source_called(f"--{name}"):
                is_id.append(find_files(as_source(data)) is None)
    if args.train_split and not is_id[0]:
        raise ValueError("--train_split belongs to a dataset id, but --train_data is local files")
    if args.validation_split and not is_id[-1]:
        raise ValueError("--validation_split belongs to a dataset id, but the text to evaluate on is local files")
    for name in ("data_config", "data_revision"):
        if getattr(args, name) and not any(is_id):
            raise ValueError(f"--{name} belongs to a dataset id, but the data is local files")


def open_documents(args: DataArguments, training_args: TrainingArguments) -> Splits:
    """The documents (or pairs) to train and to evaluate on; every process gets the same."""
    with training_args.main_process_first(desc="reading the data"):
        with source_called("--train_data"):
            train = _load(args, as_source(args.train_data), args.train_split, args.streaming)
        validation = None
        if args.has_validation_source:
            with source_called("--validation_data" if args.validation_data else "--train_data"):
                validation = _load_validation(args)
    return Splits(train, validation)


def _load(
    args: DataArguments, source: str | list[str], split: str | None, streaming: bool
) -> Dataset | IterableDataset:
    if find_files(source) is not None:
        return load_documents(source, streaming=streaming)
    options = {"name": args.data_config, "split": split, "revision": args.data_revision}
    return load_documents(source, streaming=streaming, **options)


def _load_validation(args: DataArguments) -> Dataset:
    """All of it at once, also of a stream: each evaluation is of the same rows."""
    source = as_source(args.validation_data or args.train_data)
    is_stream = args.streaming and find_files(source) is None
    documents = _load(args, source, args.validation_split or ID_VALIDATION_SPLIT, is_stream)
    if not is_stream:
        return documents
    return Dataset.from_list(list(documents.take(args.max_validation_documents or STREAMED_VALIDATION_DOCUMENTS)))


def packed_rows(
    documents: Splits,
    tokenizer: PreTrainedTokenizerBase,
    args: DataArguments,
    block_size: int,
    training_args: TrainingArguments,
) -> Splits:
    """Blocks of `block_size` tokens."""

    def pack(text: Dataset | IterableDataset, max_documents: int | None) -> Dataset | PackedStream:
        if isinstance(text, IterableDataset):
            text, max_documents = text.take(max_documents) if max_documents else text, None
            text = text.repeat(None)
        return pack_documents(
            text,
            tokenizer,
            block_size,
            text_column=args.text_column,
            detokenizer=args.detokenizer,
            max_documents=max_documents,
            num_proc=args.num_proc,
            cache_dir=args.data_cache,
        )

    return _both(documents, pack, args, training_args)


def paired_rows(
    pairs: Splits,
    tokenizer: PreTrainedTokenizerBase,
    args: FinetuningDataArguments,
    block_size: int,
    training_args: TrainingArguments,
) -> Splits:
    """Prompts with completions, at most `block_size` tokens together."""

    def encode(rows: Dataset | IterableDataset, max_rows: int | None) -> Dataset | IterableDataset:
        if max_rows is not None:
            rows = rows.take(max_rows if isinstance(rows, IterableDataset) else min(max_rows, len(rows)))
        if isinstance(rows, IterableDataset):
            rows = rows.repeat(None)
        return tokenize_pairs(
            rows,
            tokenizer,
            block_size,
            prompt_column=args.prompt_column,
            completion_column=args.completion_column,
            num_proc=args.num_proc,
            cache_dir=args.data_cache,
        )

    return _both(pairs, encode, args, training_args)


def _both(
    documents: Splits,
    prepare: Callable[[Any, int | None], Any],
    args: DataArguments,
    training_args: TrainingArguments,
) -> Splits:
    with training_args.main_process_first(desc="tokenizing the data"):
        train = prepare(documents.train, args.max_train_documents)
        validation = None
        if documents.validation is not None:
            validation = prepare(documents.validation, args.max_validation_documents)
    if args.validation_share:
        train, validation = _hold_out(train, args.validation_share)
    return Splits(train, validation)


def _hold_out(rows: Dataset, share: float) -> tuple[Dataset, Dataset]:
    """The last rows: at most one document has a part on both sides."""
    num_validation = max(1, round(share * len(rows)))
    num_train = len(rows) - num_validation
    if num_train < 1:
        raise ValueError(f"--validation_share {share} of {len(rows)} rows leaves nothing to train on")
    return rows.select(range(num_train)), rows.select(range(num_train, len(rows)))


def has_pairs(documents: Dataset | IterableDataset, args: FinetuningDataArguments) -> bool:
    """
    Whether the data is pairs of prompt and completion.

    Raises:
        `ValueError`: if it is not what the arguments are made for.
    """
    if args.data_format != "auto":
        return args.data_format == "pairs"
    columns = documents.column_names or list(next(iter(documents), {}))
    is_paired = {args.prompt_column, args.completion_column} <= set(columns)
    args.check_format(is_paired)
    return is_paired


def log_amount(rows: Splits, block_size: int) -> None:
    """Says how much there is to learn from and to evaluate on."""
    for name, split in (("Training", rows.train), ("Evaluation", rows.validation)):
        if isinstance(split, Dataset):
            logger.info(f"{name}: {len(split):,} rows of up to {block_size:,} tokens")


class PaddingLearningCollator(DataCollatorForDFM):
    """As [`DataCollatorForDFM`], but padding is attended to and learned like the rest of the completion."""

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = super().__call__(rows)
        is_padding = batch["attention_mask"] == 0
        labels = torch.where(is_padding, batch["input_ids"], batch["labels"])
        return {**batch, "labels": labels, "attention_mask": torch.ones_like(batch["attention_mask"])}


__all__ = [
    "PaddingLearningCollator",
    "Splits",
    "check_sources",
    "has_pairs",
    "log_amount",
    "open_documents",
    "packed_rows",
    "paired_rows",
]
