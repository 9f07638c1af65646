# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""What `fsdfm generate` and `fsdfm infill` have in common: they sample, and put the result out."""

import secrets
import sys
import time as clock
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._output import printable, say, to_json, write_file, write_stdout


if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from ..modeling_fsdfm import FSDFMForDiffusionLM
    from ._live import LiveDrafts

# How the library calls what the commands call otherwise
LIBRARY_NAMES = {"num_return_sequences": "--num-samples"}


@dataclass(frozen=True)
class Part:
    """A piece of a result: given by the user, or written by the model."""

    text: str
    is_given: bool


@dataclass(frozen=True)
class Samples:
    """
    What the model wrote, and what it took.

    Args:
        ids, last_changed_step (`list[list[int]]`): of each sample, as in [`FSDFMGenerationOutput`].
        num_written (`int`): tokens written, in all samples together.
        num_steps, num_function_evaluations, seconds, seed: of the run.
        sampling (`dict`): the settings of `generate` that the law of the text depends on.
    """

    ids: list[list[int]]
    last_changed_step: list[list[int]]
    num_written: int
    num_steps: int
    sampling: dict[str, Any]
    num_function_evaluations: int
    seconds: float
    seed: int


def given_settings(**options: Any) -> dict[str, Any]:
    """
    The settings of `generate` that were given, checked before a model is loaded.

    Raises:
        `ValueError`: one of them means nothing.
    """
    from ..generation_fsdfm import FSDFMGenerationConfig

    settings = {name: getattr(value, "value", value) for name, value in options.items() if value is not None}
    FSDFMGenerationConfig(**settings)
    return settings


def sample(
    model: "FSDFMForDiffusionLM",
    tokenizer: "PreTrainedTokenizerBase",
    inputs: dict[str, "Tensor"],
    given: Sequence[bool],
    settings: dict[str, Any],
    seed: int | None,
    live: "LiveDrafts",
) -> Samples:
    """
    Runs `generate`.

    Args:
        inputs (`dict[str, Tensor]`): its tensors, of one row or none.
        given (`Sequence[bool]`): which tokens of that row stay.
        settings (`dict`): its settings.
        seed (`int`, *optional*): drawn, if it is None.
    """
    import torch

    seed = secrets.randbelow(2**32) if seed is None else seed
    mask_id = model.config.mask_token_id if model.config.source_distribution == "mask" else None
    started = clock.monotonic()
    output = model.generate(
        **inputs,
        **settings,
        generator=torch.Generator().manual_seed(seed),
        callback_on_step_end=live.callback(tokenizer, given, _num_steps(len(given), model, settings), mask_id),
        return_dict_in_generate=True,
    )
    ids = output.sequences.tolist()  # waits for the device
    last_changed_step, times, evaluations = output.last_changed_step, output.time_grid, output.num_function_evaluations
    assert last_changed_step is not None
    assert times is not None
    assert evaluations is not None
    return Samples(
        ids=ids,
        last_changed_step=last_changed_step.tolist(),
        num_written=len(ids) * (len(ids[0]) - sum(given)),
        num_steps=len(times) - 1,
        sampling=_sampling(model, settings),
        num_function_evaluations=evaluations,
        seconds=clock.monotonic() - started,
        seed=seed,
    )


def _sampling(model: "FSDFMForDiffusionLM", settings: dict[str, Any]) -> dict[str, Any]:
    """What the run went by: what was given, else what is stored with the model."""
    from ..generation_fsdfm import FSDFMGenerationConfig

    config = FSDFMGenerationConfig(**settings)
    config.set_unset(model.generation_config)
    config.set_unset(FSDFMGenerationConfig.from_model_config(model.config))
    return {name: getattr(config, name) for name in config._sampling}


def _num_steps(prompt_length: int, model: "FSDFMForDiffusionLM", settings: dict[str, Any]) -> int | None:
    """How many steps there will be; None where that is settled on the way."""
    stored = model.generation_config
    length = max(prompt_length, settings.get("max_length", stored.max_length or 0))
    if "max_new_tokens" in settings:
        length = prompt_length + settings["max_new_tokens"]
    if length > model.config.max_position_embeddings or "max_time" in settings:
        return None
    return settings.get("num_steps", None if stored.time_grid else stored.num_steps)


def put_out(
    source: dict[str, str | None],
    samples: Samples,
    texts: list[list[Part]],
    as_json: bool,
    out: Path | None,
    overwrite: bool,
    num_shown: int | None = None,
) -> None:
    """
    Puts out the texts, on the terminal, as text or as JSON, and says what they took.

    Args:
        source (`dict[str, str | None]`): what stands first in the JSON: the model and what the user gave.
        texts (`list[list[Part]]`): the parts of each sample.
        num_shown (`int`, *optional*): of the tokens written, how many stand in `texts`; all by default.
    """
    if as_json:
        result = to_json(source | _record(samples, texts))
    else:
        result = "\n".join("".join(part.text for part in parts) + "\n" for parts in texts)
    if out is not None:
        write_file(out, result, overwrite)
    elif as_json or not sys.stdout.isatty():
        write_stdout(result)
    else:
        _print_parts(texts)
    say(_summary(samples, num_shown))
    if out is not None:
        say(f"Wrote {out}")


def _record(samples: Samples, texts: list[list[Part]]) -> dict[str, Any]:
    """The rest of the JSON; docs/cli.md describes it."""
    return {
        "seed": samples.seed,
        "num_steps": samples.num_steps,
        "sampling": samples.sampling,
        "num_function_evaluations": samples.num_function_evaluations,
        "seconds": round(samples.seconds, 4),
        "tokens_per_second": round(samples.num_written / samples.seconds, 2),
        "samples": [
            {
                "text": "".join(part.text for part in parts),
                "written": [part.text for part in parts if not part.is_given],
                "token_ids": ids,
                "last_changed_step": last_changed_step,
            }
            for parts, ids, last_changed_step in zip(texts, samples.ids, samples.last_changed_step, strict=True)
        ],
    }


def _print_parts(texts: list[list[Part]]) -> None:
    """On a terminal: what was given is bold."""
    from rich.console import Console
    from rich.text import Text

    from ._live import GIVEN

    console = Console(highlight=False)
    for number, parts in enumerate(texts, start=1):
        if len(texts) > 1:
            console.print(Text(f"[{number}/{len(texts)}]", style="dim"))
        text = Text()
        for part in parts:
            text.append(printable(part.text), GIVEN if part.is_given else "")
        console.print(text, soft_wrap=True)


def _summary(samples: Samples, num_shown: int | None) -> str:
    rate = samples.num_written / samples.seconds
    steps = "1 step" if samples.num_steps == 1 else f"{samples.num_steps} steps"
    shown = "" if num_shown in (None, samples.num_written) else f" ({num_shown} up to the end of the text)"
    return (
        f"{samples.num_written} tokens{shown} in {steps}, {samples.seconds:.2f} s: {rate:,.0f} tokens/s "
        f"(seed {samples.seed})"
    )
