# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""`fsdfm timeline`."""

import contextlib
import os
import secrets
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import _options as options


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..generation_fsdfm import FSDFMGenerationOutput
    from ..modeling_fsdfm import FSDFMForDiffusionLM
    from ..timeline import Timeline

LIBRARY_NAMES = {"input_ids": "PROMPT", "path": "--out", "max_length": "the trained length"}


def timeline(
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help="The beginning of the text; - reads it from standard input.")
    ] = "",
    model: options.ModelOption = None,
    dfm: Annotated[
        str | None, typer.Option(metavar="PATH", help="Another DFM or FS-DFM, with its own number of steps, beside it.")
    ] = None,
    ar: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="An autoregressive model beside it: a folder, a Hub id or a name."),
    ] = None,
    num_steps: options.NumStepsOption = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Tokens to write. By default up to the trained length.")
    ] = None,
    temperature: options.TemperatureOption = None,
    final_temperature: options.FinalTemperatureOption = None,
    top_k: options.TopKOption = None,
    top_p: options.TopPOption = None,
    time_shift: options.TimeShiftOption = None,
    min_step_size: options.MinStepSizeOption = None,
    spread: options.SpreadOption = None,
    solver: options.SolverOption = None,
    seed: options.SeedOption = None,
    out: options.OutOption = None,
    overwrite: options.OverwriteOption = False,
    device: options.DeviceOption = None,
    dtype: options.DTypeOption = None,
) -> None:
    """
    Show when each token settled.

    Writes a text and colours every token by the step in which it changed last: on the terminal, or in a file of the
    kind that its name ends in (.html a page that replays the steps, .png, .svg, .gif, .txt). With --dfm or --ar the
    models run side by side against the clock (.html, .gif, .png, .svg).

    \b
    Examples:
      fsdfm timeline "Once upon a time"
      fsdfm timeline "Once upon a time" --steps 8 --out timeline.html
      fsdfm timeline "Once upon a time" --dfm dfm-tinystories --ar gpt2-tinystories --out race.gif
    """
    from ..timeline import save_race
    from ..timeline.files import RACE_SUFFIXES, TIMELINE_SUFFIXES, check_path
    from ._model import load
    from ._output import check_target, read_text, say
    from ._sampling import given_settings

    check_target(out, overwrite)
    is_race = dfm is not None or ar is not None
    if out is not None:
        check_path(out, RACE_SUFFIXES if is_race else TIMELINE_SUFFIXES)
    prompt = read_text("prompt", prompt)
    settings = given_settings(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        final_temperature=final_temperature,
        top_k=top_k,
        top_p=top_p,
        time_shift=time_shift,
        min_step_size=min_step_size,
        spread_candidates=spread,
        solver=solver,
    )
    seed = secrets.randbelow(2**32) if seed is None else seed
    place = {"device": device, "dtype": dtype and dtype.value}

    steps = given_settings(num_steps=num_steps)
    if ar is not None:
        _check_autoregressive(ar)
    flows = [(load(model, **place), settings | steps)]
    if dfm is not None:
        with _named_as("dfm"):
            undistilled = {name: value for name, value in settings.items() if name != "min_step_size"}
            flows.append((load(dfm, **place), undistilled))
    lanes = [_run_flow(*loaded, prompt, own, seed, warm_up=is_race) for loaded, own in flows]
    if ar is not None:
        num_new = max_new_tokens or sum(lanes[0].counts)
        lanes.append(_run_autoregressive(ar, prompt, num_new, temperature, seed, place))
    if out is None:
        _print_lanes(lanes)
    elif is_race:
        save_race(out, lanes)
    else:
        lanes[0].save(out)
    say(f"Wrote {out} (seed {seed})" if out is not None else f"seed {seed}")


