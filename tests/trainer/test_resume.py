"""A run that stops and goes on ends bit for bit as one that never stopped."""

import random

import datasets
import numpy as np
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import TrainerCallback

from transformers_fsdfm import FSDFMForDiffusionLM
from transformers_fsdfm.trainer.arguments import DFMTrainingArguments, FSDFMTrainingArguments
from transformers_fsdfm.trainer.dfm_trainer import DFMTrainer
from transformers_fsdfm.trainer.fsdfm_trainer import FSDFMTrainer
from transformers_fsdfm.trainer.packing import PackedStream

from ..conftest import generator, tiny_model
from .toy import Rows, arguments


LENGTH, STEPS = 12, 5


class Record(TrainerCallback):
    """What a run did, step by step."""

    def __init__(self):
        self.logs = {}

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            kept = ("loss", "grad_norm", "learning_rate")
            step_size_logs = {name: value for name, value in logs.items() if name.startswith("h_1")}
            self.logs[state.global_step] = {**{name: logs[name] for name in kept}, **step_size_logs}


class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.step


def fixed_rows():
    return Rows(torch.randint(2, 60, (20, LENGTH), generator=generator(0)))


@pytest.fixture
def stream(tokenizer):
    """A new stream each time, of documents of unequal length, endlessly repeated."""

    def texts():
        lengths = torch.randint(3, 20, (9,), generator=generator(1)).tolist()
        for index, length in enumerate(lengths):
            yield {"text": " ".join(f"w{2 + (7 * index + 3 * position) % 58}" for position in range(length))}

    return lambda: PackedStream(datasets.IterableDataset.from_generator(texts).repeat(None), tokenizer, LENGTH)


RUNS = {
    "dfm": (DFMTrainer, {}),
    "dfm_muon": (DFMTrainer, {"muon_learning_rate": 1e-2}),
    "dfm_adapter": (DFMTrainer, {"adapter": True}),
    "fsdfm": (FSDFMTrainer, {"confidence_weighting": True}),
    "fsdfm_raw_at_the_root": (FSDFMTrainer, {"saved_weights": "raw"}),
    "fsdfm_adapter": (FSDFMTrainer, {"adapter": True}),
    "fsdfm_adapter_raw_at_the_root": (FSDFMTrainer, {"adapter": True, "saved_weights": "raw"}),
}


def make_trainer(kind, output_dir, data, callbacks=(), **changes):
    cls, settings = RUNS[kind]
    settings = {**settings, **changes}
    extra = {"peft_config": LoraConfig(r=2, target_modules=["q_proj", "up_proj"], lora_dropout=0.1)}
    extra = extra if settings.pop("adapter", False) else {}
    is_fsdfm = cls is FSDFMTrainer
    if is_fsdfm:
        settings = {"ema_decay": 0.8, "sample_steps": 2, "sample_num_steps": [1, 2], "num_samples": 2, **settings}
    model = tiny_model(hidden_dropout_prob=0.2, step_size_conditioning=is_fsdfm)
    torch.manual_seed(0)  # adapters start at random
    record = Record()
    trainer = cls(
        model,
        arguments(
            output_dir,
            FSDFMTrainingArguments if is_fsdfm else DFMTrainingArguments,
            max_steps=STEPS,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
            save_strategy="steps",
            eval_strategy="steps",
            eval_num_times=1,
            lr_scheduler_type="linear",
            learning_rate=1e-2,
            **{"save_steps": 1, "eval_steps": 3, **settings},
        ),
        data,
        fixed_rows(),
        callbacks=[record, *callbacks],
        **extra,
    )
    return trainer, record


def final_state(trainer):
    state = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    if isinstance(trainer, FSDFMTrainer):
        state.update({f"average.{name}": value.clone() for name, value in trainer.ema.state_dict().items()})
    for index, values in trainer.optimizer.state_dict()["state"].items():
        state.update({f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in values.items()})
    state["torch random state"] = torch.get_rng_state()
    state["other random states"] = torch.tensor([random.random(), np.random.rand()])
    return state


def assert_equal_states(first, second):
    assert first.keys() == second.keys()
    different = [name for name, value in first.items() if not torch.equal(value, second[name])]
    assert not different


@pytest.mark.parametrize("kind", RUNS)
def test_a_resumed_run_is_bit_identical_whatever_the_step(tmp_path, kind):
    # 20 rows in batches of 2 x 4: the third step ends an epoch, with an accumulation that is not full.
    trainer, whole = make_trainer(kind, tmp_path, fixed_rows())
    trainer.train()
    expected = final_state(trainer)
    for step in (1, 3):
        resumed, record = make_trainer(kind, tmp_path, fixed_rows())
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert record.logs == {later: logs for later, logs in whole.logs.items() if later > step}
        assert_equal_states(final_state(resumed), expected)


