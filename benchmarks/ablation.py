# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
r"""What each part of FS-DFM contributes: variants trained from one DFM at equal compute, under several seeds.

```
python benchmarks/ablation.py --data train.txt --validation-data valid.txt --output-dir runs/ablation \
    --json ablation.json --markdown ablation.md
```

Both files hold documents between lines `<|endoftext|>`. From the first come a tokenizer, a DFM and a scorer (an
autoregressive model); then, seed after seed, every variant is trained from the DFM, samples with 1, 2, 4, 8, 16 and
many steps, and is scored. `--tiny` does the same in seconds with models that learn nothing.

**Equal compute.** The budget is what the full variant costs in `--steps` optimizer steps. Cost is counted in runs of
the backbone: a forward of a row counts 1, a backward 2. A row costs 3 for the student, and the calls of its teacher if
it has one: 4 with RK-4, 2 with RK-2; rows of the finest step size have none. Variants with cheaper steps are trained
for more of them, on the same batches in the same order as far as they go; a table gives both numbers, and the seconds
of a run. The training of the DFM is not counted, for all start from it. No variant has settings of its own beyond what
it is about: in particular all have the same learning rate.

**Paired.** Under a seed all variants see the same data, times, step sizes (as far as the policy is the same) and noise,
and text number i is sampled from the same random numbers by all.

**Uncertainty.** Brackets are 95 % intervals over texts (BCa bootstrap, texts of all seeds together), which take the
trained models as given; SD is the standard deviation over training seeds; "over seeds" is a 95 % interval of the ratio
of two trainings (Student's t on the logarithms, paired by seed), wide with three seeds. In the overview, a cell is bold
where both intervals leave out 1; nothing is corrected for the number of cells.

**Resuming.** A piece of work (DFM, scorer, each training, each set of samples) is there when it is complete, and is
never done twice; the same command goes on where it was stopped. `--max-hours` begins nothing that would not end in
time. Several processes with the same command share the work: each takes what no other is at, and all end with the
tables. On CPUs that is faster than threads. Of a training that was killed, a folder `.unfinished-*` may be left, which
nothing reads.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ablation_scores import FEW_STEPS, Result
from ablation_table import cost_rows, cost_table, overview, quality_rows, quality_table
from ablation_variants import TINY, VARIANTS, Scale
from ablation_work import Ablation, TimeLimit, work
from reporting import describe_machine, markdown, write_json
from transformers.utils import logging

from transformers_fsdfm.evaluation.statistics import MIN_UNITS


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options; those of [`Scale`] as `args.scale`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="text file to train on")
    parser.add_argument("--validation-data", required=True, help="text file for the scorer and the row of real text")
    parser.add_argument("--output-dir", required=True, type=Path, help="folder of models and results")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the trainings (default: 0 1 2)")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--max-hours", type=float, help="stop in time; the same command goes on later")
    parser.add_argument("--json", help="write machine, options and all numbers to this file")
    parser.add_argument("--markdown", help="write the tables to this file")
    parser.add_argument("--threads", type=int, help="torch's threads (default: torch's choice)")
    parser.add_argument("--tiny", action="store_true", help="sizes at which nothing is learned, to try the script")
    sizes = parser.add_argument_group("sizes")
    for field in dataclasses.fields(Scale):
        tiny = f", with --tiny {getattr(TINY, field.name)}"
        option = f"--{field.name.replace('_', '-')}"
        sizes.add_argument(option, type=field.type, metavar="N", help=f"default: {field.default}{tiny}")
    args = parser.parse_args(argv)
    given = {field.name: getattr(args, field.name) for field in dataclasses.fields(Scale)}
    changes = {name: value for name, value in given.items() if value is not None}
    args.scale = dataclasses.replace(TINY if args.tiny else Scale(), **changes)
    _check(parser, args)
    return args


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    for option in ("data", "validation_data"):
        if not Path(getattr(args, option)).is_file():
            parser.error(f"--{option.replace('_', '-')}: there is no file {getattr(args, option)}")
    if args.scale.samples < MIN_UNITS:
        parser.error(f"--samples must be at least {MIN_UNITS}, or there are no intervals, but got {args.scale.samples}")
    if args.scale.many_steps <= max(FEW_STEPS):
        parser.error(
            f"--num-levels must be at least 6, more than {max(FEW_STEPS)} steps, but got {args.scale.num_levels}"
        )
    if args.scale.steps < 1:
        parser.error(f"--steps must be at least 1, but got {args.scale.steps}")
    if len(set(args.seeds)) < len(args.seeds):
        parser.error(f"--seeds must differ, but got {args.seeds}")
    if args.max_hours is not None and not args.max_hours > 0:
        parser.error(f"--max-hours must be > 0, but got {args.max_hours}")


def tables(ablation: Ablation, quality: list[dict[str, Any]], cost: list[dict[str, Any]], num_left: int) -> str:
    """All that is said at the end, in Markdown."""
    scale = ablation.scale
    begun = f"{describe_machine()}\n\nseeds {list(ablation.seeds)}, {scale}\n"
    left = [f"\n**Not complete: {num_left} pieces of work are left.**\n"] if num_left else []
    meanings = [{"variant": name, "what differs from full": VARIANTS[name].description} for name in ablation.variants]
    parts = [
        *("\nPerplexity by number of steps (x ratio to full; bold: both intervals leave out 1):\n", overview(quality)),
        *("\nAll measures, with 95 % intervals and SD over training seeds:\n", quality_table(quality)),
        *("\nWhat a training costs, for one row of every batch:\n", cost_table(cost)),
        *("\nThe variants:\n", meanings),
    ]
    texts = [part if isinstance(part, str) else markdown(part) for part in parts]
    return "\n".join([begun, *left, *texts])


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is left of the work and prints the tables."""
    args = parse_arguments(argv)
    logging.disable_progress_bar()
    if args.threads:
        torch.set_num_threads(args.threads)
    sizes = {"scale": args.scale, "seeds": tuple(args.seeds), "variants": tuple(args.variants)}
    ablation = Ablation(args.output_dir, args.data, args.validation_data, **sizes)
    try:
        ablation.claim_folder()
    except ValueError as error:
        raise SystemExit(str(error)) from None
    num_left = work(ablation.jobs(), TimeLimit(args.max_hours), args.output_dir)
    if num_left:
        print(f"{num_left} pieces of work are left; the same command goes on with them")
    results = ablation.results()
    if not results:
        return
    real = Result.read(ablation.real_file).scores[0]
    quality = quality_rows(results, real)
    cost = cost_rows(ablation.plans(), ablation.seconds())
    text = tables(ablation, quality, cost, num_left)
    print(f"\n{text}")
    if args.markdown:
        Path(args.markdown).write_text(text + "\n", encoding="utf-8")
    if args.json:
        write_json(args.json, {**vars(args), "scale": dataclasses.asdict(args.scale)}, [*quality, *cost])


if __name__ == "__main__":
    main()
