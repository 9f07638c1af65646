# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""DFMTrainer: trains a discrete flow-matching model on data."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase, default_data_collator
from transformers.trainer_utils import EvalLoopOutput

from .arguments import DFMTrainingArguments
from .bound import BoundTotals, ByteCounter, byte_counter
from .checkpointing import AtomicCheckpointTrainer
from .data import DataCollatorForDFM
from .loss_guard import LossGuard
from .losses import HeadLoss, LossPart, chunked_loss, cross_entropy_part, path_part, path_weight
from .muon import muon_with_adamw
from .noise import CleanBatch, draw_noisy_ids, random_state_kept, read_batch, seeded_generator
from .step_sizes import draw_times, evaluation_times


if TYPE_CHECKING:
    from peft import PeftConfig

    from transformers_fsdfm import FSDFMConfig, FSDFMForDiffusionLM


class NoisyBatch(NamedTuple):
    """
    What a forward pass is about.

    Attributes:
        clean ([`CleanBatch`]): x_1, and what of it is learned.
        noisy_ids (`torch.LongTensor` of shape `(rows, length)`): x_t.
        time (`torch.FloatTensor` of shape `(rows,)`): t, on the CPU, where it was drawn.
        step_size (`torch.FloatTensor` of shape `(rows,)`, *optional*): h, on the CPU; None for a plain DFM.
        generators (`list[torch.Generator]`): the source of all further randomness of each row.
    """

    clean: CleanBatch
    noisy_ids: Tensor
    time: Tensor
    step_size: Tensor | None
    generators: list[torch.Generator]

    def rows(self, index: Tensor) -> "NoisyBatch":
        """Some of the rows, given by their numbers, `(n,)`, on the CPU."""
        on_device = index.to(self.noisy_ids.device)
        mask = self.clean.attention_mask
        clean = CleanBatch(
            self.clean.clean_ids[on_device],
            self.clean.labels[on_device],
            None if mask is None else mask[on_device],
        )
        step_size = None if self.step_size is None else self.step_size[index]
        generators = [self.generators[row] for row in index.tolist()]
        return NoisyBatch(clean, self.noisy_ids[on_device], self.time[index], step_size, generators)


class RowSlice(NamedTuple):
    """The rows of a micro-batch in the global batch, which all micro-batches of all processes make up."""

    start: int
    stop: int
    num_global_rows: int

    def of(self, values: Tensor) -> Tensor:
        """This micro-batch's part of what was drawn for the global batch."""
        return values[self.start : self.stop]


class LossInForward:
    """
    A loss to be computed inside the model's forward, from the head and the last hidden states.

    The whole model runs in one call that way, which is what DDP, FSDP and DeepSpeed hook into. The losses of the rows
    come out at the side. The losses take gradients by themselves, so a compiled model leaves its graph here.
    """

    def __init__(self, compute: Callable[[nn.Module, Tensor], HeadLoss]) -> None:
        self._compute = compute
        self.row_loss: Tensor | None = None

    @torch.compiler.disable
    def __call__(self, head: nn.Module, hidden_states: Tensor) -> Tensor:
        loss, self.row_loss = self._compute(head, hidden_states)
        return loss


def loss_in_forward(part: LossPart) -> LossInForward:
    """One formula for all rows."""
    return LossInForward(lambda head, hidden_states: chunked_loss(head, hidden_states, part))


