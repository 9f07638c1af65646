# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Speed and memory of `generate`, against the plain way of doing the same and against an autoregressive model.

```
python benchmarks/generation.py                            # seconds and ratios: ours, plain, floor, gpt2
python benchmarks/generation.py --memory                   # peak memory above the weights, each in its own process
python benchmarks/generation.py --forward-profile          # the forward against its matrix products and attention
python benchmarks/generation.py --scaling growth.csv --plot growth.png         # growth with steps and with length
```

The contenders, all with random weights of standard deviation 0.02, so that the posterior is spread:

- `ours`: `model.generate`, of the published 170M configuration.
- `plain`: the same model and law, but logits, posterior and rates for every position at every step (plain_sampler.py);
  `plain-everywhere` also draws a token at every position in every step, and not only where one jumps.
- `floor`: nothing but the backbone's forwards, one for each step.
- `gpt2`: `GPT2LMHeadModel.generate` of the same size with a KV cache, sampling one token after the other.

All contenders of a batch size and a dtype take turns, round after round, in one process. A ratio is taken within a
round, between runs that are neighbours in time; the tables give its median and, in brackets, its smallest and largest
value. The slow ones, the plain samplers and `gpt2`, take part in the first `--slow-rounds` rounds alone.
"""

import argparse
import csv
import functools
import statistics
import sys
import time as clock
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from plain_sampler import plain_generate
from reporting import MIB, process_memory, reset_peak_memory, spread
from script import make_parser, measure_alone, parse, run_mode
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel
from transformers.utils import is_matplotlib_available

from transformers_fsdfm import FSDFMConfig, FSDFMForDiffusionLM, available_configs


CONTENDERS = ("ours", "plain", "plain-everywhere", "floor", "gpt2")
SLOW_CONTENDERS = ("plain", "plain-everywhere", "gpt2")
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
TINY_SIZES = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


# Models


def make_model(args: argparse.Namespace, dtype: torch.dtype) -> FSDFMForDiffusionLM:
    """The 170M configuration (or a tiny one) with random weights; a text of `--length` tokens is one window."""
    if args.tiny:
        config = FSDFMConfig(**TINY_SIZES, conditioning_size=16)
    else:
        folder = available_configs().get("fsdfm-170m")
        config = FSDFMConfig.from_pretrained(folder) if folder else FSDFMConfig()
    config.max_position_embeddings = args.length
    return randomize(FSDFMForDiffusionLM._from_config(config, dtype=dtype)).eval()


def make_gpt2(args: argparse.Namespace, dtype: torch.dtype) -> GPT2LMHeadModel:
    """GPT-2 small (or a tiny one) with random weights, which never ends a text early."""
    names = ("vocab_size", "n_embd", "n_layer", "n_head")
    sizes = dict(zip(names, TINY_SIZES.values(), strict=True)) if args.tiny else {}
    config = GPT2Config(n_positions=max(args.length, 1024), bos_token_id=None, eos_token_id=None, **sizes)
    return randomize(GPT2LMHeadModel._from_config(config, dtype=dtype)).eval()


@torch.no_grad()
def randomize(model: PreTrainedModel) -> PreTrainedModel:
    """Normal weights and biases everywhere, in the zero-initialised layers too; the scales of the norms stay 1."""
    torch.manual_seed(0)
    for module in model.modules():
        if not isinstance(module, nn.LayerNorm):
            for parameter in module.parameters(recurse=False):
                parameter.normal_(std=0.02)
    return model


def compiled_twin(model: FSDFMForDiffusionLM) -> FSDFMForDiffusionLM:
    """A second model on the same weights, whose backbone is compiled."""
    with torch.device("meta"):
        twin = FSDFMForDiffusionLM(model.config)
    twin.load_state_dict(model.state_dict(), assign=True)
    twin.eval().model.compile()
    return twin


# Contenders


def run_ours(model: FSDFMForDiffusionLM, steps: int, batch_size: int, length: int) -> None:
    """`model.generate` as a user calls it."""
    model.generate(num_steps=steps, max_length=length, num_return_sequences=batch_size)


def run_plain(model: FSDFMForDiffusionLM, steps: int, batch_size: int, length: int) -> None:
    """The same law, the plain way."""
    plain_generate(model, steps, batch_size, length)


def run_plain_everywhere(model: FSDFMForDiffusionLM, steps: int, batch_size: int, length: int) -> None:
    """The same, with a draw for every position and step."""
    plain_generate(model, steps, batch_size, length, draw_everywhere=True)


@torch.no_grad()
def run_floor(model: FSDFMForDiffusionLM, steps: int, batch_size: int, length: int) -> None:
    """One forward of the backbone for each step."""
    ids = torch.randint(model.config.vocab_size, (batch_size, length))
    step_size = torch.tensor([1 / steps]) if model.config.step_size_conditioning else None
    for step in range(steps):
        model.model(input_ids=ids, time=torch.tensor([step / steps]), step_size=step_size)


def run_gpt2(model: GPT2LMHeadModel, steps: int | None, batch_size: int, length: int) -> None:
    """`length - 1` tokens after one start token; `steps` means nothing here."""
    start = torch.zeros((batch_size, 1), dtype=torch.long)
    ids = model.generate(
        start,
        attention_mask=torch.ones_like(start),
        max_new_tokens=length - 1,
        do_sample=True,
        top_k=0,
        use_cache=True,
        pad_token_id=0,
    )
    if ids.shape[1] != length:
        raise RuntimeError(f"GPT-2 stopped after {ids.shape[1]} of {length} tokens")


RUN = {
    "ours": run_ours,
    "plain": run_plain,
    "plain-everywhere": run_plain_everywhere,
    "floor": run_floor,
    "gpt2": run_gpt2,
}


@dataclass
class Job:
    """One contender at one setting, and the seconds of each round that it took part in."""

    contender: str
    dtype: str
    batch_size: int
    steps: int | None
    run: Callable[[], Any]
    warm_up: Callable[[], Any]
    rounds: int
    tokens: int
    run_steps: int | None = None  # fewer than `steps` if the seconds are scaled up
    seconds: list[float] = field(default_factory=list)

    @property
    def note(self) -> str:
        """What the reader must know about the numbers."""
        if self.run_steps != self.steps:
            return f"ESTIMATE: {self.run_steps} steps run, time multiplied by {self.steps / self.run_steps:g}"
        return "one run for any number of steps" if self.steps is None else ""

    def measure(self) -> None:
        """Runs once and notes the seconds."""
        started = clock.perf_counter()
        self.run()
        scale = 1 if self.steps is None else self.steps / self.run_steps
        self.seconds.append((clock.perf_counter() - started) * scale)

    def row(self, peers: dict[str, "Job"], steps: int) -> dict[str, Any]:
        """A line of the table, among those of a number of steps."""
        median = statistics.median(self.seconds)
        return {
            "dtype": self.dtype,
            "batch": self.batch_size,
            "steps": steps,
            "contender": self.contender,
            "rounds": len(self.seconds),
            "seconds": median,
            "tokens/s": self.tokens / median,
            "time / ours": ratio(self, peers.get("ours")),
            "time / floor": ratio(self, peers.get("floor")),
            "note": self.note,
        }


def ratio(job: Job, base: Job | None) -> str:
    """The median of the rounds' ratios, and their range."""
    if base is None or base is job:
        return "1" if base is job else ""
    return spread([mine / theirs for mine, theirs in zip(job.seconds, base.seconds, strict=False)])


