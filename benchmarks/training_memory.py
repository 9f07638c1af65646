# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
r"""Memory of distillation on many GPUs, computed: what each strategy holds, and how many rows fit.

```
python benchmarks/training_memory.py                  # 8 GPUs of 80 GB, 96 rows of 1,024 tokens, bfloat16
python benchmarks/training_memory.py --gpus 4 --gpu-gb 40 --configs fsdfm-170m
```

Nothing here was run on a GPU. `P` is the number of parameters, `N` of GPUs, `d` the hidden size, `f` the width of the
MLP, `a` the number of heads. Bytes on each GPU, with `--bf16` and AdamW:

| | weights | gradients | optimizer | teacher = average | buffers |
|---|---|---|---|---|---|
| DDP | 4 P | 4 P | 8 P | 4 P | 4 P buckets + 2 P weights as autocast keeps them |
| FSDP2 | 4 P/N | 4 P/N | 8 P/N | 4 P/N | 2 bytes for each weight outside the blocks and in three blocks, twice |
| ZeRO-1 | 2 P | 2 P | 12 P/N | 4 P | two buckets of at most 5e8 values, 2 bytes each |
| ZeRO-2 | 2 P | 2 P/N | 12 P/N | 4 P | the same |
| ZeRO-3 | 2 P/N | 2 P/N | 12 P/N | 4 P/N | the same, and at most 1e9 gathered values, 2 bytes each |

(ZeRO has its float32 weights in the optimizer. DDP's float32 ones are the weights themselves.)

Activations, for each token of a row that is in work:

- A block keeps 38 d + 4 f + 4 a bytes for its backward: the inputs and outputs of both norms in float32 (16 d), the
  inputs of q, k, v (6 d) and of attention (6 d), its output (2 d) and log-sums (4 a), what leaves both dropouts and
  their masks (6 d), the input of the MLP (2 d), and the input and output of its GELU (4 f). With activation
  checkpointing it keeps its input, 4 d. (ZeRO and FSDP2 have a residual stream in bfloat16: for them this is a bound.)
- Outside of the blocks: 20 d, the final norm, the last hidden states with their gradient, the teacher's target.
- One more block, for the backward that is under way.

The loss works on chunks of logits, whatever the number of rows: six times 256 MiB, and twice the gradient of the head.
The teacher's forwards keep nothing, and come before the student's, so they do not add to the peak.
"""

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from reporting import markdown

from transformers_fsdfm import FSDFMConfig, FSDFMForDiffusionLM, available_configs


STRATEGIES = ("DDP", "FSDP2", "ZeRO-1", "ZeRO-2", "ZeRO-3")
CONFIGS = ("fsdfm-170m", "fsdfm-1.3b", "fsdfm-1.7b")
GIB = 2**30
RESERVE = 4 * GIB  # CUDA, NCCL, fragments
LOGITS_CHUNK, LIVE_CHUNKS = 2**28, 6
DEEPSPEED_BUCKET, DEEPSPEED_MAX_LIVE = 5 * 10**8, 10**9


@dataclass(frozen=True)
class ModelSize:
    """
    What the memory depends on.

    Args:
        parameters, block_parameters (`int`): of the model, and of one block.
        config ([`FSDFMConfig`]): of the model.
    """

    parameters: int
    block_parameters: int
    config: FSDFMConfig

    @classmethod
    def of(cls, config: FSDFMConfig) -> "ModelSize":
        with torch.device("meta"):
            model = FSDFMForDiffusionLM(config)
        block = sum(parameter.numel() for parameter in model.model.layers[0].parameters())
        return cls(sum(parameter.numel() for parameter in model.parameters()), block, config)

    @property
    def parameters_outside_blocks(self) -> int:
        return self.parameters - self.config.num_hidden_layers * self.block_parameters


