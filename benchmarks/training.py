# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Speed and memory of a distillation step, against the plain way of doing the same and against its floor.

```
python benchmarks/training.py              # seconds and ratios
python benchmarks/training.py --memory     # peak memory above the weights, each in its own process
python benchmarks/training.py --equal      # float32, no dropout: the same loss and the same gradients as the plain step
python benchmarks/training.py --ema        # the update of the average alone
```

The contenders, of the published 170M configuration with random weights of standard deviation 0.02, under autocast:

- `ours`: `FSDFMTrainer.training_step`, and the update of the average.
- `plain`: the teacher and the logits for every row and position, with all the work of the published step that reaches
  no loss (plain_distillation.py); `plain-lean` leaves that work out, and jumps as ours does.
- `floor`: the forwards and backwards that the rows need, and nothing else: the student's backbone and head, forward and
  backward (from a gradient that is there already), four backbone forwards and one head for the rows that have a
  teacher. No loss, no jumps, no average.

A step is: forward, loss, backward, average. Left out, for it is the same for all, is the optimizer. What a step costs
depends on how many of its rows have a teacher: all but those of the finest step size, which is drawn for every other
row. So each number of taught rows is measured, and the expectation under the default weights 1, 2, 4, ..., 1024 is
computed from that: ESTIMATE in the tables. Times and step sizes are drawn anew in each round, the same for all.

