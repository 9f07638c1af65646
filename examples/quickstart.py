# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""
Makes a tiny FS-DFM with a tokenizer of bytes, saves both to `my-fsdfm`, loads them as any model of the Hub, and lets
the model write 64 bytes in 8 steps.

The weights are random, so the text is noise: this shows the route that every checkpoint takes.
"""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast

from transformers_fsdfm import FSDFMConfig, FSDFMForDiffusionLM


FOLDER = "my-fsdfm"


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """258 tokens: the end of a text, padding, and every byte. The mask token marks blanks and comes after them."""
    tokens = ["<|endoftext|>", "<|pad|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = {"eos_token": "<|endoftext|>", "pad_token": "<|pad|>", "mask_token": "<|mask|>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, padding_side="left", **special)


def tiny_model(tokenizer: PreTrainedTokenizerFast) -> FSDFMForDiffusionLM:
    torch.manual_seed(0)
    size = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128}
    special = {name: getattr(tokenizer, name) for name in ("eos_token_id", "pad_token_id", "mask_token_id")}
    return FSDFMForDiffusionLM(FSDFMConfig(vocab_size=tokenizer.mask_token_id, **size, **special))


def main() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(FOLDER)
    tiny_model(tokenizer).save_pretrained(FOLDER)

    model = AutoModel.from_pretrained(FOLDER, trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(FOLDER, trust_remote_code=True)
    print(f"{FOLDER}: an FS-DFM with {model.num_parameters():,} random weights")

    prompt = tokenizer("Once upon a time", return_tensors="pt")
    output = model.generate(**prompt, num_steps=8, max_new_tokens=64, return_dict_in_generate=True)
    print(tokenizer.decode(output.sequences[0]).encode("unicode_escape").decode())
    print(f"64 tokens, and the network ran {output.num_function_evaluations} times")


if __name__ == "__main__":
    main()
