# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""What a report is made of: settings, modes and cells."""

import itertools
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..flow_fsdfm import SOLVERS
from .statistics import MIN_UNITS


UNCONDITIONAL, PREFIX, INFILL = "unconditional", "prefix", "infill"
OWN_SOLVER, NO_STEPS = "own", 0  # of systems that are not of this package; of autoregressive ones
METRICS = (
    "generative_perplexity",
    "token_entropy",
    "repetition",
    "diversity",
    "mauve",
    "infilling_accuracy",
    "likelihood_bound",
)
SAMPLING = (  # of `generate`
    *("temperature", "final_temperature", "top_k", "top_p"),
    *("time_shift", "min_step_size", "spread_candidates"),
)
DTYPES = ("float32", "bfloat16", "float16")
MASK_SEED = 20624  # of the positions kept in infilling, the same in every report


@dataclass(frozen=True)
class Mode:
    """
    What of the reference text is given: nothing, the beginning, or positions at random.

    Args:
        name (`str`): `"unconditional"`, `"prefix-P"` or `"infill-P"`.
        kind (`str`): the name without P.
        share (`float`): P / 100, the share of the tokens that is given.
    """

    name: str
    kind: str
    share: float

    @classmethod
    def parse(cls, name: str) -> "Mode":
        """
        Raises:
            `ValueError`: if there is no such mode.
        """
        if name == UNCONDITIONAL:
            return cls(name, UNCONDITIONAL, 0.0)
        match = re.fullmatch(rf"({PREFIX}|{INFILL})-([1-9]\d?)", name)
        if match is None:
            raise ValueError(
                f"mode {name!r} is unknown: give {UNCONDITIONAL}, {PREFIX}-P or {INFILL}-P, where P (1 to 99) is the "
                "percentage of the tokens that is given"
            )
        return cls(name, match[1], int(match[2]) / 100)

    def num_given(self, length: int) -> int:
        """How many of `length` tokens are given: at least one, and never all, in a conditional mode."""
        if self.kind == UNCONDITIONAL:
            return 0
        return min(max(round(self.share * length), 1), length - 1)

    def editable_mask(self, num_sequences: int, length: int) -> np.ndarray:
        """
        Which positions are written by the model.

        Returns:
            `np.ndarray` of shape `(num_sequences, length)` and type bool. A row depends on its number, the length and
            the mode alone: not on the model, the seed, or the number of sequences.
        """
        given = self.num_given(length)
        if self.kind != INFILL:
            return np.broadcast_to(np.arange(length) >= given, (num_sequences, length)).copy()
        editable = np.ones((num_sequences, length), dtype=bool)
        for row in range(num_sequences):
            generator = np.random.default_rng([MASK_SEED, round(100 * self.share), row])
            editable[row, generator.permutation(length)[:given]] = False
        return editable


@dataclass(frozen=True, order=True)
class Cell:
    """One row of the table: a system in one setting, over all seeds."""

    mode: str
    model: str
    solver: str
    num_steps: int


@dataclass(frozen=True, order=True)
class Run:
    """A cell under one seed: what is sampled in one go, and stored in one file."""

    cell: Cell
    seed: int


@dataclass(frozen=True)
class ComparedPair:
    """Cell `first` is to be compared with cell `second`."""

    first: Cell
    second: Cell


