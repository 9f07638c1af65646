"""Shared pieces: tiny models with weights that matter, and no network."""

import os


os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads only get in each other's way on tiny tensors

import pytest
import torch

from transformers_fsdfm import FSDFMConfig, FSDFMForDiffusionLM


TINY = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "conditioning_size": 16,
    "max_position_embeddings": 32,
    "eos_token_id": 0,
    "pad_token_id": 1,
    "mask_token_id": 60,
}


def tiny_config(**changes) -> FSDFMConfig:
    return FSDFMConfig(**{**TINY, **changes})


def tiny_model(seed: int = 0, **changes) -> FSDFMForDiffusionLM:
    """A random model in which nothing is zero: fresh models have a zero head and zero modulations."""
    torch.manual_seed(seed)
    model = FSDFMForDiffusionLM(tiny_config(**changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.15) if parameter.ndim > 1 else parameter.normal_(0.5, 0.3)
    return model


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def model() -> FSDFMForDiffusionLM:
    return tiny_model()


@pytest.fixture(scope="session")
def tokenizer():
    """Words `w2` to `w59`, with the special tokens of `TINY`."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<eos>", "<pad>", *(f"w{index}" for index in range(2, 60)), "<mask>"]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<eos>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"eos_token": "<eos>", "pad_token": "<pad>", "mask_token": "<mask>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, padding_side="left", **special)
