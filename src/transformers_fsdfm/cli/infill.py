# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""`fsdfm infill`."""

from typing import TYPE_CHECKING, Annotated

import typer

from . import _options as options
from ._sampling import LIBRARY_NAMES as SAMPLING_NAMES
from ._sampling import Part, given_settings, put_out, sample


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LIBRARY_NAMES = SAMPLING_NAMES | {"input_ids": "TEXT"}


def infill(
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="With a blank ___N___ or more; - reads it from standard input.")
    ],
    model: options.ModelOption = None,
    num_steps: options.NumStepsOption = None,
    temperature: options.TemperatureOption = None,
    final_temperature: options.FinalTemperatureOption = None,
    top_k: options.TopKOption = None,
    top_p: options.TopPOption = None,
    time_shift: options.TimeShiftOption = None,
    min_step_size: options.MinStepSizeOption = None,
    spread: options.SpreadOption = None,
    solver: options.SolverOption = None,
    max_time: options.MaxTimeOption = None,
    seed: options.SeedOption = None,
    num_samples: options.NumSamplesOption = 1,
    as_json: options.JsonOption = False,
    out: options.OutOption = None,
    overwrite: options.OverwriteOption = False,
    device: options.DeviceOption = None,
    dtype: options.DTypeOption = None,
) -> None:
    """
    Fill in the blanks of a text.

    ___12___ is a blank of 12 tokens; all else comes out as it was given. Where three or more underscores are text,
    write them with backslashes: \\_\\_\\_.

    \b
    Examples:
      fsdfm infill "Once upon a time ___12___ went home."
      fsdfm infill "The ___1___ saw a ___1___ and ___20___" --num-samples 3 --seed 1
      fsdfm infill - --json < letter.txt
    """
    from ._live import LiveDrafts
    from ._model import DEFAULT_CHECKPOINT, load
    from ._output import check_target, read_text

    check_target(out, overwrite)
    text = read_text("text", text)
    with LiveDrafts(wanted=not as_json) as live:
        live.note("Loading ...")
        from ..infilling import blanks_to_ids, require_blanks

        require_blanks(text)
        settings = given_settings(
            num_steps=num_steps,
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
        inputs = blanks_to_ids(text, tokenizer)
        given = (~inputs["editable_mask"][0]).tolist()
        samples = sample(loaded, tokenizer, inputs, given, settings, seed, live)
    texts = [_parts(text, ids, tokenizer) for ids in samples.ids]
    put_out({"model": model or DEFAULT_CHECKPOINT, "template": text}, samples, texts, as_json, out, overwrite)


def _parts(text: str, ids: list[int], tokenizer: "PreTrainedTokenizerBase") -> list[Part]:
    """Pieces of the text and contents of its blanks, in turn."""
    from ..infilling import blank_contents, split_blanks

    pieces, _ = split_blanks(text)
    parts = [Part(pieces[0], is_given=True)]
    for content, piece in zip(blank_contents(text, ids, tokenizer), pieces[1:], strict=True):
        parts += [Part(content, is_given=False), Part(piece, is_given=True)]
    return parts
