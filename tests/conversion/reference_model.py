# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""
The published network written out once more, plainly, from its description alone: to compare with, and never to run.

It shares no line with the package. Everything is a function of the published tensors; attention is one head at a time.
"""

import math

import torch
from torch import Tensor


Weights = dict[str, Tensor]


def published_weights(
    num_rows: int,
    hidden_size: int = 32,
    num_heads: int = 4,
    num_blocks: int = 2,
    conditioning_size: int = 12,
    mlp_ratio: int = 4,
    with_step_size: bool = True,
    rope_theta: float = 10_000.0,
    seed: int = 0,
) -> Weights:
    """Random tensors under the published names. Large enough to make every part of the network count."""
    shapes: dict[str, tuple[int, ...]] = {"vocab_embed.weight": (num_rows, hidden_size)}

    def linear(name: str, num_in: int, num_out: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (num_out, num_in), (num_out,)

    for name in ["time_embedding", "dt_embedding"] if with_step_size else ["time_embedding"]:
        linear(f"{name}.mlp.0", 256, conditioning_size)
        linear(f"{name}.mlp.2", conditioning_size, conditioning_size)
    if with_step_size:
        linear("time_condition_fuser.0", 2 * conditioning_size, 2 * conditioning_size)
    modulated = {f"blocks.{i}": 6 for i in range(num_blocks)} | {"output_layer": 2}
    for name, num_vectors in modulated.items():
        if with_step_size:
            linear(f"{name}.condition_fuser.0", 2 * conditioning_size, conditioning_size)
        linear(f"{name}.adaLN_modulation", conditioning_size, num_vectors * hidden_size)
    for i in range(num_blocks):
        for name in ("qw", "kw", "vw", "attn_out"):
            shapes[f"blocks.{i}.{name}.weight"] = (hidden_size, hidden_size)
        shapes[f"blocks.{i}.norm1.weight"] = shapes[f"blocks.{i}.norm2.weight"] = (hidden_size,)
        linear(f"blocks.{i}.mlp.0", hidden_size, mlp_ratio * hidden_size)
        linear(f"blocks.{i}.mlp.2", mlp_ratio * hidden_size, hidden_size)
    shapes["output_layer.norm_final.weight"] = (hidden_size,)
    linear("output_layer.linear", hidden_size, num_rows)

    generator = torch.Generator().manual_seed(seed)
    weights = {name: torch.randn(shape, generator=generator) * shape[-1] ** -0.5 for name, shape in shapes.items()}
    exponent = torch.arange(0, hidden_size // num_heads, 2).float() / (hidden_size // num_heads)
    return {"rotary_emb.inv_freq": 1.0 / (rope_theta**exponent), **weights}


def reference_logits(
    weights: Weights, ids: Tensor, time: Tensor, step_size: Tensor | None = None, num_heads: int = 4
) -> Tensor:
    """(batch, length) tokens, (batch,) times and step sizes -> (batch, length, rows) logits."""
    return torch.stack(
        [
            _one_text(weights, ids[row], time[row], None if step_size is None else step_size[row], num_heads)
            for row in range(len(ids))
        ]
    )


def _one_text(weights: Weights, ids: Tensor, time: Tensor, step_size: Tensor | None, num_heads: int) -> Tensor:
    condition = _condition(weights, time, step_size)
    x = weights["vocab_embed.weight"][ids]
    num_blocks = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
    for i in range(num_blocks):
        block = {
            name.removeprefix(f"blocks.{i}."): tensor
            for name, tensor in weights.items()
            if name.startswith(f"blocks.{i}.")
        }
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = _modulation(block, condition, 6)
        y = _layer_norm(x, block["norm1.weight"]) * (1 + scale_1) + shift_1
        x = x + gate_1 * _attention(block, y, weights["rotary_emb.inv_freq"], num_heads)
        y = _layer_norm(x, block["norm2.weight"]) * (1 + scale_2) + shift_2
        x = x + gate_2 * _linear(block, "mlp.2", _gelu_tanh(_linear(block, "mlp.0", y)))
    output = {
        name.removeprefix("output_layer."): tensor
        for name, tensor in weights.items()
        if name.startswith("output_layer.")
    }
    shift, scale = _modulation(output, condition, 2)
    return _linear(output, "linear", _layer_norm(x, output["norm_final.weight"]) * (1 + scale) + shift)


def _condition(weights: Weights, time: Tensor, step_size: Tensor | None) -> Tensor:
    embedded = _scalar_embedding(weights, "time_embedding", time)
    if step_size is not None:
        both = torch.cat([embedded, _scalar_embedding(weights, "dt_embedding", step_size)])
        embedded = _linear(weights, "time_condition_fuser.0", both)
    return _silu(embedded)


def _scalar_embedding(weights: Weights, name: str, value: Tensor) -> Tensor:
    frequencies = torch.tensor([10_000.0 ** (-i / 128) for i in range(128)])
    features = torch.cat([torch.cos(value * frequencies), torch.sin(value * frequencies)])
    return _linear(weights, f"{name}.mlp.2", _silu(_linear(weights, f"{name}.mlp.0", features)))


def _modulation(part: Weights, condition: Tensor, num_vectors: int) -> list[Tensor]:
    if "condition_fuser.0.weight" in part:
        condition = _silu(_linear(part, "condition_fuser.0", condition))
    return list(_linear(part, "adaLN_modulation", condition).reshape(num_vectors, -1))


def _attention(block: Weights, x: Tensor, inv_freq: Tensor, num_heads: int) -> Tensor:
    query, key, value = (x @ block[f"{name}.weight"].T for name in ("qw", "kw", "vw"))
    head_dim = x.shape[1] // num_heads
    heads = []
    for head in range(num_heads):
        columns = slice(head * head_dim, (head + 1) * head_dim)
        q, k = _rotate(query[:, columns], inv_freq), _rotate(key[:, columns], inv_freq)
        scores = torch.exp(q @ k.T / math.sqrt(head_dim))
        heads.append(scores / scores.sum(1, keepdim=True) @ value[:, columns])
    return torch.cat(heads, dim=1) @ block["attn_out.weight"].T


def _rotate(x: Tensor, inv_freq: Tensor) -> Tensor:
    """Component i of the first half and component i of the second are the two coordinates that turn."""
    angle = torch.arange(len(x))[:, None] * inv_freq
    half = x.shape[1] // 2
    a, b = x[:, :half], x[:, half:]
    return torch.cat([a * torch.cos(angle) - b * torch.sin(angle), b * torch.cos(angle) + a * torch.sin(angle)], dim=1)


def _layer_norm(x: Tensor, weight: Tensor) -> Tensor:
    centred = x - x.mean(1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(1, keepdim=True) + 1e-5) * weight


def _linear(part: Weights, name: str, x: Tensor) -> Tensor:
    return x @ part[f"{name}.weight"].T + part[f"{name}.bias"]


def _silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def _gelu_tanh(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
