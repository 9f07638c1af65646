# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The variants of the ablation: what is trained, how it is sampled, and what a step of its training costs.

The *full* variant is FS-DFM as released (RK-4 teacher, average, cumulative scalar, all step sizes equally often,
step-aware path loss) with this project's network (log2 embedding of the step size, added to that of the time, so that
the student starts as exactly the DFM). Each other training changes one thing in it; `meaning` says what.
"""

import copy
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from transformers_fsdfm import FSDFMForDiffusionLM
from transformers_fsdfm.trainer.arguments import FSDFMTrainingArguments
from transformers_fsdfm.trainer.dfm_trainer import DFMTrainer, NoisyBatch
from transformers_fsdfm.trainer.fsdfm_trainer import FSDFMTrainer
from transformers_fsdfm.trainer.losses import LossPart, path_part, path_weight
from transformers_fsdfm.trainer.shortcut_teacher import SHORTCUT_TEACHERS


FULL = "full"
BACKWARD_COST = 2  # in forwards: gradients by the activations, and by the weights


@dataclass(frozen=True)
class Scale:
    """
    The sizes of a run; all variants share them. Each is an option of the script.

    Args:
        length: tokens of a text.
        vocab_size: data tokens of the tokenizer.
        hidden_size, num_layers, num_heads, conditioning_size: of the DFM and thus of all variants.
        dfm_steps, dfm_batch_size: of the training of the DFM.
        scorer_hidden_size, scorer_layers, scorer_steps: of the scorer and its training.
        steps, batch_size: optimizer steps of the full variant, and rows in each; they set the budget of all.
        learning_rate, warmup_steps: of all distillations; constant after the warm-up.
        ema_decay: of the average that teaches and is sampled.
        num_levels: step sizes 1, 1/2, ..., 2^-(num_levels - 1). The finest is learned from data; as many steps are the
            reference.
        samples: texts for each seed and number of steps.
    """

    length: int = 64
    vocab_size: int = 512
    hidden_size: int = 128
    num_layers: int = 4
    num_heads: int = 4
    conditioning_size: int = 64
    dfm_steps: int = 2500
    dfm_batch_size: int = 32
    scorer_hidden_size: int = 128
    scorer_layers: int = 4
    scorer_steps: int = 1200
    steps: int = 250
    batch_size: int = 16
    learning_rate: float = 5e-4
    warmup_steps: int = 20
    ema_decay: float = 0.99
    num_levels: int = 8
    samples: int = 64

    @property
    def many_steps(self) -> int:
        """Sampling steps of the finest size."""
        return 2 ** (self.num_levels - 1)


# A whole run in seconds, at sizes at which nothing is learned.
TINY = Scale(
    length=16,
    vocab_size=280,
    hidden_size=32,
    num_layers=1,
    num_heads=2,
    conditioning_size=16,
    dfm_steps=2,
    dfm_batch_size=4,
    scorer_hidden_size=32,
    scorer_layers=1,
    scorer_steps=2,
    steps=3,
    batch_size=4,
    learning_rate=0.01,
    warmup_steps=1,
    ema_decay=0.5,
    num_levels=6,
    samples=20,
)


# Starts


def added_step_size(dfm: FSDFMForDiffusionLM, seed: int) -> FSDFMForDiffusionLM:
    """The DFM as it is: the trainer makes an FS-DFM of it, with the embedding and the fusion of its arguments."""
    return dfm


def blind_to_step_size(dfm: FSDFMForDiffusionLM, seed: int) -> FSDFMForDiffusionLM:
    """An FS-DFM that computes the same for every step size, for good: what would tell them apart is zero and frozen."""
    model = FSDFMForDiffusionLM.from_dfm(dfm, step_size_embedding="log2", step_size_fusion="add")
    model.model.step_size_embedding.requires_grad_(False)
    return model


def published_start(dfm: FSDFMForDiffusionLM, seed: int) -> FSDFMForDiffusionLM:
    """The published network, started as published: fusers of random weights in front of the DFM's modulations."""
    config = copy.deepcopy(dfm.config)
    config.step_size_conditioning = True
    config.step_size_embedding, config.step_size_fusion = "raw", "concat"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = FSDFMForDiffusionLM(config)
        new = model.load_state_dict(dfm.state_dict(), strict=False).missing_keys
        for name in {name.rpartition(".")[0] for name in new}:
            layer = model.get_submodule(name)
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()  # torch's own initialisation
    return model


