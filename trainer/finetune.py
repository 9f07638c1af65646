# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
r"""
Fine-tunes a DFM or an FS-DFM on text, or on pairs of prompt and completion; with LoRA, or all weights.

    python -m transformers_fsdfm.trainer.finetune --model_name_or_path fsdfm --train_data pairs.jsonl --lora_rank 16 \
        --max_steps 300 --output_dir adapter

The adapter is saved alone: `PeftModel.from_pretrained(AutoModel.from_pretrained("fsdfm", trust_remote_code=True),
"adapter")`. On many GPUs: `accelerate launch --config_file ... -m transformers_fsdfm.trainer.finetune ...`, or `fsdfm
finetune --accelerate_config zero2 ...`.
"""

import copy
import dataclasses
import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .arguments import DFMTrainingArguments, FSDFMTrainingArguments
from .script_arguments import FinetuningDataArguments, LoraArguments, TrainedModelArguments
from .script_parser import ScriptParser


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from transformers_fsdfm import FSDFMConfig

    from .dfm_trainer import DFMTrainer
    from .script_data import Splits


logger = logging.getLogger("transformers_fsdfm.trainer.finetune")  # not __name__, which is __main__ here

# An adapter starts at zero: it learns faster than weights that know something, and in fewer steps.
DEFAULTS = {"learning_rate": 1e-4, "ema_decay": 0.99}


def main(arguments: Sequence[str] | None = None, prog: str = "python -m transformers_fsdfm.trainer.finetune") -> None:
    """
    Runs the script.

    Args:
        arguments (`Sequence[str]`, *optional*): in place of `sys.argv[1:]`.
        prog (`str`, *optional*): what the user has typed, for help and errors.
    """
    sections = {"Model and tokenizer": TrainedModelArguments, "Data": FinetuningDataArguments, "Adapter": LoraArguments}
    parser = ScriptParser(prog, __doc__, sections, FSDFMTrainingArguments, DEFAULTS)
    values = parser.read(arguments)
    model_args, data_args = parser.make(TrainedModelArguments, values), parser.make(FinetuningDataArguments, values)
    lora_args = parser.make(LoraArguments, values)

    from . import script_models as models
    from .script_run import check_run, start_run, train_and_save

    with parser.mistakes_named():
        config, tokenizer = models.read_model(model_args.model_name_or_path, model_args.tokenizer)
        block_size = _block_size(data_args, config)
        objective = lora_args.objective or ("distill" if config.step_size_conditioning else "path")
        args = parser.make(_training_class(parser, values, objective), values)
        trained_config = _trained_config(config, args)
        models.check_modules(lora_args, trained_config)
        models.check_step_sizes(args, trained_config)
        checkpoint = check_run(args, data_args)

    start_run(args, values, "finetune")
    path = model_args.model_name_or_path
    trainer = _make_trainer(args, path, config, tokenizer, data_args, lora_args, block_size, checkpoint is not None)
    train_and_save(trainer, checkpoint)
    if lora_args.merge_adapter:
        _merge(trainer, args, tokenizer)
    trainer.accelerator.end_training()


def _block_size(data_args: FinetuningDataArguments, config: "FSDFMConfig") -> int:
    length = config.max_position_embeddings
    if data_args.block_size is not None and data_args.block_size > length:
        raise ValueError(f"--block_size {data_args.block_size} is more than the model was trained on ({length})")
    return data_args.block_size or length


def _training_class(parser: ScriptParser, values: dict[str, Any], objective: str) -> type[DFMTrainingArguments]:
    """The class of the objective; what was set of the other's arguments is a mistake."""
    if objective == "distill":
        return FSDFMTrainingArguments
    known = {field.name for field in dataclasses.fields(DFMTrainingArguments)}
    for field in dataclasses.fields(FSDFMTrainingArguments):
        if field.init and field.name not in known and values[field.name] != parser.get_default(field.name):
            raise ValueError(f"--{field.name} has no effect with the objective `path`; set --objective distill")
    return DFMTrainingArguments


