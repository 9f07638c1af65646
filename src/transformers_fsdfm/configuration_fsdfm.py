# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""FS-DFM model configuration."""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig

from .flow_fsdfm import Schedule


@strict
class FSDFMConfig(PreTrainedConfig):
    r"""
    Configuration of a discrete flow-matching language model: a plain DFM, or an FS-DFM, whose network also reads the
    size of the step that it is asked to take (FS-DFM, arXiv 2509.20624). The defaults are the published 0.17B model.

    Args:
        vocab_size (`int`, *optional*, defaults to 50257):
            Number of data tokens, the mask token of a mask source not counted (it has the id `vocab_size`).
        hidden_size (`int`, *optional*, defaults to 768):
            Width of the residual stream.
        num_hidden_layers (`int`, *optional*, defaults to 12):
            Number of transformer blocks.
        num_attention_heads (`int`, *optional*, defaults to 12):
            Attention heads of each block.
        intermediate_size (`int`, *optional*):
            Width of the MLP; four times `hidden_size` if not set.
        conditioning_size (`int`, *optional*, defaults to 128):
            Width of the embeddings of time and step size.
        hidden_dropout_prob (`float`, *optional*, defaults to 0.1):
            Dropout on the output of every attention and MLP, in training.
        max_position_embeddings (`int`, *optional*, defaults to 1024):
            The length that the model was trained on. `generate` goes beyond it block by block.
        rope_theta (`float`, *optional*, defaults to 10000.0):
            Base period of the rotary position embedding.
        layer_norm_eps (`float`, *optional*, defaults to 1e-05):
            Added to the variance in every layer norm.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the initial weights. Modulations and the output head start at zero.
        source_distribution (`str`, *optional*, defaults to `"uniform"`):
            What x_0 is: `"uniform"` tokens, or the `"mask"` token everywhere.
        schedule (`str`, *optional*, defaults to `"linear"`):
            kappa(t): `"linear"`, `"polynomial"` (t to the power of `schedule_exponent`) or `"cosine"`.
        schedule_exponent (`float`, *optional*, defaults to 1.0):
            Exponent of the polynomial schedule.
        step_size_conditioning (`bool`, *optional*, defaults to `True`):
            `True`: an FS-DFM, which takes `step_size`; `False`: a plain DFM, which does not.
        step_size_embedding (`str`, *optional*, defaults to `"raw"`):
            What the sinusoidal features are computed from: `"raw"`, the step size itself as in the published models, or
            `"log2"`, -log2 of it, which tells 2^-10 from 2^-9 as well as 1/2 from 1.
        step_size_fusion (`str`, *optional*, defaults to `"concat"`):
            How time and step size meet: `"concat"` with a linear layer in front of every modulation, as published, or
            `"add"`, the sum of the two embeddings, which has no such layers and can start as exactly a given DFM.
        bos_token_id, eos_token_id, pad_token_id, mask_token_id (`int`, *optional*):
            Special tokens. `mask_token_id` marks positions to fill in; with a mask source it is `vocab_size`.
    """

    model_type = "fsdfm"
    keys_to_ignore_at_inference = ()

    vocab_size: int = 50257
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int | None = None
    conditioning_size: int = 128
    hidden_dropout_prob: float | int = 0.1
    max_position_embeddings: int = 1024
    rope_theta: float | int = 10000.0
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    source_distribution: Literal["uniform", "mask"] = "uniform"
    schedule: Literal["linear", "polynomial", "cosine"] = "linear"
    schedule_exponent: float | int = 1.0
    step_size_conditioning: bool = True
    step_size_embedding: Literal["raw", "log2"] = "raw"
    step_size_fusion: Literal["concat", "add"] = "concat"
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    mask_token_id: int | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        if self.source_distribution == "mask" and self.mask_token_id is None:
            self.mask_token_id = self.vocab_size
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Runs with the other checks of [`PreTrainedConfig`] whenever a config is made or saved."""
        sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        for name in (*sizes, "conditioning_size", "max_position_embeddings"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, but got {getattr(self, name)}")
        if self.tie_word_embeddings:
            raise ValueError("`tie_word_embeddings` must be False: the head of an FS-DFM has weights of its own")
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"`hidden_size` must be an even multiple of `num_attention_heads` (rotary embeddings need an even head "
                f"width), but got hidden_size={self.hidden_size} and num_attention_heads={self.num_attention_heads}"
            )
        if not 0 <= self.hidden_dropout_prob < 1:
            raise ValueError(f"`hidden_dropout_prob` must be in [0, 1), but got {self.hidden_dropout_prob}")
        if self.source_distribution == "mask" and self.mask_token_id != self.vocab_size:
            raise ValueError(
                f"`mask_token_id` of a mask source must be `vocab_size` ({self.vocab_size}), the row after the data "
                f"tokens, but got {self.mask_token_id}"
            )
        self.flow_schedule  # noqa: B018  (raises on a bad `schedule_exponent`)

    def validate_token_ids(self) -> None:
        """Special tokens are tokens of the vocabulary; the mask token may also be the row after it."""
        for name in ("bos_token_id", "eos_token_id", "pad_token_id", "mask_token_id"):
            value = getattr(self, name)
            limit = self.vocab_size + (name == "mask_token_id")
            for token_id in value if isinstance(value, list) else [] if value is None else [value]:
                if not 0 <= token_id < limit:
                    raise ValueError(f"`{name}` must be in [0, {limit}), but got {value}")

    @property
    def flow_schedule(self) -> Schedule:
        """The schedule kappa as an object with its formulas."""
        return Schedule(self.schedule, float(self.schedule_exponent))

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def num_input_embeddings(self) -> int:
        """Rows of the token embedding: the vocabulary, and the mask token if the source is the mask."""
        return self.vocab_size + (self.source_distribution == "mask")


__all__ = ["FSDFMConfig"]