All contenders take turns, round after round, in one process. A ratio is taken within a round, between runs that are
neighbours in time; the tables give its median and, in brackets, its smallest and largest value. The plain steps take
part in the first `--slow-rounds` rounds alone.
"""

import argparse
import contextlib
import copy
import math
import statistics
import sys
import tempfile
import time as clock
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from generation import DTYPES, make_model, randomize
from plain_distillation import jump_by_candidates, jump_by_rates, plain_average, plain_loss
from reporting import MIB, process_memory, reset_peak_memory, spread
from script import make_parser, measure_alone, parse, run_mode
from torch import Tensor, nn

from transformers_fsdfm import FSDFMForDiffusionLM
from transformers_fsdfm.trainer.arguments import FSDFMTrainingArguments
from transformers_fsdfm.trainer.dfm_trainer import NoisyBatch
from transformers_fsdfm.trainer.ema import ExponentialMovingAverage
from transformers_fsdfm.trainer.fsdfm_trainer import FSDFMTrainer
from transformers_fsdfm.trainer.noise import CleanBatch, draw_noisy_ids, seeded_generator
from transformers_fsdfm.trainer.step_sizes import StepSizeGrid
from transformers_fsdfm.trainer.teacher_model import copy_as_teacher


SLOW_CONTENDERS = ("plain", "plain-lean")
GRID = StepSizeGrid()  # the default weights
FINEST_STEP_SIZE = GRID.step_size(GRID.finest_level)
DECAY = 0.9995
CLOCKS = {"wall": clock.perf_counter, "cpu": clock.process_time}
TARGETS = {"plain / ours": 2.0, "ours / floor": 1.15, "memory": 0.4, "equal": 1e-5}

Seconds = dict[str, dict[int, list[float]]]  # of each contender and number of taught rows, one a round


# Batches


def draw_batch(args: argparse.Namespace, config: Any, num_taught: int, number: int, length: int) -> NoisyBatch:
    """
    Random text at random times; the same for the same arguments, with fresh generators.

    Args:
        num_taught (`int`): rows with a teacher, whose step sizes have the default weights; the rest have the finest.
        number (`int`): tells the rounds apart.
    """
    generator = seeded_generator("training benchmark", num_taught, number)
    weights = GRID.level_weights().tolist()
    finest_only = [0.0] * GRID.finest_level + [1.0]
    times, step_sizes = [], []
    for num_rows, level_weights in ((num_taught, [*weights[:-1], 0.0]), (args.batch_size - num_taught, finest_only)):
        if num_rows:
            draw = StepSizeGrid(weights=tuple(level_weights)).draw(num_rows, generator, finest_ends_before_one=True)
            times.append(draw.time)
            step_sizes.append(draw.step_size)
    time, step_size = torch.cat(times), torch.cat(step_sizes)
    clean_ids = torch.randint(config.vocab_size, (args.batch_size, length), generator=generator)
    clean = CleanBatch(clean_ids, clean_ids, None)
    generators = [seeded_generator("row", num_taught, number, row) for row in range(args.batch_size)]
    return NoisyBatch(clean, draw_noisy_ids(clean, time, config, generators), time, step_size, generators)


def mix_probability(batch_size: int, num_taught: int) -> float:
    """That so many rows of a batch have a teacher, under the default weights."""
    is_data = float(GRID.level_weights()[-1])
    return math.comb(batch_size, num_taught) * (1 - is_data) ** num_taught * is_data ** (batch_size - num_taught)


# Contenders


class GivenBatchTrainer(FSDFMTrainer):
    """The trainer, on a batch whose random draws have been made."""

    given_batch: NoisyBatch

    def _draw_training_batch(self, inputs: Mapping[str, Tensor]) -> NoisyBatch:
        return self.given_batch


class Ours:
    """What happens between two optimizer steps of [`FSDFMTrainer.train`]."""

    def __init__(self, args: argparse.Namespace):
        self.student = make_model(args, torch.float32).train()
        with tempfile.TemporaryDirectory() as folder:
            self.trainer = GivenBatchTrainer(self.student, trainer_arguments(args, folder))
        self.teacher = self.trainer.teacher = copy_as_teacher(self.student)
        self.wrapped_student = self.trainer.accelerator.prepare_model(self.student)
        self.trainer.ema = ExponentialMovingAverage(self.student, DECAY, self.teacher)
        self.trainer.current_gradient_accumulation_steps = 1

    def step(self, batch: NoisyBatch) -> Tensor:
        loss = self.loss_and_gradients(batch)
        self.trainer.ema.update()
        return loss

    def loss_and_gradients(self, batch: NoisyBatch) -> Tensor:
        self.trainer.given_batch = batch
        return self.trainer.training_step(self.wrapped_student, {"input_ids": batch.clean.clean_ids})


def trainer_arguments(args: argparse.Namespace, folder: str) -> FSDFMTrainingArguments:
    """Defaults but for the size of the batch, the dtype and the device."""
    return FSDFMTrainingArguments(
        folder,
        per_device_train_batch_size=args.batch_size,
        bf16=args.dtype == "bfloat16",
        ema_decay=DECAY,
        use_cpu=True,
        max_steps=1,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
    )


class Plain:
    """The plain step."""

    def __init__(self, args: argparse.Namespace):
        self.autocast = autocast(args)
        self.student = make_model(args, torch.float32).train()
        self.teacher = copy_as_teacher(self.student)
        self.frozen_dfm = make_frozen_dfm(self.student)
        self.jump = jump_by_rates

    def step(self, batch: NoisyBatch) -> Tensor:
        loss = self.loss_and_gradients(batch)
        plain_average(self.teacher, self.student, DECAY)
        return loss

    def loss_and_gradients(self, batch: NoisyBatch) -> Tensor:
        with self.autocast:
            loss = plain_loss(
                self.student,
                self.teacher,
                batch.clean.clean_ids,
                batch.noisy_ids,
                batch.time,
                batch.step_size,
                FINEST_STEP_SIZE,
                batch.generators,
                self.frozen_dfm,
                self.jump,
            )
        loss.backward()
        return loss.detach()


class PlainLean(Plain):
    """The plain step without what reaches no loss, and with the draws of ours."""

    def __init__(self, args: argparse.Namespace):
        super().__init__(args)
        self.frozen_dfm, self.jump = None, jump_by_candidates


class Floor:
    """The forwards and backwards that the rows need."""

    def __init__(self, args: argparse.Namespace):
        self.autocast = autocast(args)
        self.student = make_model(args, torch.float32).train()
        self.teacher = copy_as_teacher(self.student)
        vocab_size = self.student.config.vocab_size
        self.logits_grad = torch.randn(args.batch_size, args.length, vocab_size).to(DTYPES[args.dtype])
        self.logits_grad /= args.batch_size * args.length

    def step(self, batch: NoisyBatch) -> None:
        is_taught = batch.step_size > FINEST_STEP_SIZE
        with self.autocast:
            if is_taught.any():
                self.teach(batch.noisy_ids[is_taught], batch.time[is_taught], batch.step_size[is_taught] / 2)
            logits = self.student(input_ids=batch.noisy_ids, time=batch.time, step_size=batch.step_size).logits
        logits.backward(self.logits_grad[:, : logits.shape[1]])

    @torch.no_grad()
    def teach(self, noisy_ids: Tensor, time: Tensor, half: Tensor) -> None:
        for num_halves in (0, 1, 1, 2):
            now = time + num_halves * half
            hidden_states = self.teacher.model(input_ids=noisy_ids, time=now, step_size=half).last_hidden_state
        self.teacher.lm_head(hidden_states)


CONTENDERS = {"ours": Ours, "plain": Plain, "plain-lean": PlainLean, "floor": Floor}


def autocast(args: argparse.Namespace) -> contextlib.AbstractContextManager:
    """As the trainer does it."""
    return torch.autocast("cpu", torch.bfloat16, enabled=args.dtype == "bfloat16")


def make_frozen_dfm(student: FSDFMForDiffusionLM) -> FSDFMForDiffusionLM:
    """The model that a distillation starts from; the published step leaves it in train mode."""
    config = copy.deepcopy(student.config)
    config.step_size_conditioning = False
    return randomize(FSDFMForDiffusionLM(config)).requires_grad_(False).train()


# Modes


def compare(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds and ratios of the contenders."""
    contenders = {name: CONTENDERS[name](args) for name in args.contenders}
    for contender in contenders.values():
        timed_step(args, contender, max(args.taught_rows), -1)
    seconds: Seconds = {name: defaultdict(list) for name in contenders}
    for number in range(args.rounds):
        for num_taught in args.taught_rows:
            for name, contender in contenders.items():
                if number < (args.slow_rounds if name in SLOW_CONTENDERS else args.rounds):
                    seconds[name][num_taught].append(timed_step(args, contender, num_taught, number))
                    setting = f"{name}, {num_taught} of {args.batch_size} rows taught"
                    print(
                        f"round {number + 1}: {setting}: {seconds[name][num_taught][-1]:.3f} s",
                        file=sys.stderr,
                        flush=True,
                    )
    return comparison_rows(args, seconds)