# Trainers


class DataOnlyTrainer(FSDFMTrainer):
    """
    No teacher: every row, whatever its step size, takes the step-aware path loss against data.

    The weight G(t, h) / h is infinite for a step that ends at t = 1, where most large steps end. There, the integral
    that is G stops one finest step before the end, which is also where the finest rows of the full variant stop.
    """

    compute_loss = DFMTrainer.compute_loss

    def _data_part(self, batch: NoisyBatch, step_aware: bool = True) -> LossPart:
        labels = batch.clean.labels
        integrated = torch.minimum(batch.step_size, 1 - self.args.finest_step_size - batch.time)
        weight = path_weight(self._config.flow_schedule, batch.time, integrated) * integrated / batch.step_size
        return path_part(labels, batch.noisy_ids, weight.to(labels.device))


# Trainings and variants


@dataclass(frozen=True)
class Training:
    """
    Args:
        meaning (`str`): what differs from the full training.
        changes (`Callable`): scale -> the arguments of [`FSDFMTrainingArguments`] that are not those of the full one.
        trainer (`type`): the trainer's class.
        start (`Callable`): DFM and seed -> the model that the trainer gets.
    """

    meaning: str
    changes: Callable[[Scale], dict[str, Any]] = lambda scale: {}
    trainer: type[FSDFMTrainer] = FSDFMTrainer
    start: Callable[[FSDFMForDiffusionLM, int], FSDFMForDiffusionLM] = added_step_size

    @property
    def has_teacher(self) -> bool:
        """Whether rows of any step size have one."""
        return self.trainer is not DataOnlyTrainer

    def settings(self, scale: Scale) -> dict[str, Any]:
        """The arguments that make it what it is, those of the full training included."""
        full = {
            "step_size_embedding": "log2",
            "step_size_fusion": "add",
            "shortcut_teacher": "rk4",
            "solver": "cumulative_scalar",
            "step_size_policy": "uniform",
            "loss_type": "path",
            "step_aware_path_loss": True,
            "ema_decay": scale.ema_decay,
            "num_step_size_levels": scale.num_levels,
        }
        return {**full, **self.changes(scale)}

    def arguments(self, scale: Scale, folder: Path, seed: int = 0, max_steps: int = 1) -> FSDFMTrainingArguments:
        """All arguments of the trainer."""
        return FSDFMTrainingArguments(
            str(folder),
            **self.settings(scale),
            max_steps=max_steps,
            per_device_train_batch_size=scale.batch_size,
            learning_rate=scale.learning_rate,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=scale.warmup_steps,
            max_grad_norm=1.0,
            logging_steps=max(1, max_steps // 10),
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            dataloader_pin_memory=False,
            seed=seed,
        )


TRAININGS = {
    FULL: Training("FS-DFM: RK-4, average as teacher, cumulative scalar, uniform step sizes, log2 embedding, added"),
    "no-step-size": Training(
        "network that does not see the step size (its embedding stays zero), else trained as the full one",
        start=blind_to_step_size,
    ),
    "euler-training": Training(
        "teacher jumps by Euler steps h g(t), and the path loss has the plain weight g(t)",
        lambda scale: {"solver": "euler", "step_aware_path_loss": False},
    ),
    "no-teacher": Training(
        "no shortcut teacher: rows of all step sizes take the step-aware path loss against data",
        trainer=DataOnlyTrainer,
    ),
    "rk2": Training("RK-2 teacher: two evaluations in place of four", lambda scale: {"shortcut_teacher": "rk2"}),
    "live-teacher": Training("the student itself teaches; there is no average", lambda scale: {"ema_decay": 0.0}),
    "weighted-steps": Training(
        "step sizes weighted 1, 2, 4, ... from the largest to the finest: half of the rows learn from data",
        lambda scale: {"step_size_policy": "weighted"},
    ),
    "annealed-steps": Training(
        "step sizes weighted as that at first, all equally often in the second half",
        lambda scale: {
            "step_size_policy": "annealed",
            "anneal_interval": max(1, scale.steps // (2 * (scale.num_levels - 1))),
        },
    ),
    "raw-embedding": Training("embedding of h itself, not of log2 h", lambda scale: {"step_size_embedding": "raw"}),
    "concat-fusion": Training(
        "step size joined to the time by a fuser in front of each modulation, started so that the DFM is unchanged",
        lambda scale: {"step_size_fusion": "concat"},
    ),
    "published-network": Training(
        "the published network and its start: embedding of h itself, fusers with random weights",
        lambda scale: {"step_size_embedding": "raw", "step_size_fusion": "concat"},
        start=published_start,
    ),
    "plain-path-loss": Training("path loss with the plain weight g(t)", lambda scale: {"step_aware_path_loss": False}),
    "cross-entropy": Training(
        "cross-entropy against data in place of the path loss", lambda scale: {"loss_type": "cross_entropy"}
    ),
    "dfm-trained-on": Training(
        "no distillation: the DFM, trained on with the path loss of the finest step size, at the same cost",
        lambda scale: {
            "step_size_policy": "weighted",
            "step_size_weights": [0.0] * (scale.num_levels - 1) + [1.0],
        },
        start=blind_to_step_size,
    ),
}


@dataclass(frozen=True)
class Variant:
    """
    A row of the table: a trained model and a way to sample it.

    Args:
        training (`str`, *optional*): name of what is trained; None: the DFM that all start from.
        solver (`str`, *optional*): of sampling.
        weights (`str`, *optional*): `"ema"`, the average, or `"raw"`, what it is the average of.
        meaning (`str`, *optional*): what differs, if that is not the training.
    """

    training: str | None
    solver: str = "cumulative_scalar"
    weights: str = "ema"
    meaning: str = ""

    @property
    def description(self) -> str:
        """What differs from the full variant."""
        return self.meaning or TRAININGS[self.training].meaning


VARIANTS = {
    FULL: Variant(FULL),
    "no-step-size": Variant("no-step-size"),
    "euler-sampling": Variant(FULL, solver="euler", meaning="full training, sampled by Euler steps h g(t)"),
    "euler-training": Variant("euler-training"),
    "euler-both": Variant("euler-training", solver="euler", meaning="that training, sampled by Euler steps too"),
    "no-teacher": Variant("no-teacher"),
    "rk2": Variant("rk2"),
    "live-teacher": Variant("live-teacher"),
    "full-raw-weights": Variant(FULL, weights="raw", meaning="full training, sampled without the average"),
    **{
        name: Variant(name)
        for name in (
            *("weighted-steps", "annealed-steps", "raw-embedding", "concat-fusion", "published-network"),
            *("plain-path-loss", "cross-entropy", "dfm-trained-on"),
        )
    },
    "dfm": Variant(None, meaning="the DFM that all start from, sampled with the cumulative scalar"),
    "dfm-euler": Variant(None, solver="euler", meaning="the same DFM, sampled by Euler steps"),
}


# Equal compute


@dataclass(frozen=True)
class Plan:
    """
    How long a training is, and the runs of the backbone that it costs.

    Args:
        steps (`int`): optimizer steps.
        student (`float`): forwards of the student for one row of every batch, each followed by a backward.
        teacher (`float`): forwards of the teacher for the same row, in expectation over its step sizes.
    """

    steps: int
    student: float
    teacher: float

    @property
    def cost(self) -> float:
        """In forwards; a backward counts as two. Left out are heads, jumps and the average: a few per cent."""
        return self.student * (1 + BACKWARD_COST) + self.teacher


def full_plan(scale: Scale) -> Plan:
    """That of the full training, whose cost is the budget of all."""
    return next(itertools.islice(_plans(TRAININGS[FULL], scale), scale.steps - 1, None))


def plan_within(budget: float, training: Training, scale: Scale) -> Plan:
    """As many optimizer steps as cost no more than the budget."""
    *_, plan = itertools.takewhile(lambda plan: plan.cost <= budget * (1 + 1e-9), _plans(training, scale))
    return plan


def _plans(training: Training, scale: Scale) -> Iterator[Plan]:
    """Of one optimizer step, of two, and so on: rows of all but the finest step size have a teacher."""
    arguments = training.arguments(scale, Path("unused"))
    calls = len(SHORTCUT_TEACHERS[arguments.shortcut_teacher].weights) if training.has_teacher else 0
    teacher = 0.0
    for steps in itertools.count(1):
        teacher += calls * (1 - float(arguments.step_size_grid.level_weights(steps - 1)[-1]))
        yield Plan(steps, float(steps), teacher)