def state_bytes(size: ModelSize, strategy: str, num_gpus: int) -> dict[str, float]:
    """Bytes on one GPU of everything whose size does not depend on the batch, see the table above."""
    total, share = size.parameters, size.parameters / num_gpus
    bucket = 2 * 2 * min(total, DEEPSPEED_BUCKET)
    weights, gradients, optimizer, teacher, buffers = {
        "DDP": (4 * total, 4 * total, 8 * total, 4 * total, 6 * total),
        "FSDP2": (4 * share, 4 * share, 8 * share, 4 * share, 4 * _gathered_by_fsdp(size)),
        "ZeRO-1": (2 * total, 2 * total, 12 * share, 4 * total, bucket),
        "ZeRO-2": (2 * total, 2 * share, 12 * share, 4 * total, bucket),
        "ZeRO-3": (2 * share, 2 * share, 12 * share, 4 * share, bucket + 2 * min(total, DEEPSPEED_MAX_LIVE)),
    }[strategy]
    return {
        "weights": weights,
        "gradients": gradients,
        "optimizer": optimizer,
        "teacher": teacher,
        "buffers": buffers,
    }


def _gathered_by_fsdp(size: ModelSize) -> int:
    """Parameters that are whole at a time: those outside the blocks, and the blocks before, at and after the work."""
    return size.parameters_outside_blocks + 3 * size.block_parameters


def block_bytes_per_token(config: FSDFMConfig, dropout_mask_bytes: int = 1) -> int:
    """What a block keeps for its backward; the CPU keeps masks of dropout in 2 bytes, a GPU in 1."""
    mask = 2 * dropout_mask_bytes * config.hidden_size
    return 36 * config.hidden_size + mask + 4 * config.intermediate_size + 4 * config.num_attention_heads


def activation_bytes(config: FSDFMConfig, rows: int, length: int, checkpointing: bool) -> int:
    """Bytes at the peak of a micro-batch."""
    block = block_bytes_per_token(config)
    kept = 4 * config.hidden_size if checkpointing else block
    return rows * length * (config.num_hidden_layers * kept + block + 20 * config.hidden_size)


def loss_bytes(config: FSDFMConfig) -> int:
    """The workspace of the chunked losses."""
    return LIVE_CHUNKS * LOGITS_CHUNK + 2 * 4 * config.vocab_size * config.hidden_size


def most_rows(
    size: ModelSize, strategy: str, num_gpus: int, gpu_bytes: float, rows_per_gpu: int, length: int, checkpointing: bool
) -> int | None:
    """The largest micro-batch that fits and divides the rows of a GPU; None if not even one row does."""
    free = gpu_bytes - RESERVE - sum(state_bytes(size, strategy, num_gpus).values()) - loss_bytes(size.config)
    divisors = [rows for rows in range(rows_per_gpu, 0, -1) if rows_per_gpu % rows == 0]
    return next((r for r in divisors if activation_bytes(size.config, r, length, checkpointing) <= free), None)


def table(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each model and strategy; memory in GiB."""
    rows_per_gpu = math.ceil(args.batch / args.gpus)
    for name in args.configs:
        size = ModelSize.of(FSDFMConfig.from_pretrained(available_configs()[name]))
        for strategy in STRATEGIES:
            state = state_bytes(size, strategy, args.gpus)
            row = {"model": name, "strategy": strategy}
            row.update({part: f"{value / GIB:.1f}" for part, value in state.items()})
            row["all of it"] = f"{sum(state.values()) / GIB:.1f}"
            for checkpointing in (False, True):
                settings = (args.gpus, args.gpu_gb * 1e9, rows_per_gpu, args.length, checkpointing)
                rows = most_rows(size, strategy, *settings)
                activations = activation_bytes(size.config, 1, args.length, checkpointing) / GIB
                kind = "checkpointed" if checkpointing else "plain"
                row[f"{kind}: a row"] = f"{activations:.2f}"
                row[f"{kind}: fits"] = "no" if rows is None else f"{rows} x {rows_per_gpu // rows}"
            yield row


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--gpu-gb", type=float, default=80, help="memory of a GPU, in units of 1e9 bytes")
    parser.add_argument("--batch", type=int, default=96, help="rows of a global batch")
    parser.add_argument("--length", type=int, default=1024, help="tokens of a row")
    parser.add_argument("--configs", nargs="+", default=CONFIGS, choices=sorted(available_configs()))
    args = parser.parse_args()
    print(
        f"GiB on each of {args.gpus} GPUs of {args.gpu_gb:g} GB; {args.batch} rows of {args.length:,} tokens; computed."
    )
    print("`fits`: rows of a micro-batch x gradient accumulation steps.\n")
    print(markdown(list(table(args))))


if __name__ == "__main__":
    main()
