# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Generation for FS-DFM: its configuration, the sampling loop and the output."""

import copy
import difflib
import inspect
import itertools
import math
import numbers
import statistics
import time as clock
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, overload

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers.generation import (
    GenerationConfig,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.streamers import BaseStreamer
from transformers.masking_utils import create_bidirectional_mask
from transformers.utils import ModelOutput, logging

from .flow_fsdfm import SOLVERS, CandidatePlan, candidate_hazard, jump_candidates, plan_candidates, sample_source


logger = logging.get_logger(__name__)

# The head runs on so many candidates at once that their float32 posteriors fill about this much memory.
WORKSPACE_BYTES = {"cpu": 2**25, "accelerator": 2**28}
# On a CPU the network runs on so many rows at once that the widest activations of each thread fill about this much of
# its cache. An accelerator takes all of them.
CPU_ACTIVATION_BYTES = 2**22
FINAL_TIME = 0.75  # where `final_temperature` begins


class FSDFMGenerationConfig(GenerationConfig):
    """
    Settings of [`FSDFMGenerationMixin.generate`]. An attribute that is `None` is not set: the model's own generation
    config decides, and below it the defaults given here.

    Args:
        > Length

        max_length (`int`, *optional*, defaults to the model's `max_position_embeddings`):
            Length of the result, prompt included.
        max_new_tokens (`int`, *optional*):
            Tokens to add to the prompt; stronger than `max_length`. 0: only fill in what the prompt leaves open.

        > The flow

        num_steps (`int`, *optional*, defaults to 8 for an FS-DFM and 1024 for a plain DFM):
            Number of steps from t = 0 to t = 1, equal ones unless `time_shift` says otherwise.
        time_grid (`list[float]`, *optional*):
            Increasing times from 0 to 1, in place of `num_steps`.
        time_shift (`float`, *optional*, defaults to 1.0):
            Above 1 the steps are smaller near t = 1, where the text settles, and larger near t = 0; below 1 the other
            way round. The k-th of S steps ends at `t = time_shift * u / (1 + (time_shift - 1) * u)` with `u = k / S`:
            the first step is `time_shift` times as long as an equal one, the last about `1 / time_shift` times (the
            shift of continuous flow matching, Esser et al. 2024, eq. 23, seen from the data).
        min_step_size (`float`, *optional*):
            The network of an FS-DFM is told of no smaller step size, except by what is left up to t = 1. Its posteriors
            are the sharper the larger the step size, for so was its teacher; with this, small steps have the posterior
            of a larger one too. No effect on steps that are as large.
        max_time (`float`, *optional*):
            Seconds that sampling may take. After every step the rest of the grid is planned anew from the time that the
            step took; at least one step to t = 1 is always made.
        solver (`str`, *optional*, defaults to `"cumulative_scalar"`):
            `"cumulative_scalar"`, `"euler"` or `"posterior"`, see [`jump_candidates`].
        spread_candidates (`bool`, *optional*, defaults to `False`):
            Tokens that change in the same step do not know of each other, and neighbours depend on each other most.
            `False` draws the positions that may change in a step independently, as FS-DFM does; `True` spreads them
            evenly over what is written: each position by itself changes just as before, but neighbours less often in
            the same step. Better texts in few steps, in the same time; no effect in a single one, where all change. See
            [`plan_candidates`].

        > The posterior

        temperature (`float`, *optional*, defaults to 1.0):
            Divides the logits.
        final_temperature (`float`, *optional*, defaults to `temperature`):
            The same for the steps that begin at t >= 3/4, and for the last one in any case; 0 takes the most likely
            tokens there. Early steps decide what the text is about, late ones put it right: a low temperature in the
            late ones alone costs the least diversity.
        top_k (`int`, *optional*), top_p (`float`, *optional*):
            Keep the k most likely tokens, or the most likely ones with a total probability of at least p.
        do_sample (`bool`, *optional*, defaults to `True`):
            Only `True`: a flow always samples. Here for the sake of pipelines.

        > Output

        num_return_sequences (`int`, *optional*, defaults to 1):
            Samples for each prompt.
        pad_after_eos (`bool`, *optional*, defaults to `False`):
            Whether what follows the first new end-of-sequence token is replaced by `pad_token_id`.
        return_dict_in_generate (`bool`, *optional*, defaults to `False`):
            Whether to return a [`FSDFMGenerationOutput`] instead of the tokens alone.
        output_history (`bool`, *optional*, defaults to `False`):
            Whether that output holds the canvas after every step.
        progress_bar (`bool`, *optional*, defaults to `False`):
            Whether to show a progress bar over the steps.

        > Special tokens

        bos_token_id, pad_token_id, mask_token_id (`int`, *optional*), eos_token_id (`int` or `list[int]`, *optional*):
            Positions of the prompt that hold `mask_token_id` are filled in.
    """

    _defaults = {  # noqa: RUF012
        "solver": "cumulative_scalar",
        "time_shift": 1.0,
        "spread_candidates": False,
        "temperature": 1.0,
        "do_sample": True,
        "num_return_sequences": 1,
        "pad_after_eos": False,
        "return_dict_in_generate": False,
        "output_history": False,
        "progress_bar": False,
    }
    # What users of other models may ask for, and what to do instead.
    _hints = {  # noqa: RUF012
        "seed": "use `generator=torch.Generator().manual_seed(...)`",
        "inputs": "use `input_ids`",
        **dict.fromkeys(("num_beams", "use_cache", "past_key_values"), "a discrete flow has no beams and no cache"),
        **dict.fromkeys(
            ("output_scores", "output_logits", "output_hidden_states", "output_attentions"),
            "only a few positions have logits in a step; `output_history=True` keeps the drafts",
        ),
        **dict.fromkeys(
            ("repetition_penalty", "no_repeat_ngram_size", "bad_words_ids", "suppress_tokens"),
            "use the processor of that name in `logits_processor`",
        ),
        **dict.fromkeys(
            ("stop_strings", "stopping_criteria", "min_new_tokens", "min_length"),
            "all positions are written at once; `pad_after_eos=True` clears what follows the end",
        ),
    }
    # Those that change the law of the text, at a given number of steps.
    _sampling = (
        *("solver", "time_shift", "min_step_size", "spread_candidates"),
        *("temperature", "final_temperature", "top_k", "top_p"),
    )
    _fields = (
        *("max_length", "max_new_tokens", "num_steps", "time_grid", "min_step_size", "max_time"),
        *("final_temperature", "top_k", "top_p"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "mask_token_id"),
        *_defaults,
    )

    # As in the parent, `None` stands for what is not set.
    num_steps: Any
    time_grid: Any
    solver: Any
    time_shift: Any
    min_step_size: Any
    spread_candidates: Any
    final_temperature: Any
    mask_token_id: Any
    pad_after_eos: Any
    output_history: Any
    progress_bar: Any

    def __init__(self, **kwargs: Any) -> None:
        # The parent's __init__ would set dozens of attributes that mean nothing to a flow.
        for name in self._fields:
            setattr(self, name, kwargs.pop(name, None))
        self._commit_hash = kwargs.pop("_commit_hash", None)
        self._from_model_config = kwargs.pop("_from_model_config", False)
        self.transformers_version = kwargs.pop("transformers_version", None)
        _refuse_unknown(kwargs, self._fields)
        self.validate()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> "FSDFMGenerationConfig":
        """As in transformers. Fields of the file that this version does not know are kept, and saved again."""
        known = {*cls._fields, "_commit_hash", "_from_model_config", "transformers_version"}
        config: Any = super().from_dict({key: value for key, value in config_dict.items() if key in known}, **kwargs)
        for key in config_dict.keys() - known:
            setattr(config[0] if isinstance(config, tuple) else config, key, config_dict[key])
        return config

    @classmethod
    def from_model_config(cls, model_config: Any) -> "FSDFMGenerationConfig":
        """All settings of a model that comes without a generation config."""
        token_ids = {name: getattr(model_config, name, None) for name in cls._fields if name.endswith("_token_id")}
        num_steps = 8 if model_config.step_size_conditioning else 1024
        max_length = model_config.max_position_embeddings
        return cls(num_steps=num_steps, max_length=max_length, **token_ids, **cls._defaults)

    def to_diff_dict(self) -> dict[str, Any]:
        """What is set, and nothing else: the form in which it is saved."""
        is_set = super().to_diff_dict().items()
        return {key: value for key, value in is_set if value is not None and key != "_from_model_config"}

    def set_unset(self, other: GenerationConfig) -> None:
        """Takes over every setting that is not set here."""
        for name in self._fields:
            if getattr(self, name) is None:
                setattr(self, name, getattr(other, name, None))

    def unusual_sampling(self) -> dict[str, Any]:
        """The settings that change the law of the text and are not as in a model without any."""
        own = {name: getattr(self, name) for name in self._sampling}
        return {name: value for name, value in own.items() if value not in (None, self._defaults.get(name))}

    def validate(self, strict: bool = False, user_set_attributes: set[str] | None = None) -> None:
        """Checks every setting on its own; raises a `ValueError` that names it."""
        for name in ("num_steps", "max_length", "max_new_tokens", "num_return_sequences", "top_k"):
            value, lowest = getattr(self, name), int(name != "max_new_tokens")
            if value is not None and not (_is_integer(value) and value >= lowest):
                raise ValueError(f"`{name}` must be an integer >= {lowest}, but got {value!r}")
        for name in ("temperature", "time_shift", "max_time"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and 0 < value < math.inf):
                hint = "; `final_temperature=0` makes the last steps greedy" if name == "temperature" else ""
                raise ValueError(f"`{name}` must be a number > 0, but got {value!r}{hint}")
        if self.final_temperature is not None and not (
            _is_number(self.final_temperature) and 0 <= self.final_temperature < math.inf
        ):
            raise ValueError(f"`final_temperature` must be a number >= 0, but got {self.final_temperature!r}")
        for name in ("top_p", "min_step_size"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and 0 < value <= 1):
                raise ValueError(f"`{name}` must be in (0, 1], but got {value!r}")
        if self.solver is not None and self.solver not in SOLVERS:
            raise ValueError(f"`solver` must be one of {SOLVERS}, but got {self.solver!r}")
        if self.spread_candidates not in (None, False, True):
            raise ValueError(f"`spread_candidates` must be True or False, but got {self.spread_candidates!r}")
        if self.do_sample not in (None, True):
            raise ValueError(
                "`do_sample=False` means nothing to a discrete flow, which starts from random tokens; use "
                "`final_temperature=0` for greedy last steps, or a `generator` for repeatable results"
            )
        if self.time_grid is not None:
            self._validate_time_grid()

    def _validate_time_grid(self) -> None:
        grid = self.time_grid
        if not isinstance(grid, Sequence) or len(grid) < 2 or not all(_is_number(value) for value in grid):
            hint = "; use `.tolist()`" if hasattr(grid, "tolist") else ""
            raise ValueError(f"`time_grid` must be a list of at least two numbers, but got {grid!r}{hint}")
        if grid[0] != 0 or grid[-1] != 1:
            raise ValueError(f"`time_grid` must run from 0 to 1, but runs from {grid[0]} to {grid[-1]}")
        for before, after in itertools.pairwise(grid):
            if not before < after:
                raise ValueError(f"`time_grid` must increase from each entry to the next, but has {before}, {after}")


def _is_integer(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and not math.isnan(value)


def _refuse_unknown(kwargs: Iterable[str], known: Iterable[str]) -> None:
    """A typing error in a keyword must not pass silently."""
    for name in sorted(set(kwargs) - set(known)):
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"known are {sorted(known)}"
        hint = FSDFMGenerationConfig._hints.get(name, hint)
        raise ValueError(f"`{name}` is not an option of `generate`: {hint}")


@dataclass
class FSDFMGenerationOutput(ModelOutput):
    """
    Output of [`FSDFMGenerationMixin.generate`].

    Args:
        sequences (`torch.LongTensor` of shape `(batch_size * num_return_sequences, sequence_length)`):
            The tokens, prompt included.
        last_changed_step (`torch.LongTensor` of the same shape):
            The step, counted from 1, in which each token changed last; 0 for what never changed.
        history (`tuple[torch.LongTensor]`, *optional*, with `output_history=True`):
            The canvas before the first and after every step: `len(time_grid)` tensors of the same shape.
        time_grid (`list[float]` of length `steps + 1`):
            The time reached after every step, 0 in front. Texts longer than the model start again for each window.
        num_function_evaluations (`int`):
            In how many steps the network ran. Steps in which no position can move need no network and are not counted;
            on a CPU, which takes few rows at a time, nor do single rows need it.
    """

    sequences: Tensor
    last_changed_step: Tensor | None = None
    history: tuple[Tensor, ...] | None = None
    time_grid: list[float] | None = None  # not a tensor: pipelines split those by rows
    num_function_evaluations: int | None = None


@dataclass
class _Canvas:
    """The text while it is written, with what is recorded on the way."""

    ids: Tensor  # (rows, length), as are `editable`, `attended` and `last_changed_step`
    editable: Tensor
    attended: Tensor | None
    generators: list[torch.Generator]
    last_changed_step: Tensor
    first_bad_step: Tensor  # scalar, on the device: read once, after the loop
    history: list[Tensor] | None
    times: list[float] = field(default_factory=lambda: [0.0])
    num_function_evaluations: int = 0

    @property
    def step(self) -> int:
        """Steps finished so far, over all windows."""
        return len(self.times) - 1

    def write(self, position: Tensor, current_ids: Tensor, next_ids: Tensor) -> None:
        """Puts tokens at flat positions; -1 stands for a draw from logits that were no numbers."""
        step = self.step + 1
        is_bad = (next_ids < 0).any() & (self.first_bad_step == 0)
        self.first_bad_step.masked_fill_(is_bad, step)
        next_ids = next_ids.clamp_min(0)
        self.ids.view(-1)[position] = next_ids
        changed_step = self.last_changed_step.view(-1)
        changed_step[position] = torch.where(next_ids != current_ids, step, changed_step[position])


@dataclass
class _Window:
    """The columns that the network sees at once, and which of them are to be written now."""

    start: int
    end: int
    editable: Tensor  # (rows, end - start)


@dataclass
class _StepPlan:
    """The steps of one window. What the loop decides by is on the host, so that it never waits for the device."""

    time_grid: list[float]
    time: Tensor  # (steps,), float32, on the device
    step_size: Tensor  # (steps,), float32
    hazard: Tensor  # (steps,), float64
    candidates: CandidatePlan  # positions in the flattened window; those of a step are sorted by row
    canvas_position: Tensor  # (events,): the same positions in the flattened canvas
    blocks: list[slice]  # the rows that the network sees at once
    block_offset: list[int]  # (steps * blocks + 1,): block b owns in step s the events from s * blocks + b on
    padding: list[dict[str, Any]]  # of each block, what the backbone needs to know of it; nothing without padding

    @property
    def num_steps(self) -> int:
        return len(self.time_grid) - 1

    def is_final(self, step: int) -> bool:
        """Whether `final_temperature` is that of the step."""
        return step == self.num_steps - 1 or self.time_grid[step] >= FINAL_TIME

    def num_candidates(self, step: int) -> int:
        return self.candidates.step_offset[step + 1] - self.candidates.step_offset[step]

    def moving_blocks(self, step: int) -> Iterator[tuple[slice, dict[str, Any], slice]]:
        """Rows, padding and candidates of the blocks in which anybody can move."""
        bounds = self.block_offset[step * len(self.blocks) : (step + 1) * len(self.blocks) + 1]
        for rows, padding, (first, last) in zip(self.blocks, self.padding, itertools.pairwise(bounds), strict=True):
            if first < last:
                yield rows, padding, slice(first, last)


class FSDFMGenerationMixin:
    """Gives a model with a backbone `self.model` and a head `self.lm_head` the method `generate`."""

    # Of the model that this is mixed into.
    config: Any
    generation_config: Any
    model: Any
    lm_head: Any
    device: Any
    dtype: Any

    @overload
    def generate(
        self, input_ids: Tensor | None = None, *, return_dict_in_generate: Literal[True], **kwargs: Any
    ) -> FSDFMGenerationOutput: ...

    @overload
    def generate(
        self, input_ids: Tensor | None = None, *, return_dict_in_generate: Literal[False], **kwargs: Any
    ) -> Tensor: ...

    @overload
    def generate(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        editable_mask: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        logits_processor: LogitsProcessorList | None = None,
        streamer: BaseStreamer | None = None,
        callback_on_step_end: Callable[[Any, int, float, dict[str, Tensor]], dict[str, Tensor] | None] | None = None,
        token_type_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor | FSDFMGenerationOutput: ...

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        editable_mask: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        logits_processor: LogitsProcessorList | None = None,
        streamer: BaseStreamer | None = None,
        callback_on_step_end: Callable[[Any, int, float, dict[str, Tensor]], dict[str, Tensor] | None] | None = None,
        token_type_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor | FSDFMGenerationOutput:
        """
        Samples text: all positions start from the source distribution and are rewritten in parallel.

        To compile what runs here call `model.compile()`, which compiles in place: a wrapper made by `torch.compile` is
        passed by, as in every transformers model.

        ```
        1. Settle settings, lengths and editable positions; check everything before any work is done.
        2. Fill the editable positions of the canvas with source tokens.
        3. For each window of the trained length (one, unless the text is longer):
            a. Plan the steps: times, hazards and, for every step, the candidates.
            b. For each step that has candidates: run the backbone on the canvas, the head on the candidates alone,
               and let them jump.
            c. Report the step: history, streamer, callback, progress bar. With `max_time`, plan the rest anew.
        4. Finish: pad after the end of the text, return.
        ```

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, prompt_length)`, *optional*):
                The prompt, continued on the right up to `max_length`. If any row holds mask tokens, those are filled in
                and, as with `editable_mask`, nothing is added unless asked for. None: unconditional.
            attention_mask (`torch.Tensor` of the shape of `input_ids`, *optional*):
                0 at padding. Pad prompts of unequal length on the left.
            editable_mask (`torch.BoolTensor` of the shape of `input_ids`, *optional*):
                Infilling: only the True positions are sampled, all others stay. Nothing is added at the end unless
                `max_new_tokens` or `max_length` asks for it.
            generation_config ([`FSDFMGenerationConfig`], *optional*):
                Settings, stronger than the model's and weaker than keyword arguments.
            generator (`torch.Generator` or a list with one for each row of the result, *optional*):
                Source of all randomness, torch's global one by default. A row's tokens depend on its own random numbers
                alone: on the list's entry, or on the number of the row if one generator is given, never on the rest of
                the batch nor on the device.
            logits_processor ([`~transformers.LogitsProcessorList`], *optional*):
                Applied before temperature, top-k and top-p to the logits of the candidates, as
                `processor(input_ids, scores)` with `input_ids` the canvas that each candidate stands in,
                `(candidates, sequence_length)`, and `scores` `(candidates, vocab_size)`.
            streamer ([`~transformers.TextDiffusionStreamer`] or another streamer, *optional*):
                Gets the prompt, the draft after every step if it has `put_draft`, and the final tokens. One row only.
            callback_on_step_end (`Callable`, *optional*):
                Called as `callback(model, step, time, {"sequences": canvas})` after every step, `step` from 0; may
                return a dict whose `"sequences"` replace the canvas.
            token_type_ids (`torch.Tensor`, *optional*): ignored; many tokenizers return it.
            kwargs: any setting of [`FSDFMGenerationConfig`].

        Returns:
            `torch.LongTensor` of shape `(batch_size * num_return_sequences, sequence_length)`, or, with
            `return_dict_in_generate=True`, [`FSDFMGenerationOutput`].
        """
        # 1. Settings
        self._check_state(streamer)
        config, explicit = self._prepare_generation_config(generation_config, kwargs)
        ids, attended, editable, num_new = self._prepare_inputs(
            input_ids, attention_mask, editable_mask, config, explicit
        )
        generators = _row_generators(generator, len(ids))
        if streamer is not None and len(ids) > 1:
            raise ValueError(f"`streamer` shows one sequence, but {len(ids)} are generated")
        processors, final_processors = _prepare_logits_processors(config, logits_processor)

        # 2. Canvas
        canvas = self._prepare_canvas(ids, attended, editable, generators, config)
        draft_start = _first_draft_column(editable, num_new)
        if streamer is not None:
            streamer.put(canvas.ids[0, :draft_start].cpu())

        # 3. Sampling
        windows = list(_windows(editable, self.config.max_position_embeddings))
        deadline = None if config.max_time is None else clock.monotonic() + config.max_time
        with tqdm(total=config.num_steps * len(windows), disable=not config.progress_bar, unit="step") as bar:

            def report(time: float) -> None:
                self._report_step(canvas, time, draft_start, streamer, callback_on_step_end)
                bar.update()

            for number, window in enumerate(windows):
                if deadline is not None:  # an equal share of the time that is left
                    now = clock.monotonic()
                    window_deadline = now + (deadline - now) / (len(windows) - number)
                else:
                    window_deadline = None
                self._denoise_window(canvas, window, config, (processors, final_processors), window_deadline, report)

        # 4. Output
        if canvas.first_bad_step:
            raise RuntimeError(
                f"The model's logits were not numbers (NaN or infinite) in step {int(canvas.first_bad_step)} of "
                f"{canvas.step}; check the weights, the dtype and any `logits_processor`"
            )
        sequences = _pad_after_eos(canvas.ids, editable, config) if config.pad_after_eos else canvas.ids
        if streamer is not None:
            streamer.put(sequences[0, draft_start:].cpu())
            streamer.end()
        if not config.return_dict_in_generate:
            return sequences
        return FSDFMGenerationOutput(
            sequences=sequences,
            last_changed_step=canvas.last_changed_step,
            history=None if canvas.history is None else tuple(canvas.history),
            time_grid=canvas.times,
            num_function_evaluations=canvas.num_function_evaluations,
        )

    def _denoise_window(
        self,
        canvas: _Canvas,
        window: _Window,
        config: FSDFMGenerationConfig,
        processors: tuple[LogitsProcessorList, LogitsProcessorList],
        deadline: float | None,
        report: Callable[[float], None],
    ) -> None:
        """Takes the window from t = 0 to t = 1. `processors`: of the steps before the final ones, and of those."""
        # 3.a. Plan
        plan, step = self._plan_steps(canvas, window, config.time_grid, config), 0
        workspace, seconds = self._workspace(window), []
        while step < plan.num_steps:
            # 3.b. Step
            started = clock.monotonic()
            is_last = step == plan.num_steps - 1
            has_candidates = plan.num_candidates(step) > 0
            if has_candidates:  # else nobody can move, whatever the network says
                self._take_step(canvas, window, plan, step, config, processors[plan.is_final(step)], workspace)
            # 3.c. Report
            step += 1
            report(plan.time_grid[step])
            if deadline is not None and not is_last:
                canvas.ids[0, 0].item()  # waits for the device, so that the clock tells the truth
                if has_candidates:
                    seconds.append(clock.monotonic() - started)
                rest = _replan(plan, step, config, seconds, deadline)
                if rest is not None:
                    plan, step = self._plan_steps(canvas, window, rest, config), 0

    def _take_step(
        self,
        canvas: _Canvas,
        window: _Window,
        plan: _StepPlan,
        step: int,
        config: FSDFMGenerationConfig,
        processors: LogitsProcessorList,
        workspace: Tensor,
    ) -> None:
        """Runs the backbone on the window, the head on the step's candidates alone, and lets them jump."""
        is_greedy = plan.is_final(step) and config.final_temperature == 0
        for rows, padding, block_events in plan.moving_blocks(step):
            ids = canvas.ids[rows, window.start : window.end].clone()
            attended = canvas.attended if padding else None
            hidden_states = self.model(
                input_ids=ids if attended is None else ids.where(attended[rows, window.start : window.end], 0),
                time=plan.time[step : step + 1],
                step_size=plan.step_size[step : step + 1] if self.config.step_size_conditioning else None,
                **padding,
            ).last_hidden_state
            for events in _equal_pieces(block_events, len(workspace)):
                position = plan.candidates.position[events] - rows.start * ids.shape[1]
                logits = self.lm_head(hidden_states.flatten(0, 1)[position])
                if processors:
                    # transformers asks for `LongTensor`, a type that no operation on tensors is declared to give.
                    logits = processors(ids[position // ids.shape[1]], logits)  # type: ignore[arg-type]
                current_ids = ids.flatten()[position]
                if is_greedy:
                    next_ids = torch.where(logits.isnan().any(-1), -1, logits.argmax(-1))
                else:
                    uniform = plan.candidates.uniform[events]
                    next_ids = jump_candidates(
                        config.solver, logits, current_ids, plan.hazard[step], uniform, workspace
                    )
                canvas.write(plan.canvas_position[events], current_ids, next_ids)
        canvas.num_function_evaluations += 1

    def _plan_steps(
        self, canvas: _Canvas, window: _Window, time_grid: list[float], config: FSDFMGenerationConfig
    ) -> _StepPlan:
        """Times, hazards and candidates of all steps of a window: all random numbers of the sampling are drawn here."""
        device, width = canvas.ids.device, window.end - window.start
        grid = torch.tensor(time_grid, dtype=torch.float64)
        hazard = candidate_hazard(config.solver, self.config.flow_schedule, grid[:-1], grid.diff())
        can_move = window.editable
        only_once = self.config.source_distribution == "mask"
        if only_once:
            can_move = can_move & (canvas.ids[:, window.start : window.end] == self.config.mask_token_id)
        positions = [row.nonzero()[:, 0] + number * width for number, row in enumerate(can_move.cpu())]
        candidates = plan_candidates(positions, hazard, canvas.generators, only_once, config.spread_candidates)
        row, column = candidates.position // width, candidates.position % width
        blocks = self._row_blocks(window)
        step_size = torch.maximum(grid.diff(), (1 - grid[:-1]).clamp_max(config.min_step_size or 0))
        return _StepPlan(
            time_grid=time_grid,
            time=grid[:-1].to(device, torch.float32),
            step_size=step_size.to(device, torch.float32),
            hazard=hazard.to(device),
            candidates=CandidatePlan(
                candidates.position.to(device), candidates.uniform.to(device), candidates.step_offset
            ),
            canvas_position=(row * canvas.ids.shape[1] + window.start + column).to(device),
            blocks=blocks,
            block_offset=_block_offset(row, candidates.step_offset, blocks),
            padding=[self._padding_inputs(canvas, window, rows) for rows in blocks],
        )

    def _row_blocks(self, window: _Window) -> list[slice]:
        """All rows at once on an accelerator; few of them on a CPU, whose caches are small."""
        num_rows, width = window.editable.shape
        if self.device.type == "cpu":
            size = max(1, CPU_ACTIVATION_BYTES * torch.get_num_threads() // (4 * self.config.intermediate_size * width))
        else:
            size = num_rows
        return [slice(start, min(start + size, num_rows)) for start in range(0, num_rows, size)]

    def _padding_inputs(self, canvas: _Canvas, window: _Window, rows: slice) -> dict[str, Any]:
        """The attention mask in the form that the attention takes, made once: making it waits for the device."""
        if canvas.attended is None:
            return {}
        attended = canvas.attended[rows, window.start : window.end].long()
        shape_and_dtype = torch.empty((), dtype=self.dtype, device=self.device).expand(*attended.shape, 1)
        mask = create_bidirectional_mask(self.config, inputs_embeds=shape_and_dtype, attention_mask=attended)
        return {"attention_mask": mask, "position_ids": (attended.cumsum(-1) - 1).clamp_min(0)}

    def _workspace(self, window: _Window) -> Tensor:
        """Memory for the posteriors of as many candidates, in float32, as the head is to see at once."""
        rows, width = window.editable.shape
        vocab_size = self.config.vocab_size
        num_bytes = WORKSPACE_BYTES["cpu" if self.device.type == "cpu" else "accelerator"]
        # Logits processors get the canvas of every candidate, which outweighs a small vocabulary.
        num_rows = max(1, num_bytes // max(4 * vocab_size, 8 * width))
        return torch.empty(min(num_rows, rows * width), vocab_size, dtype=torch.float32, device=self.device)

    def _report_step(
        self,
        canvas: _Canvas,
        time: float,
        draft_start: int,
        streamer: BaseStreamer | None,
        callback: Callable[[Any, int, float, dict[str, Tensor]], dict[str, Tensor] | None] | None,
    ) -> None:
        """Records the step and tells those who asked."""
        canvas.times.append(time)
        if callback is not None:
            returned = callback(self, canvas.step - 1, time, {"sequences": canvas.ids})
            if returned is not None:
                self._take_over(canvas, returned)
        if canvas.history is not None:
            canvas.history.append(canvas.ids.clone())
        if streamer is not None and hasattr(streamer, "put_draft"):
            streamer.put_draft(value=canvas.ids[:, draft_start:].cpu())

    def _take_over(self, canvas: _Canvas, returned: Any) -> None:
        """Replaces the canvas by what a callback returned."""
        if not isinstance(returned, dict) or returned.keys() - {"sequences"}:
            found = list(returned) if isinstance(returned, dict) else type(returned).__name__
            raise ValueError(f"`callback_on_step_end` must return None or a dict of 'sequences', but returned {found}")
        ids = returned.get("sequences", canvas.ids)
        if ids.shape != canvas.ids.shape:
            raise ValueError(
                f"`callback_on_step_end` returned sequences of shape {tuple(ids.shape)} in place of "
                f"{tuple(canvas.ids.shape)}"
            )
        changed = ids[ids != canvas.ids]
        if ((changed < 0) | (changed >= self.config.num_input_embeddings)).any():
            raise ValueError(f"`callback_on_step_end` returned tokens outside [0, {self.config.num_input_embeddings})")
        canvas.ids.copy_(ids)

    def _check_state(self, streamer: BaseStreamer | None) -> None:
        """What may be wrong with the model or the streamer, whatever the settings."""
        if streamer is not None and not (hasattr(streamer, "put") and hasattr(streamer, "end")):
            raise TypeError(f"`streamer` must have the methods `put` and `end`, but is a {type(streamer).__name__}")
        if getattr(self, "training", False) and self.config.hidden_dropout_prob > 0:
            logger.warning_once("The model is in training mode and generates with dropout; call `model.eval()` first")
        wrapper = getattr(vars(self).get("prepare_inputs_for_generation"), "__self__", None)
        if getattr(getattr(wrapper, "active_peft_config", None), "is_prompt_learning", False):
            raise ValueError(
                "peft's prompt learning (prompt or prefix tuning) has no effect on `generate`; use an adapter inside "
                "the layers, such as LoRA"
            )

    def _prepare_generation_config(
        self, generation_config: GenerationConfig | None, kwargs: dict[str, Any]
    ) -> tuple[FSDFMGenerationConfig, set[str]]:
        """The settings (call > config passed > model's > defaults), and the names of those set for this call."""
        own = FSDFMGenerationConfig
        arguments = [name for name in inspect.signature(self.generate).parameters if name != "kwargs"]
        _refuse_unknown(kwargs, (*own._fields, *arguments))
        config = own(**kwargs)
        if generation_config is not None:
            if not isinstance(generation_config, GenerationConfig):
                raise TypeError(
                    f"`generation_config` must be a GenerationConfig, but got {type(generation_config).__name__}; pass "
                    "settings of a dict as keyword arguments"
                )
            passed = {key: value for key, value in generation_config.to_diff_dict().items() if value is not None}
            ignored = sorted(key for key in passed if key not in own._fields and key != "transformers_version")
            if ignored:
                logger.warning_once(f"`generation_config` sets {ignored}, which mean nothing to a discrete flow")
            if "num_steps" in kwargs:
                passed.pop("time_grid", None)
            config.set_unset(own(**{key: value for key, value in passed.items() if key in own._fields}))
        explicit = {name for name in own._fields if getattr(config, name) is not None}
        if "num_steps" in explicit and "time_grid" in explicit and len(config.time_grid) != config.num_steps + 1:
            raise ValueError(
                f"`num_steps` ({config.num_steps}) contradicts `time_grid`, which has {len(config.time_grid) - 1} steps"
            )
        if {"time_shift", "time_grid"} <= explicit:
            raise ValueError("`time_shift` means nothing beside a `time_grid`, which has all times already")
        if "min_step_size" in explicit and not self.config.step_size_conditioning:
            raise ValueError("`min_step_size` means nothing to a model whose network is not told the step size")
        stored = copy.copy(self.generation_config)
        if "num_steps" in explicit:
            stored.time_grid = None
        config.set_unset(stored)
        config.set_unset(own.from_model_config(self.config))
        config.validate()
        for token_id in _eos_token_ids(config):
            if not 0 <= token_id < self.config.vocab_size:
                raise ValueError(f"`eos_token_id` must be in [0, {self.config.vocab_size}), but got {token_id}")
        if config.time_grid is None:
            config.time_grid = _shifted_grid(0.0, config.num_steps, config.time_shift)
        config.num_steps = len(config.time_grid) - 1
        if config.pad_after_eos and config.eos_token_id is None:
            raise ValueError("`pad_after_eos=True` needs `eos_token_id`, but neither the call nor the model sets it")
        return config, explicit

    def _prepare_inputs(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        editable_mask: Tensor | None,
        config: FSDFMGenerationConfig,
        explicit: set[str],
    ) -> tuple[Tensor, Tensor | None, Tensor, int]:
        """Tokens, attended and editable positions with room for the new tokens, and the number of those."""
        if input_ids is None:
            if editable_mask is not None or attention_mask is not None:
                raise ValueError("`editable_mask` and `attention_mask` need `input_ids`")
            input_ids = torch.zeros((1, 0), dtype=torch.long, device=self.device)
        _check_ids(input_ids)
        input_ids = input_ids.to(self.device, torch.long)
        attended = _prepare_mask("attention_mask", attention_mask, input_ids)
        if attended is None:
            attended = _infer_attention(input_ids, config)
        if attended is not None and attended.all():
            attended = None
        editable = _prepare_mask("editable_mask", editable_mask, input_ids)
        if editable_mask is not None and editable_mask.dtype != torch.bool:
            raise TypeError(f"`editable_mask` must be a bool tensor, but got {editable_mask.dtype}; use `.bool()`")
        is_masked = input_ids == (-1 if config.mask_token_id is None else config.mask_token_id)
        is_infilling = editable is not None or bool(is_masked.any())
        editable = is_masked if editable is None else editable | is_masked
        if attended is not None:
            editable &= attended

        fixed = ~editable if attended is None else ~editable & attended
        outside = input_ids[fixed & ((input_ids < 0) | (input_ids >= self.config.vocab_size))]
        if outside.numel():
            raise ValueError(
                f"`input_ids` must be in [0, {self.config.vocab_size}), the model's vocabulary, but hold "
                f"{sorted(set(outside.tolist()))[:5]}"
            )
        num_new = _num_new_tokens(input_ids.shape[1], is_infilling, config, explicit)
        if num_new and attended is not None and not attended[:, -1:].all():
            logger.warning_once("Prompts are padded on the right; use `padding_side='left'` to continue them")
        grow = (0, num_new)
        input_ids = torch.nn.functional.pad(input_ids, grow)
        editable = torch.nn.functional.pad(editable, grow, value=True)
        attended = None if attended is None else torch.nn.functional.pad(attended, grow, value=True)
        if (repeats := config.num_return_sequences) > 1:
            input_ids, editable = input_ids.repeat_interleave(repeats, 0), editable.repeat_interleave(repeats, 0)
            attended = None if attended is None else attended.repeat_interleave(repeats, 0)
        return input_ids, attended, editable, num_new

    def _prepare_canvas(
        self,
        ids: Tensor,
        attended: Tensor | None,
        editable: Tensor,
        generators: list[torch.Generator],
        config: FSDFMGenerationConfig,
    ) -> _Canvas:
        """Writes source tokens to the editable positions, row by row from the row's own generator."""
        counts = editable.sum(-1).tolist()
        source = [
            sample_source((count,), self.config.vocab_size, self.config.source_distribution, generator)
            for count, generator in zip(counts, generators, strict=True)
        ]
        ids = ids.masked_scatter(editable, torch.cat(source).to(ids.device))
        return _Canvas(
            ids=ids,
            editable=editable,
            attended=attended,
            generators=generators,
            last_changed_step=torch.zeros_like(ids),
            first_bad_step=torch.zeros((), dtype=torch.long, device=ids.device),
            history=[ids.clone()] if config.output_history else None,
        )

    def prepare_inputs_for_generation(self, input_ids: Tensor | None = None, **kwargs: Any) -> dict[str, Any]:
        """What peft's `PeftModelForCausalLM` looks for; `generate` needs no preparation."""
        return {"input_ids": input_ids, **kwargs}

    def adjust_generation_fn(
        self,
        generation_config: GenerationConfig | None,
        from_auto_class: bool,
        from_pipeline: Any,
        pretrained_model_name_or_path: Any,
        *hub_arguments: Any,
        **kwargs: Any,
    ) -> None:
        """Called by `from_pretrained`: loads `generation_config.json`, with the type that `generate` needs."""
        names = (
            "cache_dir",
            "force_download",
            "proxies",
            "local_files_only",
            "token",
            "revision",
            "subfolder",
            "trust_remote_code",
        )
        hub_kwargs = {**dict(zip(names, hub_arguments, strict=False)), **kwargs}
        hub_kwargs.pop("trust_remote_code", None)
        loaded: Any
        if generation_config is not None:
            loaded = FSDFMGenerationConfig.from_dict(generation_config.to_dict())
        else:
            try:
                loaded = FSDFMGenerationConfig.from_pretrained(
                    pretrained_model_name_or_path,
                    _from_auto=from_auto_class,
                    _from_pipeline=from_pipeline,
                    **hub_kwargs,
                )
            except OSError:
                logger.info("Generation config file not found, using the default generation config.")
                return
        # Every setting gets a value, or pipelines would put their defaults for autoregressive models in its place.
        loaded.set_unset(FSDFMGenerationConfig.from_model_config(self.config))
        self.generation_config = loaded


def _check_ids(ids: Any) -> None:
    if not isinstance(ids, Tensor) or ids.ndim != 2 or not len(ids):
        found = tuple(ids.shape) if isinstance(ids, Tensor) else type(ids).__name__
        hint = "; unpack the tokenizer's output: `generate(**inputs)`" if hasattr(ids, "keys") else ""
        raise ValueError(f"`input_ids` must be a tensor of shape (batch_size, sequence_length), but got {found}{hint}")
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise TypeError(f"`input_ids` must be an integer tensor, but got {ids.dtype}")


def _prepare_mask(name: str, mask: Tensor | None, input_ids: Tensor) -> Tensor | None:
    """A bool tensor of the shape of `input_ids`; None if it is missing."""
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.shape != input_ids.shape:
        shape = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(f"`{name}` must have the shape of `input_ids`, {tuple(input_ids.shape)}, but got {shape}")
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError(f"`{name}` must hold 0 and 1 alone, but holds {mask.unique().tolist()[:5]}")
    return mask.to(input_ids.device).bool()


def _infer_attention(input_ids: Tensor, config: FSDFMGenerationConfig) -> Tensor | None:
    """Without an `attention_mask`, pad tokens count as padding unless they also end texts, as in transformers."""
    if config.pad_token_id is None or config.pad_token_id in _eos_token_ids(config):
        return None
    return input_ids != config.pad_token_id


def _eos_token_ids(config: FSDFMGenerationConfig) -> list[int]:
    eos = config.eos_token_id
    return [] if eos is None else list(eos) if isinstance(eos, Sequence) else [eos]


def _num_new_tokens(prompt_length: int, is_infilling: bool, config: FSDFMGenerationConfig, explicit: set[str]) -> int:
    if "max_new_tokens" in explicit:
        if config.max_new_tokens == 0 and not is_infilling:
            raise ValueError("`max_new_tokens=0` leaves nothing to write: `input_ids` hold no mask tokens to fill in")
        return config.max_new_tokens
    if is_infilling and "max_length" not in explicit:
        return 0
    if "max_length" not in explicit and config.max_new_tokens is not None:
        return config.max_new_tokens
    num_new = config.max_length - prompt_length
    if num_new < 0 or (num_new == 0 and not is_infilling):
        raise ValueError(
            f"no room for new tokens after the {prompt_length} of `input_ids` within `max_length`={config.max_length}; "
            "pass a larger `max_length`, or `max_new_tokens`"
        )
    return num_new


def _row_generators(generator: torch.Generator | list[torch.Generator] | None, rows: int) -> list[torch.Generator]:
    """One generator on the CPU for each row, seeded from the user's: rows do not share random numbers."""
    if isinstance(generator, Sequence):
        if len(generator) != rows:
            raise ValueError(f"`generator` must be one generator or a list of {rows}, but has {len(generator)} entries")
        seeds = [_draw_seeds(row_generator, 1)[0] for row_generator in generator]
    else:
        seeds = _draw_seeds(generator, rows)
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def _draw_seeds(generator: torch.Generator | None, count: int) -> list[int]:
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"`generator` must be a torch.Generator or a list of them, but got {type(generator).__name__}")
    device = "cpu" if generator is None else generator.device
    return torch.randint(2**63 - 1, (count,), generator=generator, device=device).tolist()


class _NucleusWarper(TopPLogitsWarper):
    """
    What its base class does. On a CPU, where sorting the whole vocabulary for every candidate is slow, only the
    likeliest quarter is sorted, unless a nucleus is larger.
    """

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        if scores.device.type != "cpu":  # which tokens suffice would have to be waited for
            return super().__call__(input_ids, scores)
        likeliest, token = scores.topk(max(1, scores.shape[-1] // 4), dim=-1)
        wide = torch.promote_types(scores.dtype, torch.float32)
        probability = (likeliest.to(wide) - scores.to(wide).logsumexp(-1, keepdim=True)).exp()
        total = probability.cumsum(-1)
        outside = likeliest.masked_fill(total - probability >= self.top_p, self.filter_value)
        nucleus = torch.full_like(scores, self.filter_value).scatter_(-1, token, outside)
        is_larger = total[:, -1] < self.top_p
        if is_larger.any():
            nucleus[is_larger] = super().__call__(input_ids, scores[is_larger])
        return nucleus


def _prepare_logits_processors(
    config: FSDFMGenerationConfig, custom: LogitsProcessorList | None
) -> tuple[LogitsProcessorList, LogitsProcessorList]:
    """The processors of the steps before the final ones, and of those, which may have a temperature of their own."""
    if custom is not None and not isinstance(custom, Sequence):
        raise TypeError(f"`logits_processor` must be a list of logits processors, but got {type(custom).__name__}")

    def chain(temperature: float) -> LogitsProcessorList:
        processors = LogitsProcessorList(custom or [])
        if temperature not in (0, 1):
            processors.append(TemperatureLogitsWarper(float(temperature)))
        if config.top_k is not None:
            processors.append(TopKLogitsWarper(config.top_k))
        if config.top_p is not None and config.top_p < 1:
            processors.append(_NucleusWarper(float(config.top_p)))
        return processors

    final_temperature = config.temperature if config.final_temperature is None else config.final_temperature
    return chain(config.temperature), chain(final_temperature)


def _first_draft_column(editable: Tensor, num_new: int) -> int:
    """Where drafts begin: after the prompt, or at the start if positions inside the prompt are written too."""
    prompt_length = editable.shape[1] - num_new
    return 0 if editable[:, :prompt_length].any() else prompt_length


def _windows(editable: Tensor, width: int) -> Iterator[_Window]:
    """
    Windows of at most `width` columns that together write every editable position once, each from the left.

    A later window begins with half a width of what already stands, or more if it is the last.
    """
    length, start, settled = editable.shape[1], 0, 0
    while settled < length:
        end = min(start + width, length)
        to_write = editable[:, start:end].clone()
        to_write[:, : settled - start] = False
        if to_write.any():
            yield _Window(start, end, to_write)
        settled = end
        start = min(end - width // 2, max(length - width, 0))


def _block_offset(row: Tensor, step_offset: list[int], blocks: list[slice]) -> list[int]:
    """Where the candidates of each block begin in each step; `row` is that of each candidate."""
    num_steps, num_blocks = len(step_offset) - 1, len(blocks)
    step = torch.arange(num_steps).repeat_interleave(torch.tensor(step_offset).diff())
    place = step * num_blocks + row // (blocks[0].stop - blocks[0].start)
    return [0, *torch.bincount(place, minlength=num_steps * num_blocks).cumsum(0).tolist()]


def _equal_pieces(events: slice, size: int) -> Iterator[slice]:
    """Equal pieces of at most `size`."""
    count = events.stop - events.start
    pieces = -(-count // size)
    bounds = [events.start + count * piece // pieces for piece in range(pieces + 1)]
    return itertools.starmap(slice, itertools.pairwise(bounds))


def _shifted_grid(start: float, num_steps: int, shift: float) -> list[float]:
    """Times from `start` to 1, equally far apart before the shift; see `time_shift`."""
    unshifted = torch.linspace(start / (shift - (shift - 1) * start), 1, num_steps + 1, dtype=torch.float64)
    inner = (shift * unshifted / (1 + (shift - 1) * unshifted))[1:-1].tolist()
    return [start, *inner, 1.0]


def _replan(
    plan: _StepPlan, step: int, config: FSDFMGenerationConfig, seconds: list[float], deadline: float
) -> list[float] | None:
    """
    The times of the rest of a window that fits before the deadline, or None if the plan may stand.

    Fewer steps where the planned ones would take too long, more (up to the user's own grid) where there is time to
    spare. What costs time is the network, which runs only in steps that have candidates.
    """
    if not seconds:
        return None
    typical = statistics.median(seconds[1:][-5:] or seconds)  # the first call warms things up
    affordable = (deadline - clock.monotonic()) / max(typical, 1e-9)
    planned = max(1, sum(plan.num_candidates(later) > 0 for later in range(step, plan.num_steps)))
    now, steps_left = plan.time_grid[step], plan.num_steps - step
    own_rest = [time for time in config.time_grid if time > now]
    has_time_to_spare = steps_left < len(own_rest) and 1.25 * planned < affordable
    if planned <= affordable and not has_time_to_spare:
        return None
    count = max(1, min(int(steps_left * affordable / planned), len(own_rest)))
    if count == steps_left:
        return None
    if count == len(own_rest):
        return [now, *own_rest]
    return _shifted_grid(now, count, config.time_shift)


def _pad_after_eos(ids: Tensor, editable: Tensor, config: FSDFMGenerationConfig) -> Tensor:
    """Replaces what was written after the first end-of-sequence token that was written."""
    eos = _eos_token_ids(config)
    is_end = editable & torch.isin(ids, torch.tensor(eos, device=ids.device))
    is_after = is_end.cumsum(-1) - is_end.long() > 0
    pad = config.pad_token_id if config.pad_token_id is not None else eos[0]
    return torch.where(is_after & editable, pad, ids)


__all__ = ["FSDFMGenerationConfig", "FSDFMGenerationMixin", "FSDFMGenerationOutput"]
