# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Everything that a run needs, found and checked before any of it is used."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ..optional import require
from .bounds import BoundStore
from .samples import Prompts, Samples, SampleStore, real_samples
from .scores import Job, Judge, ScoreStore, jobs_of
from .settings import UNCONDITIONAL, EvaluationSettings, Mode, Run
from .statistics import MIN_UNITS
from .systems import ModelFolder, common_tokenizer, find_flows, find_others, find_scorers
from .texts import reference_blocks, training_index


LIBRARIES = ("accelerate", "datasets", "filelock", "matplotlib", "pyarrow", "scipy")
METRIC_LIBRARIES = {"mauve": ("mauve",), "diversity": ("sacrebleu",), "likelihood_bound": ("peft",)}


@dataclass(frozen=True)
class Workbench:
    """
    Args:
        settings ([`EvaluationSettings`]): of the report.
        length (`int`): tokens of a sequence.
        device (`torch.device`): where models and scorers run.
        models, others, scorers (`dict[str, ModelFolder]`): by name; `others` are systems that are not of this package.
        tokenizer ([`PreTrainedTokenizerBase`]): of all models.
        real (`dict[str, Samples]`): the real text in the form of samples, by mode.
        judge ([`Judge`]): computes scores.
        samples, scores, bounds: where results are kept.
    """

    settings: EvaluationSettings
    length: int
    device: torch.device
    models: dict[str, ModelFolder]
    others: dict[str, ModelFolder]
    scorers: dict[str, ModelFolder]
    tokenizer: PreTrainedTokenizerBase
    real: dict[str, Samples]
    judge: Judge
    samples: SampleStore
    scores: ScoreStore
    bounds: BoundStore

    @classmethod
    def prepare(cls, settings: EvaluationSettings, device: torch.device) -> "Workbench":
        """
        Raises:
            `ValueError`: if a model, a scorer, the reference or the training text is missing or does not fit.
        """
        models = find_flows(settings.model_paths)
        others = find_others({**settings.system_paths, **settings.baseline_paths}, settings.trust_remote_code)
        scorers = find_scorers(settings.scorer_paths)
        tokenizer = common_tokenizer(models.values())
        length = settings.length
        if length is None:
            length = min(model.config.get("max_position_embeddings", 1024) for model in models.values())
        training = None
        if settings.training_text:
            training = training_index(list(settings.training_text), tokenizer)
        blocks, more_blocks = _reference(settings, tokenizer, length)
        prompts = {name: Prompts.of(Mode.parse(name), blocks) for name in settings.modes}
        whole = Prompts.of(Mode.parse(UNCONDITIONAL), more_blocks)
        out = Path(settings.out)
        return cls(
            settings=settings,
            length=length,
            device=device,
            models=models,
            others=others,
            scorers=scorers,
            tokenizer=tokenizer,
            real={name: real_samples(prompts[name], tokenizer) for name in settings.modes},
            judge=Judge(
                folders=scorers,
                real_texts=[one.text for one in real_samples(whole, tokenizer).texts],
                device=device,
                dtype=settings.dtype,
                batch_size=settings.batch_size,
                training=training,
            ),
            samples=SampleStore(out / "samples", settings, {**models, **others}, prompts, length, device.type),
            scores=ScoreStore(
                out / "scores",
                scorers,
                [blocks.tolist(), more_blocks.tolist(), settings.dtype],
                None if training is None else training.fingerprint,
            ),
            bounds=BoundStore(out / "scores", blocks, settings.dtype),
        )

    def score_paths(self, mode: str, run: Run | None) -> dict[Job, Path]:
        """The files of all scores of a run, or of the real text (None) in a mode."""
        samples = self.samples_of(mode, run)
        return {job: self.scores.path(job, samples, mode) for job in jobs_of(self.settings, Mode.parse(mode))}

    def samples_of(self, mode: str, run: Run | None) -> Samples:
        """The samples of a run, or the real text (None)."""
        return self.real[mode] if run is None else self.samples.load(run)


def check_libraries(settings: EvaluationSettings) -> None:
    """
    Raises:
        `ModuleNotFoundError`: if a library is missing; says what to install.
    """
    own = (library for metric in settings.metrics for library in METRIC_LIBRARIES.get(metric, ()))
    require("eval", *LIBRARIES, *own, what="The evaluation")


def _reference(
    settings: EvaluationSettings, tokenizer: PreTrainedTokenizerBase, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """The blocks for prompts and the reference row, and others for MAUVE: twice as many, if there are."""
    count = settings.num_samples
    blocks = reference_blocks(list(settings.reference), tokenizer, length, 3 * count)
    if len(blocks) < count:
        raise ValueError(
            f"`reference` has {len(blocks)} blocks of {length} tokens, fewer than `num_samples` ({count}): give more "
            "text, or lower `num_samples` or `length`"
        )
    blocks, others = blocks[:count], blocks[count:]
    if "mauve" in settings.metrics and len(others) < MIN_UNITS:
        raise ValueError(
            f"`reference` has {len(others)} blocks of {length} tokens besides the {count} of the reference row, too "
            f"few for MAUVE (best are {2 * count}, at least {MIN_UNITS}): give more text, or leave mauve out of "
            "`metrics`"
        )
    return blocks, others


__all__ = ["Workbench", "check_libraries"]