class DFMTrainer(AtomicCheckpointTrainer):
    r"""
    Trains a model on data: a plain DFM, or an FS-DFM at its finest step size. A [`~transformers.Trainer`] in all else.

    A batch has `input_ids` and, optionally, `labels` (-100: kept clean, as a prompt is, and not learned) and
    `attention_mask`. One training step:

    ```
    1. Draw a time t for each row, from the run's seed, the global step and the row's number (see `noise`).
    2. Draw x_t: each position shows its token with probability kappa(t), else a token of the source distribution.
    3. Run the model on (x_t, t); inside of its forward, the head and the loss, a chunk of positions at a time.
    4. Loss: the mean over rows of the mean over the row's positions; Trainer does the rest.
    ```

    [`evaluate`] gives `eval_loss`, the bound on the negative log-likelihood per token in nats, and, with a tokenizer,
    `eval_bits_per_byte`; always at the same times and with the same noise, and without touching the randomness of
    training. With a mask source the bound of a perfect model is the entropy of the data. With a uniform source it stays
    above: the path also says which positions have jumped already, and the model does not see that.

    Args:
        model ([`FSDFMForDiffusionLM`] or [`~peft.PeftModel`] around one):
            The model to train.
        args ([`DFMTrainingArguments`]):
            All settings.
        train_dataset, eval_dataset (*optional*):
            Rows with the columns above, see `trainer.data`. `eval_dataset` may be a dict of datasets.
        data_collator (`Callable`, *optional*):
            Defaults to [`DataCollatorForDFM`] if there is a tokenizer, else to stacking.
        processing_class ([`PreTrainedTokenizerBase`], *optional*):
            The tokenizer, saved beside the model.
        peft_config ([`~peft.PeftConfig`], *optional*):
            Trains an adapter in place of the model.
        kwargs: `callbacks`, `optimizers` and `optimizer_cls_and_kwargs` of [`~transformers.Trainer`].
    """

    model: "FSDFMForDiffusionLM"  # or an adapter around one, which has its attributes too

    loss_is_scaled_for_ga = False  # a mean over the micro-batch: Trainer divides by the length of the accumulation

    def __init__(
        self,
        model: PreTrainedModel | nn.Module,
        args: DFMTrainingArguments,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        data_collator: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: "PeftConfig | None" = None,
        **kwargs: Any,
    ) -> None:
        self._check_arguments(model, args, kwargs)
        if peft_config is not None:
            from peft import get_peft_model

            model = get_peft_model(model, peft_config)
        if data_collator is None:
            data_collator = default_data_collator
            if isinstance(processing_class, PreTrainedTokenizerBase):
                data_collator = DataCollatorForDFM(processing_class)
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            data_collator=data_collator,
            processing_class=processing_class,
            **kwargs,
        )
        self.model_accepts_loss_kwargs = False  # or Trainer counts, and waits for, the labels of every batch
        self._micro_batch = 0
        self._guard = LossGuard()
        self._bound_totals = BoundTotals()
        self._byte_counter: ByteCounter | None = None
        self._keep_times_in_float32()

    _arguments_class = DFMTrainingArguments

    def _check_arguments(self, model: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if not isinstance(args, self._arguments_class):
            raise TypeError(f"`args` must be {self._arguments_class.__name__}, but got {type(args).__name__}")
        is_fsdfm = getattr(getattr(model, "config", None), "model_type", None) == "fsdfm"
        if not is_fsdfm or model.get_output_embeddings() is None:
            raise TypeError(f"`model` must be an FSDFMForDiffusionLM, but got {type(model).__name__}")
        known = {"callbacks", "optimizers", "optimizer_cls_and_kwargs"}
        if unknown := kwargs.keys() - known:
            raise TypeError(
                f"{type(self).__name__} takes no {sorted(unknown)}; its further arguments are {sorted(known)}"
            )
        if args.label_smoothing_factor:
            raise ValueError("`label_smoothing_factor` means nothing to the losses of a discrete flow")
        if args.n_gpu > 1:
            raise ValueError(f"{args.n_gpu} GPUs in one process: start one process for each (accelerate launch)")

    def _keep_times_in_float32(self) -> None:
        """FSDP2 would cast `time` and `step_size` to the dtype of the weights; 0.999 is 1 in bfloat16."""
        plugin = getattr(self.accelerator.state, "fsdp_plugin", None)
        policy = getattr(plugin, "mixed_precision_policy", None)
        if plugin is not None and policy is not None and hasattr(policy, "cast_forward_inputs"):
            plugin.mixed_precision_policy = dataclasses.replace(policy, cast_forward_inputs=False)

    @property
    def _config(self) -> "FSDFMConfig":
        return self.model.config

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """As in Trainer, or with Muon for the matrices of the blocks, see `muon_learning_rate`."""
        if self.args.muon_learning_rate is None or self.optimizer is not None:
            return super().create_optimizer(model)
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            raise ValueError("`muon_learning_rate` needs whole matrices: it goes with DDP, not with ZeRO or FSDP")
        trained: nn.Module = self.model if model is None else model
        self.optimizer = muon_with_adamw(trained, self.get_decay_parameter_names(trained), self.args)
        return self.optimizer

    # ---- A training step ---------------------------------------------------------------------------------------------

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """The loss of a micro-batch of training; draws its randomness, see the class."""
        batch = self._draw_training_batch(inputs)
        loss_fn = loss_in_forward(self._data_part(batch))
        loss, row_loss = self._forward(model, batch, loss_fn)
        self._guard.record(self.state.global_step, row_loss, batch.time, batch.step_size)
        return (loss, {"row_loss": row_loss}) if return_outputs else loss

    def _draw_training_batch(self, inputs: Mapping[str, Tensor]) -> NoisyBatch:
        """Steps 1 and 2: all that is random in this micro-batch, but for dropout."""
        clean = read_batch(inputs)
        rows = self._next_rows(len(clean.clean_ids))
        time, step_size = self._draw_times(rows)
        step = self.state.global_step
        generators = [seeded_generator(self.args.seed, "noise", step, row) for row in range(rows.start, rows.stop)]
        noisy_ids = draw_noisy_ids(clean, time, self._config, generators, self.args.spread_candidates)
        return NoisyBatch(clean, noisy_ids, time, step_size, generators)

    def _draw_times(self, rows: RowSlice) -> tuple[Tensor, Tensor | None]:
        """t of the rows, and h if the model reads it."""
        generator = seeded_generator(self.args.seed, "time", self.state.global_step)
        time = draw_times(rows.num_global_rows, generator, self.args.time_epsilon, self.args.low_discrepancy_times)
        return rows.of(time), self._finest_step_sizes(len(rows.of(time)))

    def _finest_step_sizes(self, num_rows: int) -> Tensor | None:
        if not self._config.step_size_conditioning:
            return None
        return torch.full((num_rows,), self.args.finest_step_size)

    def _next_rows(self, num_rows: int) -> RowSlice:
        """Where this micro-batch stands in the global batch; batches go to the processes in turn."""
        batch_size, num_processes = self._train_batch_size, self.args.world_size
        start = (self._micro_batch * num_processes + self.args.process_index) * batch_size
        self._micro_batch += 1
        num_global_rows = self.args.gradient_accumulation_steps * num_processes * batch_size
        return RowSlice(start, start + num_rows, max(num_global_rows, start + num_rows))

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list, Tensor | int | None]:
        """As in Trainer; here begins an optimizer step."""
        self._micro_batch = 0
        return super().get_batch_samples(*args, **kwargs)

    def _forward(self, model: nn.Module, batch: NoisyBatch, loss_fn: LossInForward) -> HeadLoss:
        """Runs the model, wrapped as it may be, on a noisy batch; gives the loss and those of the rows."""
        device = batch.noisy_ids.device
        inputs = {"input_ids": batch.noisy_ids, "time": batch.time.to(device)}
        if batch.step_size is not None:
            inputs["step_size"] = batch.step_size.to(device)
        if batch.clean.attention_mask is not None:
            inputs["attention_mask"] = batch.clean.attention_mask
        loss = model(**inputs, head_loss=loss_fn).loss
        if loss_fn.row_loss is None:
            raise ValueError(
                f"The forward of {type(self.accelerator.unwrap_model(model)).__name__} does not know `head_loss`; was "
                "the model loaded with remote code of another version?"
            )
        return HeadLoss(loss, loss_fn.row_loss)

    def _data_part(self, batch: NoisyBatch, step_aware: bool = False) -> LossPart:
        """The loss against data that this global step calls for."""
        labels = batch.clean.labels
        if self.args.loss_type == "cross_entropy" or self.state.global_step < self.args.cross_entropy_steps:
            return cross_entropy_part(labels)
        weight = path_weight(self._config.flow_schedule, batch.time, batch.step_size if step_aware else None)
        return path_part(labels, batch.noisy_ids, weight.to(labels.device))

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        if self.control.should_log or self.control.should_evaluate or self.control.should_save:
            self._guard.check()
        super()._maybe_log_save_evaluate(*args, **kwargs)

    # ---- Evaluation --------------------------------------------------------------------------------------------------

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """As in Trainer, with the bound over all tokens as `eval_loss`, not the mean over batches."""
        self._bound_totals, self._eval_batch = BoundTotals(), 0
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        bound = self._bound_totals.metrics(metric_key_prefix)
        return output._replace(metrics={**(output.metrics or {}), **bound})

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As in Trainer, with the global random state put back afterwards."""
        with random_state_kept(self.args.device):
            return super().evaluate(*args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """As [`evaluate`], for a test set: metrics alone, a flow has no predictions to gather."""
        with random_state_kept(self.args.device):
            return super().predict(*args, **kwargs)

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor, None, None]:
        """Adds the bound of each row to the totals; gives the batch's mean."""
        clean = read_batch(self._prepare_inputs(inputs))
        with torch.no_grad(), self.compute_loss_context_manager():
            row_nats = torch.stack(list(self._bound_at_times(model, clean))).mean(0)
        num_tokens = clean.editable.sum(-1)
        row_sums = torch.stack([row_nats * num_tokens, num_tokens, self._count_bytes(clean)], dim=-1)
        self._bound_totals.add(self.accelerator.gather_for_metrics(row_sums))
        return row_nats.mean(), None, None

    def _bound_at_times(self, model: nn.Module, clean: CleanBatch) -> Iterator[Tensor]:
        """The path loss of each row, in nats per token, at each time of evaluation."""
        num_rows = len(clean.clean_ids)
        first = (self._eval_batch * self.args.world_size + self.args.process_index) * self.args.eval_batch_size
        self._eval_batch += 1
        generators = [seeded_generator(self.args.eval_seed, "evaluation", first + row) for row in range(num_rows)]
        for time in evaluation_times(self.args.eval_num_times, self.args.time_epsilon).split(1):
            time = time.expand(num_rows)
            step_size = self._finest_step_sizes(num_rows)
            noisy_ids = draw_noisy_ids(clean, time, self._config, generators)
            batch = NoisyBatch(clean, noisy_ids, time, step_size, generators)
            weight = path_weight(self._config.flow_schedule, time).to(noisy_ids.device)
            loss_fn = loss_in_forward(path_part(clean.labels, noisy_ids, weight))
            yield self._forward(model, batch, loss_fn).row_loss

    def _count_bytes(self, clean: CleanBatch) -> Tensor:
        """Bytes of the evaluated tokens of each row; 0 without a tokenizer."""
        if not isinstance(self.processing_class, PreTrainedTokenizerBase):
            return torch.zeros(len(clean.labels), dtype=torch.long, device=clean.labels.device)
        if self._byte_counter is None:
            self._byte_counter = byte_counter(self.processing_class, self._config.vocab_size)
        return self._byte_counter(clean.clean_ids, clean.editable)

    # ---- Around training ---------------------------------------------------------------------------------------------

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As in Trainer, after a look at whether the output folder can be written to."""
        self._check_output_dir()
        return super().train(*args, **kwargs)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """As in Trainer, which would train one step too many when a finished run is resumed."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def save_model(self, *args: Any, **kwargs: Any) -> None:
        """As in Trainer; refuses to save a model whose loss was no number."""
        self._guard.check()
        super().save_model(*args, **kwargs)

    def _set_signature_columns_if_needed(self) -> None:
        """The columns that a batch may have: not those of the forward, which also takes what is drawn here."""
        # Trainer declares no type, and sets None first.
        self._signature_columns = ["input_ids", "labels", "attention_mask"]  # type: ignore[assignment]


__all__ = ["DFMTrainer"]