def take_turns(jobs: Sequence[Job], rounds: int) -> None:
    """Warms every job up, then runs them one after the other, round after round."""
    with torch.no_grad():
        for job in jobs:
            job.warm_up()
        for number in range(rounds):
            for job in jobs:
                if number < job.rounds:
                    job.measure()
                    steps = "" if job.steps is None else f", {job.steps} steps"
                    setting = f"{job.contender}, {job.dtype}, batch {job.batch_size}{steps}"
                    print(f"round {number + 1}: {setting}: {job.seconds[-1]:.3f} s", file=sys.stderr, flush=True)


# Modes


def compare(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds, tokens per second and ratios of the contenders."""
    rows = []
    for dtype in args.dtypes:
        models = make_models(args, DTYPES[dtype])
        for batch_size in args.batch_sizes:
            if args.compile:
                models |= compiled_models(args, models)
            jobs = list(comparison_jobs(args, models, dtype, batch_size))
            take_turns(jobs, args.rounds)
            for steps in args.steps:
                peers = {job.contender: job for job in jobs if job.steps in (steps, None)}
                rows += [job.row(peers, steps) for job in peers.values()]
    return rows


def make_models(args: argparse.Namespace, dtype: torch.dtype) -> dict[str, PreTrainedModel]:
    """The model of each contender; those of ours, the plain sampler and the floor are one."""
    model = make_model(args, dtype)
    models = dict.fromkeys(args.contenders, model)
    if "gpt2" in models:
        models["gpt2"] = make_gpt2(args, dtype)
    return models


def compiled_models(args: argparse.Namespace, models: dict[str, PreTrainedModel]) -> dict[str, PreTrainedModel]:
    """Ours and the floor once more, compiled anew: a second batch size would give kernels for any shape."""
    torch.compiler.reset()
    return {f"{name} (compiled)": compiled_twin(models[name]) for name in args.contenders if name in ("ours", "floor")}


def comparison_jobs(
    args: argparse.Namespace, models: dict[str, PreTrainedModel], dtype: str, batch_size: int
) -> Iterator[Job]:
    """One job for each contender and number of steps; GPT-2 has no steps."""
    for steps in (*args.steps, None):
        for contender, model in models.items():
            if (contender == "gpt2") != (steps is None):
                continue
            name = contender.split()[0]
            run_steps = min(steps, args.plain_max_steps or steps) if name.startswith("plain") else steps
            warm_up_length = min(8, args.length) if name == "gpt2" else args.length
            yield Job(
                contender=contender,
                dtype=dtype,
                batch_size=batch_size,
                steps=steps,
                run=functools.partial(RUN[name], model, run_steps, batch_size, args.length),
                warm_up=functools.partial(RUN[name], model, 1, batch_size, warm_up_length),
                rounds=args.slow_rounds if name in SLOW_CONTENDERS else args.rounds,
                tokens=batch_size * (args.length - (name == "gpt2")),
                run_steps=run_steps,
            )


class MatrixProducts(nn.Module):
    """The matrix products and attention of the backbone, one feeding the next, with nothing in between."""

    def __init__(self, model: FSDFMForDiffusionLM):
        super().__init__()
        self.layers = model.model.layers
        self.head_dim = model.config.head_dim

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(batch, length, hidden) -> the same shape. No norm, modulation, rotary, activation, gate nor residual."""
        split_heads = (*hidden_states.shape[:-1], -1, self.head_dim)
        for layer in self.layers:
            attention, mlp = layer.self_attn, layer.mlp
            projections = (attention.q_proj, attention.k_proj, attention.v_proj)
            query, key, value = (linear(hidden_states).view(split_heads).transpose(1, 2) for linear in projections)
            attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2)
            hidden_states = mlp.down_proj(mlp.up_proj(attention.o_proj(attended.reshape(hidden_states.shape))))
        return hidden_states


