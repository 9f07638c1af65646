# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""
What the scripts `pretrain`, `distill` and `finetune` ask for, beside the arguments of the trainers.

Each class checks itself when it is made: before any data is read, and before any model is loaded.
"""
# ruff: noqa: RUF009  (`argument` makes a field)

import dataclasses
from dataclasses import dataclass
from typing import Any

from transformers_fsdfm.hub_configs import find_checkpoint

from .detokenizers import DETOKENIZERS


DATA_FORMATS = ("auto", "text", "pairs")
OBJECTIVES = ("path", "distill")
MODEL_DTYPES = ("float32", "bfloat16")
MODEL_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "conditioning_size")
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj")
ALL_LINEAR = "all-linear"


def argument(help: str, default: Any = None, choices: tuple[str, ...] | None = None) -> Any:
    """A dataclass field with what `--help` says of it."""
    return dataclasses.field(default=default, metadata={"help": help, **({"choices": choices} if choices else {})})


@dataclass
class NewModelArguments:
    """The model to train from the beginning, or a DFM to go on with, and its tokenizer; of `pretrain`."""

    config_name: str | None = argument(
        "A configuration: a name such as dfm-170m (see `available_configs()`), a config.json or a folder with one."
    )
    hidden_size: int | None = argument("Width of the residual stream. Sizes change the configuration, or make one.")
    num_hidden_layers: int | None = argument("Number of transformer blocks.")
    num_attention_heads: int | None = argument("Attention heads of each block.")
    intermediate_size: int | None = argument("Width of the MLP; 4 x hidden_size by default.")
    conditioning_size: int | None = argument("Width of the embedding of the time.")
    hidden_dropout_prob: float | None = argument("Dropout during training.")
    source_distribution: str | None = argument("What noise is: random tokens, or masks.", choices=("uniform", "mask"))
    schedule: str | None = argument("The schedule kappa(t).", choices=("linear", "polynomial", "cosine"))
    schedule_exponent: float | None = argument("Exponent of the polynomial schedule.")
    model_name_or_path: str | None = argument(
        "A DFM to go on with, in place of a configuration: folder, hub id, or a name (see fsdfm info)."
    )
    tokenizer: str | None = argument("A tokenizer: folder or hub id; that of the model to go on with by default.")
    train_tokenizer_vocab_size: int | None = argument("Train a byte-level BPE tokenizer of this size on the data.")

    def __post_init__(self) -> None:
        has_new_model = self.config_name is not None or self.hidden_size is not None
        if self.model_name_or_path is None and not has_new_model:
            raise ValueError("give a model: --config_name, sizes (--hidden_size ...) or --model_name_or_path")
        if self.model_name_or_path is not None and (changes := sorted(self.config_changes)):
            raise ValueError(f"{', '.join(changes)} can't be changed in the model of --model_name_or_path")
        if self.model_name_or_path is not None and self.config_name is not None:
            raise ValueError("--config_name and --model_name_or_path exclude each other")
        if self.tokenizer is not None and self.train_tokenizer_vocab_size is not None:
            raise ValueError("--tokenizer and --train_tokenizer_vocab_size exclude each other")
        if self.model_name_or_path is not None and self.train_tokenizer_vocab_size is not None:
            raise ValueError(
                "--train_tokenizer_vocab_size: a trained model needs the tokenizer that it was trained with"
            )
        if self.model_name_or_path is None and self.tokenizer is None and self.train_tokenizer_vocab_size is None:
            raise ValueError("give --tokenizer, or have one trained: --train_tokenizer_vocab_size")
        if self.train_tokenizer_vocab_size is not None and self.train_tokenizer_vocab_size < 258:
            raise ValueError("--train_tokenizer_vocab_size must be at least 258: all bytes and two special tokens")
        if self.model_name_or_path is not None:
            self.model_name_or_path = str(find_checkpoint(self.model_name_or_path))

    @property
    def config_changes(self) -> dict[str, Any]:
        """What was set of the fields of the model's configuration."""
        names = (*MODEL_SIZES, "hidden_dropout_prob", "source_distribution", "schedule", "schedule_exponent")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


