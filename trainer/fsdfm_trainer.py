# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""FSDFMTrainer: distils a discrete flow-matching model into one that takes few steps."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from .arguments import FSDFMTrainingArguments
from .dfm_trainer import DFMTrainer, LossInForward, NoisyBatch, RowSlice
from .ema import ExponentialMovingAverage
from .losses import HeadLoss, chunked_loss, distillation_part, evaluation_mode
from .noise import random_state_kept, seeded_generator
from .sample_logging import SampleLoggingCallback, draw_samples, sample_metrics, write_samples
from .shortcut_teacher import shortcut_target
from .step_log import StepSizeMeter, Stopwatch
from .teacher_model import cast_once, copy_as_teacher, is_sharded, shard_teacher, with_weights_at_hand


if TYPE_CHECKING:
    from transformers_fsdfm import FSDFMForDiffusionLM

WEIGHTS_FOLDER = "weights"  # a checkpoint keeps here the kind of weights that does not stand at its root
PLAIN_KL = {"temperature": 1.0, "top_k": None, "top_p": None, "confidence_weighting": False}


class AverageWeightsCallback(TrainerCallback):
    """Moves the average after every optimizer step."""

    def __init__(self, trainer: "FSDFMTrainer") -> None:
        self._trainer = trainer

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self._trainer._average.update()


class AveragedHead(nn.Module):
    """A head that is itself trained, with its averaged weights; for a teacher that shares the student's modules."""

    def __init__(self, head: nn.Module, ema: ExponentialMovingAverage) -> None:
        super().__init__()
        self._head = [head]  # in a list: not a submodule, whose hooks and mode are the student's
        self._ema = ema

    def forward(self, hidden_states: Tensor) -> Tensor:
        (head,) = self._head
        with self._ema.swap(), evaluation_mode(head):
            return head(hidden_states)