def timed_step(args: argparse.Namespace, contender: Any, num_taught: int, number: int) -> float:
    """Seconds of one step; drawing the batch and dropping the gradients are not part of it."""
    batch = draw_batch(args, contender.student.config, num_taught, number, args.length)
    contender.student.zero_grad()
    now = CLOCKS[args.clock]
    started = now()
    contender.step(batch)
    return now() - started


def comparison_rows(args: argparse.Namespace, seconds: Seconds) -> list[dict[str, Any]]:
    """A line for each mix of rows and contender, and the expectation over the mixes if all of them were measured."""
    rows = []
    for num_taught in args.taught_rows:
        share = mix_probability(args.batch_size, num_taught)
        of_mix = {name: by_mix[num_taught] for name, by_mix in seconds.items()}
        rows += [comparison_row(args, name, of_mix, f"{num_taught}", f"{share:.1%}") for name in of_mix]
    if set(args.taught_rows) == set(range(args.batch_size + 1)):
        expected = {name: expected_seconds(args.batch_size, by_mix) for name, by_mix in seconds.items()}
        rows += [comparison_row(args, name, expected, "ESTIMATE: expected", "100.0%") for name in expected]
    return rows


def comparison_row(
    args: argparse.Namespace, name: str, seconds: dict[str, list[float]], taught: str, share: str
) -> dict[str, Any]:
    """A line of the table; `seconds` are those of all contenders on the same mix."""
    median = statistics.median(seconds[name])
    return {
        "dtype": args.dtype,
        "batch": f"{args.batch_size} x {args.length}",
        "taught rows": taught,
        "share of steps": share,
        "contender": name,
        "rounds": len(seconds[name]),
        "seconds": median,
        "tokens/s": args.batch_size * args.length / median,
        "time / ours": ratio(seconds, name, "ours"),
        "time / floor": ratio(seconds, name, "floor"),
    }


def expected_seconds(batch_size: int, by_mix: dict[int, list[float]]) -> list[float]:
    """Of each round, the mean over the mixes under the default weights."""
    shares = [mix_probability(batch_size, num_taught) for num_taught in by_mix]
    return [sum(map(float.__mul__, shares, of_round)) for of_round in zip(*by_mix.values(), strict=True)]


def ratio(seconds: dict[str, list[float]], name: str, base: str) -> str:
    """The median of the rounds' ratios, and their range."""
    if base not in seconds or base == name:
        return "1" if base == name else ""
    return spread([mine / theirs for mine, theirs in zip(seconds[name], seconds[base], strict=False)])


