# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The model that scores samples: a small autoregressive one of the GPT-2 architecture, trained on the same text."""

from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase, Trainer, TrainingArguments, set_seed
from transformers.data.data_collator import DataCollatorForLanguageModeling
from transformers.trainer_utils import get_last_checkpoint

from ...data import load_documents
from ...packing import pack_documents
from ...script_models import load_tokenizer


def train_scorer(
    output_dir: Path,
    tokenizer: str,
    train_data: list[str],
    validation_data: list[str] | None,
    *,
    gpt2_config: dict[str, Any],
    training: dict[str, Any],
) -> None:
    """
    Trains the scorer, or goes on where it was stopped, and saves the weights with the lowest validation loss.

    Args:
        output_dir (`Path`): the folder of the model.
        tokenizer (`str`): the folder of the tokenizer that the scored models use.
        train_data, validation_data (`list[str]`): as of `fsdfm pretrain`.
        gpt2_config (`dict`): fields of [`~transformers.GPT2Config`], such as `n_embd` and `n_positions`.
        training (`dict`): of [`~transformers.TrainingArguments`].
    """
    args = TrainingArguments(output_dir=str(output_dir), load_best_model_at_end=True, **training)
    set_seed(args.seed)
    text_tokenizer = load_tokenizer(tokenizer)
    settings: dict[str, Any] = {
        "vocab_size": len(text_tokenizer) - (text_tokenizer.mask_token_id == len(text_tokenizer) - 1),
        "bos_token_id": text_tokenizer.eos_token_id,
        "eos_token_id": text_tokenizer.eos_token_id,
        "pad_token_id": text_tokenizer.pad_token_id,
        **gpt2_config,
    }
    config = GPT2Config(**settings)
    trainer = Trainer(
        GPT2LMHeadModel(config),
        args,
        data_collator=DataCollatorForLanguageModeling(text_tokenizer, mlm=False),
        train_dataset=_rows(train_data, "train", text_tokenizer, config.n_positions),
        eval_dataset=_rows(validation_data or train_data, "validation", text_tokenizer, config.n_positions),
        processing_class=text_tokenizer,
    )
    last = get_last_checkpoint(output_dir) if output_dir.is_dir() else None
    trainer.train(resume_from_checkpoint=last)
    trainer.save_model()
    trainer.save_metrics("eval", trainer.evaluate())


def _rows(source: list[str], split: str, tokenizer: PreTrainedTokenizerBase, block_size: int) -> Dataset:
    """Blocks of text, from files or from a split of a dataset id."""
    one = source[0] if len(source) == 1 else source
    is_id = len(source) == 1 and not Path(source[0]).exists()
    return pack_documents(load_documents(one, split=split if is_id else None), tokenizer, block_size)


__all__ = ["train_scorer"]