def profile_forward(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The backbone's forward against its matrix products and attention alone; with `--compile` also compiled."""
    rows = []
    for dtype in args.dtypes:
        model = make_model(args, DTYPES[dtype])
        for batch_size in args.batch_sizes:
            jobs = [
                Job(name, dtype, batch_size, 1, call, call, args.rounds, batch_size * args.length, run_steps=1)
                for name, call in profile_calls(args, model, batch_size).items()
            ]
            take_turns(jobs, args.rounds)
            rows += [profile_row(job, jobs) for job in jobs]
    return rows


def profile_calls(
    args: argparse.Namespace, model: FSDFMForDiffusionLM, batch_size: int
) -> dict[str, Callable[[], Any]]:
    """What the profile compares, by name."""
    hidden_states = torch.randn(batch_size, args.length, model.config.hidden_size).to(model.dtype)
    calls = {
        "products": functools.partial(MatrixProducts(model), hidden_states),
        "forward": functools.partial(run_floor, model, 1, batch_size, args.length),
    }
    if args.compile:
        torch.compiler.reset()
        products = MatrixProducts(model)
        products.compile()
        calls["products (compiled)"] = functools.partial(products, hidden_states)
        calls["forward (compiled)"] = functools.partial(run_floor, compiled_twin(model), 1, batch_size, args.length)
    return calls


def profile_row(job: Job, jobs: Sequence[Job]) -> dict[str, Any]:
    """A line of the forward's profile."""
    by_name = {other.contender: other for other in jobs}
    return {
        "dtype": job.dtype,
        "batch": job.batch_size,
        "call": job.contender,
        "rounds": len(job.seconds),
        "seconds": statistics.median(job.seconds),
        "time / products": ratio(job, by_name["products"]),
        "time / products (compiled)": ratio(job, by_name.get("products (compiled)")),
    }


def measure_scaling(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds of `generate` for growing numbers of steps, and for growing lengths."""
    rows = []
    for dtype in args.dtypes:
        model = make_model(args, DTYPES[dtype])
        trained_length = args.length
        settings = [("steps", steps, args.length, args.length) for steps in args.scaling_steps]
        settings += [("length", 8, length, length) for length in args.scaling_lengths]
        beyond = [length for length in args.scaling_lengths if length > trained_length]
        settings += [("length, in windows", 8, length, trained_length) for length in beyond]
        for axis, steps, length, window in settings:
            rows += [
                scaling_row(model, args.rounds, batch_size, dtype, axis, steps, length, window)
                for batch_size in args.batch_sizes
            ]
    if args.scaling != "-":
        with open(args.scaling, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
    if args.plot:
        plot_scaling(rows, args.plot)
    return rows


def scaling_row(
    model: FSDFMForDiffusionLM,
    rounds: int,
    batch_size: int,
    dtype: str,
    axis: str,
    steps: int,
    length: int,
    window: int,
) -> dict[str, Any]:
    """A line of the scaling table. `window` is the number of tokens that the network sees at once."""
    model.config.max_position_embeddings = window
    seconds, evaluations = [], []
    run_ours(model, 1, batch_size, length)
    for _ in range(rounds):
        started = clock.perf_counter()
        output = model.generate(
            num_steps=steps, max_length=length, num_return_sequences=batch_size, return_dict_in_generate=True
        )
        seconds.append(clock.perf_counter() - started)
        evaluations.append(output.num_function_evaluations)
    print(f"{axis}: {steps} steps, {length} tokens: {seconds[-1]:.3f} s", file=sys.stderr, flush=True)
    return {
        "axis": axis,
        "dtype": dtype,
        "batch": batch_size,
        "steps": steps,
        "length": length,
        "window": window,
        "rounds": rounds,
        "seconds": statistics.median(seconds),
        "fastest": min(seconds),
        "slowest": max(seconds),
        "network calls": statistics.median(evaluations),
    }


def plot_scaling(rows: Sequence[dict[str, Any]], path: str) -> None:
    """Two panels, both axes logarithmic: seconds over steps, and over length."""
    if not is_matplotlib_available():
        print("No plot: matplotlib is not installed", file=sys.stderr)
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    for panel, name in zip(figure.subplots(1, 2), ("steps", "length"), strict=True):
        lines = sorted({(row["axis"], row["dtype"], row["batch"]) for row in rows if row["axis"].startswith(name)})
        for line in lines:
            points = [row for row in rows if (row["axis"], row["dtype"], row["batch"]) == line]
            label = f"{line[1]}, batch {line[2]}{line[0].removeprefix(name)}"
            panel.plot([row[name] for row in points], [row["seconds"] for row in points], "o-", label=label)
        panel.set(xscale="log", yscale="log", xlabel=name, ylabel="seconds")
        panel.set_xscale("log", base=2)
        panel.grid(True, alpha=0.3)
        if lines:
            panel.legend()
    figure.savefig(path, dpi=150)


def measure_memory(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Peak memory above the weights, each contender in a fresh process."""
    rows = []
    for dtype in args.dtypes:
        for batch_size in args.batch_sizes:
            for contender in args.contenders:
                settings = {"length": args.length, "dtypes": dtype, "batch_sizes": batch_size, "steps": args.steps[0]}
                rows.append(measure_alone(__file__, contender, args.tiny, **settings))
    base = {(row["dtype"], row["batch"]): row["above weights"] for row in rows if row["contender"] == "ours"}
    for row in rows:
        ours = base.get((row["dtype"], row["batch"]))
        row["peak / ours"] = "" if not ours else f"{row['above weights'] / ours:.2f}"
    return rows


def measure_own_memory(args: argparse.Namespace) -> dict[str, Any]:
    """What one contender needs, in MiB; this process runs nothing else.

    A warm-up of one step over a few tokens allocates what libraries set aside once; it is told apart, not subtracted.
    """
    contender, dtype, batch_size = args.memory_of, args.dtypes[0], args.batch_sizes[0]
    model = (make_gpt2 if contender == "gpt2" else make_model)(args, DTYPES[dtype])
    weights = sum(parameter.nbytes for parameter in model.parameters())
    loaded = process_memory("VmRSS")
    with torch.no_grad():
        RUN[contender](model, 1, 1, min(8, args.length))
        warm = process_memory("VmRSS")
        reset_peak_memory()
        RUN[contender](model, args.steps[0], batch_size, args.length)
    return {
        "dtype": dtype,
        "batch": batch_size,
        "contender": contender,
        "weights": weights / MIB,
        "process after load": loaded / MIB,
        "warm-up": (warm - loaded) / MIB,
        "above weights": (process_memory("VmHWM") - loaded) / MIB,
    }


# Report


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser, modes = make_parser(__doc__, CONTENDERS, SLOW_CONTENDERS, slow_rounds=1)
    modes.add_argument("--forward-profile", action="store_true", help="the forward against its matrix products")
    modes.add_argument("--scaling", metavar="CSV", help="growth with steps and length, written as CSV; - for none")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--steps", nargs="+", type=int, default=[8, 64], help="--memory takes the first")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["bfloat16", "float32"])
    parser.add_argument(
        "--plain-max-steps", type=int, help="estimate longer runs of the plain sampler from so many steps; labelled"
    )
    parser.add_argument("--compile", action="store_true", help="also with a compiled backbone")
    parser.add_argument("--scaling-steps", nargs="*", type=int, default=[2**n for n in range(11)])
    parser.add_argument("--scaling-lengths", nargs="*", type=int, default=[2**n for n in range(7, 13)])
    parser.add_argument("--plot", metavar="PNG", help="draw the growth, if matplotlib is installed")
    return parse(parser, argv)


def notes(args: argparse.Namespace, rows: list[dict[str, Any]]) -> list[str]:
    """What is to be said below the table."""
    if not args.memory:
        return []
    return ["Memory in MiB. `above weights` includes the `warm-up`, which libraries set aside once."]


MODES = {
    "memory_of": measure_own_memory,
    "memory": measure_memory,
    "forward_profile": profile_forward,
    "scaling": measure_scaling,
    "compare": compare,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the chosen mode."""
    run_mode(parse_arguments(argv), MODES, notes)


if __name__ == "__main__":
    main()
