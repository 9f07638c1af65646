"""What happens when a run is killed, can't write or goes astray."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers.trainer_utils import get_last_checkpoint

from transformers_fsdfm import FSDFMForDiffusionLM
from transformers_fsdfm.trainer import loss_guard
from transformers_fsdfm.trainer.arguments import FSDFMTrainingArguments
from transformers_fsdfm.trainer.checkpointing import STAGING_FOLDER
from transformers_fsdfm.trainer.dfm_trainer import DFMTrainer
from transformers_fsdfm.trainer.fsdfm_trainer import FSDFMTrainer
from transformers_fsdfm.trainer.loss_guard import LossGuard

from ..conftest import generator, tiny_model
from .killed_run import CHECKPOINT_THAT_IS_HIT, KINDS, MOST_STEPS
from .toy import Rows, arguments


def fixed_rows():
    return Rows(torch.randint(2, 60, (32, 8), generator=generator(0)))


def make_trainer(cls, output_dir, **changes):
    settings = {"save_strategy": "steps", "save_steps": 1, **changes}
    if cls is DFMTrainer:
        return DFMTrainer(tiny_model(step_size_conditioning=False), arguments(output_dir, **settings), fixed_rows())
    return FSDFMTrainer(tiny_model(), arguments(output_dir, FSDFMTrainingArguments, **settings), fixed_rows())


BOTH = pytest.mark.parametrize("cls", [DFMTrainer, FSDFMTrainer])


# ---- Killed ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounds", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_a_run_that_is_killed_again_and_again_ends_as_one_that_was_not(tmp_path, rounds):
    """Five kills in a round: four at a point of the writing of a checkpoint, one at any moment."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.trainer.killed_run", str(tmp_path), str(rounds)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout.splitlines()[-1])
    assert [kill["kind"] for kill in report["kills"]] == [*KINDS] * rounds
    last = 0
    for kill in report["kills"]:
        assert kill["code"] == -(signal.SIGXFSZ if kill["kind"] == "half a file" else signal.SIGKILL)
        assert kill["resumed_from"] == last
        assert kill["found"] == kill["checkpoints"][-1]
        if kill["kind"] == "moment":
            assert 0 <= kill["found"] - last <= MOST_STEPS
        elif kill["kind"] == "deleting":
            assert kill["found"] == last + CHECKPOINT_THAT_IS_HIT
        else:
            assert kill["found"] == last + CHECKPOINT_THAT_IS_HIT - 1
            assert kill["unnamed"] == [f"checkpoint-{last + CHECKPOINT_THAT_IS_HIT}"]
        last = kill["found"]
    assert report["codes"] == [0, 0]
    assert report["resumed_from"] == last
    assert report["is_same"]
    assert not report["left_over"]


# ---- Disk full, not writable -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "limit"), [(DFMTrainer, 30_000), (FSDFMTrainer, 1_000), (FSDFMTrainer, 30_000), (FSDFMTrainer, 200_000)]
)
def test_when_the_disk_is_full_the_earlier_checkpoint_stays_and_the_new_one_is_not_there(tmp_path, cls, limit):
    """A limit on the size of a file makes writes fail half way: the first one, the weights or the optimizer's state."""
    make_trainer(cls, tmp_path, max_steps=1).train()
    trainer = make_trainer(cls, tmp_path, max_steps=3)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(OSError, match=r"Checkpoint .*checkpoint-2 could not be written; what was saved before"):
            trainer.train(resume_from_checkpoint=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    assert get_last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-1")
    again = make_trainer(cls, tmp_path, max_steps=3)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 3


def test_a_model_that_does_not_fit_on_the_disk_leaves_the_old_one(tmp_path):
    trainer = make_trainer(FSDFMTrainer, tmp_path, save_strategy="no", max_steps=1)
    trainer.train()
    trainer.save_model()
    before = FSDFMForDiffusionLM.from_pretrained(tmp_path)
    trainer.train()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"The model in .* could not be written"):
            trainer.save_model()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    after = FSDFMForDiffusionLM.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    trainer.save_model()
    assert not (tmp_path / STAGING_FOLDER).exists()


