# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""
Samples: stored in one parquet file for each run (a cell under one seed), and read back.

The name and the metadata of a file hold a fingerprint of everything that its contents depend on: the model's weights,
the tokenizer, the prompts and every setting. A changed setting therefore has files of its own, beside the old ones.
"""

import hashlib
import json
import platform
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from .. import __version__
from .files import written_whole
from .settings import SAMPLING, UNCONDITIONAL, EvaluationSettings, Mode, Run
from .systems import ModelFolder
from .texts import MarkedText, mark_text


METADATA_KEY = b"transformers_fsdfm.evaluation"


@dataclass(frozen=True)
class Prompts:
    """
    What is given in a mode.

    Args:
        mode ([`Mode`]): the mode.
        blocks (`np.ndarray` of shape `(num_samples, length)`): real text, of which the given positions are taken.
        editable (`np.ndarray` of the same shape, bool): the positions to write.
    """

    mode: Mode
    blocks: np.ndarray
    editable: np.ndarray

    @classmethod
    def of(cls, mode: Mode, blocks: np.ndarray) -> "Prompts":
        """The prompts of a mode, made of the reference blocks."""
        return cls(mode, blocks, mode.editable_mask(*blocks.shape))

    @cached_property
    def fingerprint(self) -> str | None:
        """Stands for what is given; None if nothing is."""
        if self.mode.kind == UNCONDITIONAL:
            return None
        given = np.where(self.editable, -1, self.blocks)
        return hashlib.blake2b(given.astype(np.int64).tobytes(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Samples:
    """
    The samples of a run, in order; or the real text in the same form.

    Args:
        token_ids (`list` of `np.ndarray` of shape `(length,)`, int64): each sequence, with its prompt.
        editable (`list` of `np.ndarray` of the same shapes, bool): what was written, not given.
        texts (`list[MarkedText]`): the same as text.
        batch_seconds (`np.ndarray` of shape `(full batches,)`): wall time of each whole batch, in seconds.
        num_function_evaluations (`float`): runs of the network for a batch, mean over batches.
        batch_size (`int`, *optional*): sequences in those batches.
        num_processes (`int`): how many processes sampled at the same time.
        machine (`str`): what sampled.
        initial_ids (`list` of `np.ndarray` of the shapes of `token_ids`, *optional*): what infilling started from: the
            given tokens, and source tokens at the others.
    """

    token_ids: list[np.ndarray]
    editable: list[np.ndarray]
    texts: list[MarkedText]
    batch_seconds: np.ndarray
    num_function_evaluations: float
    batch_size: int | None = None
    num_processes: int = 1
    machine: str = ""
    initial_ids: list[np.ndarray] | None = None

    @cached_property
    def fingerprint(self) -> str:
        """Stands for what is scored."""
        columns = (self.token_ids, self.editable, self.initial_ids)
        content = [None if rows is None else [row.tolist() for row in rows] for rows in columns]
        content += [[one.text, one.written] for one in self.texts]
        return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()

    def subset(self, indices: np.ndarray) -> "Samples":
        """Some of the sequences."""

        def of(rows: list[Any]) -> list[Any]:
            return [rows[index] for index in indices]

        initial_ids = None if self.initial_ids is None else of(self.initial_ids)
        return replace(
            self,
            token_ids=of(self.token_ids),
            editable=of(self.editable),
            texts=of(self.texts),
            initial_ids=initial_ids,
        )

    def written_runs(self, number: int) -> list[list[int]]:
        """The tokens of a sequence that were written, run by run: what was given stands between two."""
        ids, flags = self.token_ids[number], self.editable[number]
        borders = np.flatnonzero(np.diff(flags)) + 1
        pieces = zip(np.split(ids, borders), np.split(flags, borders), strict=True)
        return [piece.tolist() for piece, is_written in pieces if is_written.any()]

    @property
    def written_ids(self) -> list[list[int]]:
        """The tokens that were written, without those given."""
        return [row[flags].tolist() for row, flags in zip(self.token_ids, self.editable, strict=True)]


def real_samples(prompts: Prompts, tokenizer: PreTrainedTokenizerBase) -> Samples:
    """The real text in the form of samples: what a perfect model would have written."""
    texts = [mark_text(tokenizer, *row) for row in zip(prompts.blocks, prompts.editable, strict=True)]
    return Samples(list(prompts.blocks), list(prompts.editable), texts, np.empty(0), float("nan"))


class SampleStore:
    """
    The files of a report's samples.

    Args:
        folder (`Path`): where they are.
        settings ([`EvaluationSettings`]): of the report.
        models (`dict[str, ModelFolder]`): by name.
        prompts (`dict[str, Prompts]`): by the name of the mode.
        length (`int`): tokens of a sequence.
        device_type (`str`): where the models run.
    """

    def __init__(
        self,
        folder: Path,
        settings: EvaluationSettings,
        models: dict[str, ModelFolder],
        prompts: dict[str, Prompts],
        length: int,
        device_type: str,
    ) -> None:
        self.folder, self.prompts = folder, prompts
        self._settings, self._models = settings, models
        self._length, self._device_type = length, device_type

    def fingerprint_settings(self, run: Run) -> dict[str, Any]:
        """Everything that the samples of a run, and their seconds, depend on, as a JSON value."""
        own = self._settings
        others = {"system_options": own.system_options} if run.cell.model in own.system_paths else {}
        return {
            **others,
            "version": __version__,
            "model": self._models[run.cell.model].fingerprint,
            "mode": run.cell.mode,
            "prompts": self.prompts[run.cell.mode].fingerprint,
            "solver": run.cell.solver,
            "num_steps": run.cell.num_steps,
            "seed": run.seed,
            "num_samples": own.num_samples,
            "length": self._length,
            **{name: getattr(own, name) for name in SAMPLING},
            "dtype": own.dtype,
            "device": self._device_type,
            "batch_size": own.batch_size,
        }

    def path(self, run: Run) -> Path:
        """The file of a run under the present settings."""
        text = json.dumps(self.fingerprint_settings(run), sort_keys=True)
        digest = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
        return self.folder / run.cell.model / f"{_stem(run)}--{digest}.parquet"

    def has(self, run: Run) -> bool:
        """Whether the samples are there."""
        return self.path(run).is_file()

    def describe_others(self, run: Run) -> str | None:
        """What is different in the stored samples of this run that come from other settings; None without any."""
        wanted = self.fingerprint_settings(run)
        others = (self.folder / run.cell.model).glob(f"{_stem(run)}--*.parquet")
        for file in sorted(others, key=lambda file: file.stat().st_mtime, reverse=True):
            stored = _read_settings(file)
            changed = [
                f"{name} {stored.get(name)}, now {value}" for name, value in wanted.items() if stored.get(name) != value
            ]
            if changed:
                return "; ".join(changed)
        return None

    def save(self, run: Run, columns: dict[str, list[Any]], num_processes: int) -> None:
        """Writes the file of a run, in one piece."""
        import datasets
        import pyarrow.parquet as parquet

        rows = datasets.Dataset.from_dict(columns, features=sample_features())
        record = {
            "settings": self.fingerprint_settings(run),
            "num_processes": num_processes,
            "machine": _describe_machine(self._device_type),
        }
        table = rows.data.table
        metadata = {**(table.schema.metadata or {}), METADATA_KEY: json.dumps(record).encode()}
        with written_whole(self.path(run)) as file:
            parquet.write_table(table.replace_schema_metadata(metadata), file)

    def load(self, run: Run) -> Samples:
        """
        Raises:
            `FileNotFoundError`: if the run has not been sampled under the present settings.
        """
        import pyarrow.parquet as parquet

        path = self.path(run)
        if not path.is_file():
            others = self.describe_others(run)
            hint = f"; there are samples of other settings ({others})" if others else ""
            raise FileNotFoundError(f"no samples of {_stem(run)} by {run.cell.model} in {self.folder}{hint}")
        table = parquet.read_table(path)
        record = json.loads(table.schema.metadata[METADATA_KEY])
        columns = table.to_pydict()
        batch_rows = dict(zip(columns["batch"], columns["batch_rows"], strict=True))
        batch_seconds = dict(zip(columns["batch"], columns["batch_seconds"], strict=True))
        evaluations = dict(zip(columns["batch"], columns["num_function_evaluations"], strict=True))
        whole = max(batch_rows.values())
        has_initial = columns["initial_ids"][0] is not None
        return Samples(
            token_ids=_arrays(columns["token_ids"], np.int64),
            editable=_arrays(columns["editable"], bool),
            texts=[
                MarkedText(text, tuple(map(tuple, spans)))
                for text, spans in zip(columns["text"], columns["written"], strict=True)
            ],
            batch_seconds=np.array([batch_seconds[batch] for batch in batch_rows if batch_rows[batch] == whole]),
            num_function_evaluations=float(np.mean(list(evaluations.values()))),
            batch_size=whole,
            num_processes=record["num_processes"],
            machine=record["machine"],
            initial_ids=_arrays(columns["initial_ids"], np.int64) if has_initial else None,
        )


def _arrays(rows: list[list[int]], dtype: type) -> list[np.ndarray]:
    return [np.array(row, dtype=dtype) for row in rows]


def _stem(run: Run) -> str:
    return f"{run.cell.mode}--{run.cell.solver}--{run.cell.num_steps}-steps--seed-{run.seed}"


def _read_settings(file: Path) -> dict[str, Any]:
    import pyarrow.parquet as parquet

    return json.loads(parquet.read_schema(file).metadata[METADATA_KEY])["settings"]


def _describe_machine(device_type: str) -> str:
    """What seconds depend on."""
    if device_type == "cuda":
        return torch.cuda.get_device_name()
    return f"{device_type} ({platform.processor() or platform.machine()}), threads: {torch.get_num_threads()}"


def sample_features() -> Any:
    """The columns of a file of samples."""
    from datasets import Features, List, Value

    return Features(
        {
            "seed": Value("int64"),
            "sequence": Value("int32"),
            "prompt": Value("string"),
            "token_ids": List(Value("int32")),
            "editable": List(Value("bool")),
            "initial_ids": List(Value("int32")),
            "text": Value("string"),
            "written": List(List(Value("int32"))),
            "batch": Value("int32"),
            "batch_rows": Value("int32"),
            "batch_seconds": Value("float64"),
            "num_function_evaluations": Value("int32"),
        }
    )


__all__ = ["Prompts", "SampleStore", "Samples", "real_samples", "sample_features"]
