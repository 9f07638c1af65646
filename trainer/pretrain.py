# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
r"""
Trains a discrete flow-matching model (DFM) on text.

    python -m transformers_fsdfm.trainer.pretrain --train_data stories.txt --train_tokenizer_vocab_size 4096 \
        --hidden_size 256 --num_hidden_layers 6 --num_attention_heads 8 --block_size 128 --max_steps 2000 \
        --output_dir dfm

On many GPUs: `accelerate launch --config_file ... -m transformers_fsdfm.trainer.pretrain ...`, or `fsdfm pretrain
--accelerate_config zero2 ...`.
"""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .arguments import DFMTrainingArguments
from .script_arguments import DataArguments, NewModelArguments
from .script_parser import ScriptParser


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from transformers_fsdfm import FSDFMConfig

    from .script_data import Splits


logger = logging.getLogger("transformers_fsdfm.trainer.pretrain")  # not __name__, which is __main__ here


def main(arguments: Sequence[str] | None = None, prog: str = "python -m transformers_fsdfm.trainer.pretrain") -> None:
    """
    Runs the script.

    Args:
        arguments (`Sequence[str]`, *optional*): in place of `sys.argv[1:]`.
        prog (`str`, *optional*): what the user has typed, for help and errors.
    """
    sections = {"Model and tokenizer": NewModelArguments, "Data": DataArguments}
    parser = ScriptParser(prog, __doc__, sections, DFMTrainingArguments)
    values = parser.read(arguments)
    model_args, data_args = parser.make(NewModelArguments, values), parser.make(DataArguments, values)
    args = parser.make(DFMTrainingArguments, values)

    from . import script_models as models
    from .dfm_trainer import DFMTrainer
    from .script_data import log_amount, open_documents, packed_rows
    from .script_run import check_run, start_run, train_and_save

    with parser.mistakes_named():
        checkpoint = check_run(args, data_args)
        config, tokenizer = _read_model(model_args, data_args)
        models.check_step_sizes(args, config)

    start_run(args, values, "pretrain")
    documents = open_documents(data_args, args)
    block_size = data_args.block_size or config.max_position_embeddings
    if tokenizer is None:
        tokenizer = _trained_tokenizer(documents, model_args, data_args, args, block_size, checkpoint)
    if model_args.model_name_or_path is None:
        model = models.new_model(models.new_config(model_args, block_size, tokenizer), args.seed)
    else:
        model = models.load_model(model_args.model_name_or_path, args)
        models.set_trained_length(model, block_size)
    rows = packed_rows(documents, tokenizer, data_args, block_size, args)
    logger.info(f"Training {models.describe(model)}")
    log_amount(rows, block_size)
    trainer = DFMTrainer(model, args, rows.train, rows.validation, processing_class=tokenizer)
    train_and_save(trainer, checkpoint)
    trainer.accelerator.end_training()


def _read_model(
    model_args: NewModelArguments, data_args: DataArguments
) -> "tuple[FSDFMConfig, PreTrainedTokenizerBase | None]":
    """The configuration, as far as it is known before the data is read, and the tokenizer, if it is there."""
    from . import script_models as models

    if model_args.model_name_or_path is not None:
        config, tokenizer = models.read_model(model_args.model_name_or_path, model_args.tokenizer)
        if config.step_size_conditioning:
            raise ValueError(
                f"--model_name_or_path {model_args.model_name_or_path} is an FS-DFM; `distill` and `finetune` go on "
                "with one"
            )
        return config, tokenizer
    if model_args.tokenizer is None:
        return models.new_config(model_args, data_args.block_size, None), None
    tokenizer = models.load_tokenizer(model_args.tokenizer)
    return models.new_config(model_args, data_args.block_size, tokenizer), tokenizer


def _trained_tokenizer(
    documents: "Splits",
    model_args: NewModelArguments,
    data_args: DataArguments,
    args: DFMTrainingArguments,
    block_size: int,
    checkpoint: str | None,
) -> "PreTrainedTokenizerBase":
    """That of the checkpoint; else trained by one process and saved in the run folder, where all load it."""
    from .script_models import load_tokenizer
    from .tokenizer import train_tokenizer

    if checkpoint is not None:
        return load_tokenizer(checkpoint)
    vocab_size = model_args.train_tokenizer_vocab_size
    assert vocab_size is not None  # the arguments have been checked: no tokenizer, so one is to be trained
    with args.main_process_first(local=False, desc="training the tokenizer"):
        if args.process_index == 0:
            texts, max_documents = documents.train, data_args.max_train_documents
            if max_documents is not None:
                texts = texts.take(max_documents)
            train_tokenizer(
                texts,
                vocab_size,
                text_column=data_args.text_column,
                model_max_length=block_size,
                save_directory=args.output_dir,
            )
    return load_tokenizer(args.output_dir)


if __name__ == "__main__":
    main()