@pytest.mark.parametrize("kind", ["dfm", "fsdfm"])
def test_a_run_that_was_stopped_goes_on_from_its_last_checkpoint(tmp_path, kind):
    trainer, whole = make_trainer(kind, tmp_path / "whole", fixed_rows())
    trainer.train()
    expected = final_state(trainer)
    stopped, before = make_trainer(kind, tmp_path / "stopped", fixed_rows(), [StopAt(2)])
    stopped.train()
    assert stopped.state.global_step == 2
    resumed, after = make_trainer(kind, tmp_path / "stopped", fixed_rows())
    resumed.train(resume_from_checkpoint=True)
    assert {**before.logs, **after.logs} == whole.logs
    assert_equal_states(final_state(resumed), expected)


@pytest.mark.parametrize("kind", ["dfm", "fsdfm"])
def test_a_streaming_dataset_goes_on_where_it_stopped(tmp_path, kind, stream):
    trainer, whole = make_trainer(kind, tmp_path, stream())
    trainer.train()
    expected = final_state(trainer)
    for step in (1, 4):
        resumed, record = make_trainer(kind, tmp_path, stream())
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert record.logs == {later: logs for later, logs in whole.logs.items() if later > step}
        assert_equal_states(final_state(resumed), expected)


@pytest.mark.parametrize("kind", ["dfm", "fsdfm"])
def test_saving_evaluating_and_sampling_do_not_change_a_run(tmp_path, kind):
    trainer, record = make_trainer(kind, tmp_path / "a", fixed_rows())
    trainer.train()
    quiet = {"save_strategy": "no", "eval_strategy": "no"}
    cls, settings = RUNS[kind]
    if cls is FSDFMTrainer:
        quiet["sample_steps"] = 0
    other = cls(
        tiny_model(hidden_dropout_prob=0.2, step_size_conditioning=cls is FSDFMTrainer),
        type(trainer.args)(**{**trainer.args.to_dict(), **settings, **quiet, "output_dir": str(tmp_path / "b")}),
        fixed_rows(),
        callbacks=[Record()],
    )
    other.train()
    assert [entry["loss"] for entry in other.state.log_history if "loss" in entry] == [
        logs["loss"] for logs in record.logs.values()
    ]
    assert_equal_states(
        {name: value for name, value in final_state(trainer).items() if "random" not in name},
        {name: value for name, value in final_state(other).items() if "random" not in name},
    )


def test_the_root_of_a_checkpoint_holds_the_average_and_a_folder_the_trained_weights(tmp_path):
    for saved, other in (("ema", "raw"), ("raw", "ema")):
        trainer, _ = make_trainer("fsdfm", tmp_path / saved, fixed_rows(), saved_weights=saved)
        trainer.train()
        trainer.save_model(str(tmp_path / saved / "final"))
        average = trainer.ema.state_dict()
        trained = dict(trainer.model.named_parameters())
        expected = {"ema": average, "raw": trained}
        checkpoint = tmp_path / saved / f"checkpoint-{STEPS}"
        folders = {checkpoint: saved, checkpoint / "weights" / other: other, tmp_path / saved / "final": saved}
        for folder, kind in folders.items():
            loaded = FSDFMForDiffusionLM.from_pretrained(folder)
            assert all(torch.equal(value, expected[kind][name]) for name, value in loaded.named_parameters())
        assert not torch.equal(average["lm_head.weight"], trained["lm_head.weight"])


def test_a_checkpoint_without_an_average_is_not_resumed_from_in_silence(tmp_path):
    trainer, _ = make_trainer("fsdfm", tmp_path, fixed_rows())
    trainer.train()
    (tmp_path / "checkpoint-3" / "ema.pt").unlink()
    resumed, _ = make_trainer("fsdfm", tmp_path, fixed_rows())
    with pytest.raises(ValueError, match=r"checkpoint-3 has no ema\.pt"):
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


@pytest.mark.parametrize(
    ("kind", "save_only_model"), [("dfm", False), ("fsdfm", False), ("fsdfm", True), ("fsdfm_adapter", False)]
)
def test_the_best_model_is_loaded_at_the_end_and_saved(tmp_path, kind, save_only_model):
    # The largest bound counts as the best one, so that it is not that of the last step.
    best_at_end = {"load_best_model_at_end": True, "eval_steps": 1, "save_total_limit": 1, "greater_is_better": True}
    best_at_end["metric_for_best_model"] = "loss"
    trainer, _ = make_trainer(kind, tmp_path, fixed_rows(), save_only_model=save_only_model, **best_at_end)
    trainer.train()
    best = max((entry["eval_loss"], entry["step"]) for entry in trainer.state.log_history if "eval_loss" in entry)
    assert best[1] < STEPS
    assert trainer.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{best[1]}")
    assert trainer.evaluate()["eval_loss"] == best[0]
    assert (tmp_path / f"checkpoint-{best[1]}").is_dir()
    trainer.save_model(str(tmp_path / "final"))
    weights = "adapter_model.safetensors" if "adapter" in kind else "model.safetensors"
    saved, of_best = (
        load_file(folder / weights) for folder in (tmp_path / "final", tmp_path / f"checkpoint-{best[1]}")
    )
    assert all(torch.equal(value, of_best[name]) for name, value in saved.items())
