# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""FS-DFM: a bidirectional transformer, modulated by time and step size, that denoises all positions in parallel."""

import copy
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_fsdfm import FSDFMConfig
from .flow_fsdfm import sample_source
from .generation_fsdfm import FSDFMGenerationConfig, FSDFMGenerationMixin


# What a checkpoint folder carries beside the weights, so that it loads where this package is not installed.
REMOTE_CODE_FILES = ("configuration_fsdfm.py", "flow_fsdfm.py", "generation_fsdfm.py", "modeling_fsdfm.py")
AUTO_MAP = {
    "AutoConfig": "configuration_fsdfm.FSDFMConfig",
    "AutoModel": "modeling_fsdfm.FSDFMForDiffusionLM",
    "AutoModelForMaskedLM": "modeling_fsdfm.FSDFMForDiffusionLM",
    "AutoModelForCausalLM": "modeling_fsdfm.FSDFMForDiffusionLM",
}
TIME_IS_REQUIRED = (
    "`time` is required, and `step_size` too by an FS-DFM: float tensors of shape (batch_size,); `generate` writes text"
)
SINUSOIDAL_SIZE = 256
SINUSOIDAL_MAX_PERIOD = 10_000


def sinusoidal_features(value: Tensor) -> Tensor:
    """(batch,) -> (batch, 256) in float32: cosines, then sines, of frequencies 1 down to (almost) 1 / 10,000."""
    half = SINUSOIDAL_SIZE // 2
    exponent = torch.arange(half, dtype=torch.float32, device=value.device) / half
    angle = value.float()[:, None] * torch.exp(-math.log(SINUSOIDAL_MAX_PERIOD) * exponent)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class FSDFMScalarEmbedding(nn.Module):
    """Embeds a number, the time or the step size: sinusoidal features -> Linear -> SiLU -> Linear."""

    def __init__(self, config: FSDFMConfig):
        super().__init__()
        self.linear_1 = nn.Linear(SINUSOIDAL_SIZE, config.conditioning_size)
        self.linear_2 = nn.Linear(config.conditioning_size, config.conditioning_size)

    def forward(self, value: Tensor, dtype: torch.dtype) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(sinusoidal_features(value).to(dtype))))


class FSDFMZeroLinear(nn.Linear):
    """A linear layer whose weights start at zero (a class of its own, so that `_init_weights` can tell)."""


class FSDFMModulation(nn.Module):
    """adaLN vectors: shift, scale, gate of attention, then of the MLP, for a block; shift, scale for the output."""

    def __init__(self, config: FSDFMConfig, num_vectors: int):
        super().__init__()
        self.num_vectors = num_vectors
        has_fuser = config.step_size_conditioning and config.step_size_fusion == "concat"
        self.fuser = nn.Linear(2 * config.conditioning_size, config.conditioning_size) if has_fuser else None
        self.linear = FSDFMZeroLinear(config.conditioning_size, num_vectors * config.hidden_size)

    def forward(self, condition: Tensor) -> tuple[Tensor, ...]:
        """(batch or 1, conditioning) -> `num_vectors` tensors of shape (batch or 1, 1, hidden)."""
        if self.fuser is not None:
            condition = F.silu(self.fuser(condition))
        return self.linear(condition)[:, None].chunk(self.num_vectors, dim=-1)


class FSDFMLayerNorm(nn.LayerNorm):
    """Layer norm with a weight and no bias, computed in float32 inside the kernel, then shifted and scaled."""

    def __init__(self, config: FSDFMConfig):
        super().__init__(config.hidden_size, eps=config.layer_norm_eps, bias=False)

    # It takes more than the norm of torch, in whose place nothing puts it.
    def forward(self, hidden_states: Tensor, shift: Tensor, scale: Tensor) -> Tensor:  # type: ignore[override]
        return torch.addcmul(shift, super().forward(hidden_states), 1 + scale)


