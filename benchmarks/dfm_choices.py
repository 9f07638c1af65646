# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
r"""The choices of the TinyStories recipe for its DFM, each against another one: short trainings, and their bounds.

```
python benchmarks/dfm_choices.py --train-data train.txt --validation-data valid.txt --output-dir runs/dfm-choices
```

Each row is the first stage of the recipe, cut short and with a rate that falls to zero, with one thing changed. All
rows see as many tokens; the seconds say what they cost. The measure is the bound on the bits per byte of the validation
text, which can be compared between vocabularies. A further row averages the weights of the last quarter of the recipe's
own training. There is one training of each: how far the row with another seed is away says what differences mean.

The same command goes on where it was stopped; a finished training is not done again. With other text give another
folder.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from reporting import finish
from transformers.utils import logging

from transformers_fsdfm import FSDFMForDiffusionLM
from transformers_fsdfm.trainer.arguments import DFMTrainingArguments
from transformers_fsdfm.trainer.data import as_source, load_documents
from transformers_fsdfm.trainer.dfm_trainer import DFMTrainer
from transformers_fsdfm.trainer.packing import pack_documents
from transformers_fsdfm.trainer.recipes.tinystories import stages
from transformers_fsdfm.trainer.recipes.tinystories.card import read_record
from transformers_fsdfm.trainer.script_models import load_tokenizer


RECIPE = "as in the recipe"
AVERAGE = "average of the last quarter"
CHECKPOINTS = 20  # of a training; the last five are averaged
VALIDATION_DOCUMENTS = 120

CHOICES: dict[str, dict[str, Any]] = {
    RECIPE: {},
    "another seed": {"seed": 1},
    "vocabulary 1,024": {"train_tokenizer_vocab_size": 1024},
    "vocabulary 2,048": {"train_tokenizer_vocab_size": 2048},
    "3 layers of width 320": {"num_hidden_layers": 3, "hidden_size": 320},
    "9 layers of width 192": {"num_hidden_layers": 9, "hidden_size": 192},
    "rates of 1.5e-3": {"learning_rate": 1.5e-3, "muon_learning_rate": 1.5e-3},
    "rates of 6e-3": {"learning_rate": 6e-3, "muon_learning_rate": 6e-3},
    "weight decay 0": {"weight_decay": 0.0},
    "twice the rows, half the steps": {"row_factor": 2},
    "weights start at 0.1": {"initializer_range": 0.1},
}


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train-data", required=True, nargs="+", help="files, or a dataset id, as of the recipe")
    parser.add_argument("--validation-data", required=True, nargs="+", help="text for the bounds")
    parser.add_argument("--output-dir", required=True, type=Path, help="folder of the trainings")
    parser.add_argument("--choices", nargs="+", choices=CHOICES, default=list(CHOICES))
    parser.add_argument("--steps", type=int, help="of each training, at least 20 (default: 200, with --tiny 20)")
    parser.add_argument("--json", help="write machine, options and rows to this file")
    parser.add_argument("--tiny", action="store_true", help="the recipe's toy sizes, to try the script")
    args = parser.parse_args(argv)
    if args.steps is None:
        args.steps = 20 if args.tiny else 200
    if args.steps < CHECKPOINTS:
        parser.error(f"--steps must be at least {CHECKPOINTS}, one for each checkpoint, but got {args.steps}")
    return args


def stage_of(choice: str, args: argparse.Namespace) -> dict[str, Any]:
    """The settings of a training."""
    recipe = Path(stages.__file__).with_name("toy.yaml" if args.tiny else "recipe.yaml")
    stage = {**stages.read_settings(recipe)["dfm-short"], "lr_scheduler_type": "linear", "max_steps": args.steps}
    stage |= {"warmup_steps": args.steps // 10, "eval_strategy": "no", "logging_steps": max(1, args.steps // 5)}
    stage |= {"save_strategy": "steps", "save_steps": args.steps // CHECKPOINTS, "save_total_limit": CHECKPOINTS // 4}
    stage.pop("max_validation_documents", None)  # evaluated here, not in the training
    stage |= CHOICES[choice]
    factor = stage.pop("row_factor", 1)
    stage["per_device_train_batch_size"] *= factor
    stage["max_steps"] = args.steps // factor  # as many tokens
    if (start := stage.pop("initializer_range", None)) is not None:
        config = args.output_dir / "configuration.json"
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(json.dumps({"model_type": "fsdfm", "initializer_range": start}), encoding="utf-8")
        stage["config_name"] = str(config)
    return stage


def bits_per_byte(model: FSDFMForDiffusionLM, tokenizer_folder: Path, args: argparse.Namespace) -> float:
    """The bound on the validation text, as `fsdfm pretrain` has it, with the recipe's times and noise."""
    stage = stage_of(RECIPE, args)
    tokenizer = load_tokenizer(str(tokenizer_folder))
    documents = load_documents(as_source(args.validation_data))
    documents = documents.select(range(min(len(documents), VALIDATION_DOCUMENTS)))
    rows = pack_documents(documents, tokenizer, stage["block_size"])
    names = ("eval_num_times", "bf16", "per_device_eval_batch_size", "disable_tqdm", "report_to", "use_cpu")
    settings = {name: stage[name] for name in names if name in stage}
    arguments = DFMTrainingArguments(output_dir=str(args.output_dir / "bounds"), **settings)
    trainer = DFMTrainer(model, arguments, eval_dataset=rows, processing_class=tokenizer)
    return trainer.evaluate()["eval_bits_per_byte"]


def mean_weights(folders: Sequence[Path]) -> FSDFMForDiffusionLM:
    """The model whose weights are the mean of those in the folders."""
    models = [FSDFMForDiffusionLM.from_pretrained(folder) for folder in folders]
    mean, others = models[0], [dict(model.named_parameters()) for model in models]
    with torch.no_grad():
        for name, weight in mean.named_parameters():
            weight.copy_(torch.stack([other[name] for other in others]).mean(0))
    return mean


def row_of(choice: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Trains, if that has not been done, and measures."""
    stages.run_recipe({folder.name: stage_of(choice, args)}, args.train_data, None, folder.parent)
    record, model = read_record(folder), FSDFMForDiffusionLM.from_pretrained(folder)
    return {
        "choice": choice,
        "parameters": f"{model.num_parameters() / 1e6:.2f}M",
        "steps": record.num_steps,
        "tokens": record.num_tokens,
        "bits per byte": bits_per_byte(model, folder, args),
        "seconds": record.hours * 3600,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Trains and measures what is left, and prints the table."""
    args = parse_arguments(argv)
    for data in (args.train_data, args.validation_data):
        load_documents(as_source(data))  # what is wrong with a file is said before anything is trained
    rows = []
    for choice in args.choices:
        folder = args.output_dir / re.sub("[^a-zA-Z0-9]+", "-", choice)
        rows.append(row_of(choice, folder, args))
        print(json.dumps(rows[-1]), flush=True)
        if choice == RECIPE:
            average = mean_weights(sorted(folder.glob("checkpoint-*")))  # those that are kept, the last ones
            rows.append({**rows[-1], "choice": AVERAGE, "bits per byte": bits_per_byte(average, folder, args)})
    finish(rows, vars(args))


if __name__ == "__main__":
    logging.disable_progress_bar()
    try:
        main()
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
