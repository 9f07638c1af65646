# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The model card of a shipped folder: what the model is, and what the logs say of its training."""

import json
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from transformers import PreTrainedModel

from transformers_fsdfm import FSDFMForDiffusionLM

from ...script_run import ENVIRONMENT_FILE, METRICS_FILE, SETTINGS_FILE


COMMAND = (
    "python -m transformers_fsdfm.trainer.recipes.tinystories --train_data roneneldan/TinyStories --output_dir runs"
)


class StageRecord(NamedTuple):
    """
    What the logs of a stage say.

    Attributes:
        name (`str`): of the stage.
        num_steps (`int`): optimizer steps.
        num_tokens (`int`): tokens in all of them, repetitions counted.
        block_size (`int`): tokens in a row.
        hours (`float`): from each start of the stage to the last line it logged.
        nats_per_token, bits_per_byte (`float`, *optional*): the last bound on the validation text.
    """

    name: str
    num_steps: int
    num_tokens: int
    block_size: int
    hours: float
    nats_per_token: float | None
    bits_per_byte: float | None


def read_record(folder: Path) -> StageRecord:
    """The record of a run folder of `fsdfm pretrain` or `fsdfm distill`."""
    settings = yaml.safe_load((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
    runs, metrics = _json_lines(folder / ENVIRONMENT_FILE), _json_lines(folder / METRICS_FILE)
    num_steps = max(line["global_step"] for line in metrics)
    rows = settings["per_device_train_batch_size"] * settings["gradient_accumulation_steps"] * runs[-1]["processes"]
    evaluations = [line for line in metrics if "eval_loss" in line]
    last = evaluations[-1] if evaluations else {}
    return StageRecord(
        folder.name,
        num_steps,
        num_steps * rows * settings["block_size"],
        settings["block_size"],
        _seconds(runs, metrics) / 3600,
        last.get("eval_loss"),
        last.get("eval_bits_per_byte"),
    )


def _json_lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def _seconds(runs: Sequence[dict[str, Any]], metrics: Sequence[dict[str, Any]]) -> float:
    """The sum over all starts of a stage of the time to the last line logged before the next start."""
    starts = [datetime.fromisoformat(run["started"]).timestamp() for run in runs] + [float("inf")]
    spans = [
        [line["time"] - start for line in metrics if start < line["time"] < end] for start, end in pairwise(starts)
    ]
    return sum(max(span, default=0.0) for span in spans)


def write_card(
    folder: Path, model: FSDFMForDiffusionLM, records: Sequence[StageRecord], dfm_share: float = 0.0
) -> None:
    """
    Writes `README.md` into a folder with a model.

    Args:
        folder (`Path`): of the shipped model.
        model ([`FSDFMForDiffusionLM`]): the model in it.
        records (`Sequence[StageRecord]`): of the stages that made it, first to last.
        dfm_share (`float`, *optional*, defaults to 0.0): see [`publish_flow`].
    """
    config = model.config
    distilled = config.step_size_conditioning
    card = CARD.format(
        name=folder.name,
        tags="fsdfm, discrete-flow-matching, text-diffusion",
        kind=DISTILLED if distilled else PLAIN,
        size=f"{sum(weight.numel() for weight in model.parameters()) / 1e6:.1f}M",
        config=config,
        num_steps=model.generation_config.num_steps,
        settings=", ".join(_unusual_settings(model)) or "the defaults of `generate`",
        stages="\n".join(map(_row, records)),
        average=AVERAGE.format(share=dfm_share) if dfm_share else "",
        command=COMMAND,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def write_scorer_card(folder: Path, model: PreTrainedModel, trained: Path) -> None:
    """The same for the scorer, trained in the run folder `trained`."""
    evaluation = json.loads((trained / "eval_results.json").read_text(encoding="utf-8"))
    card = SCORER_CARD.format(
        name=folder.name,
        tags="gpt2",
        size=f"{model.num_parameters() / 1e6:.1f}M",
        config=model.config,
        nats=evaluation["eval_loss"],
        command=COMMAND,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def _unusual_settings(model: FSDFMForDiffusionLM) -> list[str]:
    """The sampling settings of the generation config that differ from what `generate` does without one."""
    return [f"`{name}={value!r}`" for name, value in model.generation_config.unusual_sampling().items()]


def _row(record: StageRecord) -> str:
    bound = "" if record.nats_per_token is None else f"{record.nats_per_token:.3f}"
    bits = "" if record.bits_per_byte is None else f"{record.bits_per_byte:.3f}"
    tokens = f"{record.num_tokens / 1e6:.1f}M"
    return (
        f"| `{record.name}` | {record.num_steps:,} | {record.block_size:,} | {tokens} | {record.hours:.2f} | {bound} "
        f"| {bits} |"
    )


AVERAGE = """
After the last stage the weights that the DFM has, too, became a weighted mean of the two models, with a share of
{share} for the DFM: it gives back diversity that distillation took.
"""
PLAIN = "A discrete flow-matching model (DFM) of English children's stories, for many steps"
DISTILLED = "A few-step discrete flow-matching model (FS-DFM) of English children's stories"
HEADER = """---
library_name: transformers
pipeline_tag: text-generation
license: apache-2.0
language: en
datasets:
- roneneldan/TinyStories
tags: [{tags}]
---

# {name}
"""

CARD = (
    HEADER
    + """
{kind}.

It starts from random tokens and rewrites all positions in parallel. Made to try the library and to test its claims,
not to be used for anything else: {size} parameters know short words and simple plots, and no facts.

| parameters | layers | width | heads | vocabulary | trained length | source |
|---|---|---|---|---|---|---|
| {size} | {config.num_hidden_layers} | {config.hidden_size} | {config.num_attention_heads} | {config.vocab_size:,} \
| {config.max_position_embeddings:,} | {config.source_distribution} |

## Use

```python
from transformers import AutoModel, AutoTokenizer

from transformers_fsdfm import available_configs

folder = available_configs()["{name}"]
model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
prompt = tokenizer("Once upon a time", return_tensors="pt")
tokens = model.generate(**prompt, num_steps={num_steps}, max_new_tokens=256)
print(tokenizer.batch_decode(tokens)[0])
```

`generate` takes {num_steps:,} steps unless the call says otherwise, and as other settings: {settings}.
`model.push_to_hub` and `model.save_pretrained` put the code beside the weights; such a copy loads with
`trust_remote_code=True` where this package is not installed.

## Training

```bash
{command}
```

Text: [TinyStories](https://huggingface.co/datasets/roneneldan/TinyStories) (Eldan & Li 2023, CDLA-Sharing-1.0), of
which a part may have been used: stories written by GPT-3.5 and GPT-4, so their biases are here too. From the logs:

| stage | steps | tokens in a row | tokens in all | hours | bound (nats per token) | bound (bits per byte) |
|---|---|---|---|---|---|---|
{stages}
{average}
The bounds are upper bounds on the negative log-likelihood of validation text. How it is measured, and what the samples
are like beside real text: MODEL_CARD.md of transformers-fsdfm.
"""
)

SCORER_CARD = (
    HEADER
    + """
An autoregressive model of the GPT-2 architecture, {size} parameters, trained on the text and with the tokenizer of
`dfm-tinystories` and `fsdfm-tinystories` in order to score what they write. It is of no other use.

| parameters | layers | width | heads | vocabulary | context | nats per token of validation text |
|---|---|---|---|---|---|---|
| {size} | {config.n_layer} | {config.n_embd} | {config.n_head} | {config.vocab_size:,} | {config.n_positions} \
| {nats:.3f} |

```bash
{command}
```

Text: [TinyStories](https://huggingface.co/datasets/roneneldan/TinyStories) (Eldan & Li 2023, CDLA-Sharing-1.0).
"""
)


__all__ = ["StageRecord", "read_record", "write_card", "write_scorer_card"]
