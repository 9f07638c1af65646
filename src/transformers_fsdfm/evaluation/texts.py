# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The reference text as blocks of tokens, and tokens as text that a scorer can read."""

from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np
from tokenizers.decoders import ByteLevel
from transformers import PreTrainedTokenizerBase

from ..metrics.memorization.functional import NgramIndex


DOCUMENT_BREAK = "\n\n"
BLOCK_SEED = 50624  # of the choice of reference blocks, the same in every report


@dataclass(frozen=True)
class MarkedText:
    """
    A text that knows which of its characters were written by the system under test.

    Args:
        text (`str`): the whole, given parts included.
        written (`tuple[tuple[int, int], ...]`): starts and ends of the written stretches, in characters, in order.
    """

    text: str
    written: tuple[tuple[int, int], ...]


def reference_blocks(
    sources: list[str], tokenizer: PreTrainedTokenizerBase, length: int, num_blocks: int
) -> np.ndarray:
    """
    Blocks of real text, packed as in training: documents with EOS after each, cut at equal lengths.

    Args:
        sources (`list[str]`): as [`~trainer.data.load_documents`] takes them.
        length (`int`): tokens in a block.
        num_blocks (`int`): at most so many, drawn without replacement, always the same ones in the same order.

    Returns:
        `np.ndarray` of shape `(blocks, length)` and type int64.

    Raises:
        `FileNotFoundError`, `ValueError`: if there is no such file, or it has no text; they name it `reference`.
    """
    from ..trainer.data import as_source, load_documents, source_called
    from ..trainer.packing import pack_documents

    with source_called("`reference`", aliases=("source", "documents")):
        documents = load_documents(as_source(sources))
        blocks = pack_documents(documents, tokenizer, length)
    chosen = np.random.default_rng(BLOCK_SEED).permutation(len(blocks))[:num_blocks]
    return np.stack([blocks[int(number)]["input_ids"] for number in chosen]).astype(np.int64)


def training_index(sources: list[str], tokenizer: PreTrainedTokenizerBase) -> NgramIndex:
    """
    The n-grams of the documents that models were trained on, in tokens.

    Args:
        sources (`list[str]`): as [`~trainer.data.load_documents`] takes them.

    Raises:
        `FileNotFoundError`, `ValueError`: if there is no such file, or it has no text; they name it `training_text`.
    """
    from ..trainer.data import as_source, load_documents, source_called
    from ..trainer.packing import tokenize

    with source_called("`training_text`", aliases=("source", "training")):
        documents = load_documents(as_source(sources))
        if "text" not in documents.column_names:
            raise ValueError(f"`source` {', '.join(sources)} has no column text, but {documents.column_names}")
        return NgramIndex(tokenize(list(documents["text"]), tokenizer, special_tokens_in_text=False))


def mark_text(tokenizer: PreTrainedTokenizerBase, token_ids: np.ndarray, editable: np.ndarray) -> MarkedText:
    """
    Decodes a sequence.

    An end-of-text token becomes a blank line, which every scorer understands, whatever its own special tokens; any
    other special token stays visible as its name, so that a model which writes padding pays for it. Where the border
    between given and written tokens cuts a character in two, U+FFFD stands on both sides.

    Args:
        token_ids, editable (`np.ndarray` of shape `(length,)`): tokens, and which of them were written.
    """
    pieces = _decode_runs(tokenizer, token_ids, [(flag, len(list(run))) for flag, run in groupby(editable.tolist())])
    ends = np.cumsum([0, *(len(piece) for piece, _ in pieces)]).tolist()
    written = [span for span, (_, flag) in zip(pairwise(ends), pieces, strict=True) if flag and span[0] < span[1]]
    return MarkedText("".join(piece for piece, _ in pieces), tuple(written))


def prompt_text(tokenizer: PreTrainedTokenizerBase, token_ids: np.ndarray, editable: np.ndarray) -> str | None:
    """What was given, with `___n___` for n tokens to write, as `fsdfm infill` takes it; None if nothing was."""
    if editable.all():
        return None
    runs = [(flag, len(list(run))) for flag, run in groupby(editable.tolist())]
    pieces = _decode_runs(tokenizer, token_ids, runs)
    texts = [f"___{size}___" if flag else piece for (piece, flag), (_, size) in zip(pieces, runs, strict=True)]
    return "".join(texts)


def _decode_runs(
    tokenizer: PreTrainedTokenizerBase, token_ids: np.ndarray, runs: list[tuple[bool, int]]
) -> list[tuple[str, bool]]:
    """The text of successive runs of tokens, each with its flag."""
    ends = np.cumsum([0, *(size for _, size in runs)]).tolist()
    if isinstance(getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None), ByteLevel):
        texts = [_decode(tokenizer, token_ids[start:end]) for start, end in pairwise(ends)]
    else:  # what a token spells depends on the ones before it
        heads = [_decode(tokenizer, token_ids[:end]) for end in ends]
        texts = [after[len(before) :] for before, after in pairwise(heads)]
    return [(text, flag) for text, (flag, _) in zip(texts, runs, strict=True)]


def _decode(tokenizer: PreTrainedTokenizerBase, token_ids: np.ndarray) -> str:
    cuts = [-1, *np.flatnonzero(token_ids == tokenizer.eos_token_id).tolist(), len(token_ids)]
    return DOCUMENT_BREAK.join(
        str(tokenizer.decode(token_ids[start + 1 : end].tolist(), clean_up_tokenization_spaces=False))
        for start, end in pairwise(cuts)
    )


__all__ = ["DOCUMENT_BREAK", "MarkedText", "mark_text", "prompt_text", "reference_blocks"]