@contextlib.contextmanager
def _named_as(option: str) -> Iterator[None]:
    """Errors about `model` speak of another option."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise type(error)(str(error).replace("`model`", f"`{option}`")) from error


def _check_autoregressive(path: str) -> None:
    """Before any work is done: a folder, the name of a scorer of this package, or what may be a Hub id."""
    from ..hub_configs import available_scorers
    from ..hub_ids import why_no_hub_id

    names = available_scorers()
    if os.path.isdir(path):
        if not os.path.isfile(os.path.join(path, "config.json")):
            raise FileNotFoundError(f"`ar` {path} is no model folder: it has no config.json")
    elif path not in names and (reason := why_no_hub_id(path)):
        raise FileNotFoundError(f"`ar` {path} is no folder, and {reason}; this package has {', '.join(names)}")


def _run_flow(
    model: "FSDFMForDiffusionLM",
    tokenizer: "PreTrainedTokenizerBase",
    prompt: str,
    settings: dict[str, Any],
    seed: int,
    warm_up: bool,
) -> "Timeline":
    import torch

    from ..timeline import StepClock, Timeline

    inputs = _encode(prompt, tokenizer, model.device)
    settings = settings | {"pad_after_eos": bool(prompt) and model.generation_config.eos_token_id is not None}
    if warm_up:  # what happens only once is no part of the race
        model.generate(**inputs, **(settings | {"num_steps": 1}), generator=torch.Generator().manual_seed(seed))
    clock = StepClock()
    output = model.generate(
        **inputs,
        **settings,
        generator=torch.Generator().manual_seed(seed),
        callback_on_step_end=clock,
        return_dict_in_generate=True,
        output_history=True,
    )
    if prompt:
        _cut_at_end(output, len(inputs["input_ids"][0]), model.generation_config.eos_token_id)
    num_steps = len(clock.seconds)
    kind = "FS-DFM" if model.config.step_size_conditioning else "DFM"
    title = f"{kind}, {num_steps:,} {'step' if num_steps == 1 else 'steps'}"
    given = inputs.get("input_ids", torch.zeros((1, 0), dtype=torch.long))
    return Timeline.from_output(output, tokenizer, seconds=clock.seconds, title=title, input_ids=given)


def _cut_at_end(output: "FSDFMGenerationOutput", prompt_length: int, eos_token_id: int | list[int] | None) -> None:
    """In place: nothing after the token that ends the text."""
    ends = {eos_token_id} if isinstance(eos_token_id, int) else set(eos_token_id or ())
    written = output.sequences[0, prompt_length:].tolist()
    end = prompt_length + next((number + 1 for number, token in enumerate(written) if token in ends), len(written))
    output.sequences = output.sequences[:, :end]
    if output.last_changed_step is not None:
        output.last_changed_step = output.last_changed_step[:, :end]
    if output.history is not None:
        output.history = tuple(canvas[:, :end] for canvas in output.history)


def _run_autoregressive(
    path: str, prompt: str, num_new: int, temperature: float | None, seed: int, place: dict[str, str | None]
) -> "Timeline":
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

    from ..devices import find_device
    from ..hub_configs import find_scorer
    from ..timeline import AutoregressiveRun, Timeline

    source = find_scorer(path)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=place["dtype"] or "auto")
    # The decorator that transformers puts around `to` loses its `self` for type checkers.
    model = model.to(find_device(place["device"]))  # type: ignore[arg-type]
    if hasattr(model.config, "step_size_conditioning"):
        raise ValueError(f"`ar` {path} is a DFM or FS-DFM: name it in --dfm")
    tokenizer = AutoTokenizer.from_pretrained(source)
    input_ids = _encode(prompt, tokenizer, model.device).get("input_ids")
    if input_ids is None:
        if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
            raise ValueError("`prompt` is needed with --ar: its tokenizer has no token that begins a text")
        first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        input_ids = torch.tensor([[first]], device=model.device)
    settings = {"do_sample": True, "temperature": temperature or 1.0, "attention_mask": torch.ones_like(input_ids)}
    set_seed(seed)
    model.eval().generate(input_ids=input_ids, max_new_tokens=1, **settings)  # what happens only once
    run = AutoregressiveRun.measure(model, input_ids, max_new_tokens=num_new, **settings)
    num_tokens = len(run.ids) - run.prompt_length
    return Timeline.from_autoregressive(run, tokenizer, title=f"Autoregressive, {num_tokens:,} tokens")


def _encode(prompt: str, tokenizer: "PreTrainedTokenizerBase", device: Any) -> dict[str, Any]:
    """Nothing for an empty prompt; without a space at its end, which the first new token brings along."""
    import torch

    if not prompt:
        return {}
    ids = tokenizer(prompt.removesuffix(" "), add_special_tokens=False)["input_ids"]
    input_ids = torch.tensor([ids], dtype=torch.long, device=device)
    return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


def _print_lanes(lanes: list["Timeline"]) -> None:
    from ._output import write_stdout

    color = None if sys.stdout.isatty() else False
    write_stdout("\n\n".join(lane.to_ansi(color=color) for lane in lanes) + "\n")
