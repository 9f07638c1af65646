# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""`fsdfm convert`."""

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from ._options import DType


# How the library calls what the command calls PATH and OUT
LIBRARY_NAMES = {"checkpoint": "PATH", "model": "PATH", "output": "OUT"}


class Weights(str, Enum):
    """The choices of `--weights`."""

    AUTO = "auto"
    EMA = "ema"
    STUDENT = "student"
    TEACHER = "teacher"


class Source(str, Enum):
    """The choices of `--source-distribution`."""

    UNIFORM = "uniform"
    MASK = "mask"


def convert(
    path: Annotated[
        Path,
        typer.Argument(metavar="PATH", help="The published .pth file; with --to-pth the model folder (or Hub id)."),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The model folder to write; with --to-pth the .pth file.")],
    to_pth: Annotated[bool, typer.Option("--to-pth", help="Convert a model folder to a published file.")] = False,
    weights: Annotated[
        Weights | None, typer.Option(help="Which weights to take: by default ema, or else student, or else teacher.")
    ] = None,
    source_distribution: Annotated[
        Source | None, typer.Option(help="What the model was trained from: uniform by default.")
    ] = None,
    num_attention_heads: Annotated[
        int | None, typer.Option(min=1, help="Needed only where the file does not tell.")
    ] = None,
    max_position_embeddings: Annotated[
        int | None, typer.Option(min=1, help="The length the model was trained on: 1024 by default.")
    ] = None,
    dtype: Annotated[DType | None, typer.Option(help="Of the weights: as in the file by default.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Folder or Hub id of a tokenizer to put beside the weights.")
    ] = None,
    max_shard_size: Annotated[str | None, typer.Option(help="Of a weight file, such as 2GB: 5GB by default.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.")] = False,
) -> None:
    """
    Turn a published .pth checkpoint into a model folder, or back.

    The folder loads with AutoModel.from_pretrained(OUT, trust_remote_code=True). OUT appears when it is complete;
    after an error nothing is left.
    """
    options: dict[str, Any] = {
        "weights": weights and weights.value,
        "source_distribution": source_distribution and source_distribution.value,
        "num_attention_heads": num_attention_heads,
        "max_position_embeddings": max_position_embeddings,
        "dtype": dtype and dtype.value,
        "tokenizer": tokenizer,
        "max_shard_size": max_shard_size,
    }
    options = {name: value for name, value in options.items() if value is not None}
    if to_pth and options:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in options)
        raise typer.BadParameter(f"{names} cannot go with it", param_hint="--to-pth")

    from ..conversion import convert_published_checkpoint, export_published_checkpoint
    from ._output import say

    if to_pth:
        export_published_checkpoint(path, out, overwrite=overwrite)
        typer.echo(f"Wrote {out}")
        return
    result = convert_published_checkpoint(path, out, overwrite=overwrite, **options)
    if max_position_embeddings is None:
        length = result.config.max_position_embeddings
        say(f"The file does not tell the length of the training texts: assumed {length} (--max-position-embeddings)")
    kind = "an FS-DFM" if result.config.step_size_conditioning else "a DFM"
    typer.echo(f"Wrote {out}: {kind} of {result.num_parameters / 1e6:,.1f}M parameters, from {result.entry}")
