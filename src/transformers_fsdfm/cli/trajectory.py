# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""`fsdfm trajectory`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import _options as options


if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from ..modeling_fsdfm import FSDFMForDiffusionLM

USUAL_LENGTHS = (128, 256, 512, 1024)
USUAL_STEPS = tuple(2**exponent for exponent in range(10))
NUMBER_LISTS = ("steps", "start_times", "lengths")
LIBRARY_NAMES = {"num_steps": "--steps", "source": "--data", "documents": "--data", "block_size": "--lengths"}
TEXT_SEED = 30624  # of the choice of texts, the same in every run


def trajectory(
    data: Annotated[
        list[str], typer.Option("--data", metavar="FILE", help="Real text that starts the runs. May be given again.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where results and plots go; goes on there.")],
    model: options.ModelOption = None,
    reference: Annotated[
        str | None,
        typer.Option("--reference", metavar="PATH", help="The model of the many steps: by default the same."),
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(
            "--steps",
            "--num-steps",
            metavar="N,N...",
            help="Numbers of steps from t = 0 to 1; each divides the many. By default those of 1, 2, 4 ... 512.",
        ),
    ] = None,
    num_fine_steps: Annotated[int, typer.Option("--num-fine-steps", metavar="N", min=1, help="The many steps.")] = 1024,
    start_times: Annotated[
        str | None,
        typer.Option(
            "--start-times", metavar="T,T...", help="The times t of the noisy text to start from: by default 0,0.5."
        ),
    ] = None,
    lengths: Annotated[
        str | None,
        typer.Option("--lengths", metavar="N,N...", help="Tokens of a text: by default 128, 256 ... as trained."),
    ] = None,
    num_texts: Annotated[int, typer.Option("--num-texts", metavar="N", min=1, help="Texts of each length.")] = 8,
    num_rollouts: Annotated[
        int, typer.Option("--num-rollouts", metavar="N", min=2, help="Runs from each noisy text.")
    ] = 64,
    batch_size: Annotated[int, typer.Option("--batch-size", metavar="N", min=1, help="Runs at a time.")] = 64,
    solver: options.SolverOption = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Of all random numbers.")] = 0,
    device: options.DeviceOption = None,
    dtype: options.DTypeOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """
    Measure whether errors compound: few steps against many, from the same noisy text.

    Writes trajectory.json and plots; docs/error_growth.md says what is measured. A run that was stopped goes on where
    it was when it is started again.

    \b
    Example:
      fsdfm trajectory --model my-fsdfm --reference my-dfm --data valid.txt --out growth
    """
    from ..optional import require
    from ..trajectory import TrajectorySettings, measure_error_growth, summarize, write_report
    from ._model import load
    from ._output import write_stdout

    given: dict[str, Any] = {}
    if start_times is not None:
        given["start_times"] = tuple(_numbers("start_times", start_times, float))
    if solver is not None:
        given["solver"] = solver.value
    few = [number for number in USUAL_STEPS if number < num_fine_steps and num_fine_steps % number == 0]
    settings = TrajectorySettings(
        steps=tuple(few if steps is None else _numbers("steps", steps, int)),
        num_fine_steps=num_fine_steps,
        num_rollouts=num_rollouts,
        seed=seed,
        batch_size=batch_size,
        **given,
    )
    wanted = None if lengths is None else _numbers("lengths", lengths, int)
    require("eval", "matplotlib", what="A plot")  # before hours of work, not after
    dtype_name = None if dtype is None else dtype.value
    loaded, tokenizer = load(model, device=device, dtype=dtype_name)
    judge = None if reference is None else _load_reference(reference, device, dtype_name)
    if wanted is None:
        trained = loaded.config.max_position_embeddings
        wanted = [length for length in USUAL_LENGTHS if length <= trained] or [trained]
    texts = {length: _texts(data, tokenizer, length, num_texts) for length in wanted}

    results = measure_error_growth(loaded, texts, out, settings, judge)
    names = {"model": model or "the checkpoint of the package", "reference": reference or "the model itself"}
    texts_of = {"data": data, "lengths": wanted, "num_texts": num_texts}
    files = write_report(results, out, {**names, **texts_of, **asdict(settings)})
    tables = summarize(results)
    text = json.dumps(tables["by_steps"], indent=2) if as_json else _table(tables["by_steps"], files)
    write_stdout(text + "\n")


def _load_reference(path: str, device: str | None, dtype: str | None) -> "FSDFMForDiffusionLM":
    from ._model import load

    try:
        return load(path, device=device, dtype=dtype)[0]
    except (OSError, ValueError) as error:  # which speak of `model`, as for the other one
        raise ValueError(str(error).replace("`model`", "`reference`")) from error


def _numbers(name: str, text: str, kind: type) -> list[Any]:
    try:
        return [kind(part) for part in text.rstrip(",").split(",")]
    except ValueError as error:
        raise ValueError(f"`{name}` must be numbers with commas between them, but is {text!r}") from error


def _texts(data: list[str], tokenizer: "PreTrainedTokenizerBase", length: int, num_texts: int) -> "Tensor":
    """Blocks of the packed text, `(num_texts, length)`, chosen at random, always the same ones."""
    import numpy as np
    import torch

    from ..trainer.data import as_source, load_documents
    from ..trainer.packing import pack_documents

    blocks = pack_documents(load_documents(as_source(data)), tokenizer, length)
    if len(blocks) < num_texts:
        raise ValueError(
            f"`data` has {len(blocks)} blocks of {length} tokens, fewer than `num_texts` ({num_texts}): give more "
            "text, or lower `num_texts` or `lengths`"
        )
    chosen = np.sort(np.random.default_rng(TEXT_SEED).choice(len(blocks), num_texts, replace=False))
    return torch.tensor(np.stack([blocks[int(number)]["input_ids"] for number in chosen]), dtype=torch.long)


def _table(rows: list[dict[str, Any]], files: list[Path]) -> str:
    columns = {
        "length": "length",
        "start_time": "from t",
        "num_steps": "steps",
        "local_kl_lower": "one step: KL >=",
        "local_kl_upper": "<=",
        "squared_distance": "at the end: squared distance",
        "differing_positions": "positions differ",
        "differing_share": "share",
        "floor_share": "share, independent",
    }
    lines = [list(columns.values()), *([f"{row[name]:.4g}" for name in columns] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(columns))]
    table = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    return "\n".join([*table, "KL in nats per position. Wrote:", *map(str, files)])
