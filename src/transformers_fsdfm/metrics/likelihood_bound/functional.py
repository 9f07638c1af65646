# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The bound on the likelihood of texts under a flow."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ...optional import require
from ..inputs import check_lengths, check_sequences


if TYPE_CHECKING:
    from transformers_fsdfm.modeling_fsdfm import FSDFMForDiffusionLM
    from transformers_fsdfm.trainer.noise import CleanBatch


IGNORED_LABEL = -100


def likelihood_bound(
    predictions: Iterable[Any],
    model: "FSDFMForDiffusionLM",
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    editable_mask: Iterable[Sequence[bool]] | None = None,
    batch_size: int = 8,
    num_times: int = 16,
    seed: int = 0,
    time_epsilon: float = 1e-3,
    step_size: float = 2.0**-10,
    progress: bool = False,
) -> dict[str, Any]:
    """
    The upper bound on the negative log-likelihood of real texts: the path loss, averaged over times and noise.

    It is what [`~transformers_fsdfm.trainer.dfm_trainer.DFMTrainer.evaluate`] gives, with the same times and noise, for
    each sequence. It judges the model on real text and never sees a sample: a bad sampler, or too few steps, do not
    change it, so it can't say that few-step samples are good. With a mask source, the bound of a perfect model is the
    entropy of the data; with a uniform source it stays above, so bounds compare only between models of one source.

    Args:
        predictions: clean token ids of each sequence, of any lengths.
        model ([`FSDFMForDiffusionLM`]): a DFM or an FS-DFM; on its device, in its dtype.
        tokenizer (*optional*): the model's, to count the bytes that the tokens spell; special tokens spell none.
        editable_mask (*optional*): booleans for each sequence, false where a token is given: it stays clean, and does
            not count. All tokens count by default.
        batch_size (`int`, *optional*, defaults to 8): sequences at a time; of no influence on the noise.
        num_times (`int`, *optional*, defaults to 16): times, the middles of equal parts of [0, 1 - time_epsilon].
        seed (`int`, *optional*, defaults to 0): of the noise.
        time_epsilon (`float`, *optional*, defaults to 1e-3): the path loss is singular at t = 1.
        step_size (`float`, *optional*, defaults to 2^-10): that an FS-DFM is told; a plain DFM takes none.
        progress (`bool`, *optional*, defaults to `False`): shows a bar.

    Returns:
        `dict`: `nats_per_token`, `perplexity_bound` (its exp) and, with a tokenizer, `bits_per_byte`; `tokens`.
        `per_sequence`: `nll` (sum of the bound, in nats), `tokens` and, with a tokenizer, `bytes`. `settings`:
        `num_times`, `seed`, `time_epsilon`, `step_size`.

    Raises:
        `TypeError`: if the model is no FSDFMForDiffusionLM.
        `ValueError`: if a sequence is empty or has ids beyond the vocabulary, or nothing is editable.
    """
    require("eval", "accelerate", "datasets", "peft", what="The likelihood bound")
    from transformers_fsdfm.trainer.bound import BoundTotals, byte_counter
    from transformers_fsdfm.trainer.noise import seeded_generator
    from transformers_fsdfm.trainer.step_sizes import evaluation_times

    _check_model(model)
    rows = list(_rows(predictions, editable_mask, model.config.vocab_size))
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, but got {batch_size}")
    count_bytes = None if tokenizer is None else byte_counter(tokenizer, model.config.vocab_size)
    sums = torch.zeros(len(rows), 3, dtype=torch.float64)
    with tqdm(total=len(rows), desc="Likelihood bound", unit="row", disable=not progress) as bar:
        for first in range(0, len(rows), batch_size):
            batch = rows[first : first + batch_size]
            generators = [seeded_generator(seed, "evaluation", first + index) for index in range(len(batch))]
            per_token = _bound_of_rows(model, batch, generators, evaluation_times(num_times, time_epsilon), step_size)
            for row_sums, row, nats in zip(sums[first:], batch, per_token.tolist(), strict=False):
                num_tokens = row.editable.sum()
                num_bytes = 0 if count_bytes is None else count_bytes(row.clean_ids, row.editable)
                row_sums[:] = torch.tensor([nats * num_tokens, num_tokens, num_bytes])
            bar.update(len(batch))
    totals = BoundTotals()
    totals.add(sums)
    return _result(totals.metrics("bound"), sums, tokenizer is not None) | {
        "settings": {"num_times": num_times, "seed": seed, "time_epsilon": time_epsilon, "step_size": step_size}
    }


