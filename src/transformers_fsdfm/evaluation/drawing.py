# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Drawing samples: batch by batch, timed, from the models of this package and from other systems."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from .. import FSDFMForDiffusionLM, FSDFMGenerationOutput
from ..adapters import AdapterOutput, SystemAdapter, load_adapter
from .samples import Prompts, SampleStore, sample_features
from .settings import INFILL, NO_STEPS, SAMPLING, EvaluationSettings, Run
from .systems import ModelFolder, load_flow
from .texts import MarkedText, mark_text, prompt_text


WARM_UP_STEPS = 2


@dataclass
class Batch:
    """
    What a system wrote for some of the prompts of a run.

    Args:
        token_ids, editable, texts: as in [`~evaluation.samples.Samples`].
        initial_ids (`list`): likewise, or None for each sequence.
        seconds (`float`): of generation alone, with the tokens back on the host.
        num_function_evaluations (`int`): runs of the network.
    """

    token_ids: list[list[int]]
    editable: list[list[bool]]
    initial_ids: list[list[int] | None]
    texts: list[MarkedText]
    seconds: float
    num_function_evaluations: int


class Writer(Protocol):
    """A loaded system."""

    def warm_up(self, prompts: Prompts, run: Run) -> None:
        """Generates once, not to be timed: the first call of a shape pays for memory and kernels."""

    def write(self, prompts: Prompts, rows: slice, run: Run) -> Batch:
        """Writes for some of the prompts."""


def draw_runs(
    runs: Iterable[Run],
    store: SampleStore,
    settings: EvaluationSettings,
    models: dict[str, ModelFolder],
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device,
    num_processes: int = 1,
    report: Callable[[Run, int], None] = lambda run, rows: None,
) -> None:
    """
    Draws and stores the samples of runs.

    Args:
        runs (`Iterable[Run]`): each model is loaded once for all its runs.
        models (`dict[str, ModelFolder]`): all systems by name.
        tokenizer: of the report.
        report (`Callable`, *optional*): told of every batch that is done: its run and its number of sequences.
    """
    ordered = sorted(runs)
    for name in dict.fromkeys(run.cell.model for run in ordered):
        writer = _load_writer(models[name], settings, tokenizer, device)
        warm_mode = None
        for run in (run for run in ordered if run.cell.model == name):
            prompts = store.prompts[run.cell.mode]
            if warm_mode != run.cell.mode:
                warm_mode = run.cell.mode
                writer.warm_up(prompts, run)
            columns: dict[str, list[Any]] = {feature: [] for feature in sample_features()}
            for number, start in enumerate(range(0, settings.num_samples, settings.batch_size)):
                rows = slice(start, min(start + settings.batch_size, settings.num_samples))
                batch = writer.write(prompts, rows, run)
                for feature, values in _columns(batch, number, rows, run, tokenizer).items():
                    columns[feature].extend(values)
                report(run, len(batch.texts))
            store.save(run, columns, num_processes)


def _load_writer(
    folder: ModelFolder, settings: EvaluationSettings, tokenizer: PreTrainedTokenizerBase, device: torch.device
) -> Writer:
    if folder.name in settings.model_paths:
        return FlowWriter(load_flow(folder, settings.dtype, device), settings, tokenizer)
    options: dict[str, Any] = {
        "dtype": settings.dtype,
        "trust_remote_code": settings.trust_remote_code,
        "stop_at_eos": False,
    }
    if folder.name in settings.system_paths:
        options |= settings.system_options
    return AdapterWriter(load_adapter(str(folder.path), device=device, **options), settings, tokenizer)


def _columns(
    batch: Batch, number: int, rows: slice, run: Run, tokenizer: PreTrainedTokenizerBase
) -> dict[str, list[Any]]:
    size = rows.stop - rows.start
    pairs = zip(map(np.array, batch.token_ids), map(np.array, batch.editable), strict=True)
    return {
        "seed": [run.seed] * size,
        "sequence": list(range(rows.start, rows.stop)),
        "prompt": [prompt_text(tokenizer, *pair) for pair in pairs],
        "token_ids": batch.token_ids,
        "editable": batch.editable,
        "initial_ids": batch.initial_ids,
        "text": [one.text for one in batch.texts],
        "written": [one.written for one in batch.texts],
        "batch": [number] * size,
        "batch_rows": [size] * size,
        "batch_seconds": [batch.seconds] * size,
        "num_function_evaluations": [batch.num_function_evaluations] * size,
    }


