# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Writes a story in 8 steps, and fills in the blank of another, with the checkpoint that comes with the package."""

import time

import torch
from transformers import AutoModel, AutoTokenizer

from transformers_fsdfm import available_configs, blanks_to_ids, fill_blanks


def main() -> None:
    folder = available_configs()["fsdfm-tinystories"]
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)

    prompt = tokenizer("Once upon a time", return_tensors="pt")
    start = time.perf_counter()
    output = model.generate(
        **prompt,
        num_steps=8,
        max_new_tokens=256,
        generator=torch.Generator().manual_seed(0),
        return_dict_in_generate=True,
    )
    seconds = time.perf_counter() - start
    print(tokenizer.decode(output.sequences[0]))
    print(f"\n256 tokens in {seconds:.1f} s: the network ran {output.num_function_evaluations} times\n")

    text = "Once upon a time ___12___ went home."
    tokens = model.generate(**blanks_to_ids(text, tokenizer), generator=torch.Generator().manual_seed(0))
    print(fill_blanks(text, tokens[0], tokenizer))


if __name__ == "__main__":
    main()
