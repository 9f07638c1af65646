# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""
The figures of docs/how_it_works.md, from closed forms and this package's own functions; no model is involved.

python docs/figures.py docs/images
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from transformers_fsdfm.flow_fsdfm import Schedule, candidate_hazard, plan_candidates


if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUM_STEPS = (1, 2, 4, 8, 1024)
SOLVERS = {"cumulative_scalar": "cumulative scalar", "euler": "Euler"}
COLORS = {"cumulative_scalar": "#0b6e99", "euler": "#c4572b"}  # also told apart by the common kinds of colour blindness
LINEAR = Schedule()


def time_grid(num_steps: int) -> Tensor:
    """`(num_steps + 1,)`, float64: the times from 0 to 1."""
    return torch.linspace(0, 1, num_steps + 1, dtype=torch.float64)


def jump_probabilities(solver: str, num_steps: int) -> Tensor:
    """
    `(num_steps,)`: the chance that a position leaves its token in each step, where the posterior has none of it.

    For Euler this is the rule as it stands, in the last step too. `generate` draws all positions from the posterior
    there, whatever the solver.
    """
    grid = time_grid(num_steps)
    if solver == "euler":
        hazard = LINEAR.velocity_scalar(grid[:-1]) * grid.diff()
    else:
        hazard = candidate_hazard(solver, LINEAR, grid[:-1], grid.diff())
    return -torch.expm1(-hazard)


def untouched_share(solver: str, num_steps: int) -> Tensor:
    """`(num_steps + 1,)`: the share of such positions that have not left their first token, at each time."""
    stay = 1 - jump_probabilities(solver, num_steps)
    return torch.cat([torch.ones(1, dtype=torch.float64), stay.cumprod(0)])


def head_share(num_steps: int) -> float:
    """Of all positions in all steps, the expected share whose logits are needed: H_S / S."""
    return float((1 / torch.arange(1, num_steps + 1, dtype=torch.float64)).mean())


def counted_head_share(num_steps: int, num_positions: int = 20_000) -> float:
    """The same, counted in a plan of candidates as `generate` makes it."""
    grid = time_grid(num_steps)
    hazard = candidate_hazard("cumulative_scalar", LINEAR, grid[:-1], grid.diff())
    plan = plan_candidates([torch.arange(num_positions)], hazard, [torch.Generator().manual_seed(0)])
    return len(plan.position) / (num_steps * num_positions)


def draw_cumulative_scalar() -> "Figure":
    """Jump probabilities in 8 steps, and what is left at each time, for both rules."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    per_step, left = figure.subplots(1, 2)
    for solver, label in SOLVERS.items():
        color = COLORS[solver]
        per_step.plot(time_grid(8)[:-1], jump_probabilities(solver, 8), "o-", color=color, label=label)
        for num_steps, style in ((2, "s--"), (8, "o-")):
            name = f"{label.split()[0]}, {num_steps} steps"
            left.plot(time_grid(num_steps), untouched_share(solver, num_steps), style, color=color, label=name)
    per_step.set(xlabel="time t at the start of the step", ylabel="probability to jump", ylim=(0, 1.03))
    per_step.set_title("Each of 8 steps")
    left.set(xlabel="time t", ylabel="positions still untouched", ylim=(-0.03, 1.03), title="What is left")
    for axes in (per_step, left):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    return figure


def draw_thinning() -> "Figure":
    """The share of positions that reach the head against the number of steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    steps = [2**power for power in range(11)]
    axes.plot(range(1, 1025), [head_share(number) for number in range(1, 1025)], color="#0b6e99", label="H_S / S")
    counted = [counted_head_share(number) for number in steps]
    axes.plot(steps, counted, "o", color="#c4572b", label="counted, 20,000 positions")
    axes.set(xscale="log", yscale="log", xlabel="steps S", ylabel="share of positions that reach the head")
    axes.set_xticks(steps, [str(number) for number in steps])
    axes.set_yticks([1, 0.1, 0.01], ["100 %", "10 %", "1 %"])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


FIGURES = {"cumulative_scalar.svg": draw_cumulative_scalar, "thinning.svg": draw_thinning}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the pictures go")
    folder = parser.parse_args().folder

    import matplotlib

    folder.mkdir(parents=True, exist_ok=True)
    reproducible = {"svg.hashsalt": "transformers-fsdfm"}
    with matplotlib.rc_context(reproducible):
        for name, draw in FIGURES.items():
            draw().savefig(folder / name, metadata={"Date": None})
            print(f"Wrote {folder / name}")


if __name__ == "__main__":
    main()
