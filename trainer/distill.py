# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
r"""
Distils a discrete flow-matching model (DFM) into one that samples in a few steps (FS-DFM).

    python -m transformers_fsdfm.trainer.distill --model_name_or_path dfm --train_data stories.txt --max_steps 1000 \
        --output_dir fsdfm

The model may be an FS-DFM already: distillation then goes on. `fsdfm convert` makes a folder of a published .pth file.
On many GPUs: `accelerate launch --config_file ... -m transformers_fsdfm.trainer.distill ...`, or `fsdfm distill
--accelerate_config zero2 ...`.
"""

import logging
from collections.abc import Sequence

from .arguments import FSDFMTrainingArguments
from .script_arguments import DataArguments, TrainedModelArguments
from .script_parser import ScriptParser


logger = logging.getLogger("transformers_fsdfm.trainer.distill")  # not __name__, which is __main__ here


def main(arguments: Sequence[str] | None = None, prog: str = "python -m transformers_fsdfm.trainer.distill") -> None:
    """
    Runs the script.

    Args:
        arguments (`Sequence[str]`, *optional*): in place of `sys.argv[1:]`.
        prog (`str`, *optional*): what the user has typed, for help and errors.
    """
    sections = {"Model and tokenizer": TrainedModelArguments, "Data": DataArguments}
    parser = ScriptParser(prog, __doc__, sections, FSDFMTrainingArguments)
    values = parser.read(arguments)
    model_args, data_args = parser.make(TrainedModelArguments, values), parser.make(DataArguments, values)
    args = parser.make(FSDFMTrainingArguments, values)

    from . import script_models as models
    from .fsdfm_trainer import FSDFMTrainer
    from .script_data import log_amount, open_documents, packed_rows
    from .script_run import check_run, start_run, train_and_save

    with parser.mistakes_named():
        checkpoint = check_run(args, data_args)
        config, tokenizer = models.read_model(model_args.model_name_or_path, model_args.tokenizer)

    start_run(args, values, "distill")
    block_size = data_args.block_size or config.max_position_embeddings
    rows = packed_rows(open_documents(data_args, args), tokenizer, data_args, block_size, args)
    # What becomes an FS-DFM is not to be sharded before it is one.
    model = models.load_model(model_args.model_name_or_path, args, whole=not config.step_size_conditioning)
    models.set_trained_length(model, block_size)
    trainer = FSDFMTrainer(model, args, rows.train, rows.validation, processing_class=tokenizer)
    logger.info(f"Training {models.describe(trainer.model)}")
    log_amount(rows, block_size)
    train_and_save(trainer, checkpoint)
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main()
