"""x_t as the trainers draw it."""

import pytest
import torch

from transformers_fsdfm import FSDFMConfig
from transformers_fsdfm.trainer.dfm_trainer import DFMTrainer
from transformers_fsdfm.trainer.fsdfm_trainer import FSDFMTrainer, FSDFMTrainingArguments
from transformers_fsdfm.trainer.noise import draw_noisy_ids, read_batch

from ..conftest import generator
from .toy import MarkovChain, Rows, arguments, losses, small_model


MASK_SOURCE = FSDFMConfig(vocab_size=10, source_distribution="mask")


def noisy(rows: int, length: int, time: float, spread: bool, labels: torch.Tensor | None = None) -> torch.Tensor:
    """Which positions are noise."""
    clean = read_batch({"input_ids": torch.ones(rows, length).long(), **({} if labels is None else {"labels": labels})})
    dice = [generator(row) for row in range(rows)]
    return draw_noisy_ids(clean, torch.full((rows,), time), MASK_SOURCE, dice, spread) != 1


def test_spread_noise_has_the_same_share_at_every_position():
    shares = noisy(4000, 24, 0.7, spread=True).float().mean(0)
    assert ((shares - 0.3).abs() < 0.04).all()


def test_spread_noise_keeps_apart():
    for row in noisy(5, 1024, 7 / 8, spread=True):
        assert set(row.nonzero()[:, 0].diff().tolist()) <= {5, 8, 13}
    assert (noisy(5, 1024, 7 / 8, spread=False)[0].nonzero()[:, 0].diff() < 5).any()


def test_spread_noise_counts_the_learned_positions_alone():
    labels = torch.ones(3, 1000).long()
    labels[:, ::2] = -100
    for row in noisy(3, 1000, 7 / 8, spread=True, labels=labels):
        assert not row[::2].any()
        assert set(row[1::2].nonzero()[:, 0].diff().tolist()) <= {5, 8, 13}


@pytest.mark.parametrize("is_distilled", [False, True])
def test_the_trainers_spread_noise_if_they_are_told_to(tmp_path, is_distilled):
    process = MarkovChain(length=64)
    trainer_class = FSDFMTrainer if is_distilled else DFMTrainer
    options = {"cls": FSDFMTrainingArguments} if is_distilled else {}
    seen = {}
    for spread in (False, True):
        args = arguments(tmp_path / str(spread), max_steps=2, spread_candidates=spread, **options)
        trainer = trainer_class(small_model(process), args, Rows(process.sample(16)))
        trainer.train()
        seen[spread] = losses(trainer)
        bound = trainer.evaluate(Rows(process.sample(8)))["eval_loss"]
        assert bound > 0
    assert seen[False] != seen[True]
