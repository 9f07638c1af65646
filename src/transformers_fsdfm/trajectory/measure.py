# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The measurement: from the same x_t, a process of few steps and one of many, with the same random numbers."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..evaluation.files import written_whole
from ..flow_fsdfm import SOLVERS
from .divergence import kl_bounds, one_step_log_prob, pair_difference, squared_distance
from .process import (
    draw_clocks,
    final_hidden_states,
    last_step_hazard,
    positions_per_chunk,
    run_process,
    step_hazards,
)


if TYPE_CHECKING:
    from ..modeling_fsdfm import FSDFMForDiffusionLM

# Differences over time are recorded at no more than so many moments of a run.
MAX_MOMENTS = 64
# What is measured for each number of steps and position, see `measure_cell`.
CURVES = ("local_lower", "local_upper", "distance", "differs")


@dataclass(frozen=True)
class TrajectorySettings:
    """
    What is compared. Checked when it is made.

    Args:
        steps (`tuple[int, ...]`, *optional*, defaults to 1, 2, 4, ..., 512):
            Numbers S of steps from t = 0 to t = 1, so h = 1 / S. Each must divide `num_fine_steps`.
        num_fine_steps (`int`, *optional*, defaults to 1024): steps of the process that counts as the truth.
        start_times (`tuple[float, ...]`, *optional*, defaults to 0 and, if any of `steps` is even, 1/2):
            Times t at which both processes start, multiples of 1 / `num_fine_steps`. From t only the numbers of steps
            S are run for which t S is an integer, (1 - t) S steps each.
        num_rollouts (`int`, *optional*, defaults to 64): runs of each process from each x_t, at least 2.
        solver (`str`, *optional*, defaults to `"cumulative_scalar"`): of both processes.
        seed (`int`, *optional*, defaults to 0): of x_t and of all runs.
        batch_size (`int`, *optional*, defaults to 64): runs at a time; changes no result.

    Raises:
        `ValueError`: if a setting is out of range.
    """

    steps: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
    num_fine_steps: int = 1024
    start_times: tuple[float, ...] = None  # type: ignore[assignment]  # settled when it is made
    num_rollouts: int = 64
    solver: str = "cumulative_scalar"
    seed: int = 0
    batch_size: int = field(default=64, compare=False)

    def __post_init__(self) -> None:
        if self.start_times is None:
            object.__setattr__(self, "start_times", tuple(time for time in (0.0, 0.5) if self.steps_from(time)))
        for name, lowest in (("num_fine_steps", 1), ("num_rollouts", 2), ("batch_size", 1)):
            if getattr(self, name) < lowest:
                raise ValueError(f"`{name}` must be at least {lowest}, but got {getattr(self, name)}")
        if self.solver not in SOLVERS:
            raise ValueError(f"`solver` must be one of {SOLVERS}, but got {self.solver!r}")
        for name in ("steps", "start_times"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"`{name}` must be at least one number, each given once, but got {list(values)}")
        for steps in self.steps:
            if steps < 1 or self.num_fine_steps % steps:
                raise ValueError(f"`steps` must divide `num_fine_steps` ({self.num_fine_steps}), but got {steps}")
        for time in self.start_times:
            if not 0 <= time < 1 or (time * self.num_fine_steps) % 1:
                raise ValueError(
                    f"`start_times` must be multiples of 1/{self.num_fine_steps} in [0, 1), but got {time}"
                )
            if not self.steps_from(time):
                raise ValueError(f"`start_times`: no number of steps S in `steps` makes {time} S an integer")

    def steps_from(self, start_time: float) -> list[int]:
        """The numbers of steps that can be run from a start time, increasing."""
        return sorted(steps for steps in self.steps if (Fraction(start_time) * steps).denominator == 1)


def times_from(start_time: float, steps: int) -> Tensor:
    """The times of (1 - t) S steps of size 1 / S, `(steps + 1,)`, float64."""
    return torch.arange(round(start_time * steps), steps + 1, dtype=torch.float64) / steps


@dataclass(frozen=True)
class Cell:
    """One x_t: a text, its length and the time."""

    length: int
    start_time: float
    text: int

    @property
    def name(self) -> str:
        return f"length-{self.length}_time-{self.start_time:g}_text-{self.text}"