@dataclass
class FlowWriter:
    """A DFM or FS-DFM."""

    model: FSDFMForDiffusionLM
    settings: EvaluationSettings
    tokenizer: PreTrainedTokenizerBase

    def warm_up(self, prompts: Prompts, run: Run) -> None:
        """See [`Writer`]."""
        self._generate(prompts, _first_batch(self.settings), run, num_steps=WARM_UP_STEPS)

    def write(self, prompts: Prompts, rows: slice, run: Run) -> Batch:
        """See [`Writer`]."""
        started = time.perf_counter()
        output = self._generate(prompts, rows, run)
        token_ids = output.sequences.cpu().numpy()  # waits for the device
        seconds = time.perf_counter() - started
        initial_ids: list[list[int] | None] = [None] * len(token_ids)
        if prompts.mode.kind == INFILL:  # the source tokens depend on the seed alone: one step shows them
            history = self._generate(prompts, rows, run, num_steps=1, output_history=True).history
            assert history is not None
            initial_ids = history[0].tolist()
        editable = prompts.editable[rows]
        texts = [mark_text(self.tokenizer, *pair) for pair in zip(token_ids, editable, strict=True)]
        evaluations = output.num_function_evaluations
        assert evaluations is not None
        return Batch(token_ids.tolist(), editable.tolist(), initial_ids, texts, seconds, evaluations)

    def _generate(
        self, prompts: Prompts, rows: slice, run: Run, num_steps: int | None = None, **options: Any
    ) -> FSDFMGenerationOutput:
        """Writes a batch, in `num_steps` steps or those of the run."""
        from ..trainer.noise import seeded_generator

        blocks, editable = torch.from_numpy(prompts.blocks[rows]), torch.from_numpy(prompts.editable[rows])
        given = prompts.mode.num_given(blocks.shape[1])
        if prompts.mode.kind == INFILL:
            inputs: dict[str, Any] = {"input_ids": blocks, "editable_mask": editable, "max_new_tokens": 0}
        else:
            inputs = {"input_ids": blocks[:, :given], "max_new_tokens": blocks.shape[1] - given}
        for name in SAMPLING:
            if (value := getattr(self.settings, name)) is not None:
                options[name] = value
        if not self.model.config.step_size_conditioning:
            options.pop("min_step_size", None)
        # Each sequence has random numbers of its own, the same for all models, solvers, steps and batch sizes.
        return self.model.generate(
            **inputs,
            attention_mask=torch.ones_like(inputs["input_ids"]),
            generator=[seeded_generator("evaluation", run.seed, number) for number in range(rows.start, rows.stop)],
            num_steps=run.cell.num_steps if num_steps is None else num_steps,
            solver=run.cell.solver,
            num_return_sequences=1,
            return_dict_in_generate=True,
            **options,
        )


@dataclass
class AdapterWriter:
    """
    Another system behind its adapter. It gets prompts as text and writes as many of its own tokens as the models of
    this package write of theirs. So that entropy and n-grams are counted in the same tokens for all, its text is put
    into the tokens of the report.
    """

    adapter: SystemAdapter
    settings: EvaluationSettings
    tokenizer: PreTrainedTokenizerBase

    def warm_up(self, prompts: Prompts, run: Run) -> None:
        """See [`Writer`]. With all steps: how few a system can take is its own affair."""
        self._generate(prompts, _first_batch(self.settings), run)

    def write(self, prompts: Prompts, rows: slice, run: Run) -> Batch:
        """See [`Writer`]."""
        starts, output = self._generate(prompts, rows, run)
        texts, token_ids, editable = [], [], []
        for start, given_ids, new_ids in zip(starts, self._given(prompts, rows), output.ids, strict=True):
            own_ids = self.adapter.tokenizer(start, add_special_tokens=False)["input_ids"] if start else []
            whole = np.array([*own_ids, *new_ids], dtype=np.int64)
            marked = mark_text(self.adapter.tokenizer, whole, np.arange(len(whole)) >= len(own_ids))
            written = "".join(marked.text[begin:end] for begin, end in marked.written)
            texts.append(MarkedText(start + written, ((len(start), len(start + written)),) if written else ()))
            written_ids = self.tokenizer(written, add_special_tokens=False, verbose=False)["input_ids"]
            token_ids.append([*given_ids, *written_ids])
            editable.append([False] * len(given_ids) + [True] * len(written_ids))
        evaluations = output.num_function_evaluations
        return Batch(token_ids, editable, [None] * len(texts), texts, output.seconds, evaluations)

    def _given(self, prompts: Prompts, rows: slice) -> list[list[int]]:
        return prompts.blocks[rows, : prompts.mode.num_given(prompts.blocks.shape[1])].tolist()

    def _generate(self, prompts: Prompts, rows: slice, run: Run) -> tuple[list[str], AdapterOutput]:
        starts = [_as_text(self.tokenizer, ids) for ids in self._given(prompts, rows)]
        length = prompts.blocks.shape[1]
        output = self.adapter.generate(
            starts,
            num_steps=None if run.cell.num_steps == NO_STEPS else run.cell.num_steps,
            max_new_tokens=length - prompts.mode.num_given(length),
            seed=run.seed * len(prompts.blocks) + rows.start,  # of the first sequence: batches must not be alike
        )
        return starts, output


def _as_text(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return mark_text(tokenizer, np.array(ids, dtype=np.int64), np.zeros(len(ids), dtype=bool)).text


def _first_batch(settings: EvaluationSettings) -> slice:
    return slice(0, min(settings.batch_size, settings.num_samples))


__all__ = ["AdapterWriter", "FlowWriter", "draw_runs"]
