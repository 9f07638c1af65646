# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
r"""The choices of the TinyStories recipe for distillation, each against another one: short runs, and what they write.

```
python benchmarks/distillation_choices.py --train-data train.txt --validation-data valid.txt --output-dir runs/choices
```

Each row is the first stage of distillation of the recipe, on blocks of 256 tokens, cut short, with one thing changed;
all begin from `--dfm`. Its averaged weights then write texts of 256 tokens in a few steps, from the same seeds. The
first rows are real text and the DFM itself, in few steps and in many. Look at perplexity, entropy and repetition
together. There is one training of each: how far the row with another seed is away says what differences mean.

The same command goes on where it was stopped; a finished training is not done again. With other text, or another DFM,
give another folder.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reporting import finish
from sampling_settings import measure, real_blocks, sample
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging

from transformers_fsdfm import FSDFMForDiffusionLM
from transformers_fsdfm.hub_configs import available_checkpoints, available_scorers
from transformers_fsdfm.metrics.scorer import Scorer
from transformers_fsdfm.trainer.data import as_source, load_documents
from transformers_fsdfm.trainer.recipes.tinystories import stages


CHOICES: dict[str, dict[str, Any]] = {
    "as in the recipe": {},
    "another seed": {"seed": 1},
    "step sizes equally often": {"step_size_policy": "uniform", "step_size_weights": None},
    "middle step sizes more often": {"step_size_weights": [1, 2, 3, 4, 4, 3, 2, 1, 1, 1, 8]},
    "teacher restricted to top-p 0.9": {"distillation_top_p": 0.9},
    "average that decays by 0.95": {"ema_decay": 0.95},
    "average that decays by 0.995": {"ema_decay": 0.995},
    "step-aware path loss": {"loss_type": "path"},
    "twice as long": {"length_factor": 2},
}
FEW_STEPS, MANY_STEPS = (4, 8), 128


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train-data", required=True, nargs="+", help="files, or a dataset id, as of the recipe")
    parser.add_argument("--validation-data", required=True, help="file of held-out text, for the row of real text")
    parser.add_argument("--output-dir", required=True, type=Path, help="folder of the trainings")
    parser.add_argument("--dfm", default="dfm-tinystories", help="folder or name of a checkpoint that is shipped")
    parser.add_argument("--scorer", default="gpt2-tinystories", help="the same, of a causal language model")
    parser.add_argument("--choices", nargs="+", choices=CHOICES, default=list(CHOICES))
    parser.add_argument("--steps", type=int, help="optimizer steps of a training (default: 100, with --tiny 2)")
    parser.add_argument("--num-texts", type=int, help="of each row (default: 64, with --tiny 2)")
    parser.add_argument("--json", help="write machine, options and rows to this file")
    parser.add_argument("--tiny", action="store_true", help="sizes at which nothing is learned, to try the script")
    args = parser.parse_args(argv)
    for name, tiny, default in (("steps", 2, 100), ("num_texts", 2, 64)):
        given = getattr(args, name)
        if given is not None and given < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, but got {given}")
        setattr(args, name, given or (tiny if args.tiny else default))
    args.length, args.batch_size, args.seed = (32 if args.tiny else 256), 8, 0  # of what `sample` writes
    for name, known in (("dfm", available_checkpoints()), ("scorer", available_scorers())):
        given = getattr(args, name)
        if given not in known and not Path(given).is_dir():
            parser.error(f"--{name} {given} is no folder, and none of {', '.join(known)}")
        setattr(args, name, str(known.get(given, given)))
    return args


def stage_of(choice: str, args: argparse.Namespace) -> dict[str, Any]:
    """The settings of a training."""
    stage = stages.read_settings(Path(stages.__file__).with_name("recipe.yaml"))["fsdfm-short"]
    del stage["start_from"], stage["max_validation_documents"]  # begins from --dfm; no bounds
    stage |= {"eval_strategy": "no", "sample_steps": 0, "save_strategy": "no", "block_size": args.length}
    stage |= {"model_name_or_path": args.dfm, "logging_steps": max(1, args.steps // 4), **CHOICES[choice]}
    stage["max_steps"] = args.steps * stage.pop("length_factor", 1)
    if args.tiny:
        stage["per_device_train_batch_size"] = 2
    return stage


def rows_of(
    name: str, folder: str | Path, many: Sequence[int], tokenizer: PreTrainedTokenizerBase, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """What a model writes in each number of steps."""
    model = FSDFMForDiffusionLM.from_pretrained(folder).eval()
    scorer, rows = Scorer.load(args.scorer), []
    for steps in many:
        ids, _ = sample(model, {"num_steps": steps, "spread_candidates": True}, args)
        rows.append({"distillation": name, "steps": steps, **measure(ids, tokenizer, scorer)})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Trains what is left, samples, and prints the table."""
    args = parse_arguments(argv)
    load_documents(as_source(args.train_data))  # what is wrong with a file is said before anything is sampled
    tokenizer = AutoTokenizer.from_pretrained(args.dfm)
    real = real_blocks(args.validation_data, tokenizer, args.length, args.num_texts)
    rows = [{"distillation": "real text", "steps": "", **measure(real, tokenizer, Scorer.load(args.scorer))}]
    rows += rows_of("none: the DFM", args.dfm, (*FEW_STEPS, 16 if args.tiny else MANY_STEPS), tokenizer, args)
    for choice in args.choices:
        folder = args.output_dir / re.sub("[^a-zA-Z0-9]+", "-", choice)
        stages.run_recipe({folder.name: stage_of(choice, args)}, args.train_data, None, args.output_dir)
        rows += rows_of(choice, folder, FEW_STEPS, tokenizer, args)
    finish(rows, vars(args))


if __name__ == "__main__":
    logging.disable_progress_bar()
    try:
        main()
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