class _Comparison:
    """
    The runs with S steps beside those with many: when they are compared, and what is kept of them.

    Attributes:
        times (`torch.DoubleTensor` of shape `(steps + 1,)`): of the runs with S steps.
        moments (`list[int]`): after which of those steps the two are compared.
        after_one_step (`list[torch.LongTensor]`): states `(runs, length)` of the many steps at the first of the times.
        final (`list[torch.LongTensor]`): states of the few steps at the end.
        differs (`torch.DoubleTensor` of shape `(length,)`): how many pairs of runs differ at the end.
        over_time (`torch.DoubleTensor` of shape `(moments,)`): how many tokens of all pairs differ at each moment.
    """

    def __init__(self, start_time: float, steps: int, num_fine_steps: int, length: int) -> None:
        self.times = times_from(start_time, steps)
        self.num_steps = len(self.times) - 1
        every = -(-self.num_steps // MAX_MOMENTS)
        self.moments = sorted({*range(every, self.num_steps + 1, every), self.num_steps})
        self._in_fine_steps = num_fine_steps // steps
        self.after_one_step: list[Tensor] = []
        self.final: list[Tensor] = []
        self.differs = torch.zeros(length, dtype=torch.float64)
        self.over_time = torch.zeros(len(self.moments), dtype=torch.float64)

    @property
    def wanted_fine(self) -> set[int]:
        """After how many of the many steps a state is needed."""
        return {step * self._in_fine_steps for step in (1, *self.moments)}

    def add(self, few: dict[int, Tensor], many: dict[int, Tensor]) -> None:
        """Takes the states of some pairs of runs, `(runs, length)` each."""
        self.after_one_step.append(many[self._in_fine_steps].cpu())
        self.final.append(few[self.num_steps].cpu())
        differ = torch.stack([few[step] != many[step * self._in_fine_steps] for step in self.moments]).cpu()
        self.over_time += differ.sum((1, 2))
        self.differs += differ[-1].sum(0)


def measure_cell(
    model: "FSDFMForDiffusionLM",
    reference: "FSDFMForDiffusionLM",
    clean_ids: Tensor,
    cell: Cell,
    settings: TrajectorySettings,
) -> dict[str, np.ndarray]:
    """
    All numbers of one x_t.

    Args:
        model ([`FSDFMForDiffusionLM`]): takes the few steps. In eval mode, as `reference`.
        reference ([`FSDFMForDiffusionLM`]): takes the many steps.
        clean_ids (`torch.LongTensor` of shape `(length,)`): x_1, of which x_t is a noisy version.
        cell ([`Cell`]): which x_t; decides the random numbers together with the seed.

    Returns:
        `dict[str, np.ndarray]`, with one row for each of the numbers of steps S in `"steps"`:
        - `local_lower`, `local_upper` `(S, length)`: bounds on the KL divergence, in nats, from the law of the many
          steps over [t, t + 1 / S] to that of one step, per position;
        - `distance` `(S, length)`: the squared distance of the laws of the many and of the few steps at t = 1;
        - `differs` `(S, length)`: share of the pairs of runs with shared random numbers whose final tokens differ;
        - `over_time_S` `(moments, 2)` for each S: time, and the share of all tokens that differ then;
        - `floor` `(length,)`: how often two independent runs of the many steps differ at the end.
    """
    noisy_ids = _draw_noisy_ids(clean_ids, cell, settings, model.config)[None].to(_device(model))
    comparisons, final = _run_all(model, reference, noisy_ids, cell, settings)
    result: dict[str, Any] = {"steps": np.array(list(comparisons)), "floor": pair_difference(final).numpy()}
    rows: dict[str, list[Tensor]] = {}
    for steps, runs in comparisons.items():
        samples = torch.cat(runs.after_one_step).T.contiguous()
        local = kl_bounds(samples, _one_step_law(model, noisy_ids, runs.times, samples, settings.solver))
        distance = squared_distance(final, torch.cat(runs.final).T.contiguous())
        values = (*local, distance, runs.differs / settings.num_rollouts)
        for name, value in zip(CURVES, values, strict=True):
            rows.setdefault(name, []).append(value)
        share = runs.over_time / final.numel()
        result[f"over_time_{steps}"] = torch.stack([runs.times[runs.moments], share], dim=-1).numpy()
    return result | {name: torch.stack(values).numpy() for name, values in rows.items()}


def _device(model: "FSDFMForDiffusionLM") -> torch.device:
    return next(model.parameters()).device


def _draw_noisy_ids(clean_ids: Tensor, cell: Cell, settings: TrajectorySettings, config: Any) -> Tensor:
    from ..trainer.noise import CleanBatch, draw_noisy_ids, seeded_generator

    clean_ids = clean_ids[None]
    generator = seeded_generator(settings.seed, "trajectory start", cell.name)
    batch = CleanBatch(clean_ids, clean_ids, None)
    return draw_noisy_ids(batch, torch.tensor([cell.start_time]), config, [generator])[0]


def _run_all(
    model: "FSDFMForDiffusionLM",
    reference: "FSDFMForDiffusionLM",
    noisy_ids: Tensor,
    cell: Cell,
    settings: TrajectorySettings,
) -> tuple[dict[int, _Comparison], Tensor]:
    """
    Runs both processes `num_rollouts` times, all numbers of steps with the same clocks.

    Returns:
        The comparisons by number of steps, and the final tokens of the many steps, `(length, runs)`.
    """
    from ..trainer.noise import seeded_generator

    length, solver = noisy_ids.shape[1], settings.solver
    comparisons = {
        steps: _Comparison(cell.start_time, steps, settings.num_fine_steps, length)
        for steps in settings.steps_from(cell.start_time)
    }
    fine_times = times_from(cell.start_time, settings.num_fine_steps)
    last = len(fine_times) - 1
    wanted = {last}.union(*(runs.wanted_fine for runs in comparisons.values()))
    horizon = max(
        last_step_hazard(solver, reference.config.flow_schedule, fine_times),
        *(last_step_hazard(solver, model.config.flow_schedule, runs.times) for runs in comparisons.values()),
    )
    final = []
    for rollouts in torch.arange(settings.num_rollouts).split(settings.batch_size):
        generators = [seeded_generator(settings.seed, "trajectory run", cell.name, int(run)) for run in rollouts]
        clocks = draw_clocks(length, horizon, generators)
        start = noisy_ids.expand(len(rollouts), length)
        many = run_process(reference, start, fine_times, clocks, solver, wanted)
        final.append(many[last].cpu())
        for runs in comparisons.values():
            runs.add(run_process(model, start, runs.times, clocks, solver, runs.moments), many)
    return comparisons, torch.cat(final).T.contiguous()


@torch.no_grad()
def _one_step_law(
    model: "FSDFMForDiffusionLM", noisy_ids: Tensor, times: Tensor, samples: Tensor, solver: str
) -> Tensor:
    """log of the law of x_{t+h} after one step of the model, at the samples, `(length, runs)`."""
    hazard = step_hazards(solver, model.config.flow_schedule, times[:2])[0]
    hidden_states = final_hidden_states(model, noisy_ids, float(times[0]), float(times[1] - times[0]))[0]
    current_ids, source = noisy_ids[0].cpu(), model.config.source_distribution
    log_probs = []
    for at in torch.arange(len(samples)).split(positions_per_chunk(model.config.vocab_size)):
        logits = model.lm_head(hidden_states[at.to(hidden_states.device)]).cpu()
        log_probs.append(one_step_log_prob(solver, logits, current_ids[at], hazard, samples[at], source))
    return torch.cat(log_probs)


# ---- Many cells, on disk ---------------------------------------------------------------------------------------------


def measure_error_growth(
    model: "FSDFMForDiffusionLM",
    texts: dict[int, Tensor],
    out: str | os.PathLike,
    settings: TrajectorySettings | None = None,
    reference: "FSDFMForDiffusionLM | None" = None,
    progress_bar: bool = True,
) -> dict[Cell, dict[str, np.ndarray]]:
    """
    Measures every cell (each text of each length, at each start time) and stores it under `out/cells` as soon as it is
    done; what is there already is read. A run that was stopped goes on where it was.

    Args:
        model ([`FSDFMForDiffusionLM`]): the model whose few steps are judged.
        texts (`dict[int, torch.LongTensor]`): length -> x_1 of shape `(texts, length)`.
        out (`str` or `os.PathLike`): a folder of its own.
        settings ([`TrajectorySettings`], *optional*).
        reference ([`FSDFMForDiffusionLM`], *optional*):
            Takes the many steps: the DFM that `model` was made from, say. `model` itself if not set.
        progress_bar (`bool`, *optional*, defaults to `True`).

    Returns:
        `dict[Cell, dict[str, np.ndarray]]`: as in [`measure_cell`].

    Raises:
        `ValueError`: if a length does not fit the models, the models don't fit together, or `out` holds cells of
            another model or other settings.
    """
    settings = settings or TrajectorySettings()
    reference = model if reference is None else reference
    _check_models(model, reference, texts)
    folder = Path(out, "cells")
    _claim(folder, _identity(model, reference, settings))
    cells = [
        Cell(length, time, text)
        for length in sorted(texts)
        for time in sorted(settings.start_times)
        for text in range(len(texts[length]))
    ]
    for network in (model, reference):
        network.eval()
    results = {}
    for cell in tqdm(cells, desc="trajectory", unit="text", disable=not progress_bar):
        clean_ids = texts[cell.length][cell.text]
        digest = hashlib.sha256(clean_ids.cpu().numpy().tobytes()).hexdigest()[:16]
        file = folder / f"{cell.name}_{digest}.npz"
        if not file.exists():
            _save(file, measure_cell(model, reference, clean_ids, cell, settings))
        with np.load(file) as stored:
            results[cell] = dict(stored)
    return results


def _check_models(model: "FSDFMForDiffusionLM", reference: "FSDFMForDiffusionLM", texts: dict[int, Tensor]) -> None:
    for name in ("vocab_size", "source_distribution"):
        own, other = getattr(model.config, name), getattr(reference.config, name)
        if own != other:
            raise ValueError(f"`model` and `reference` must have the same `{name}`, but have {own} and {other}")
    longest = min(model.config.max_position_embeddings, reference.config.max_position_embeddings)
    if not texts:
        raise ValueError("`texts` must have at least one length")
    for length, ids in texts.items():
        if not 1 <= length <= longest:
            raise ValueError(f"`texts`: length {length} must be in [1, {longest}], what the models were trained on")
        if ids.ndim != 2 or not len(ids) or ids.shape[1] != length:
            raise ValueError(
                f"`texts` of length {length} must have the shape (texts, {length}), but {tuple(ids.shape)}"
            )
        if int(ids.min()) < 0 or int(ids.max()) >= model.config.vocab_size:
            raise ValueError(
                f"`texts` of length {length} must be tokens of the model, in [0, {model.config.vocab_size})"
            )


def _identity(
    model: "FSDFMForDiffusionLM", reference: "FSDFMForDiffusionLM", settings: TrajectorySettings
) -> dict[str, Any]:
    """What all cells of a folder have in common. Other start times, lengths and texts are further cells."""
    identity = asdict(settings)
    for name in ("start_times", "batch_size"):
        identity.pop(name)
    identity["steps"] = list(settings.steps)
    return identity | {"model": _digest(model), "reference": _digest(reference)}


def _digest(model: "FSDFMForDiffusionLM") -> str:
    config = model.config
    flow = (config.flow_schedule, config.source_distribution, config.step_size_conditioning)
    digest = hashlib.blake2b(repr(flow).encode(), digest_size=16)
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _claim(folder: Path, identity: dict[str, Any]) -> None:
    """Makes the folder, or checks that it is of the same models and settings."""
    file = folder / "settings.json"
    if file.exists():
        found = json.loads(file.read_text(encoding="utf-8"))
        if changed := sorted(name for name in identity if found.get(name) != identity[name]):
            raise ValueError(
                f"{folder} holds measurements with another {', '.join(changed)}: give another folder, or remove it"
            )
        return
    with written_whole(file) as part:
        part.write_text(json.dumps(identity, indent=1) + "\n", encoding="utf-8")


def _save(file: Path, arrays: dict[str, np.ndarray]) -> None:
    with written_whole(file) as part, open(part, "wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]  # any of the names could be the parameter `allow_pickle`
