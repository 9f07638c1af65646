# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Options that several commands have, so that they are called and explained the same everywhere."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class DType(str, Enum):
    """The choices of `--dtype`."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class Solver(str, Enum):
    """The choices of `--solver`."""

    CUMULATIVE_SCALAR = "cumulative_scalar"
    EULER = "euler"
    POSTERIOR = "posterior"


MODEL_HELP = "Model folder or Hub id. By default the checkpoint that comes with the package."

ModelOption = Annotated[str | None, typer.Option("--model", "-m", metavar="PATH", help=MODEL_HELP)]
NumStepsOption = Annotated[
    int | None,
    typer.Option("--steps", "--num-steps", metavar="N", min=1, help="Steps, by default those of the checkpoint."),
]
TemperatureOption = Annotated[
    float | None,
    typer.Option("--temperature", metavar="X", help="Divides the logits. By default that of the checkpoint."),
]
FinalTemperatureOption = Annotated[
    float | None,
    typer.Option(
        "--final-temperature",
        metavar="X",
        help="That of the last quarter; 0 takes the likeliest tokens. By default the checkpoint's, if any.",
    ),
]
TopKOption = Annotated[int | None, typer.Option("--top-k", metavar="K", min=1, help="Keep the K likeliest tokens.")]
TopPOption = Annotated[
    float | None, typer.Option("--top-p", metavar="P", help="Keep the likeliest tokens, of total probability P.")
]
TimeShiftOption = Annotated[
    float | None,
    typer.Option("--time-shift", metavar="X", help="Above 1: smaller steps at the end, larger ones at the beginning."),
]
MinStepSizeOption = Annotated[
    float | None,
    typer.Option(
        "--min-step-size",
        metavar="X",
        help="The network is told of no smaller step than X. By default the checkpoint's, if any.",
    ),
]
SpreadOption = Annotated[
    bool | None,
    typer.Option(
        "--spread/--no-spread",
        "--spread-candidates/--no-spread-candidates",
        help="Whether tokens that change in the same step mostly stand apart. By default as the checkpoint says.",
    ),
]
SolverOption = Annotated[
    Solver | None, typer.Option("--solver", help="How a step is taken: by default cumulative-scalar.")
]
MaxTimeOption = Annotated[
    float | None, typer.Option("--max-time", metavar="SECONDS", help="Take fewer steps if they would last longer.")
]
SeedOption = Annotated[
    int | None,
    typer.Option("--seed", metavar="N", min=0, max=2**63 - 1, help="The same seed, the same text. By default drawn."),
]
NumSamplesOption = Annotated[int, typer.Option("--num-samples", metavar="N", min=1, help="Texts to write.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
OutOption = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write the result to FILE instead.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace FILE.")]
DeviceOption = Annotated[
    str | None, typer.Option("--device", metavar="NAME", help="cpu, cuda, cuda:1 ... By default an accelerator.")
]
DTypeOption = Annotated[DType | None, typer.Option("--dtype", help="Of the weights: by default that of config.json.")]