class FSDFMRotaryEmbedding(nn.Module):
    """Tables of the rotary position embedding. Owns no buffer: nothing to lose in meta-device loading or casts."""

    def __init__(self, config: FSDFMConfig):
        super().__init__()
        self.head_dim = config.head_dim
        self.rope_theta = config.rope_theta

    @torch.no_grad()
    def forward(self, position_ids: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """(batch or 1, length) -> cosine and sine, each (batch or 1, 1, length, head_dim)."""
        exponent = torch.arange(0, self.head_dim, 2, dtype=torch.float32, device=position_ids.device) / self.head_dim
        angle = position_ids[:, None, :, None].float() * self.rope_theta**-exponent
        angle = torch.cat([angle, angle], dim=-1)
        return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate_half(states: Tensor) -> Tensor:
    """(x, y) -> (-y, x) for the two halves of the last dimension."""
    first, second = states.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)


def apply_rotary_pos_emb(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns each pair of components by the angle of its position."""
    return torch.addcmul(states * cos, rotate_half(states), sin)


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Unpack[TransformersKwargs],
) -> tuple[Tensor, Tensor]:
    """Plain attention, which also returns its weights: `attn_implementation="eager"`."""
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class FSDFMAttention(nn.Module):
    """Bidirectional multi-head attention with rotary positions; no bias anywhere."""

    def __init__(self, config: FSDFMConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.head_dim
        self.scaling = config.head_dim**-0.5
        self.is_causal = False
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[Tensor, Tensor | None]:
        split_heads = (*hidden_states.shape[:-1], -1, self.head_dim)
        query = apply_rotary_pos_emb(self.q_proj(hidden_states).view(split_heads).transpose(1, 2), *position_embeddings)
        key = apply_rotary_pos_emb(self.k_proj(hidden_states).view(split_heads).transpose(1, 2), *position_embeddings)
        value = self.v_proj(hidden_states).view(split_heads).transpose(1, 2)
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        attention_output, weights = attend(
            self, query, key, value, attention_mask, scaling=self.scaling, dropout=0.0, **kwargs
        )
        return self.o_proj(attention_output.reshape(hidden_states.shape)), weights


class FSDFMMLP(nn.Module):
    """Linear -> GELU (tanh form) -> Linear, with biases."""

    def __init__(self, config: FSDFMConfig):
        super().__init__()
        intermediate_size = cast(int, config.intermediate_size)  # every config sets it
        self.up_proj = nn.Linear(config.hidden_size, intermediate_size)
        self.down_proj = nn.Linear(intermediate_size, config.hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.down_proj(F.gelu(self.up_proj(hidden_states), approximate="tanh"))


class FSDFMLayer(GradientCheckpointingLayer):
    """One transformer block: attention, then MLP, each normed and modulated on the way in and gated on the way out."""

    def __init__(self, config: FSDFMConfig):
        super().__init__()
        self.input_layernorm = FSDFMLayerNorm(config)
        self.self_attn = FSDFMAttention(config)
        self.post_attention_layernorm = FSDFMLayerNorm(config)
        self.mlp = FSDFMMLP(config)
        self.modulation = FSDFMModulation(config, num_vectors=6)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        hidden_states: Tensor,
        condition: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Tensor:
        attn_shift, attn_scale, attn_gate, mlp_shift, mlp_scale, mlp_gate = self.modulation(condition)
        attention_output, _ = self.self_attn(
            self.input_layernorm(hidden_states, attn_shift, attn_scale), position_embeddings, attention_mask, **kwargs
        )
        hidden_states = torch.addcmul(hidden_states, attn_gate, self.dropout(attention_output))
        mlp_output = self.mlp(self.post_attention_layernorm(hidden_states, mlp_shift, mlp_scale))
        return torch.addcmul(hidden_states, mlp_gate, self.dropout(mlp_output))


class FSDFMPreTrainedModel(PreTrainedModel):
    """Weight initialisation, saving and the declarations that transformers reads."""

    config: FSDFMConfig
    generation_config: FSDFMGenerationConfig
    config_class = FSDFMConfig
    base_model_prefix = "model"
    generation_config_class = FSDFMGenerationConfig
    supports_gradient_checkpointing = True
    _no_split_modules = ["FSDFMLayer"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": FSDFMLayer, "attentions": FSDFMAttention}  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, FSDFMZeroLinear):
            init.zeros_(module.weight)
            init.zeros_(module.bias)
        else:
            super()._init_weights(module)

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoModel") -> None:
        """Does nothing: `save_pretrained` writes the remote code itself.

        The stock mechanism copies the file of the live class, which under FSDP2 is one of torch's, and names only one
        auto class.
        """

    def save_pretrained(
        self, save_directory: str | os.PathLike, is_main_process: bool = True, *args: Any, **kwargs: Any
    ) -> None:
        """Saves the model and, beside it, the code that loads it with `trust_remote_code=True`.

        Takes the arguments of [`~transformers.PreTrainedModel.save_pretrained`].
        """
        if self.can_generate():
            self.generation_config.validate()  # before anything is written
        self.config.auto_map = dict(AUTO_MAP)
        if is_main_process and not os.path.isfile(save_directory):
            # The code goes first: with `push_to_hub=True` the call below uploads what stands in the folder.
            os.makedirs(save_directory, exist_ok=True)
            for name in REMOTE_CODE_FILES:
                source, target = Path(__file__).with_name(name), Path(save_directory, name)
                if not target.exists() or not source.samefile(target):
                    shutil.copyfile(source, target)
        super().save_pretrained(save_directory, is_main_process, *args, **kwargs)


class FSDFMModel(FSDFMPreTrainedModel):
    """The backbone: token ids, time and step size to final hidden states, which are ready for the output head."""

    def __init__(self, config: FSDFMConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.num_input_embeddings, config.hidden_size)
        self.rotary_emb = FSDFMRotaryEmbedding(config)
        self.time_embedding = FSDFMScalarEmbedding(config)
        self.step_size_embedding = FSDFMScalarEmbedding(config) if config.step_size_conditioning else None
        has_fuser = config.step_size_conditioning and config.step_size_fusion == "concat"
        double = 2 * config.conditioning_size
        self.condition_fuser = nn.Linear(double, double) if has_fuser else None
        self.layers = nn.ModuleList([FSDFMLayer(config) for _ in range(config.num_hidden_layers)])
        self.norm = FSDFMLayerNorm(config)
        self.modulation = FSDFMModulation(config, num_vectors=2)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        time: Tensor | None = None,
        step_size: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutput:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`): x_t.
            time (`torch.FloatTensor` of shape `(batch_size,)`, `(1,)` or `()`): t in [0, 1]. One value for the batch
                is embedded once.
            step_size (`torch.FloatTensor` like `time`): h in (0, 1], the step that is about to be taken. An FS-DFM
                needs it, a plain DFM refuses it.
            attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*): 0 at padding.
            position_ids (`torch.LongTensor` of shape `(batch_size or 1, sequence_length)`, *optional*): by default
                counted from the first position that is not padding.
            inputs_embeds (`torch.FloatTensor` of shape `(batch_size, sequence_length, hidden_size)`, *optional*):
                in place of `input_ids`.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Pass exactly one of `input_ids` and `inputs_embeds`")
        if input_ids is not None:
            self._check_input_ids(input_ids)
        hidden_states = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        condition = self._condition(time, step_size, batch_size=hidden_states.shape[0], dtype=hidden_states.dtype)
        if position_ids is None:
            position_ids = _default_position_ids(hidden_states, attention_mask)
        position_embeddings = self.rotary_emb(position_ids, hidden_states.dtype)
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=hidden_states, attention_mask=attention_mask)
        for layer in self.layers:
            hidden_states = layer(hidden_states, condition, position_embeddings, attention_mask=mask, **kwargs)
        return BaseModelOutput(last_hidden_state=self.norm(hidden_states, *self.modulation(condition)))

    def _check_input_ids(self, input_ids: Tensor) -> None:
        if input_ids.ndim != 2 or input_ids.is_floating_point():
            raise ValueError(
                "`input_ids` must be an integer tensor of shape (batch_size, sequence_length), but got "
                f"{tuple(input_ids.shape)} of {input_ids.dtype}"
            )
        if _values_can_be_read(input_ids):
            num_rows = self.config.num_input_embeddings
            outside = input_ids[(input_ids < 0) | (input_ids >= num_rows)].tolist()
            if outside:
                hint = ""
                if self.config.mask_token_id in outside:
                    hint = "; the mask token has no embedding: leave `time` out, or let `generate` fill masks in"
                raise ValueError(f"`input_ids` must be in [0, {num_rows}), but hold {outside[0]}{hint}")

    def _condition(self, time: Tensor | None, step_size: Tensor | None, batch_size: int, dtype: torch.dtype) -> Tensor:
        """c of the paper's App. C.1, (batch or 1, conditioning or, with fusers, twice that)."""
        time = _check_scalar_input("time", time, batch_size, lowest=0.0)
        time_embedding = self.time_embedding(time.reshape(-1), dtype)
        if self.step_size_embedding is None:
            if step_size is not None:
                raise ValueError(
                    "`step_size` was given to a plain DFM (config.step_size_conditioning=False); leave it out, or make "
                    "an FS-DFM of the model with `FSDFMForDiffusionLM.from_dfm`"
                )
            return F.silu(time_embedding)
        step_size = _check_scalar_input("step_size", step_size, batch_size, lowest=torch.finfo(torch.float32).tiny)
        value = step_size.reshape(-1)
        if self.config.step_size_embedding == "log2":
            value = -torch.log2(value.float())
        step_size_embedding = self.step_size_embedding(value, dtype)
        if self.condition_fuser is None:
            return F.silu(time_embedding + step_size_embedding)
        both = torch.cat(torch.broadcast_tensors(time_embedding, step_size_embedding), dim=-1)
        return F.silu(self.condition_fuser(both))


def _values_can_be_read(tensor: Tensor) -> bool:
    """Whether looking at values is cheap: an accelerator would have to be waited for, a graph can't branch on them."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def _check_scalar_input(name: str, value: Tensor | None, batch_size: int, lowest: float) -> Tensor:
    if value is None:
        raise ValueError(f"`{name}` is required by this model: a float tensor of shape (batch_size,), (1,) or ()")
    if not isinstance(value, Tensor) or not value.is_floating_point():
        found = getattr(value, "dtype", type(value).__name__)
        raise TypeError(f"`{name}` must be a float tensor, such as torch.tensor([0.5]), but got {found}")
    if value.ndim > 1 or value.numel() not in (1, batch_size):
        raise ValueError(
            f"`{name}` must have the shape (batch_size,), (1,) or () with batch_size={batch_size}, but got "
            f"{tuple(value.shape)}"
        )
    if _values_can_be_read(value) and not ((value >= lowest) & (value <= 1)).all():
        raise ValueError(f"`{name}` must be in {'[0' if lowest == 0 else '(0'}, 1], but got {value.tolist()}")
    return value


def _default_position_ids(hidden_states: Tensor, attention_mask: Tensor | None) -> Tensor:
    if attention_mask is not None and attention_mask.ndim == 2:
        return (attention_mask.long().cumsum(-1) - 1).clamp_min(0)
    return torch.arange(hidden_states.shape[1], device=hidden_states.device)[None]


class FSDFMForDiffusionLM(FSDFMPreTrainedModel, FSDFMGenerationMixin):
    """
    FS-DFM with its output head: the model that `AutoModel`, `AutoModelForMaskedLM` and `AutoModelForCausalLM` give.

    Example:

    ```python
    >>> from transformers import AutoModel, AutoTokenizer

    >>> model = AutoModel.from_pretrained(path, trust_remote_code=True)
    >>> tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=True)
    >>> prompt = tokenizer("Once upon a time", return_tensors="pt")
    >>> tokenizer.batch_decode(model.generate(**prompt, num_steps=8, max_new_tokens=256))
    ```
    """

    def __init__(self, config: FSDFMConfig):
        super().__init__(config)
        self.model = FSDFMModel(config)
        self.lm_head = FSDFMZeroLinear(config.hidden_size, config.vocab_size)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.lm_head = new_embeddings

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any) -> nn.Embedding:
        """As in transformers, for a uniform source. With a mask source the row after the vocabulary is the mask's."""
        if self.config.source_distribution == "mask" and new_num_tokens is not None:
            raise ValueError(
                "`resize_token_embeddings` would give the mask token's embedding (the row after the vocabulary) to a "
                "data token; with a mask source, train with the final `vocab_size`"
            )
        return super().resize_token_embeddings(new_num_tokens, *args, **kwargs)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compiles `forward`, and the backbone on its own, which is what the loop of `generate` calls."""
        super().compile(*args, **kwargs)
        self.model.compile(*args, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        time: Tensor | None = None,
        step_size: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        head_loss: Callable[[nn.Module, Tensor], Tensor] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MaskedLMOutput:
        """
        Logits of the posterior p(x_1 | x_t) of every position. Arguments as in [`FSDFMModel.forward`], and:

        Args:
            time (`torch.FloatTensor`, *optional*): if left out, `input_ids` must hold mask tokens, and the model fills
                them as a masked language model does: t is the time at which the given share of positions is known, and
                one step leads from there to the end.
            labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*): x_1, or -100 at positions
                that do not count; gives the denoising cross-entropy as `loss`.
            head_loss (`Callable`, *optional*): called as `head_loss(lm_head, last_hidden_state)`; what it returns is
                `loss`, and there are no logits. For training with a loss that applies the head in pieces, inside the
                forward, where wrappers such as DDP and FSDP expect the whole model to run.

        Returns:
            `MaskedLMOutput` with `logits` of shape `(batch_size, sequence_length, vocab_size)`; the mask token of a
            mask source is never predicted and has no logit.
        """
        if time is None:
            input_ids, time, step_size = self._prepare_masked_lm_inputs(input_ids, step_size, attention_mask)
        outputs = self.model(
            input_ids=input_ids,
            time=time,
            step_size=step_size,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        if head_loss is not None:
            return MaskedLMOutput(
                loss=head_loss(self.lm_head, outputs.last_hidden_state),
                hidden_states=outputs.hidden_states,
                attentions=outputs.attentions,
            )
        logits = self.lm_head(outputs.last_hidden_state)
        loss = None
        if labels is not None:
            if labels.shape != logits.shape[:-1]:
                raise ValueError(
                    f"`labels` must have the shape of `input_ids`, {tuple(logits.shape[:-1])}, but got "
                    f"{tuple(labels.shape)}"
                )
            loss = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=-100)
        return MaskedLMOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )

    def _prepare_masked_lm_inputs(
        self, input_ids: Tensor | None, step_size: Tensor | None, attention_mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """x_t, t and h for a text with mask tokens, e.g. from `pipeline("fill-mask")`."""
        mask_token_id = self.config.mask_token_id
        if input_ids is None or step_size is not None or mask_token_id is None:
            raise ValueError(TIME_IS_REQUIRED)
        is_masked = input_ids == mask_token_id
        if not is_masked.any():
            raise ValueError(f"{TIME_IS_REQUIRED}; only texts with mask tokens ({mask_token_id}) need none")
        counted = torch.ones_like(is_masked) if attention_mask is None else attention_mask.bool()
        known_share = (counted & ~is_masked).sum(-1) / counted.sum(-1).clamp_min(1)
        time = self.config.flow_schedule.inverse_kappa(known_share)
        if self.config.source_distribution == "uniform":
            # The model expects random tokens where it knows nothing. Always the same ones: a forward has no dice.
            noise_generator = torch.Generator().manual_seed(0)
            noise = sample_source(input_ids.shape[1:], self.config.vocab_size, generator=noise_generator)
            input_ids = torch.where(is_masked, noise.to(input_ids.device), input_ids)
        return input_ids, time, 1 - time if self.config.step_size_conditioning else None

    @classmethod
    @torch.no_grad()
    def from_dfm(
        cls,
        dfm: "FSDFMForDiffusionLM",
        step_size_embedding: Literal["raw", "log2"] = "log2",
        step_size_fusion: Literal["concat", "add"] = "add",
    ) -> "FSDFMForDiffusionLM":
        """
        Makes an FS-DFM, ready for distillation, that computes exactly the logits of a plain DFM for every step size.

        The step size enters through weights that start at zero. With `step_size_fusion="concat"` (the published
        layout) the layers in front of the modulations start as the identity, written through SiLU as
        silu(x) - silu(-x) = x; with `"add"` there are none and the logits are equal bit for bit.

        Args:
            dfm ([`FSDFMForDiffusionLM`]): a model with `step_size_conditioning=False`; it is left unchanged.
            step_size_embedding, step_size_fusion (`str`, *optional*): as in [`FSDFMConfig`].

        Returns:
            [`FSDFMForDiffusionLM`]: a new model with the dtype, device and mode (train or eval) of the given one.
        """
        if not isinstance(dfm, PreTrainedModel):
            raise TypeError(f"`dfm` must be a model, but got {type(dfm).__name__}; load it with `from_pretrained`")
        if dfm.config.step_size_conditioning:
            raise ValueError("`dfm` must be a plain DFM, but its config has step_size_conditioning=True")
        config = copy.deepcopy(dfm.config)
        config.step_size_conditioning = True
        config.step_size_embedding = step_size_embedding
        config.step_size_fusion = step_size_fusion
        model = cls(config)
        # The decorator that transformers puts around `to` loses its `self` for type checkers.
        model.to(device=dfm.device, dtype=dfm.dtype)  # type: ignore[call-arg]
        model.train(dfm.training)
        settings = copy.deepcopy(dfm.generation_config)
        settings.num_steps, settings.time_grid = model.generation_config.num_steps, None  # those of a DFM are many
        model.generation_config = settings
        model.load_state_dict(dfm.state_dict(), strict=False)
        fuser = model.model.condition_fuser
        if fuser is None:  # `step_size_fusion="add"`
            model.model.step_size_embedding.linear_2.weight.zero_()
            model.model.step_size_embedding.linear_2.bias.zero_()
            return model
        identity = torch.eye(config.conditioning_size, dtype=dfm.dtype, device=dfm.device)
        fuser.weight.copy_(F.pad(torch.cat([identity, -identity]), (0, config.conditioning_size)))
        fuser.bias.zero_()
        for module in model.modules():
            if isinstance(module, FSDFMModulation) and module.fuser is not None:
                module.fuser.weight.copy_(torch.cat([identity, -identity], dim=1))
                module.fuser.bias.zero_()
        return model


if __package__ == "transformers_fsdfm":  # as remote code the auto classes find us through `auto_map`
    AutoConfig.register(FSDFMConfig.model_type, FSDFMConfig, exist_ok=True)
    for auto_class in (AutoModel, AutoModelForMaskedLM, AutoModelForCausalLM):
        auto_class.register(FSDFMConfig, FSDFMForDiffusionLM, exist_ok=True)


__all__ = ["FSDFMForDiffusionLM", "FSDFMModel", "FSDFMPreTrainedModel"]
