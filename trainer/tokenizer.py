# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Train a tokenizer on the data that the model will be trained on."""

import os
from collections.abc import Iterable, Iterator
from itertools import chain

import datasets
from datasets import Dataset, IterableDataset
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging


logger = logging.get_logger(__name__)

EOS_TOKEN, PAD_TOKEN, MASK_TOKEN = "<|endoftext|>", "<|pad|>", "<|mask|>"
MIN_VOCAB_SIZE = 256 + 2  # every byte, EOS and PAD


def train_tokenizer(
    texts: Dataset | IterableDataset | Iterable[str],
    vocab_size: int,
    *,
    text_column: str = "text",
    model_max_length: int | None = None,
    save_directory: str | os.PathLike | None = None,
) -> PreTrainedTokenizerFast:
    r"""
    Trains a byte-level BPE tokenizer. Any text comes back from it unchanged, for every byte is a token.

    EOS (`<|endoftext|>`, id 0) and PAD (`<|pad|>`, id 1) are among the `vocab_size` data tokens. The mask token
    (`<|mask|>`) comes after them, so its id is the number of data tokens: what [`FSDFMConfig`] asks of a mask source,
    where `vocab_size` is `len(tokenizer) - 1` and `mask_token_id` is `vocab_size`. It is defined for a uniform source
    too: there it never enters the model and only marks the positions of a prompt that are to be filled in.

    Args:
        texts ([`~datasets.Dataset`], [`~datasets.IterableDataset`] or an iterable of `str`):
            The documents.
        vocab_size (`int`):
            Number of data tokens, the mask token not counted; at least 258. A corpus with too little to merge gives a
            smaller tokenizer, with a warning.
        text_column (`str`, *optional*, defaults to `"text"`):
            Column of a dataset that holds the text.
        model_max_length (`int`, *optional*):
            The length that the tokenizer truncates at when asked to, usually the block size.
        save_directory (`str` or `os.PathLike`, *optional*):
            Folder to save the tokenizer to; [`AutoTokenizer`] loads it from there.

    Returns:
        [`PreTrainedTokenizerFast`]: the tokenizer; it pads on the left, as prompts of unequal length need.

    Raises:
        `ValueError`: if `vocab_size` is too small, `text_column` is not in the dataset or `texts` has no text.
    """
    if vocab_size < MIN_VOCAB_SIZE:
        raise ValueError(f"`vocab_size` must be at least {MIN_VOCAB_SIZE} (bytes, EOS, PAD), but got {vocab_size}")
    stream = (text for text in _iterate_texts(texts, text_column) if text)
    first = next(stream, None)
    if first is None:
        raise ValueError("`texts` holds no text to train a tokenizer on")

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[EOS_TOKEN, PAD_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=not datasets.are_progress_bars_disabled(),
    )
    backend.train_from_iterator(chain([first], stream), trainer)
    num_data_tokens = backend.get_vocab_size()
    if num_data_tokens < vocab_size:
        logger.warning(f"`texts` has merges for {num_data_tokens} tokens only, not for vocab_size={vocab_size}")
    backend.add_special_tokens([AddedToken(MASK_TOKEN, special=True, normalized=False)])

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=EOS_TOKEN,
        pad_token=PAD_TOKEN,
        mask_token=MASK_TOKEN,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        **({} if model_max_length is None else {"model_max_length": model_max_length}),
    )
    if save_directory is not None:
        tokenizer.save_pretrained(save_directory)
    return tokenizer


def _iterate_texts(texts: Dataset | IterableDataset | Iterable[str], text_column: str) -> Iterator[str]:
    if isinstance(texts, str):
        raise ValueError("`texts` must be documents, not one string; `load_documents` opens files and dataset ids")
    if not isinstance(texts, (Dataset, IterableDataset)):
        return iter(texts)
    columns = texts.column_names or list(next(iter(texts), {}))
    if text_column not in columns:
        raise ValueError(f"`text_column` {text_column!r} is not in `texts`, which has the columns {columns}")
    texts = texts.with_format(None).select_columns([text_column])
    return (text for batch in texts.iter(batch_size=1000) for text in batch[text_column])


__all__ = ["EOS_TOKEN", "MASK_TOKEN", "PAD_TOKEN", "train_tokenizer"]