@dataclass
class TrainedModelArguments:
    """The model to start from; of `distill` and `finetune`."""

    model_name_or_path: str = argument(
        "The model to start from: a folder (or hub id) of a DFM or an FS-DFM, or a name (see fsdfm info)."
    )
    tokenizer: str | None = argument("Its tokenizer, if it is not in the same place.")

    def __post_init__(self) -> None:
        if self.model_name_or_path is None:
            raise ValueError("give the model to start from: --model_name_or_path")
        self.model_name_or_path = str(find_checkpoint(self.model_name_or_path))


@dataclass
class DataArguments:
    """Where the text is and how it becomes blocks."""

    train_data: list[str] = argument(
        "Text to train on: files (.txt, .jsonl, .csv, .parquet), a glob, a folder, or a dataset id. In .txt files a "
        "line <|endoftext|> ends a document."
    )
    validation_data: list[str] | None = argument("Text to evaluate on, as --train_data. It is never streamed.")
    validation_share: float = argument("Hold out this share of the training rows, the last ones, to evaluate on.", 0.0)
    text_column: str = argument("Column of the text.", "text")
    block_size: int | None = argument("Tokens in a row; by default the length that the model is made for.")
    data_config: str | None = argument("Configuration of the dataset id.")
    train_split: str | None = argument("Split of the dataset id to train on, as in train[:10%%]; train by default.")
    validation_split: str | None = argument(
        "Split to evaluate on; without --validation_data it is one of the training data's dataset id."
    )
    data_revision: str | None = argument("Branch, tag or commit of the dataset id.")
    streaming: bool = argument("Read and tokenise while training. Needs --max_steps.", False)
    detokenizer: str | None = argument(
        "Turn the text of a corpus into natural text first.", choices=tuple(DETOKENIZERS)
    )
    max_train_documents: int | None = argument("Take only so many documents from the beginning.")
    max_validation_documents: int | None = argument(
        "The same for validation; of a dataset id that is streamed, 1000 by default."
    )
    num_proc: int | None = argument("Processes that tokenise.")
    data_cache: str | None = argument("Folder for tokenised data; the cache of `datasets` by default.")

    def __post_init__(self) -> None:
        if not self.train_data:
            raise ValueError("give the text to train on: --train_data")
        if not 0 <= self.validation_share < 1:
            raise ValueError(f"--validation_share must be in [0, 1), but got {self.validation_share}")
        if self.validation_share and (self.validation_data or self.validation_split):
            raise ValueError("--validation_share and --validation_data (or --validation_split) exclude each other")
        if self.validation_share and self.streaming:
            raise ValueError("--validation_share: nothing can be held out of a stream; give --validation_data")
        for name in ("block_size", "max_train_documents", "max_validation_documents", "num_proc"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} must be at least 1, but got {value}")
        if self.max_validation_documents is not None and not self.has_validation_source:
            raise ValueError("--max_validation_documents has no effect without --validation_data")
        if self.streaming and not self.has_validation_source:
            self._refuse_options(("num_proc", "data_cache"), "a stream")

    def _refuse_options(self, names: tuple[str, ...], data: str) -> None:
        for field in dataclasses.fields(self):
            if field.name in names and getattr(self, field.name) != field.default:
                raise ValueError(f"--{field.name} has no effect on {data}")

    @property
    def has_validation_source(self) -> bool:
        """Whether there is a text of its own to evaluate on."""
        return bool(self.validation_data or self.validation_split)