def measure_memory(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Peak memory above the weights, each contender and mix in a fresh process."""
    rows = []
    for num_taught in args.taught_rows:
        for contender in args.contenders:
            settings = {"length": args.length, "batch_size": args.batch_size, "dtype": args.dtype}
            rows.append(measure_alone(__file__, contender, args.tiny, **settings, taught_rows=num_taught))
    base = {row["taught rows"]: row["above weights"] for row in rows if row["contender"] == "plain"}
    for row in rows:
        plain = base.get(row["taught rows"])
        row["peak / plain"] = "" if not plain else f"{row['above weights'] / plain:.3f}"
    return rows


def measure_own_memory(args: argparse.Namespace) -> dict[str, Any]:
    """What one contender needs for one step, in MiB; this process runs nothing else.

    A warm-up of one step over a few tokens allocates what libraries set aside once; it is told apart, not subtracted.
    The optimizer has no part in it: the step does not touch its state.
    """
    (num_taught,) = args.taught_rows
    contender = CONTENDERS[args.memory_of](args)
    config = contender.student.config
    models = [value for value in vars(contender).values() if isinstance(value, nn.Module)]
    parameters = {id(parameter): parameter for model in models for parameter in model.parameters()}
    loaded = process_memory("VmRSS")
    contender.step(draw_batch(args, config, num_taught, -1, min(8, args.length)))
    contender.student.zero_grad()
    warm = process_memory("VmRSS")
    reset_peak_memory()
    contender.step(draw_batch(args, config, num_taught, 0, args.length))
    return {
        "dtype": args.dtype,
        "batch": f"{args.batch_size} x {args.length}",
        "taught rows": num_taught,
        "contender": args.memory_of,
        "weights": sum(parameter.nbytes for parameter in parameters.values()) / MIB,
        "process after load": loaded / MIB,
        "warm-up": (warm - loaded) / MIB,
        "gradients": sum(parameter.nbytes for parameter in contender.student.parameters()) / MIB,
        "above weights": (process_memory("VmHWM") - loaded) / MIB,
    }


def check_equality(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Loss and gradients of ours and of the plain step in float32, given the same random numbers."""
    contenders = Ours(args), PlainLean(args)
    for contender in contenders:
        without_dropout(contender.student)
        shift_weights(contender.teacher)
    rows = []
    for num_taught in args.taught_rows:
        for number in range(args.rounds):
            results = [loss_and_gradients(args, contender, num_taught, number) for contender in contenders]
            rows.append(equality_row(args, num_taught, number, *results))
    return rows


def loss_and_gradients(
    args: argparse.Namespace, contender: Any, num_taught: int, number: int
) -> tuple[float, dict[str, Tensor]]:
    """The loss, and the gradient of each parameter."""
    batch = draw_batch(args, contender.student.config, num_taught, number, args.length)
    contender.student.zero_grad()
    loss = contender.loss_and_gradients(batch).item()
    return loss, {name: parameter.grad for name, parameter in contender.student.named_parameters()}


def equality_row(
    args: argparse.Namespace,
    num_taught: int,
    number: int,
    ours: tuple[float, dict[str, Tensor]],
    plain: tuple[float, dict[str, Tensor]],
) -> dict[str, Any]:
    """A line of the table; differences are relative, those of a gradient by its norm."""
    differences = {name: relative_difference(grad, plain[1][name]) for name, grad in ours[1].items()}
    worst = max(differences, key=differences.get)
    loss_difference = abs(ours[0] - plain[0]) / abs(plain[0])
    return {
        "batch": f"{args.batch_size} x {args.length}",
        "taught rows": num_taught,
        "round": number + 1,
        "loss, ours": ours[0],
        "loss, plain": plain[0],
        "loss difference": loss_difference,
        "gradient difference": differences[worst],
        "of parameter": worst,
        "equal": "yes" if max(loss_difference, differences[worst]) <= TARGETS["equal"] else "NO",
    }


def relative_difference(value: Tensor, reference: Tensor) -> float:
    """|value - reference| / |reference|, Euclidean norms."""
    return float((value - reference).double().norm() / reference.double().norm())


def without_dropout(model: nn.Module) -> None:
    """The two steps draw their dropout in different order."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


@torch.no_grad()
def shift_weights(teacher: nn.Module) -> None:
    """Moves a teacher away from its student."""
    generator = torch.Generator().manual_seed(1)
    for parameter in teacher.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)


def compare_averages(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds of an update of the averaged weights."""
    student = make_model(args, torch.float32)
    teacher = copy_as_teacher(student)
    updates, now = average_updates(student, teacher), CLOCKS[args.clock]
    seconds = {name: [] for name in updates}
    for number in range(args.rounds + 1):  # the first one warms up
        for name, update in updates.items():
            started = now()
            update()
            if number:
                seconds[name].append(now() - started)
    traffic = 3 * sum(parameter.nbytes for parameter in student.parameters())
    return [
        {
            "update": name,
            "rounds": args.rounds,
            "seconds": statistics.median(values),
            "GB/s": traffic / statistics.median(values) / 1e9,
            "time / ours": ratio(seconds, name, "ours"),
        }
        for name, values in seconds.items()
    ]


@torch.no_grad()
def average_updates(student: nn.Module, teacher: nn.Module) -> dict[str, Callable[[], None]]:
    """What `--ema` compares, by name."""
    averages = [parameter.data for parameter in teacher.parameters()]
    parameters = [parameter.data for parameter in student.parameters()]

    def lerp_loop() -> None:
        for average, parameter in zip(averages, parameters, strict=True):
            average.lerp_(parameter, 1 - DECAY)

    return {
        "loop of mul_ and add_": lambda: plain_average(teacher, student, DECAY),
        "loop of lerp_": lerp_loop,
        "_foreach_lerp_": lambda: torch._foreach_lerp_(averages, parameters, 1 - DECAY),
        "ours": ExponentialMovingAverage(student, DECAY, teacher).update,
    }


# Report


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser, modes = make_parser(__doc__, CONTENDERS, SLOW_CONTENDERS, slow_rounds=2)
    modes.add_argument("--equal", action="store_true", help="compare losses and gradients; fails if they differ")
    modes.add_argument("--ema", action="store_true", help="seconds of the update of the average")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--taught-rows", nargs="+", type=int, help="mixes to measure (default: 0 to the batch size)")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of autocast")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: for a busy machine, with --threads 1")
    args = parse(parser, argv)
    args.taught_rows = args.taught_rows or list(range(args.batch_size + 1))
    if not all(0 <= num_taught <= args.batch_size for num_taught in args.taught_rows):
        parser.error(f"--taught-rows must be from 0 to the batch size ({args.batch_size})")
    if args.equal:
        args.dtype = "float32"
    return args


