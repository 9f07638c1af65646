"""Small known processes, and trainers on them that finish in seconds."""

import itertools
import logging
import math

import torch
from torch import Tensor

from transformers_fsdfm import FSDFMConfig, FSDFMForDiffusionLM
from transformers_fsdfm.trainer.arguments import DFMTrainingArguments, FSDFMTrainingArguments

from ..conftest import generator


class MarkovChain:
    """A stationary chain over few tokens: the next token is the same with probability `stay`, else any other."""

    def __init__(self, vocab_size: int = 4, length: int = 6, stay: float = 0.85):
        self.vocab_size, self.length, self.stay = vocab_size, length, stay

    def sample(self, rows: int, seed: int = 0) -> Tensor:
        draws = generator(seed)
        ids = torch.randint(self.vocab_size, (rows, self.length), generator=draws)
        moves = torch.rand((rows, self.length), generator=draws) >= self.stay
        steps = torch.randint(1, self.vocab_size, (rows, self.length), generator=draws) * moves
        steps[:, 0] = ids[:, 0]
        return steps.cumsum(-1) % self.vocab_size

    @property
    def entropy_per_token(self) -> float:
        leave = 1 - self.stay
        step = -self.stay * math.log(self.stay) - leave * math.log(leave / (self.vocab_size - 1))
        return (math.log(self.vocab_size) + (self.length - 1) * step) / self.length

    def law(self) -> Tensor:
        """The probability of every sequence, in the order of `itertools.product`."""
        stay, move = self.stay, (1 - self.stay) / (self.vocab_size - 1)
        rows = itertools.product(range(self.vocab_size), repeat=self.length)
        return torch.tensor(
            [
                math.prod(stay if before == after else move for before, after in itertools.pairwise(row))
                / self.vocab_size
                for row in rows
            ]
        )

    def distance(self, ids: Tensor) -> float:
        """Total variation between the law of the chain and the observed frequencies of whole sequences."""
        place = self.vocab_size ** torch.arange(self.length - 1, -1, -1)
        counts = torch.bincount((ids * place).sum(-1), minlength=self.vocab_size**self.length)
        return float((counts / counts.sum() - self.law()).abs().sum() / 2)


class Rows(torch.utils.data.Dataset):
    """A dataset of the rows of tensors."""

    def __init__(self, input_ids: Tensor, **columns: Tensor):
        self.columns = {"input_ids": input_ids, **columns}

    def __len__(self) -> int:
        return len(self.columns["input_ids"])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: values[index] for name, values in self.columns.items()}


def small_model(process: MarkovChain | None = None, seed: int = 0, **changes) -> FSDFMForDiffusionLM:
    process = process or MarkovChain()
    settings = {
        "vocab_size": process.vocab_size,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "conditioning_size": 32,
        "hidden_dropout_prob": 0.0,
        "max_position_embeddings": process.length,
        "step_size_conditioning": False,
    }
    torch.manual_seed(seed)
    return FSDFMForDiffusionLM(FSDFMConfig(**{**settings, **changes}))


def arguments(output_dir, cls=DFMTrainingArguments, **changes) -> DFMTrainingArguments:
    settings = {
        "max_steps": 4,
        "per_device_train_batch_size": 8,
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "lr_scheduler_type": "constant",
        "learning_rate": 1e-3,
    }
    if cls is FSDFMTrainingArguments:
        settings["num_step_size_levels"] = 5
    return cls(str(output_dir), **{**settings, **changes})


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


logging.getLogger("transformers").setLevel(logging.ERROR)
