# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The arguments of the two trainers."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from transformers import TrainingArguments

from transformers_fsdfm.flow_fsdfm import SOLVERS

from .shortcut_teacher import SHORTCUT_TEACHERS
from .step_sizes import STEP_SIZE_POLICIES, StepSizeGrid


LOSS_TYPES = ("path", "cross_entropy")
WEIGHT_KINDS = ("ema", "raw")


@dataclass
class DFMTrainingArguments(TrainingArguments):
    r"""
    Arguments of [`DFMTrainer`]: those of [`~transformers.TrainingArguments`], and the ones below. The defaults of
    `learning_rate`, `adam_beta2`, `weight_decay`, `logging_steps` and `logging_nan_inf_filter` are changed.

    Parameters that control the loss:

    Args:
        loss_type (`str`, *optional*, defaults to `"path"`):
            `"path"`, the path loss, or `"cross_entropy"`, -log p(x_1) with the same weight at all times: the same
            minimiser, and gradients that are less noisy early on.
        cross_entropy_steps (`int`, *optional*, defaults to 0):
            Train with cross-entropy up to this global step and with the path loss from there.
        time_epsilon (`float`, *optional*, defaults to 1e-3):
            Times are drawn from [0, 1 - time_epsilon]; the path loss is singular at 1.
        low_discrepancy_times (`bool`, *optional*, defaults to `False`):
            Whether the times of a global batch are spread evenly, one in each of as many equal parts as it has rows.
        num_step_size_levels (`int`, *optional*, defaults to 11):
            The grid of step sizes is 2^0, ..., 2^-(num_step_size_levels - 1). A model that reads the step size is
            trained on data, and evaluated, at the finest one. Has no effect on a plain DFM.

        spread_candidates (`bool`, *optional*, defaults to `False`):
            Train for the setting of this name of `generate`: spread the noise of x_t evenly over the text, and, in
            distillation, the tokens that may move in a jump of the teacher. Evaluation keeps to independent noise, of
            which the likelihood bound is one.

    Parameters that control the optimizer:

    Args:
        muon_learning_rate (`float`, *optional*):
            Trains the projections of the blocks with Muon at this learning rate, and the rest with AdamW at
            `learning_rate`; both follow `lr_scheduler_type`. AdamW alone if not set. See [`MuonWithAdamW`].

    Parameters that control evaluation:

    Args:
        eval_num_times (`int`, *optional*, defaults to 16):
            Times at which each row is evaluated: the middles of so many equal parts of [0, 1 - time_epsilon].
        eval_seed (`int`, *optional*, defaults to 0):
            Seed of the noise of evaluation, which is the same at every evaluation.
    """

    if TYPE_CHECKING:  # `TrainingArguments` sets it where it was not given
        output_dir: str = "trainer_output"

    learning_rate: float = field(default=3e-4, metadata={"help": "The initial learning rate for AdamW."})
    adam_beta2: float = field(default=0.95, metadata={"help": "Beta2 for AdamW."})
    weight_decay: float = field(default=0.03, metadata={"help": "Weight decay for AdamW."})
    logging_steps: float = field(
        default=50,
        metadata={
            "help": "Log every X optimizer steps. An integer, or a float in [0,1): a ratio of all training steps."
        },
    )
    logging_nan_inf_filter: bool = field(
        default=False,
        metadata={"help": "Hide NaN and infinite losses from the log. A loss that is no number stops the run anyway."},
    )

    loss_type: str = field(
        default="path",
        metadata={
            "help": "Loss against data: the path loss, or cross-entropy with the same weight at all times.",
            "choices": LOSS_TYPES,
        },
    )
    cross_entropy_steps: int = field(
        default=0,
        metadata={"help": "Train with cross-entropy up to this global step, with the path loss from there."},
    )
    time_epsilon: float = field(
        default=1e-3,
        metadata={"help": "Times are drawn from [0, 1 - time_epsilon]; the path loss is singular at 1."},
    )
    low_discrepancy_times: bool = field(
        default=False,
        metadata={"help": "Spread the times of each global batch evenly."},
    )
    spread_candidates: bool = field(
        default=False,
        metadata={"help": "Train for `spread_candidates` of generate: noise and jumps spread evenly over the text."},
    )
    num_step_size_levels: int = field(
        default=11,
        metadata={"help": "The grid of step sizes is 2^0, 2^-1, ..., 2^-(num_step_size_levels - 1)."},
    )
    muon_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Train the projections of the blocks with Muon at this learning rate, the rest with AdamW."},
    )
    eval_num_times: int = field(
        default=16,
        metadata={"help": "Evaluate each row at so many times, the middles of equal parts of [0, 1 - time_epsilon]."},
    )
    eval_seed: int = field(
        default=0,
        metadata={"help": "Seed of the noise of evaluation."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_choice(self, "loss_type", LOSS_TYPES)
        _check_at_least(self, 0, "cross_entropy_steps")
        _check_at_least(self, 1, "eval_num_times")
        if self.cross_entropy_steps and self.loss_type == "cross_entropy":
            raise ValueError(
                f"`cross_entropy_steps` ({self.cross_entropy_steps}) has no effect with `loss_type='cross_entropy'`"
            )
        if self.muon_learning_rate is not None and not self.muon_learning_rate > 0:
            raise ValueError(f"`muon_learning_rate` must be > 0, but got {self.muon_learning_rate}")
        if not 0 < self.time_epsilon < 1:
            raise ValueError(f"`time_epsilon` must be in (0, 1), but got {self.time_epsilon}")
        if not 2 <= self.num_step_size_levels <= 24:
            raise ValueError(f"`num_step_size_levels` must be in [2, 24], but got {self.num_step_size_levels}")

    @property
    def finest_step_size(self) -> float:
        """The smallest h of the grid."""
        return 2.0 ** (1 - self.num_step_size_levels)


@dataclass
class FSDFMTrainingArguments(DFMTrainingArguments):
    r"""
    Arguments of [`FSDFMTrainer`]: those of [`DFMTrainingArguments`], and the ones below. The default of `learning_rate`
    is 1e-5. Rows of the finest step size are trained on data, with `loss_type`; all other rows on the shortcut teacher.

    Parameters that control the conversion of a plain DFM:

    Args:
        step_size_embedding (`str`, *optional*, defaults to `"log2"`), step_size_fusion (`str`, *optional*, defaults to
            `"add"`): as in [`FSDFMConfig`]. Only read if the model does not take a step size yet.

    Parameters that control the teacher:

    Args:
        ema_decay (`float`, *optional*, defaults to 0.9995):
            Decay of the averaged weights, which teach.
        shortcut_teacher (`str`, *optional*, defaults to `"rk4"`):
            `"rk4"` (four evaluations at half the step size) or `"rk2"` (two).
        solver (`str`, *optional*, defaults to `"cumulative_scalar"`):
            Solver of the teacher's jumps.

    Parameters that control the step sizes:

    Args:
        step_size_policy (`str`, *optional*, defaults to `"weighted"`):
            How often each step size is trained: `"uniform"`, `"weighted"` or `"annealed"`, see [`StepSizeGrid`].
        step_size_weights (`list[float]`, *optional*):
            A weight for each step size, from 1 down; 1, 2, 4, ... if not set.
        anneal_interval (`int`, *optional*, defaults to 20000):
            Optimizer steps between two doublings of the weights, for `"annealed"`.

    Parameters that control the loss:

    Args:
        step_aware_path_loss (`bool`, *optional*, defaults to `True`):
            Whether the path loss has the weight G(t, h) / h of the paper, or the plain g(t) of the published code.
        distillation_temperature (`float`, *optional*, defaults to 1.0):
            Divides both logits; the loss is multiplied by its square.
        distillation_top_k (`int`, *optional*), distillation_top_p (`float`, *optional*):
            Compare on the teacher's most likely tokens alone. At most one of the two.
        confidence_weighting (`bool`, *optional*, defaults to `False`):
            Whether a position counts less the less certain its teacher is.

    Parameters that control samples during training:

    Args:
        sample_steps (`int`, *optional*, defaults to 0):
            Log samples of the averaged model every so many global steps; 0: never.
        sample_num_steps (`list[int]`, *optional*, defaults to `[1, 2, 4, 8]`):
            Numbers of sampling steps.
        num_samples (`int`, *optional*, defaults to 4):
            Samples for each number of sampling steps, and each prompt.
        sample_prompts (`list[str]`, *optional*):
            Texts to continue; needs a tokenizer. Unconditional samples if not set.
        sample_length (`int`, *optional*):
            Length in tokens, prompt included; the length that the model was trained on if not set.

    Parameters that control what is saved:

    Args:
        saved_weights (`str`, *optional*, defaults to `"ema"`):
            The weights that evaluation and `load_best_model_at_end` look at, that `save_model` writes and that stand at
            the root of a checkpoint: `"ema"` or `"raw"`. A checkpoint has the others in `weights/raw` or `weights/ema`.
    """

    learning_rate: float = field(default=1e-5, metadata={"help": "The initial learning rate for AdamW."})

    step_size_embedding: Literal["raw", "log2"] = field(
        default="log2",
        metadata={"help": "Embedding of the step size, for a model that is a plain DFM as yet."},
    )
    step_size_fusion: Literal["concat", "add"] = field(
        default="add",
        metadata={"help": "How time and step size meet, for a model that is a plain DFM as yet."},
    )
    ema_decay: float = field(
        default=0.9995, metadata={"help": "Decay of the averaged weights, which teach and are saved."}
    )
    shortcut_teacher: str = field(
        default="rk4",
        metadata={
            "help": "Teacher: four (rk4) or two (rk2) evaluations at half the step size.",
            "choices": tuple(SHORTCUT_TEACHERS),
        },
    )
    solver: str = field(
        default="cumulative_scalar", metadata={"help": "Solver of the teacher's jumps.", "choices": SOLVERS}
    )
    step_size_policy: str = field(
        default="weighted",
        metadata={"help": "How often each step size is trained.", "choices": STEP_SIZE_POLICIES},
    )
    step_size_weights: list[float] | None = field(
        default=None,
        metadata={"help": "A weight for each step size, from 1 down to the finest; 1 2 4 ... by default."},
    )
    anneal_interval: int = field(
        default=20_000,
        metadata={"help": "Optimizer steps between two doublings of the weights, for the policy `annealed`."},
    )
    step_aware_path_loss: bool = field(
        default=True,
        metadata={"help": "Weight of the path loss: the paper's G(t, h) / h, or (false) the published code's g(t)."},
    )
    distillation_temperature: float = field(
        default=1.0, metadata={"help": "Divides the logits of teacher and student in the distillation loss."}
    )
    distillation_top_k: int | None = field(
        default=None, metadata={"help": "Compare with the teacher on its k most likely tokens alone."}
    )
    distillation_top_p: float | None = field(
        default=None,
        metadata={"help": "Compare with the teacher on its most likely tokens with this total probability alone."},
    )
    confidence_weighting: bool = field(
        default=False, metadata={"help": "Let a position count less the less certain its teacher is."}
    )
    sample_steps: int = field(default=0, metadata={"help": "Log samples every X global steps; 0: never."})
    sample_num_steps: list[int] = field(
        default_factory=lambda: [1, 2, 4, 8], metadata={"help": "Numbers of sampling steps of the logged samples."}
    )
    num_samples: int = field(
        default=4, metadata={"help": "Logged samples for each number of sampling steps, and each prompt."}
    )
    sample_prompts: list[str] | None = field(
        default=None, metadata={"help": "Texts that the logged samples continue; unconditional samples by default."}
    )
    sample_length: int | None = field(
        default=None,
        metadata={"help": "Length of the logged samples in tokens, prompt included; the model's length by default."},
    )
    saved_weights: str = field(
        default="ema",
        metadata={
            "help": "Weights that are evaluated, and saved as the model; checkpoints hold both kinds.",
            "choices": WEIGHT_KINDS,
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_choice(self, "step_size_embedding", ("raw", "log2"))
        _check_choice(self, "step_size_fusion", ("concat", "add"))
        _check_choice(self, "shortcut_teacher", tuple(SHORTCUT_TEACHERS))
        _check_choice(self, "solver", SOLVERS)
        _check_choice(self, "step_size_policy", STEP_SIZE_POLICIES)
        _check_choice(self, "saved_weights", WEIGHT_KINDS)
        _check_at_least(self, 1, "anneal_interval", "num_samples", "sample_length", "distillation_top_k")
        _check_at_least(self, 0, "sample_steps")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"`ema_decay` must be in [0, 1), but got {self.ema_decay}")
        if not 0 < self.distillation_temperature < math.inf:
            raise ValueError(f"`distillation_temperature` must be > 0, but got {self.distillation_temperature}")
        if self.distillation_top_p is not None and not 0 < self.distillation_top_p <= 1:
            raise ValueError(f"`distillation_top_p` must be in (0, 1], but got {self.distillation_top_p}")
        if self.distillation_top_k is not None and self.distillation_top_p is not None:
            raise ValueError("`distillation_top_k` and `distillation_top_p` exclude each other")
        if not self.sample_num_steps or any(steps < 1 for steps in self.sample_num_steps):
            raise ValueError(f"`sample_num_steps` must be integers >= 1, but got {self.sample_num_steps}")
        if self.low_discrepancy_times:
            raise ValueError("`low_discrepancy_times` has no effect on an FS-DFM: times are drawn from the grid")
        self._check_step_sizes()

    def _check_step_sizes(self) -> None:
        weights = self.step_size_weights
        if weights is not None and self.step_size_policy == "uniform":
            raise ValueError("`step_size_weights` have no effect with `step_size_policy='uniform'`")
        if weights is not None and len(weights) != self.num_step_size_levels:
            raise ValueError(
                f"`step_size_weights` must have one entry for each of the `num_step_size_levels` "
                f"({self.num_step_size_levels}), but has {len(weights)}"
            )
        if weights is not None and not (all(0 <= weight < math.inf for weight in weights) and any(weights)):
            raise ValueError(f"`step_size_weights` must be finite, >= 0 and not all 0, but got {weights}")

    @property
    def step_size_grid(self) -> StepSizeGrid:
        """The step sizes and how they are drawn, as an object."""
        return StepSizeGrid(
            num_levels=self.num_step_size_levels,
            policy=self.step_size_policy,
            weights=None if self.step_size_weights is None else tuple(self.step_size_weights),
            anneal_interval=self.anneal_interval,
        )

    @property
    def distillation_options(self) -> dict[str, Any]:
        """Keyword arguments of [`distillation_loss`]."""
        return {
            "temperature": self.distillation_temperature,
            "top_k": self.distillation_top_k,
            "top_p": self.distillation_top_p,
            "confidence_weighting": self.confidence_weighting,
        }


def _check_choice(arguments: TrainingArguments, name: str, choices: Iterable[str]) -> None:
    value = getattr(arguments, name)
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {tuple(choices)}, but got {value!r}")


def _check_at_least(arguments: TrainingArguments, minimum: int, *names: str) -> None:
    for name in names:
        value = getattr(arguments, name)
        if value is not None and value < minimum:
            raise ValueError(f"`{name}` must be at least {minimum}, but got {value}")


__all__ = ["DFMTrainingArguments", "FSDFMTrainingArguments"]
