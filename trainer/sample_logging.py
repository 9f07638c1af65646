# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Samples in a few steps, made and logged during training."""

import json
import os
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedTokenizerBase, TrainerCallback


if TYPE_CHECKING:
    from transformers_fsdfm import FSDFMForDiffusionLM

    from .arguments import FSDFMTrainingArguments
    from .fsdfm_trainer import FSDFMTrainer


SAMPLES_FILE = "samples.jsonl"


class SampleLoggingCallback(TrainerCallback):
    """
    Every `sample_steps` global steps, samples of the averaged model in each of `sample_num_steps` steps.

    Metrics go to the log, the first text of each number of steps to the log too (the report backends show it) and all
    texts, with their token ids, to `samples.jsonl` in the output folder. The noise is the same every time.
    """

    def __init__(self, trainer: "FSDFMTrainer") -> None:
        self._trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % args.sample_steps == 0:
            should_log = control.should_log
            self._trainer.log_samples()
            control.should_log = should_log  # a log of ours must not take the place of Trainer's


def draw_samples(
    model: "FSDFMForDiffusionLM",
    tokenizer: PreTrainedTokenizerBase | None,
    args: "FSDFMTrainingArguments",
    num_steps: int,
) -> list[dict[str, Any]]:
    """
    Samples in `num_steps` steps, always from the same noise.

    Returns:
        `list[dict]`: for each sample `num_steps`, `prompt` (or None), `token_ids` (without the prompt) and `text`.
    """
    prompts: Sequence[str | None] = args.sample_prompts or [None]
    samples = []
    for number, prompt in enumerate(prompts):
        prompt_ids = torch.zeros((1, 0), dtype=torch.long)
        if prompt is not None:
            assert tokenizer is not None  # the trainer asks for one where there are prompts
            prompt_ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
        sequences = model.generate(
            prompt_ids.to(model.device),
            num_steps=num_steps,
            max_length=args.sample_length or model.config.max_position_embeddings,
            num_return_sequences=args.num_samples,
            generator=torch.Generator().manual_seed(args.eval_seed + number),
            return_dict_in_generate=False,
        )
        for token_ids in sequences[:, prompt_ids.shape[1] :].tolist():
            text = None if tokenizer is None else tokenizer.decode(token_ids)
            samples.append({"num_steps": num_steps, "prompt": prompt, "token_ids": token_ids, "text": text})
    return samples


def sample_metrics(token_ids: Sequence[Sequence[int]]) -> dict[str, float]:
    """
    Cheap signs of collapse.

    Returns:
        `dict`: `unigram_entropy`, in nats, of the tokens of a sample, mean over samples; `distinct_2`, the share of
        different ones among all pairs of neighbours; `repeated_4`, the share of 4-grams that occurred before in their
        sample.
    """
    pairs = [pair for row in token_ids for pair in pairwise(row)]
    four_grams = [list(zip(row, row[1:], row[2:], row[3:], strict=False)) for row in token_ids]
    return {
        "unigram_entropy": sum(map(_entropy, token_ids)) / max(len(token_ids), 1),
        "distinct_2": _share_of_different(pairs),
        "repeated_4": 1 - _share_of_different((row, gram) for row, grams in enumerate(four_grams) for gram in grams),
    }


def _share_of_different(items: Iterable[Hashable]) -> float:
    items = list(items)
    return len(set(items)) / len(items) if items else 1.0


def _entropy(tokens: Sequence[int]) -> float:
    counts = torch.tensor(list(Counter(tokens).values()), dtype=torch.float64)
    return float(torch.special.entr(counts / counts.sum()).sum())


def write_samples(output_dir: str, global_step: int, samples: list[dict[str, Any]]) -> None:
    """Appends the samples to the file in the output folder, one JSON object a line."""
    with open(os.path.join(output_dir, SAMPLES_FILE), "a", encoding="utf-8") as file:
        for sample in samples:
            file.write(json.dumps({"global_step": global_step, **sample}, ensure_ascii=False) + "\n")


__all__ = ["SampleLoggingCallback", "draw_samples", "sample_metrics", "write_samples"]
