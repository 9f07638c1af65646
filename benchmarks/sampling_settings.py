# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
r"""What settings of `generate` do to the text: perplexity, entropy and repetition of samples, one row for each setting.

```
python benchmarks/sampling_settings.py my-fsdfm my-dfm --scorer my-scorer --text valid.txt \
    --settings '{"num_steps": 8}' '{"num_steps": 8, "final_temperature": 0}'
```

Each setting is a JSON object of options of `generate`. All rows of the table write as many texts from the same seeds.
The first row is real text, in blocks of the same length. `network runs` counts those for one text: more than the steps
mean that the text is longer than the model was trained for, and was written in windows. Perplexity alone can be had for
nothing, by low temperatures: look at entropy and repetition beside it.
"""

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

import torch
from reporting import describe_machine, markdown, write_json
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from transformers_fsdfm import FSDFMForDiffusionLM
from transformers_fsdfm.metrics.generative_perplexity.functional import generative_perplexity
from transformers_fsdfm.metrics.repetition.functional import repetition
from transformers_fsdfm.metrics.scorer import Scorer
from transformers_fsdfm.metrics.token_entropy.functional import token_entropy
from transformers_fsdfm.trainer.data import load_documents
from transformers_fsdfm.trainer.packing import pack_documents


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="folders of models, with one and the same tokenizer")
    parser.add_argument("--scorer", required=True, help="folder or name of a causal language model")
    parser.add_argument("--text", required=True, help="file of held-out text")
    parser.add_argument("--settings", nargs="+", type=json.loads, default=[{}], help="JSON objects")
    parser.add_argument("--num-texts", type=int, default=16)
    parser.add_argument("--length", type=int, default=1024, help="tokens of each text")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the models' weights")
    parser.add_argument("--json", help="write machine, options and rows to this file")
    return parser.parse_args()


def real_blocks(path: str, tokenizer: PreTrainedTokenizerBase, length: int, count: int) -> list[list[int]]:
    """The first blocks of the packed text."""
    blocks = pack_documents(load_documents(path), tokenizer, length)
    return [row["input_ids"] for row in blocks.select(range(min(count, len(blocks))))]


def sample(
    model: FSDFMForDiffusionLM, settings: dict[str, Any], args: argparse.Namespace
) -> tuple[list[list[int]], int]:
    """The texts of a row, as tokens, and how often the network ran for each."""
    ids: list[list[int]] = []
    runs = 0
    while len(ids) < args.num_texts:
        rows = min(args.batch_size, args.num_texts - len(ids))
        generators = [torch.Generator().manual_seed(args.seed + len(ids) + row) for row in range(rows)]
        written = model.generate(
            max_length=args.length,
            num_return_sequences=rows,
            generator=generators,
            pad_after_eos=False,
            return_dict_in_generate=True,
            **settings,
        )
        ids += written.sequences.tolist()
        runs = max(runs, written.num_function_evaluations or 0)
    return ids, runs


def measure(ids: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase, scorer: Scorer) -> dict[str, float]:
    """The metrics of a row; the end of a document becomes a blank line."""
    end = tokenizer.eos_token
    texts = [text.replace(end, "\n\n") for text in tokenizer.batch_decode(ids)]
    perplexity, repeats = generative_perplexity(texts, scorer), repetition(ids)
    return {
        "perplexity": perplexity["perplexity"],
        "bits per byte": perplexity["bits_per_byte"],
        "entropy (nats)": token_entropy(ids)["nats"],
        "rep-2": repeats["rep_2"],
        "rep-4": repeats["rep_4"],
    }


def main() -> None:
    args = parse_arguments()
    tokenizer = AutoTokenizer.from_pretrained(args.models[0])
    scorer = Scorer.load(args.scorer)
    real = real_blocks(args.text, tokenizer, args.length, args.num_texts)
    measured = measure(real, tokenizer, scorer)
    rows = [{"model": "real text", "settings": "", **measured, "network runs": "", "seconds": ""}]
    for path in args.models:
        model = FSDFMForDiffusionLM.from_pretrained(path, dtype=getattr(torch, args.dtype)).eval()
        for settings in args.settings:
            start = time.perf_counter()
            ids, runs = sample(model, settings, args)
            seconds = time.perf_counter() - start
            row = {"model": path, "settings": json.dumps(settings), **measure(ids, tokenizer, scorer)}
            rows.append({**row, "network runs": runs, "seconds": seconds})
            print(json.dumps(rows[-1]), flush=True)
    print(f"\n{describe_machine()}, scorer {scorer.name}, {args.num_texts} texts of {args.length} tokens\n")
    print(markdown(rows))
    if args.json:
        write_json(args.json, vars(args), rows)


if __name__ == "__main__":
    main()
