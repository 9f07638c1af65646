# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The likelihood bound of an evaluation set: sums over rows, and the bytes that the rows spell."""

import math
from collections.abc import Callable

import torch
from tokenizers.decoders import ByteLevel
from torch import Tensor
from transformers import PreTrainedTokenizerBase


ByteCounter = Callable[[Tensor, Tensor], Tensor]


def byte_counter(tokenizer: PreTrainedTokenizerBase, num_tokens: int) -> ByteCounter:
    """
    A function that says how many bytes of UTF-8 the tokens of each row spell. Special tokens spell none.

    A byte-level tokenizer has a fixed number of bytes for each token; of others the row is decoded.

    Returns:
        `Callable`: `(ids, counted)`, both of shape `(rows, length)`, to a `torch.LongTensor` of shape `(rows,)`.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and isinstance(backend.decoder, ByteLevel):
        table = torch.tensor([_byte_length(tokenizer, token_id) for token_id in range(num_tokens)])
        return lambda ids, counted: (table.to(ids.device)[ids.masked_fill(~counted, 0)] * counted).sum(-1)

    def decoded_length(ids: Tensor, counted: Tensor) -> Tensor:
        texts = [
            str(tokenizer.decode(row[used], skip_special_tokens=True, clean_up_tokenization_spaces=False))
            for row, used in zip(ids.cpu(), counted.cpu(), strict=True)
        ]
        return torch.tensor([len(text.encode()) for text in texts], device=ids.device)

    return decoded_length


def _byte_length(tokenizer: PreTrainedTokenizerBase, token_id: int) -> int:
    if token_id in tokenizer.all_special_ids:
        return 0
    added = tokenizer.added_tokens_decoder.get(token_id)
    if added is not None:
        return len(added.content.encode())
    return len(tokenizer.convert_ids_to_tokens(token_id) or "")  # one character stands for one byte


class BoundTotals:
    """Sums over the rows of an evaluation set."""

    def __init__(self) -> None:
        self._sums = torch.zeros(3, dtype=torch.float64)

    def add(self, row_sums: Tensor) -> None:
        """Takes nats, tokens and bytes of each row, `(rows, 3)`, of all processes."""
        self._sums += row_sums.double().sum(0).cpu()

    def metrics(self, prefix: str) -> dict[str, float]:
        """The bound in nats per token and, where the bytes are known, in bits per byte."""
        nats, tokens, num_bytes = self._sums.tolist()
        if not tokens:
            return {}
        metrics = {f"{prefix}_loss": nats / tokens}
        if num_bytes > 0:
            metrics[f"{prefix}_bits_per_byte"] = nats / num_bytes / math.log(2)
        return metrics