def test_an_output_folder_that_is_not_writable_is_found_out_before_the_first_step(tmp_path):
    (tmp_path / "run").mkdir()
    trainer = make_trainer(DFMTrainer, tmp_path / "run")
    (tmp_path / "run").rmdir()
    (tmp_path / "run").write_text("a file in the way")
    with pytest.raises(OSError, match=r"`output_dir` .*run' can't be written to"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_other_errors_while_saving_keep_their_type_and_leave_nothing(tmp_path, monkeypatch):
    trainer = make_trainer(DFMTrainer, tmp_path)

    def fail(*args):
        raise RuntimeError("a bug")

    monkeypatch.setattr(trainer, "_save_rng_state", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        trainer.train()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_cleared_and_never_taken_for_a_checkpoint(tmp_path):
    left = tmp_path / STAGING_FOLDER / "checkpoint-9"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    assert get_last_checkpoint(tmp_path) is None
    make_trainer(DFMTrainer, tmp_path, max_steps=1).train()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


def test_old_checkpoints_are_deleted_and_the_same_step_may_be_saved_again(tmp_path):
    make_trainer(DFMTrainer, tmp_path, max_steps=4, save_total_limit=2).train()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-3", "checkpoint-4"]
    first = (tmp_path / "checkpoint-4" / "model.safetensors").read_bytes()
    make_trainer(DFMTrainer, tmp_path, max_steps=4, save_steps=4, learning_rate=1e-2).train()
    assert (tmp_path / "checkpoint-4" / "model.safetensors").read_bytes() != first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-3", "checkpoint-4"]


def test_resuming_a_finished_run_trains_no_further(tmp_path):
    make_trainer(FSDFMTrainer, tmp_path, max_steps=2).train()
    trainer = make_trainer(FSDFMTrainer, tmp_path, max_steps=2)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 2
    assert not (tmp_path / "checkpoint-3").exists()


# ---- A loss that is no number ----------------------------------------------------------------------------------------


@BOTH
def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(tmp_path, cls):
    trainer = make_trainer(cls, tmp_path)
    draw = trainer._draw_training_batch

    def poison(inputs):
        if trainer.state.global_step == 2:
            with torch.no_grad():
                trainer.model.lm_head.bias[0] = torch.nan
        poison.batch = draw(inputs)
        return poison.batch

    trainer._draw_training_batch = poison
    with pytest.raises(FloatingPointError, match="global step 3") as error:
        trainer.train()
    for row, time in enumerate(poison.batch.time.tolist()):
        h = "" if cls is DFMTrainer else f", h={poison.batch.step_size[row]:.6g}"
        assert f"row {row}: loss=nan, t={time:.6g}{h}" in str(error.value)
    assert get_last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")
    loaded = FSDFMForDiffusionLM.from_pretrained(tmp_path / "checkpoint-2")
    assert all(parameter.isfinite().all() for parameter in loaded.parameters())


def test_only_bad_rows_are_named_and_the_first_bad_step():
    guard = LossGuard()
    guard.record(1, torch.tensor([1.0, 2.0]), torch.tensor([0.1, 0.2]), None)
    with pytest.raises(FloatingPointError, match=r"global step 8 \(row 1: loss=inf, t=0.25, h=0.5\)"):
        guard.record(7, torch.tensor([1.0, torch.inf]), torch.tensor([0.5, 0.25]), torch.tensor([0.25, 0.5]))


def test_on_an_accelerator_losses_are_looked_at_before_anything_is_made_of_them(tmp_path, monkeypatch):
    """There the guard only records at first. Here it is kept from looking at once, as it would be on a GPU."""
    looks, check = [], LossGuard.check

    def record(guard, global_step, row_loss, time, step_size):
        guard._records.append(loss_guard._Record(global_step, row_loss.detach(), time, step_size))

    def look(guard):
        looks.append(len(guard._records))
        check(guard)

    monkeypatch.setattr(LossGuard, "record", record)
    monkeypatch.setattr(LossGuard, "check", look)
    trainer = make_trainer(DFMTrainer, tmp_path, max_steps=6, logging_steps=3, save_steps=4)
    trainer.train()
    assert [look for look in looks if look] == [3, 1, 2]
    trainer.model.lm_head.bias.data[0] = torch.nan
    trainer.compute_loss(trainer.model, {"input_ids": fixed_rows().columns["input_ids"][:2]})
    with pytest.raises(FloatingPointError):
        trainer.save_model()
