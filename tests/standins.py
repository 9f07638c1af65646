# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""
Tiny models with the documented interfaces of LLaDA and Dream, whose own code is on the Hub.

This file is saved beside their weights and loaded from there with `trust_remote_code=True`, as the originals are; so it
imports nothing of this package. Neither has anything to do with the architecture or the sampler of the original.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput


class _StandInConfig(PreTrainedConfig):
    vocab_size: int = 60
    hidden_size: int = 16
    mask_token_id: int | None = 59


class StandInLLaDAConfig(_StandInConfig):
    """`model_type` and `mask_token_id` as in LLaDA's config."""

    model_type = "llada"


class StandInDreamConfig(_StandInConfig):
    """`model_type` and `mask_token_id` as in Dream's config."""

    model_type = "Dream"


class _Denoiser(nn.Module):
    """Logits of each position from its token, its place and the mean of all tokens."""

    def __init__(self, config: _StandInConfig) -> None:
        super().__init__()
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.place = nn.Embedding(128, config.hidden_size)
        self.head = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(self, ids: Tensor) -> Tensor:
        states = self.embed(ids)
        return self.head(torch.tanh(3 * (states + states.mean(1, keepdim=True) + self.place.weight[: ids.shape[1]])))


class _StandIn(PreTrainedModel):
    def __init__(self, config: _StandInConfig) -> None:
        super().__init__(config)
        self.denoiser = _Denoiser(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Embedding, nn.Linear)):
            nn.init.normal_(module.weight)


@dataclass
class LogitsAlone(ModelOutput):
    """What the forward of LLaDA is documented to give."""

    logits: Tensor | None = None


class StandInLLaDA(_StandIn):
    """`model(input_ids).logits`, and nothing else."""

    config_class = StandInLLaDAConfig

    def forward(self, input_ids: Tensor) -> LogitsAlone:
        """Logits `(rows, length, vocab_size)`."""
        return LogitsAlone(logits=self.denoiser(input_ids))


@dataclass
class DreamOutput(ModelOutput):
    """What `diffusion_generate` is documented to give with `return_dict_in_generate=True`."""

    sequences: Tensor | None = None
    history: tuple[Tensor, ...] | None = None


class StandInDream(_StandIn):
    """`diffusion_generate` with the documented arguments; reveals positions in random order (`alg="origin"`)."""

    config_class = StandInDreamConfig

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> LogitsAlone:
        """Logits `(rows, length, vocab_size)`."""
        return LogitsAlone(logits=self.denoiser(input_ids))

    @torch.no_grad()
    def diffusion_generate(
        self,
        inputs: Tensor,
        attention_mask: Tensor | None = None,
        max_new_tokens: int = 8,
        steps: int = 8,
        temperature: float = 0.0,
        top_p: float | None = None,
        top_k: int | None = None,
        alg: str = "origin",
        alg_temp: float | None = None,
        output_history: bool = False,
        return_dict_in_generate: bool = False,
    ) -> Tensor | DreamOutput:
        """The names and defaults of the original's README; of `alg` only the first is made here."""
        if alg != "origin":
            raise NotImplementedError(alg)
        ids = nn.functional.pad(inputs, (0, max_new_tokens), value=self.config.mask_token_id)
        order = torch.rand(ids.shape).masked_fill(ids != self.config.mask_token_id, -1)
        for step in range(steps):
            logits = self(ids, attention_mask).logits[..., :-1]
            best = logits.argmax(-1)
            if temperature > 0:
                best = torch.distributions.Categorical(logits=logits / temperature).sample()
            is_due = (ids == self.config.mask_token_id) & (order < (step + 1) / steps)
            ids = torch.where(is_due, best, ids)
        return DreamOutput(sequences=ids) if return_dict_in_generate else ids