@dataclass
class EvaluationSettings:
    """
    What to sample, how to score it and what to compare. Checked when it is made.

    Args:
        > What is compared

        models (`Sequence[str]`):
            Folders or Hub ids of DFM and FS-DFM models, each with its tokenizer beside the weights, the same for all.
            `NAME=PATH` gives a model another name than its folder's.
        systems (`Sequence[str]`, *optional*):
            Folders or Hub ids of other text diffusion models, see `adapters`: at each number of steps, with their own
            sampler and settings, in the modes without infilling.
        baselines (`Sequence[str]`, *optional*):
            The same for autoregressive models, which have no steps: one row in each mode.
        system_options (`dict[str, Any]`, *optional*):
            Settings of the adapters of `systems`, as `{"temperature": 1.0}`.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether code that comes with a model of `systems` may run here.
        reference (`Sequence[str]`):
            Files of real text that no model was trained on, as `load_documents` takes them: the reference row, and the
            prompts of conditional modes.
        training_text (`Sequence[str]`, *optional*):
            What the models were trained on, as `reference`: for a column that says how much of a text stands in it.
        scorers (`Sequence[str]`):
            Folders or Hub ids of causal language models that judge the text; also `NAME=PATH`. May be empty if
            `metrics` has neither generative_perplexity nor mauve.
        out (`str` or `os.PathLike`):
            The folder of the report.
        steps (`Sequence[int]`, *optional*, defaults to 1, 2, 4, 8, 16):
            Numbers of sampling steps of all models and systems.
        solvers (`Sequence[str]`, *optional*, defaults to `"cumulative_scalar"`):
            Solvers of `generate`.
        modes (`Sequence[str]`, *optional*, defaults to `"unconditional"`):
            See [`Mode`].
        seeds (`Sequence[int]`, *optional*, defaults to 0, 1, 2):
            Each draws `num_samples` sequences anew. All models and steps share the prompts and the random numbers of a
            seed, so that they can be compared in pairs.

        > Sampling

        num_samples (`int`, *optional*, defaults to 64):
            Sequences for each seed. In conditional modes also the number of different prompts.
        length (`int`, *optional*):
            Tokens of a sequence, prompt included; the shortest trained length of the models if not set.
        batch_size (`int`, *optional*, defaults to 16):
            Sequences sampled at once. Seconds are those of whole batches.
        temperature, final_temperature, top_p, time_shift, min_step_size (`float`, *optional*), \
        top_k (`int`, *optional*), spread_candidates (`bool`, *optional*):
            As in `generate`; each model's own if not set. `min_step_size` is for models that are told their step size,
            others sample as without it.
        device (`str`, *optional*):
            Accelerate's choice if not set.
        dtype (`str`, *optional*, defaults to `"float32"`):
            Of the models' and scorers' weights.

        > Scoring and statistics

        metrics (`Sequence[str]`, *optional*, defaults to all):
            Of [`METRICS`].
        mauve_pieces (`int`, *optional*, defaults to 1):
            How many pieces MAUVE cuts each text into. It needs hundreds of texts, and the scorer reads no more of one
            than its context holds: cut long texts.
        compare (`Sequence[tuple[str, str]]`, *optional*):
            Pairs of `MODEL@STEPS` or `MODEL@STEPS@SOLVER` (a baseline: its name), compared in every mode; sampled even
            if their steps are not among `steps`. If not set, each two `models` (first named against later named): at
            equal steps, and at each number of steps against the other's most steps.
        equivalence_margin (`float`, *optional*, defaults to 0.05):
            Perplexities are equivalent if the ratio lies between 1 / (1 + margin) and 1 + margin.
        confidence (`float`, *optional*, defaults to 0.95):
            Of all intervals; 1 - confidence is the level of all tests.
        num_resamples (`int`, *optional*, defaults to 2000):
            Bootstrap samples.

    Raises:
        `ValueError`: if an argument is out of range, unknown or repeated.
    """

    models: Sequence[str]
    reference: Sequence[str]
    scorers: Sequence[str]
    out: str | os.PathLike
    training_text: Sequence[str] = ()
    systems: Sequence[str] = ()
    baselines: Sequence[str] = ()
    system_options: dict[str, Any] = field(default_factory=dict)
    trust_remote_code: bool = False
    steps: Sequence[int] = (1, 2, 4, 8, 16)
    solvers: Sequence[str] = (SOLVERS[0],)
    modes: Sequence[str] = (UNCONDITIONAL,)
    seeds: Sequence[int] = (0, 1, 2)
    num_samples: int = 64
    length: int | None = None
    batch_size: int = 16
    temperature: float | None = None
    final_temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    time_shift: float | None = None
    min_step_size: float | None = None
    spread_candidates: bool | None = None
    device: str | None = None
    dtype: str = "float32"
    metrics: Sequence[str] = METRICS
    mauve_pieces: int = 1
    compare: Sequence[tuple[str, str]] | None = None
    equivalence_margin: float = 0.05
    confidence: float = 0.95
    num_resamples: int = 2000
    model_paths: dict[str, str] = field(init=False, repr=False)
    system_paths: dict[str, str] = field(init=False, repr=False)
    baseline_paths: dict[str, str] = field(init=False, repr=False)
    scorer_paths: dict[str, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("models", "reference", "steps", "solvers", "modes", "seeds", "metrics"):
            _check_list(name, getattr(self, name))
        if self.training_text:
            _check_list("training_text", self.training_text)
        if "generative_perplexity" in self.metrics or "mauve" in self.metrics:
            if not self.scorers:
                raise ValueError(
                    "`scorers` must not be empty: generative_perplexity and mauve need one (else leave both out of "
                    "`metrics`)"
                )
            _check_list("scorers", self.scorers)
        for name in ("num_samples", "batch_size", "length", "top_k", "mauve_pieces"):
            _check_at_least(name, getattr(self, name), 1)
        for steps in self.steps:
            _check_at_least("steps", steps, 1)
        for seed in self.seeds:
            _check_at_least("seeds", seed, 0)
        _check_at_least("num_resamples", self.num_resamples, 100)
        _check_known("solvers", self.solvers, SOLVERS)
        if "memorization" in self.metrics:
            raise ValueError("`metrics`: memorization needs no entry, it has a column if there is a `training_text`")
        _check_known("metrics", self.metrics, METRICS)
        _check_known("dtype", [self.dtype], DTYPES)
        for mode in self.modes:
            Mode.parse(mode)
        if self.length is not None and self.length < 2:
            raise ValueError(f"`length` must be at least 2, but got {self.length}")
        if not 0.5 < self.confidence < 1:
            raise ValueError(f"`confidence` must be in (0.5, 1), but got {self.confidence}")
        if not (math.isfinite(self.equivalence_margin) and self.equivalence_margin > 0):
            raise ValueError(f"`equivalence_margin` must be a number > 0, but got {self.equivalence_margin}")
        if self.num_samples < MIN_UNITS:
            raise ValueError(
                f"`num_samples` must be at least {MIN_UNITS} for the bootstrap, but got {self.num_samples}; further "
                "seeds are no substitute: they share the prompts and the real text"
            )
        self.model_paths = _named_paths("models", self.models)
        self.system_paths = _named_paths("systems", self.systems)
        self.baseline_paths = _named_paths("baselines", self.baselines)
        self.scorer_paths = _named_paths("scorers", self.scorers)
        if self.system_options and not self.system_paths:
            raise ValueError("`system_options` are of no use without `systems`")
        names = [*self.model_paths, *self.system_paths, *self.baseline_paths]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"two systems are called {twice!r}: give them names, as in NAME=PATH")
        self.pairs()  # raises where `compare` names what is not there

    def cells(self) -> list[Cell]:
        """All cells, in the order of the table: every system at all `steps`, and where `compare` asks for more."""
        compared = {cell for pair in self._asked_pairs() for cell in (pair.first, pair.second)}
        cells: list[Cell] = []
        for mode in self.modes:
            systems = list(itertools.product(self.model_paths, self.solvers))
            if Mode.parse(mode).kind != INFILL:
                systems += [(name, OWN_SOLVER) for name in self.system_paths]
            for model, solver in systems:
                more = {
                    cell.num_steps for cell in compared if (cell.mode, cell.model, cell.solver) == (mode, model, solver)
                }
                cells += [Cell(mode, model, solver, num_steps) for num_steps in sorted({*self.steps, *more})]
            if Mode.parse(mode).kind != INFILL:
                cells += [Cell(mode, name, OWN_SOLVER, NO_STEPS) for name in self.baseline_paths]
        return cells

    def runs(self) -> list[Run]:
        """All cells under all seeds."""
        return [Run(cell, seed) for cell in self.cells() for seed in self.seeds]

    def pairs(self) -> list[ComparedPair]:
        """All pairs of cells to compare, in the order of the table."""
        pairs = self._default_pairs() if self.compare is None else self._asked_pairs()
        cells = set(self.cells())
        return [pair for pair in dict.fromkeys(pairs) if {pair.first, pair.second} <= cells]

    def _default_pairs(self) -> Iterator[ComparedPair]:
        most = max(self.steps)
        for mode, solver in itertools.product(self.modes, self.solvers):
            for (first, second), steps in itertools.product(
                itertools.combinations(self.model_paths, 2), sorted(self.steps)
            ):
                for other_steps in (steps, most):
                    yield ComparedPair(Cell(mode, first, solver, steps), Cell(mode, second, solver, other_steps))

    def _asked_pairs(self) -> Iterator[ComparedPair]:
        sides = [tuple(self._parse_side(side) for side in pair) for pair in self.compare or ()]
        for mode, (first, second) in itertools.product(self.modes, sides):
            for solver in self.solvers:
                pair = ComparedPair(
                    Cell(mode, first[0], first[2] or solver, first[1]),
                    Cell(mode, second[0], second[2] or solver, second[1]),
                )
                if pair.first == pair.second:
                    raise ValueError("`compare` sets a cell against itself")
                yield pair

    def _parse_side(self, side: str) -> tuple[str, int, str | None]:
        """Model, steps and solver; None for each of the solvers."""
        match = re.fullmatch(r"(.+?)(?:@(\d+))?(?:@([a-z_]+))?", side)
        model, steps, solver = match.groups() if match else (side, None, None)
        if model in self.baseline_paths and steps is None and solver is None:
            return model, NO_STEPS, OWN_SOLVER
        if steps is None:
            raise ValueError(f"`compare` takes MODEL@STEPS or MODEL@STEPS@SOLVER, but got {side!r}")
        known_solvers = (*self.solvers, None)
        if model in self.system_paths:
            solver, known_solvers = solver or OWN_SOLVER, (OWN_SOLVER,)
        for name, value, known in (
            ("models", model, (*self.model_paths, *self.system_paths)),
            ("solvers", solver, known_solvers),
        ):
            if value not in known:
                names = ", ".join(str(one) for one in known if one is not None)
                raise ValueError(f"`compare` names {side!r}, but {value!r} is not among the `{name}`: {names}")
        _check_at_least("compare", int(steps), 1)
        return model, int(steps), solver


