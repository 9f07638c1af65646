# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Two tiny models with one tokenizer, a tiny scorer with another, and some text."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from tests.conftest import tiny_model


SENTENCE = "the tiny dog went home and was happy naïve café then a big cat saw Lily who said oh no to 你好 Tim"


class World(NamedTuple):
    """What an evaluation needs, on disk."""

    fsdfm: Path
    dfm: Path
    scorer: Path
    reference: Path


def story(seed: int, num_words: int = 40) -> str:
    return " ".join(np.random.default_rng(seed).choice(SENTENCE.split(), num_words)) + "."


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> World:
    from transformers import GPT2Config, GPT2LMHeadModel

    from transformers_fsdfm.trainer.tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("world")
    world = World(folder / "fsdfm", folder / "dfm", folder / "scorer", folder / "reference.txt")
    stories = [story(seed) for seed in range(60)]
    world.reference.write_text("\n<|endoftext|>\n".join(stories) + "\n", encoding="utf-8")
    for seed, path in enumerate((world.fsdfm, world.dfm)):
        tokenizer = train_tokenizer(stories, vocab_size=290, save_directory=path)
        special = {name: getattr(tokenizer, name) for name in ("eos_token_id", "pad_token_id", "mask_token_id")}
        size = {"vocab_size": len(tokenizer) - 1, "max_position_embeddings": 16}
        tiny_model(seed, **size, **special, step_size_conditioning=path == world.fsdfm).save_pretrained(path)
    tokenizer = train_tokenizer(stories[::3], vocab_size=275, save_directory=world.scorer)
    torch.manual_seed(0)
    size = {"vocab_size": len(tokenizer), "n_positions": 256, "n_embd": 32, "n_layer": 1, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(**size, initializer_range=0.3, eos_token_id=0, bos_token_id=0))
    model.save_pretrained(world.scorer)
    return world
