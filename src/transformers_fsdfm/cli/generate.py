# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""`fsdfm generate`."""

import itertools
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import _options as options
from ._sampling import LIBRARY_NAMES as SAMPLING_NAMES
from ._sampling import Part, given_settings, put_out, sample


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..generation_fsdfm import FSDFMGenerationConfig

LIBRARY_NAMES = SAMPLING_NAMES | {"input_ids": "PROMPT", "max_length": "--length"}


def generate(
    prompt: Annotated[
        str | None,
        typer.Argument(metavar="PROMPT", help="The beginning of the text; - reads it from standard input."),
    ] = None,
    model: options.ModelOption = None,
    num_steps: options.NumStepsOption = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Tokens to write. By default up to the trained length.")
    ] = None,
    length: Annotated[int | None, typer.Option(metavar="N", min=1, help="The same, with the prompt counted.")] = None,
    temperature: options.TemperatureOption = None,
    final_temperature: options.FinalTemperatureOption = None,
    top_k: options.TopKOption = None,
    top_p: options.TopPOption = None,
    time_shift: options.TimeShiftOption = None,
    min_step_size: options.MinStepSizeOption = None,
    spread: options.SpreadOption = None,
    solver: options.SolverOption = None,
    max_time: options.MaxTimeOption = None,
    keep_after_eos: Annotated[
        bool, typer.Option("--keep-after-eos", help="Show what follows the end of the text, too.")
    ] = False,
    seed: options.SeedOption = None,
    num_samples: options.NumSamplesOption = 1,
    as_json: options.JsonOption = False,
    out: options.OutOption = None,
    overwrite: options.OverwriteOption = False,
    device: options.DeviceOption = None,
    dtype: options.DTypeOption = None,
) -> None:
    """
    Write text, from a prompt or from nothing.

    A text that continues a prompt ends at the end-of-text token. Without a prompt a whole block is written, which may
    hold the end of one text and the beginning of the next. On a terminal the drafts are shown while they are written;
    elsewhere standard output gets the text alone.

    \b
    Examples:
      fsdfm generate "Once upon a time"
      fsdfm generate "Once upon a time" --steps 4 --max-new-tokens 100 --seed 1
      echo "Once upon a time" | fsdfm generate - --json > story.json
      fsdfm generate --model my-model --num-samples 10 --out stories.txt
    """
    if max_new_tokens is not None and length is not None:
        raise typer.BadParameter("give one of --max-new-tokens and --length", param_hint="--length")

    from ._live import LiveDrafts
    from ._model import DEFAULT_CHECKPOINT, load
    from ._output import check_target, read_text

    check_target(out, overwrite)
    prompt = read_text("prompt", prompt or "")
    with LiveDrafts(wanted=not as_json) as live:
        live.note("Loading ...")
        settings = given_settings(
            num_steps=num_steps,
            max_new_tokens=max_new_tokens,
            max_length=length,
            temperature=temperature,
            final_temperature=final_temperature,
            top_k=top_k,
            top_p=top_p,
            time_shift=time_shift,
            min_step_size=min_step_size,
            spread_candidates=spread,
            solver=solver,
            max_time=max_time,
            num_return_sequences=num_samples,
        )
        loaded, tokenizer = load(model, device=device, dtype=dtype and dtype.value)
        ids = _encode(prompt, tokenizer)
        samples = sample(loaded, tokenizer, _inputs(ids), [True] * len(ids), settings, seed, live)
    ends = set() if keep_after_eos or not prompt else _end_tokens(loaded.generation_config)
    given = [Part(prompt, is_given=True)] if prompt else []
    kept = [_up_to_end(row[len(ids) :], ends) for row in samples.ids]
    texts = [[*given, Part(_decode(prompt, ids, new_ids, bool(ends), tokenizer), is_given=False)] for new_ids in kept]
    source: dict[str, str | None] = {"model": model or DEFAULT_CHECKPOINT, "prompt": prompt}
    put_out(source, samples, texts, as_json, out, overwrite, num_shown=sum(map(len, kept)))


def _encode(prompt: str, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Without a space at the end, which the first new token brings along, see `infilling`."""
    if not prompt:
        return []
    ids = tokenizer(prompt.removesuffix(" "), add_special_tokens=False, verbose=False)["input_ids"]
    if tokenizer.mask_token_id in ids:
        raise ValueError(f"`prompt` holds {tokenizer.mask_token}; `fsdfm infill` fills in blanks")
    return ids


def _inputs(ids: list[int]) -> dict[str, Any]:
    import torch

    if not ids:
        return {}
    input_ids = torch.tensor([ids])
    return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


def _end_tokens(config: "FSDFMGenerationConfig") -> set[int]:
    eos = config.eos_token_id
    return set() if eos is None else set(eos) if isinstance(eos, list) else {eos}


def _up_to_end(ids: list[int], ends: set[int]) -> list[int]:
    """Those before the first of `ends`."""
    return list(itertools.takewhile(lambda token_id: token_id not in ends, ids))


def _decode(
    prompt: str, prompt_ids: list[int], ids: list[int], skip_special_tokens: bool, tokenizer: "PreTrainedTokenizerBase"
) -> str:
    """The text after the prompt."""
    from ..infilling import decode_after

    text = decode_after(prompt_ids, ids, tokenizer, skip_special_tokens=skip_special_tokens)
    return text.removeprefix(" ") if prompt.endswith(" ") else text