def _check_list(name: str, values: Sequence[object]) -> None:
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
        raise ValueError(f"`{name}` must be a list, but got {values!r}")
    if not values:
        raise ValueError(f"`{name}` must not be empty")
    repeated = sorted({str(value) for value in values if list(values).count(value) > 1})
    if repeated:
        raise ValueError(f"`{name}` repeat {', '.join(repeated)}: give each once")


def _check_at_least(name: str, value: int | None, lowest: int) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < lowest):
        raise ValueError(f"`{name}` must be at least {lowest}, and an integer, but got {value!r}")


def _check_known(name: str, values: Sequence[str], known: Sequence[str]) -> None:
    for value in values:
        if value not in known:
            raise ValueError(f"`{name}`: {value!r} is unknown; known are {', '.join(known)}")


def _named_paths(name: str, entries: Sequence[str]) -> dict[str, str]:
    """`NAME=PATH`, or a path that has its last part for a name."""
    paths: dict[str, str] = {}
    for entry in entries:
        given, separator, path = str(entry).partition("=")
        if not separator:
            path = given
            given = Path(os.path.abspath(path)).name if os.path.isdir(path) else path.rpartition("/")[2]
        if not re.fullmatch(r"[\w.+-]+", given):
            raise ValueError(f"`{name}`: {given!r} can't be a name; use letters, digits and . _ + - in NAME=PATH")
        if given in paths:
            raise ValueError(f"`{name}`: two are called {given!r}; give them names, as in NAME=PATH")
        paths[given] = path
    return paths


__all__ = ["METRICS", "Cell", "ComparedPair", "EvaluationSettings", "Mode", "Run"]
