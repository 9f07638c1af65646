"""Tiny causal language models with known probabilities, and tokenizers with and without special tokens."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.modeling_outputs import CausalLMOutput


WORDS = ["<s>", "a", "b", "c", "d"]
VOCAB_SIZE = len(WORDS)


def word_tokenizer(**special: str) -> PreTrainedTokenizerFast:
    """Words between blanks, and whatever special tokens are given."""
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<s>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def byte_tokenizer(**special: str) -> PreTrainedTokenizerFast:
    """Every byte is a token; `<s>` is the last of 257."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({symbol: index for index, symbol in enumerate([*alphabet, "<s>"])}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


class BigramConfig(PreTrainedConfig):
    model_type = "test_bigram"
    vocab_size: int = VOCAB_SIZE


class BigramLM(PreTrainedModel):
    """The next token depends on the last one, with the given probabilities; no head, no limit of length."""

    config_class = BigramConfig

    def __init__(self, config: BigramConfig, probs: Tensor):
        super().__init__(config)
        self.table = nn.Embedding.from_pretrained(probs.log())

    def get_input_embeddings(self) -> nn.Embedding:
        return self.table

    def forward(self, input_ids: Tensor, attention_mask: Tensor, use_cache: bool) -> CausalLMOutput:
        return CausalLMOutput(logits=self.table(input_ids))


def bigram_probs(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(VOCAB_SIZE, VOCAB_SIZE, generator=generator).add(0.1).softmax(-1)


def bigram_scorer(**special: str) -> tuple[BigramLM, PreTrainedTokenizerFast]:
    return BigramLM(BigramConfig(), bigram_probs()), word_tokenizer(**special)


def tiny_gpt2(vocab_size: int = VOCAB_SIZE, context: int = 8, seed: int = 0) -> GPT2LMHeadModel:
    """Random weights, large enough that tokens and places matter."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=context,
        n_embd=16,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.5,
    )
    return GPT2LMHeadModel(config).eval()


def uniform_gpt2(vocab_size: int, context: int = 32) -> GPT2LMHeadModel:
    """Every token is as likely as any other, whatever came before."""
    model = tiny_gpt2(vocab_size, context)
    nn.init.zeros_(model.lm_head.weight)
    return model