@dataclass
class FinetuningDataArguments(DataArguments):
    """As [`DataArguments`], and pairs of prompt and completion."""

    data_format: str = argument(
        "text: packed into blocks; pairs: the prompt is kept clean, the completion learned; auto: pairs if the data "
        "has both columns.",
        "auto",
        choices=DATA_FORMATS,
    )
    prompt_column: str = argument("Column of the prompts.", "prompt")
    completion_column: str = argument("Column of the completions.", "completion")
    learn_padding: bool = argument(
        "Pad each pair to the block and learn the padding too, so that the model can end its text before the end of "
        "the room it is given.",
        False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data_format != "auto":
            self.check_format(self.data_format == "pairs")

    def check_format(self, is_paired: bool) -> None:
        """
        Raises:
            `ValueError`: if an argument is set that belongs to the other format of the data.
        """
        if is_paired:
            self._refuse_options(("text_column", "detokenizer"), "pairs of prompt and completion")
        else:
            self._refuse_options(("prompt_column", "completion_column", "learn_padding"), "text without pairs")


@dataclass
class LoraArguments:
    """What of the model is trained; of `finetune`."""

    objective: str | None = argument(
        "path: learn from data; distill: also from the shortcut teacher. By default distill for an FS-DFM and path "
        "for a DFM.",
        choices=OBJECTIVES,
    )
    lora_rank: int = argument("Rank of the adapter; 0 trains all weights and no adapter.", 16)
    lora_alpha: float | None = argument("Scale of the adapter, times its rank; 2 x rank by default.")
    lora_dropout: float = argument("Dropout in front of the adapter.", 0.0)
    lora_target_modules: list[str] | None = argument(
        f"Layers with an adapter, or {ALL_LINEAR}: all but the head; {' '.join(LORA_TARGETS)} by default."
    )
    lora_modules_to_save: list[str] | None = argument(
        "Modules to train whole and save with the adapter; step_size_embedding by default when an FS-DFM is being made "
        "of a DFM."
    )
    merge_adapter: bool = argument("Save the merged model as well, in the folder `merged` of the output folder.", False)
    model_dtype: str = argument("Dtype of the frozen weights below an adapter.", "float32", choices=MODEL_DTYPES)

    def __post_init__(self) -> None:
        if self.lora_rank < 0:
            raise ValueError(f"--lora_rank must be at least 0, but got {self.lora_rank}")
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"--lora_dropout must be in [0, 1), but got {self.lora_dropout}")
        if self.lora_alpha is not None and self.lora_alpha <= 0:
            raise ValueError(f"--lora_alpha must be > 0, but got {self.lora_alpha}")
        targets = self.lora_target_modules or ()
        if ALL_LINEAR in targets and len(targets) > 1:
            raise ValueError(f"--lora_target_modules: {ALL_LINEAR} stands alone, but got {' '.join(targets)}")
        if self.lora_rank == 0:
            self._check_full_training()

    def _check_full_training(self) -> None:
        for field in dataclasses.fields(self):
            if field.name not in ("objective", "lora_rank") and getattr(self, field.name) != field.default:
                raise ValueError(f"--{field.name} has no effect with --lora_rank 0, which trains all weights")

    def peft_config(self, modules_to_save: tuple[str, ...] = ()) -> Any:
        """
        The [`~peft.LoraConfig`], or None for full training.

        Args:
            modules_to_save (`tuple[str, ...]`): in place of `lora_modules_to_save`, where that is not set.
        """
        if self.lora_rank == 0:
            return None
        from peft import LoraConfig

        targets = list(self.lora_target_modules or LORA_TARGETS)
        return LoraConfig(
            r=self.lora_rank,
            # peft declares an int, but only ever divides it.
            lora_alpha=2 * self.lora_rank if self.lora_alpha is None else self.lora_alpha,  # type: ignore[arg-type]
            lora_dropout=self.lora_dropout,
            target_modules=ALL_LINEAR if targets == [ALL_LINEAR] else targets,
            modules_to_save=list(self.lora_modules_to_save or modules_to_save) or None,
            task_type="CAUSAL_LM",
        )


__all__ = [
    "DataArguments",
    "FinetuningDataArguments",
    "LoraArguments",
    "NewModelArguments",
    "TrainedModelArguments",
]