def targets(args: argparse.Namespace, rows: list[dict[str, Any]]) -> list[str]:
    """The project's targets, each with what was measured."""
    if args.memory:
        ours = [float(row["peak / plain"]) for row in rows if row["contender"] == "ours" and row["peak / plain"]]
        return [f"Memory of ours / plain: {max(ours):.3f} at worst, target at most {TARGETS['memory']}"] if ours else []
    if args.ema or args.equal:
        return []
    expected = {row["contender"]: row for row in rows if row["taught rows"].startswith("ESTIMATE")}
    lines = []
    if "plain" in expected and expected["plain"]["time / ours"]:
        faster = expected["plain"]["time / ours"]
        lines.append(f"ESTIMATE, plain / ours: {faster}, target at least {TARGETS['plain / ours']}")
    if "ours" in expected and expected["ours"]["time / floor"]:
        slower = expected["ours"]["time / floor"]
        lines.append(f"ESTIMATE, ours / floor: {slower}, target at most {TARGETS['ours / floor']}")
    return lines


def notes(args: argparse.Namespace, rows: list[dict[str, Any]]) -> list[str]:
    """What is to be said below the table."""
    lines = []
    if args.clock == "cpu" and not (args.memory or args.equal):
        lines.append("Seconds are those of the processor (user and system, over all threads), not of the wall clock.")
    if args.memory:
        lines.append(
            "Memory in MiB. `above weights` includes the `gradients` and what libraries set aside at `warm-up`."
        )
    return lines + targets(args, rows)


MODES = {
    "memory_of": measure_own_memory,
    "memory": measure_memory,
    "ema": compare_averages,
    "equal": check_equality,
    "compare": compare,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the chosen mode."""
    args = parse_arguments(argv)
    rows = run_mode(args, MODES, notes)
    if args.equal and any(row["equal"] != "yes" for row in rows):
        raise SystemExit("The steps are not equal")


if __name__ == "__main__":
    main()