def _result(totals: dict[str, float], sums: Tensor, has_bytes: bool) -> dict[str, Any]:
    nats, tokens, num_bytes = sums.T.tolist()
    result: dict[str, Any] = {"nats_per_token": totals["bound_loss"]}
    result["perplexity_bound"] = math.exp(min(totals["bound_loss"], 700))
    result["tokens"] = sum(tokens)
    per_sequence = {"nll": nats, "tokens": tokens}
    if has_bytes:
        result["bits_per_byte"] = totals.get("bound_bits_per_byte", math.inf)
        per_sequence["bytes"] = num_bytes
    return {**result, "per_sequence": per_sequence}


def _check_model(model: Any) -> None:
    is_fsdfm = getattr(getattr(model, "config", None), "model_type", None) == "fsdfm"
    if not is_fsdfm or model.get_output_embeddings() is None:
        raise TypeError(f"`model` must be an FSDFMForDiffusionLM, but got {type(model).__name__}")


def _rows(predictions: Iterable[Any], editable_mask: Any, vocab_size: int) -> Iterator["CleanBatch"]:
    """Each sequence as a batch of its own, on the CPU and without padding."""
    from transformers_fsdfm.trainer.noise import read_batch

    predictions = check_sequences(predictions)
    if isinstance(predictions[0], str):
        raise TypeError("`predictions` must be token ids of the model, but are texts")
    masks = [None] * len(predictions) if editable_mask is None else list(editable_mask)
    check_lengths("editable_mask", masks, "predictions", predictions)
    for index, (ids, mask) in enumerate(zip(predictions, masks, strict=True)):
        if not ids:
            raise ValueError(f"`predictions[{index}]` has no tokens")
        if not 0 <= min(ids) <= max(ids) < vocab_size:
            raise ValueError(f"`predictions[{index}]` has ids outside of the model's vocabulary, [0, {vocab_size})")
        mask = [True] * len(ids) if mask is None else np.asarray(mask, dtype=bool).tolist()
        check_lengths(f"editable_mask[{index}]", mask, f"predictions[{index}]", ids)
        if not any(mask):
            raise ValueError(f"`editable_mask[{index}]` is false everywhere: there is nothing to measure")
        input_ids = torch.tensor([ids])
        labels = input_ids.masked_fill(~torch.tensor([mask]), IGNORED_LABEL)
        yield read_batch({"input_ids": input_ids, "labels": labels})


@torch.inference_mode()
def _bound_of_rows(
    model: "FSDFMForDiffusionLM",
    rows: list["CleanBatch"],
    generators: list[torch.Generator],
    times: Tensor,
    step_size: float,
) -> Tensor:
    """The bound of each row in nats per token, `(rows,)`: the mean over times of the path loss."""
    from transformers_fsdfm.trainer.losses import chunked_loss, evaluation_mode, path_part, path_weight
    from transformers_fsdfm.trainer.noise import draw_noisy_ids

    config, device = model.config, model.device
    labels = _pad([row.labels for row in rows], IGNORED_LABEL).to(device)
    inputs = {"attention_mask": _pad([torch.ones_like(row.labels) for row in rows], 0).to(device)}
    if config.step_size_conditioning:
        inputs["step_size"] = torch.tensor([step_size], device=device)
    total = torch.zeros(len(rows), device=device)
    for time in times.split(1):
        # Row by row: what a row draws must not depend on the length that others give the batch.
        noise = [draw_noisy_ids(row, time, config, [draws]) for row, draws in zip(rows, generators, strict=True)]
        noisy_ids = _pad(noise, 0).to(device)
        weight = path_weight(config.flow_schedule, time).to(device).expand(len(rows))
        with evaluation_mode(model):
            states = model.base_model(input_ids=noisy_ids, time=time.to(device), **inputs).last_hidden_state
            loss = chunked_loss(model.get_output_embeddings(), states, path_part(labels, noisy_ids, weight))
        total += loss.row_loss
    return total / len(times)


def _pad(rows: list[Tensor], value: int) -> Tensor:
    """Rows `(1, length)` of any lengths as `(rows, longest)`, padded on the right."""
    return nn.utils.rnn.pad_sequence([row[0] for row in rows], batch_first=True, padding_value=value)
