# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Tokenised documents, EOS after each one, cut into blocks of equal length: on disk, or as a stream."""

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, Features, IterableDataset, List, Value
from transformers import PreTrainedTokenizerBase

from .cache import digest, open_or_build, row_settings
from .detokenizers import DETOKENIZERS


DOCUMENTS_PER_BATCH = 256  # read, tokenised and kept in memory at a time


def pack_documents(
    documents: Dataset | IterableDataset,
    tokenizer: PreTrainedTokenizerBase,
    block_size: int,
    *,
    text_column: str = "text",
    detokenizer: str | None = None,
    max_documents: int | None = None,
    num_proc: int | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> "Dataset | PackedStream":
    r"""
    Tokenises documents, puts EOS after each one and cuts the whole into blocks. The blocks one after the other are all
    the tokens of all documents in order; only the last remainder, shorter than a block, is left out. Blank documents
    are skipped. Text is only text: a document that spells out a special token gets no special token for it.

    The result is kept on disk under a name that depends on the documents and on every setting, and is used again only
    if all of them are the same. It appears there in one piece, when it is complete.

    Args:
        documents ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            The text, from [`load_documents`] or your own. A stream gives a [`PackedStream`].
        tokenizer ([`PreTrainedTokenizerBase`]):
            A tokenizer with an EOS token.
        block_size (`int`):
            Tokens in a block.
        text_column (`str`, *optional*, defaults to `"text"`):
            The column that holds the text.
        detokenizer (`str`, *optional*):
            `"wikitext"` turns the text of WikiText into natural text first.
        max_documents (`int`, *optional*):
            Take only so many documents from the beginning.
        num_proc (`int`, *optional*):
            Processes that tokenise; the result is the same for any number. A stream is tokenised as it is read.
        cache_dir (`str` or `os.PathLike`, *optional*):
            Where blocks are kept; a folder in the cache of `datasets` if not set. A stream keeps nothing.

    Returns:
        [`~datasets.Dataset`]: memory-mapped, `input_ids` of shape `(block_size,)` and type int32 in each row, given out
        as numpy arrays; or a [`PackedStream`] of the same blocks.

    Raises:
        `ValueError`: if an argument does not fit, `documents` is empty or it has fewer tokens than one block.
    """
    if isinstance(documents, IterableDataset):
        return PackedStream(
            documents,
            tokenizer,
            block_size,
            text_column=text_column,
            detokenizer=detokenizer,
            max_documents=max_documents,
        )
    check_settings(tokenizer, block_size, detokenizer, max_documents)
    check_columns(documents, "documents", text_column=text_column)
    if max_documents is not None:
        documents = documents.take(min(max_documents, len(documents)))
    settings = row_settings(tokenizer, block_size, text_column=text_column, detokenizer=detokenizer)
    settings["documents"] = documents._fingerprint

    def build(folder: Path) -> Iterator[pa.Table]:
        tokens = documents.with_format(None).map(
            _encode_documents,
            batched=True,
            batch_size=DOCUMENTS_PER_BATCH,
            writer_batch_size=DOCUMENTS_PER_BATCH,
            input_columns=[text_column],
            remove_columns=documents.column_names,
            fn_kwargs={"tokenizer": tokenizer, "detokenizer": detokenizer},
            features=Features({"input_ids": List(Value("int32"))}),
            cache_file_name=str(folder / "tokens.arrow"),
            load_from_cache_file=False,
            new_fingerprint="unused",
            num_proc=num_proc,
            desc="Tokenizing",
        )
        return _pack_tables(tokens.data.column("input_ids").chunks, block_size)

    features = Features({"input_ids": List(Value("int32"), length=block_size)})
    return open_or_build(cache_dir, settings, features, build)


def cut_blocks(carry: np.ndarray, token_ids: np.ndarray, block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts `carry` followed by `token_ids` into blocks, `(num_blocks, block_size)`, and the rest, the next carry."""
    token_ids = np.concatenate([carry, token_ids])
    end = len(token_ids) // block_size * block_size
    return token_ids[:end].reshape(-1, block_size), token_ids[end:]


def _pack_tables(chunks: Iterable[pa.ListArray], block_size: int) -> Iterator[pa.Table]:
    """Packs on the flat values of Arrow lists: a token is never a Python object here."""
    carry = np.empty(0, np.int32)
    num_blocks = 0
    for chunk in chunks:
        blocks, carry = cut_blocks(carry, chunk.flatten().to_numpy(), block_size)
        num_blocks += len(blocks)
        yield pa.table({"input_ids": pa.FixedSizeListArray.from_arrays(pa.array(blocks.reshape(-1)), block_size)})
    if num_blocks == 0:
        raise _too_few_tokens(len(carry), block_size)


def _too_few_tokens(num_tokens: int, block_size: int) -> ValueError:
    if num_tokens == 0:
        return ValueError("`documents` holds no text: every document is blank")
    return ValueError(f"`documents` holds {num_tokens} tokens, fewer than one block (`block_size` is {block_size})")


class PackedStream(torch.utils.data.IterableDataset):
    r"""
    The blocks of a streaming dataset, packed as [`pack_documents`] does it. Each pass yields
    `{"input_ids": int32 array of shape (block_size,)}`.

    `state_dict()` holds the position of the documents, the tokens that were carried over from earlier documents and the
    number of blocks already taken from the current batch of documents, so that the blocks after `load_state_dict` are
    those that would have come. (Only a shuffle buffer of `datasets` can't be resumed: shuffle shards instead, or skip
    batches as [`Trainer`] does by default.)

    In several processes, either let Accelerate hand out the batches of one process, as it does by default, or give each
    process its own documents, `split_dataset_by_node(documents, rank, world_size)`. The workers of a `DataLoader`
    share the shards of the documents; each packs its own and keeps a state of its own. For training of more than one
    pass give `documents.repeat(None)`: packing then goes on across passes.

    Args:
        documents, tokenizer, block_size, text_column, detokenizer, max_documents:
            As in [`pack_documents`], with an [`~datasets.IterableDataset`].
    """

    def __init__(
        self,
        documents: IterableDataset,
        tokenizer: PreTrainedTokenizerBase,
        block_size: int,
        *,
        text_column: str = "text",
        detokenizer: str | None = None,
        max_documents: int | None = None,
    ) -> None:
        check_settings(tokenizer, block_size, detokenizer, max_documents)
        check_columns(documents, "documents", text_column=text_column)
        self.documents = documents.with_format(None)
        if max_documents is not None:
            self.documents = self.documents.take(max_documents)
        self.tokenizer, self.block_size, self.detokenizer = tokenizer, block_size, detokenizer
        self.text_column = text_column
        self._settings_key = digest(
            row_settings(tokenizer, block_size, text_column=text_column, detokenizer=detokenizer)
        )
        self._resume_from: dict[str, Any] | None = None
        self._state = self._initial_state()

    def _initial_state(self) -> dict[str, Any]:
        return {"documents": None, "carry": [], "num_blocks_taken": 0, "epoch": self.documents.epoch}

    def state_dict(self) -> dict[str, Any]:
        """The state after the latest block, of plain Python values."""
        return {"settings": self._settings_key, **self._state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """
        Makes the next pass go on after the block at which `state_dict` was taken.

        Raises:
            `ValueError`: if it was taken with another tokenizer, block size, text column or detokenizer.
        """
        if state_dict["settings"] != self._settings_key:
            raise ValueError("`state_dict` is of a stream with another tokenizer, block_size or other setting")
        self.set_epoch(state_dict["epoch"])
        self._state = self._resume_from = {key: value for key, value in state_dict.items() if key != "settings"}

    def set_epoch(self, epoch: int) -> None:
        """Goes to the documents, which order their shards by it. A loaded state counts in its own epoch only."""
        self.documents.set_epoch(epoch)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        state, self._resume_from = self._resume_from, None
        if state is None or state["epoch"] != self.documents.epoch:
            state = self._initial_state()
        position, carry, num_taken = state["documents"], np.array(state["carry"], np.int32), state["num_blocks_taken"]

        is_empty = position is None
        self.documents.load_state_dict(position)  # None, the beginning, also forgets the state of an earlier pass
        rows = iter(self.documents)
        while texts := [row.get(self.text_column) for row in islice(rows, DOCUMENTS_PER_BATCH)]:
            token_ids = _encode_documents(texts, self.tokenizer, self.detokenizer)["input_ids"]
            blocks, rest = cut_blocks(carry, np.concatenate([*token_ids, carry[:0]]), self.block_size)
            start_of_batch = {"documents": position, "carry": carry.tolist(), "epoch": self.documents.epoch}
            for index in range(num_taken, len(blocks)):
                self._state = {**start_of_batch, "num_blocks_taken": index + 1}
                yield {"input_ids": blocks[index]}
            is_empty = is_empty and len(blocks) == 0
            position, carry, num_taken = self.documents.state_dict(), rest, 0
        if is_empty and torch.utils.data.get_worker_info() is None:  # one of several workers may have little to do
            raise _too_few_tokens(len(carry), self.block_size)


def _encode_documents(
    texts: list[str | None], tokenizer: PreTrainedTokenizerBase, detokenizer: str | None
) -> dict[str, list[np.ndarray]]:
    if detokenizer is not None:
        texts = [DETOKENIZERS[detokenizer](text or "") for text in texts]
    written = [text for text in texts if text and text.strip()]
    token_ids = tokenize(written, tokenizer, special_tokens_in_text=False)
    return {"input_ids": [np.array([*ids, tokenizer.eos_token_id], np.int32) for ids in token_ids]}


def tokenize(texts: list[str], tokenizer: PreTrainedTokenizerBase, *, special_tokens_in_text: bool) -> list[list[int]]:
    """Returns the token ids of each text, with no token added, padded or cut off."""
    if not texts:  # tokenizers do not take an empty batch
        return []
    return tokenizer(
        texts,
        add_special_tokens=False,
        split_special_tokens=not special_tokens_in_text,
        padding=False,
        truncation=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )["input_ids"]


def check_settings(
    tokenizer: PreTrainedTokenizerBase,
    block_size: int | None = None,
    detokenizer: str | None = None,
    max_documents: int | None = None,
) -> None:
    """Checks the arguments that documents and pairs have in common."""
    if tokenizer.eos_token_id is None:
        raise ValueError("`tokenizer` has no EOS token, which must follow each document; set `tokenizer.eos_token`")
    if block_size is not None and block_size < 1:
        raise ValueError(f"`block_size` must be at least 1, but got {block_size}")
    if detokenizer is not None and detokenizer not in DETOKENIZERS:
        raise ValueError(f"`detokenizer` must be one of {', '.join(DETOKENIZERS)}, but got {detokenizer!r}")
    if max_documents is not None and max_documents < 1:
        raise ValueError(f"`max_documents` must be at least 1, but got {max_documents}")


def check_columns(rows: Dataset | IterableDataset, name: str, **columns: str) -> list[str]:
    """
    Checks that each column, given as `argument=column`, is in the dataset `name` and holds text; reads one row. Returns
    the names of all columns.
    """
    if not isinstance(rows, (Dataset, IterableDataset)):
        raise TypeError(f"`{name}` must be a datasets.Dataset or IterableDataset, but got {type(rows).__name__}")
    first = next(iter(rows.with_format(None)), None)
    if first is None:
        raise ValueError(f"`{name}` is empty: it has no rows")
    for argument, column in columns.items():
        if column not in first:
            raise ValueError(f"`{argument}` {column!r} is not in `{name}`, which has the columns {list(first)}")
        if not isinstance(first[column], (str, type(None))):
            raise ValueError(f"`{argument}` {column!r} must hold text, but its first value is {first[column]!r:.80}")
    return list(first)


__all__ = ["PackedStream", "check_columns", "check_settings", "cut_blocks", "pack_documents", "tokenize"]