class FSDFMTrainer(DFMTrainer):
    r"""
    Distils a plain DFM, of which it makes an FS-DFM first, or goes on with an FS-DFM. Batches, evaluation and arguments
    are those of [`DFMTrainer`], with [`FSDFMTrainingArguments`]. One training step:

    ```
    1. Draw for each row a step size h from the grid and a time t with t + h <= 1, then x_t.
    2. Teacher, for rows with h above the finest: what one step of size h should predict, from two or four evaluations
       of the averaged weights at h / 2, in eval mode and without gradient.
    3. Student: one forward for all rows. Inside of it the losses: rows of the finest h against data, the others against
       their teacher.
    4. Loss: the mean over rows. After the optimizer step the average follows the student.
    ```

    The teacher is a second model whose weights are the average. If some weights are frozen, as with LoRA, there is no
    second model: the trained one teaches, with the average in the place of the trained weights.

    Evaluation and [`save_model`] use the averaged weights, or the trained ones with `saved_weights="raw"`; a checkpoint
    holds both. Attributes: `ema` ([`ExponentialMovingAverage`]) and `teacher` (the second model or None), from the
    beginning of [`train`] on.
    """

    args: FSDFMTrainingArguments

    _arguments_class = FSDFMTrainingArguments

    def __init__(
        self,
        model: PreTrainedModel | nn.Module,
        args: FSDFMTrainingArguments,
        *positional: Any,
        callbacks: list[TrainerCallback] | None = None,
        **kwargs: Any,
    ) -> None:
        self._check_arguments(model, args, {})
        self.ema: ExponentialMovingAverage | None = None
        self.teacher: FSDFMForDiffusionLM | None = None
        self._evaluated_model: nn.Module | None = None
        self._timed_from_step = 0
        self._grid = args.step_size_grid
        self._meter = StepSizeMeter(self._grid.num_levels, args.device)
        self._stopwatch = Stopwatch(args.device)
        callbacks = [AverageWeightsCallback(self), *(callbacks or [])]
        super().__init__(_as_fsdfm(model, args), args, *positional, callbacks=callbacks, **kwargs)
        if args.sample_steps:
            self.add_callback(SampleLoggingCallback(self))
        self._check_model_options()

    def _check_model_options(self) -> None:
        top_k, vocab_size = self.args.distillation_top_k, self._config.vocab_size
        if top_k is not None and top_k > vocab_size:
            raise ValueError(f"`distillation_top_k` must be at most the vocabulary ({vocab_size}), but got {top_k}")
        if self.args.sample_steps and self.args.sample_prompts and self._tokenizer is None:
            raise ValueError("`sample_prompts` need a tokenizer: pass it as `processing_class`")

    @property
    def _tokenizer(self) -> PreTrainedTokenizerBase | None:
        return self.processing_class if isinstance(self.processing_class, PreTrainedTokenizerBase) else None

    @property
    def _teaching_model(self) -> "FSDFMForDiffusionLM":
        """The modules of the teacher: its own, or the student's without adapter wrapper."""
        if self.teacher is not None:
            return self.teacher
        base = getattr(self.model, "get_base_model", None)
        return self.model if base is None else base()

    @property
    def _average(self) -> ExponentialMovingAverage:
        """`ema`, where it is there for sure: from the beginning of training on."""
        assert self.ema is not None
        return self.ema

    # ---- A training step ---------------------------------------------------------------------------------------------

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """As in Trainer, timed."""
        with self._stopwatch.measure("step"):
            return super().training_step(*args, **kwargs)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """The two-part loss of a micro-batch, see the class."""
        batch = self._draw_training_batch(inputs)
        step_size = _drawn_step_size(batch)
        is_taught = step_size > self.args.finest_step_size
        taught_rows, data_rows = is_taught.nonzero()[:, 0], (~is_taught).nonzero()[:, 0]
        with self._stopwatch.measure("teacher"):
            target = self._shortcut_target(batch, taught_rows)

        def losses(head: nn.Module, hidden_states: Tensor) -> HeadLoss:
            return self._two_part_loss(head, hidden_states, batch, taught_rows, data_rows, target)

        loss_fn = LossInForward(losses)
        loss, row_loss = self._forward(model, batch, loss_fn)
        self._guard.record(self.state.global_step, row_loss, batch.time, step_size)
        self._meter.add(_level(step_size), row_loss)
        return (loss, {"row_loss": row_loss}) if return_outputs else loss

    def _draw_times(self, rows: RowSlice) -> tuple[Tensor, Tensor]:
        """t and h of the rows."""
        draw = self._grid.draw(
            rows.num_global_rows,
            seeded_generator(self.args.seed, "time", self.state.global_step),
            self.state.global_step,
            finest_ends_before_one=self.args.step_aware_path_loss,
        )
        return rows.of(draw.time), rows.of(draw.step_size)

    def _shortcut_target(self, batch: NoisyBatch, taught_rows: Tensor) -> Tensor:
        """The teacher's averaged hidden states, `(taught rows, length, hidden_size)`."""
        teacher = self._teaching_model
        num_taught = len(taught_rows)
        if not num_taught and not is_sharded(teacher):
            return torch.empty(0)
        # A sharded teacher needs all processes: one that has no rows for it takes any and forgets the result.
        batch = batch.rows(taught_rows if num_taught else torch.zeros(1, dtype=torch.long))
        device = batch.noisy_ids.device

        def teach() -> Tensor:
            return shortcut_target(
                teacher,
                batch.noisy_ids,
                batch.time.to(device),
                _drawn_step_size(batch).to(device),
                method=self.args.shortcut_teacher,
                solver=self.args.solver,
                editable_mask=batch.clean.editable,
                attention_mask=batch.clean.attention_mask,
                generator=batch.generators,
                spread_candidates=self.args.spread_candidates,
            )

        with self._averaged_model() as root, self._autocast(), torch.no_grad(), cast_once(teacher):
            return with_weights_at_hand(root, teach, anchor=batch.noisy_ids)[:num_taught]

    def _two_part_loss(
        self,
        head: nn.Module,
        hidden_states: Tensor,
        batch: NoisyBatch,
        taught_rows: Tensor,
        data_rows: Tensor,
        target: Tensor,
    ) -> HeadLoss:
        """The losses against data and against the teacher, either possibly of no rows (FS-DFM eq. 4.5)."""
        in_turn = torch.cat([data_rows, taught_rows]).to(hidden_states.device)
        hidden_states, taught = hidden_states[in_turn], batch.rows(taught_rows)
        data_part = self._data_part(batch.rows(data_rows), self.args.step_aware_path_loss)
        taught_part = partial(distillation_part, taught.clean.labels, self._teacher_head(head), target)

        def compute() -> HeadLoss:
            loss = chunked_loss(head, hidden_states, data_part, taught_part(**self.args.distillation_options))
            row_kl = loss.row_loss[len(data_rows) :]
            if self.args.distillation_options != PLAIN_KL:
                if not self._is_logged_next():
                    return loss
                with torch.no_grad():
                    row_kl = chunked_loss(head, hidden_states[len(data_rows) :], taught_part(**PLAIN_KL)).row_loss
            self._meter.add_kl(_level(_drawn_step_size(taught)), row_kl)
            return loss

        with self._autocast():
            if self.teacher is None:
                loss, row_loss = compute()
            else:
                loss, row_loss = with_weights_at_hand(self.teacher, compute, anchor=in_turn)
        return HeadLoss(loss, torch.empty_like(row_loss).index_copy_(0, in_turn, row_loss))

    def _autocast(self) -> contextlib.AbstractContextManager:
        """For the teacher, whose weights are float32. DeepSpeed casts the student's weights and leaves autocast off."""
        dtype = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else None
        if dtype is None or self.accelerator.native_amp:
            return self.accelerator.autocast()
        return torch.autocast(self.args.device.type, dtype)

    def _teacher_head(self, head: nn.Module) -> nn.Module:
        if self.teacher is not None:
            return self.teacher.lm_head
        is_trained = any(parameter.requires_grad for parameter in head.parameters())
        return AveragedHead(head, self._average) if is_trained else head

    # ---- The average -------------------------------------------------------------------------------------------------

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        """As in Trainer; the teacher is copied before the student is wrapped, and the average made when it is."""
        has_frozen_weights = not all(parameter.requires_grad for parameter in self.model.parameters())
        is_first_run = self.teacher is None
        if is_first_run and not has_frozen_weights:
            self.teacher = copy_as_teacher(self.model)
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        if is_first_run and self.teacher is not None:
            self.teacher = shard_teacher(self.teacher, self.accelerator)
            if self.args.torch_compile:
                self.teacher.model.compile(backend=self.args.torch_compile_backend, mode=self.args.torch_compile_mode)
        self.ema = ExponentialMovingAverage(self.model, self.args.ema_decay, self.teacher)
        if resume_from_checkpoint is not None:
            self._load_average(resume_from_checkpoint)
        self._timed_from_step = self.state.global_step
        return prepared

    @contextlib.contextmanager
    def _averaged_model(self) -> Iterator[nn.Module]:
        """The outermost module that has the averaged weights, inside the `with` block."""
        if self.teacher is not None:
            yield self.teacher
        else:
            with self._average.swap():
                yield self.model

    def _weights_in_model(self, kind: str) -> contextlib.AbstractContextManager:
        """The weights of a kind in the place of the trained ones."""
        return self.ema.swap() if kind == "ema" and self.ema is not None else contextlib.nullcontext()

    # ---- Evaluation, logs and samples --------------------------------------------------------------------------------

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """As in [`DFMTrainer`], with the weights that `saved_weights` names."""
        if self.ema is None or self.args.saved_weights == "raw":
            return super().evaluation_loop(*args, **kwargs)
        with self._averaged_model():
            self._evaluated_model = self.teacher
            try:
                return super().evaluation_loop(*args, **kwargs)
            finally:
                self._evaluated_model = None

    def prediction_step(self, model: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, None, None]:
        """As in [`DFMTrainer`]."""
        with self._autocast():
            return super().prediction_step(self._evaluated_model or model, *args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As in Trainer; a log of training also tells of the step sizes and the time of teacher and student."""
        if "loss" in logs:
            sums = self._meter.drain(lambda sums: self.accelerator.reduce(sums, "sum"))
            logs = {**logs, **sums, **self._seconds_per_step()}
        super().log(logs, start_time)

    def _seconds_per_step(self) -> dict[str, float]:
        """Time of teacher and student since the last log, mean over processes."""
        num_steps = max(self.state.global_step - self._timed_from_step, 1)
        self._timed_from_step = self.state.global_step
        seconds = self._stopwatch.drain()
        both = torch.tensor([seconds.get(name, 0.0) for name in ("teacher", "step")], device=self.args.device)
        teacher, step = (self.accelerator.reduce(both, "mean") / num_steps).tolist()
        return {"teacher_seconds": teacher, "student_seconds": step - teacher}

    def _is_logged_next(self) -> bool:
        """Whether the current global step is one of those after which Trainer logs."""
        return bool(self.state.logging_steps) and (self.state.global_step + 1) % self.state.logging_steps == 0

    def log_samples(self) -> None:
        """Draws and logs samples of the averaged model, see [`SampleLoggingCallback`]."""
        self._guard.check()
        logs, texts = {}, {}
        for num_steps in self.args.sample_num_steps:
            samples, prefix = self._draw_samples(num_steps), f"samples_{num_steps}_steps"
            metrics = sample_metrics([sample["token_ids"] for sample in samples])
            logs.update({f"{prefix}/{name}": value for name, value in metrics.items()})
            if samples[0]["text"] is not None:
                texts[f"{prefix}/text"] = (samples[0]["prompt"] or "") + samples[0]["text"]
            if self.is_world_process_zero():
                write_samples(self.args.output_dir, self.state.global_step, samples)
        self.log({**logs, **texts})
        for name in texts:  # for the report backends; trainer_state.json is no place for them
            self.state.log_history[-1].pop(name)

    def _draw_samples(self, num_steps: int) -> list[dict[str, Any]]:
        """On all processes, which draw the same: sharded weights need them all."""
        model, anchor = self._teaching_model, torch.zeros((), device=self.args.device)
        with (
            random_state_kept(self.args.device),
            self._averaged_model() as root,
            self._autocast(),
            evaluation_mode(model),
        ):
            return with_weights_at_hand(
                root, lambda: draw_samples(model, self._tokenizer, self.args, num_steps), anchor
            )

    # ---- Checkpoints -------------------------------------------------------------------------------------------------

    def save_model(self, *args: Any, **kwargs: Any) -> None:
        """As in Trainer, with the weights that `saved_weights` names."""
        with self._weights_in_model(self.args.saved_weights):
            super().save_model(*args, **kwargs)

    def _complete_checkpoint(self, folder: str) -> None:
        """Adds the weights that are not at the root, and the exact state of the average."""
        other = "raw" if self.args.saved_weights == "ema" else "ema"
        with self._weights_in_model(other):
            super().save_model(os.path.join(folder, WEIGHTS_FOLDER, other), _internal_call=True)
        if not self.args.save_only_model and (self.args.should_save or is_sharded(self.model)):
            torch.save(self._average.state_dict(), self._average_file(folder))

    def _average_file(self, checkpoint: str) -> str:
        name = f"ema_{self.args.process_index}.pt" if is_sharded(self.model) else "ema.pt"
        return os.path.join(checkpoint, name)

    def _load_average(self, checkpoint: str) -> None:
        path = self._average_file(checkpoint)
        if not os.path.isfile(path):
            raise ValueError(
                f"Checkpoint {checkpoint} has no {os.path.basename(path)}: training can't go on from it exactly. To "
                "begin anew with its weights, load it as the model"
            )
        self._average.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """As in Trainer, with the trained weights, wherever in the checkpoint they are."""
        raw = os.path.join(resume_from_checkpoint, WEIGHTS_FOLDER, "raw")
        if os.path.isdir(raw) and not self.is_fsdp_enabled:  # FSDP has the trained weights in a file of its own
            resume_from_checkpoint = raw
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        """As in Trainer, with the average of that checkpoint."""
        super()._load_best_model()
        best = self.state.best_model_checkpoint
        if best is not None and os.path.isfile(self._average_file(best)):
            self._load_average(best)
        else:  # saved with `save_only_model`
            self.ema = ExponentialMovingAverage(self.model, self.args.ema_decay, self.teacher)


def _as_fsdfm(model: Any, args: FSDFMTrainingArguments) -> Any:
    """The model, if it takes a step size; else an FS-DFM made of it."""
    if model.config.step_size_conditioning:
        return model
    if not hasattr(model, "from_dfm") or hasattr(model, "get_base_model"):
        raise ValueError(
            "`model` is an adapter on a plain DFM, which takes no step size; make an FS-DFM of the base first "
            "(`FSDFMForDiffusionLM.from_dfm`), or pass the base with `peft_config`"
        )
    if any(hasattr(parameter, "ds_tensor") for parameter in model.parameters()):
        raise ValueError(
            "`model` is a plain DFM that ZeRO-3 has sharded already; make an FS-DFM of it first "
            "(`FSDFMForDiffusionLM.from_dfm`), save that and start from it"
        )
    with torch.random.fork_rng(devices=[]):  # the new weights depend on the seed alone, not on what was drawn before
        torch.manual_seed(args.seed)
        return type(model).from_dfm(model, args.step_size_embedding, args.step_size_fusion)


def _drawn_step_size(batch: NoisyBatch) -> Tensor:
    """h, which every batch of distillation has."""
    assert batch.step_size is not None
    return batch.step_size


def _level(step_size: Tensor) -> Tensor:
    """k of h = 2^-k."""
    return -torch.log2(step_size).round().long()


__all__ = ["AverageWeightsCallback", "FSDFMTrainer"]