def _trained_config(config: "FSDFMConfig", args: DFMTrainingArguments) -> "FSDFMConfig":
    """That of the model which is trained: distillation makes an FS-DFM of a DFM first."""
    if config.step_size_conditioning or not isinstance(args, FSDFMTrainingArguments):
        return config
    few_step = copy.deepcopy(config)
    few_step.step_size_conditioning = True
    few_step.step_size_embedding, few_step.step_size_fusion = args.step_size_embedding, args.step_size_fusion
    return few_step


def _make_trainer(
    args: DFMTrainingArguments,
    path: str,
    config: "FSDFMConfig",
    tokenizer: "PreTrainedTokenizerBase",
    data_args: FinetuningDataArguments,
    lora_args: LoraArguments,
    block_size: int,
    is_resumed: bool,
) -> "DFMTrainer":
    import torch
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

    from . import script_models as models
    from .dfm_trainer import DFMTrainer
    from .fsdfm_trainer import FSDFMTrainer

    rows, collator = _rows(data_args, tokenizer, block_size, args)
    becomes_few_step = _trained_config(config, args) is not config
    dtype = getattr(torch, lora_args.model_dtype)
    # The embedding of the step size starts without effect, and would stay so if it were frozen.
    peft_config = lora_args.peft_config(modules_to_save=("step_size_embedding",) if becomes_few_step else ())
    if peft_config is not None and becomes_few_step:
        model = models.few_step_base(path, args, dtype, is_resumed)
    else:
        model = models.load_model(path, args, dtype, whole=becomes_few_step)
    if peft_config is not None and is_deepspeed_zero3_enabled():
        # ZeRO-3 wants one dtype for all that is trained; by default peft makes float32 of a part of it.
        from peft import get_peft_model

        model, peft_config = get_peft_model(model, peft_config, autocast_adapter_dtype=False), None
    data = (rows.train, rows.validation, collator)
    trainer: DFMTrainer
    if isinstance(args, FSDFMTrainingArguments):
        trainer = FSDFMTrainer(model, args, *data, processing_class=tokenizer, peft_config=peft_config)
    else:
        trainer = DFMTrainer(model, args, *data, processing_class=tokenizer, peft_config=peft_config)
    logger.info(f"Training {models.describe(trainer.model)}")
    return trainer


def _rows(
    data_args: FinetuningDataArguments,
    tokenizer: "PreTrainedTokenizerBase",
    block_size: int,
    args: DFMTrainingArguments,
) -> "tuple[Splits, Any]":
    """The rows, and how they become batches."""
    from .data import DataCollatorForDFM
    from .script_data import PaddingLearningCollator, has_pairs, log_amount, open_documents, packed_rows, paired_rows

    documents = open_documents(data_args, args)
    is_paired = has_pairs(documents.train, data_args)
    rows = (paired_rows if is_paired else packed_rows)(documents, tokenizer, data_args, block_size, args)
    log_amount(rows, block_size)
    if data_args.learn_padding:
        return rows, PaddingLearningCollator(tokenizer, pad_to_multiple_of=block_size)
    return rows, DataCollatorForDFM(tokenizer)


def _merge(trainer: "DFMTrainer", args: DFMTrainingArguments, tokenizer: "PreTrainedTokenizerBase") -> None:
    """From the saved adapter, so that it works however the trained one is sharded."""
    import torch
    from peft import PeftConfig

    from . import script_models as models

    if trainer.is_world_process_zero():
        base = PeftConfig.from_pretrained(args.output_dir).base_model_name_or_path
        model = models.load_model(base, args, torch.float32, whole=True)
        folder = os.path.join(args.output_dir, "merged")
        models.save_merged(args.output_dir, model, folder)
        tokenizer.save_pretrained(folder)
        logger.info(f"Wrote {folder}")
    trainer.accelerator.wait_for_everyone()


if __name__ == "__main__":
    main()
