"""Adapters: what they learn, what they leave alone, and that they work in peft as any other."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import AutoModel

from tests.conftest import tiny_config
from tests.trainer.toy import Rows
from transformers_fsdfm import FSDFMForDiffusionLM
from transformers_fsdfm.trainer import finetune, script_run
from transformers_fsdfm.trainer.arguments import DFMTrainingArguments
from transformers_fsdfm.trainer.dfm_trainer import DFMTrainer


NUM_WORDS, LENGTH = 58, 16
STYLES = {"backward": -1, "wide": 5}
IDS = torch.arange(2, 18)[None]
TIMES = {"time": torch.tensor(0.5), "step_size": torch.tensor(0.25)}

# Loads base and adapter where this package does not exist; prints a digest of tokens and of merged logits.
STRANGER = """
import hashlib, json, sys
import torch

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "transformers_fsdfm":
            raise ModuleNotFoundError(f"{name} is not installed here")

sys.meta_path.insert(0, Hidden())
from peft import PeftModel
from transformers import AutoModel

base = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
model = PeftModel.from_pretrained(base, sys.argv[2]).eval()
tokens = model.generate(num_steps=8, generator=torch.Generator().manual_seed(0))
print(json.dumps(hashlib.sha256(tokens.numpy().tobytes()).hexdigest()))
"""


def walks(rows: int, stride: int, seed: int = 0) -> torch.Tensor:
    """A style: every word is followed by the one `stride` further on."""
    first = torch.randint(NUM_WORDS, (rows, 1), generator=torch.Generator().manual_seed(seed))
    return 2 + (first + stride * torch.arange(LENGTH)) % NUM_WORDS


def write_text(path: Path, ids: torch.Tensor) -> Path:
    lines = (" ".join(f"w{index}" for index in row) for row in ids[:, : LENGTH - 1].tolist())  # EOS makes it LENGTH
    path.write_text("\n<|endoftext|>\n".join(lines))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory, request) -> Path:
    """`base`, an FS-DFM that was trained on one style, and text in that and in two other styles."""
    folder = tmp_path_factory.mktemp("lora")
    torch.manual_seed(0)
    config = tiny_config(
        hidden_size=64,
        step_size_conditioning=False,
        hidden_dropout_prob=0.0,
        max_position_embeddings=LENGTH,
        conditioning_size=32,
    )
    model = FSDFMForDiffusionLM(config)
    args = DFMTrainingArguments(
        str(folder / "run"),
        max_steps=250,
        per_device_train_batch_size=32,
        learning_rate=5e-3,
        loss_type="cross_entropy",
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    DFMTrainer(model, args, Rows(walks(512, stride=1))).train()
    tokenizer = request.getfixturevalue("tokenizer")
    for name, saved in (("dfm", model), ("base", FSDFMForDiffusionLM.from_dfm(model))):
        saved.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    for name, stride in STYLES.items():
        write_text(folder / f"{name}.txt", walks(256, stride))
        write_text(folder / f"{name}-held-out.txt", walks(32, stride, seed=1))
    return folder


def tune(folder: Path, style: str, out: Path, *options: str, base: str = "base"):
    """Runs the script -> its trainer."""
    trainers = []
    arguments = ["--model_name_or_path", str(folder / base), "--train_data", str(folder / f"{style}.txt")]
    arguments += ["--validation_data", str(folder / f"{style}-held-out.txt"), "--data_cache", str(folder / "cache")]
    arguments += ["--per_device_train_batch_size", "32", "--max_steps", "60", "--learning_rate", "1e-2", "--use_cpu"]
    arguments += ["--save_strategy", "no", "--disable_tqdm", "true", "--output_dir", str(out), *options]
    with pytest.MonkeyPatch.context() as patch:
        train_and_save = script_run.train_and_save

        def keep_trainer(trainer, checkpoint):
            trainers.append(trainer)
            return train_and_save(trainer, checkpoint)

        patch.setattr(script_run, "train_and_save", keep_trainer)
        finetune.main(arguments)
    return trainers[0]


def bound(folder: Path, style: str, model: FSDFMForDiffusionLM) -> float:
    """The bound on held-out text of a style, in nats per token."""
    args = DFMTrainingArguments(str(folder / "run"), use_cpu=True, disable_tqdm=True, num_step_size_levels=5)
    ids = walks(32, STYLES[style], seed=1)
    ids[:, -1] = 0  # the EOS that follows each document
    return DFMTrainer(model, args, eval_dataset=Rows(ids)).evaluate()["eval_loss"]


DISTILLATION = ("--num_step_size_levels", "5", "--ema_decay", "0.9")


@pytest.fixture(scope="module")
def adapters(folder) -> dict:
    """Adapters to two styles, one by each objective, and the trainers that made them."""
    backward = tune(folder, "backward", folder / "backward", *DISTILLATION, "--merge_adapter")
    wide = tune(folder, "wide", folder / "wide", "--objective", "path", "--num_step_size_levels", "5")
    return {"backward": backward, "wide": wide}


def load(folder: Path, name: str) -> PeftModel:
    base = AutoModel.from_pretrained(folder / "base", trust_remote_code=True)
    return PeftModel.from_pretrained(base, folder / name).eval()


def digest(tokens: torch.Tensor) -> str:
    return hashlib.sha256(tokens.numpy().tobytes()).hexdigest()


class TestFineTuning:
    @pytest.mark.parametrize("style", ["backward", "wide"])
    def test_lowers_the_bound_on_held_out_text_of_the_style(self, folder, adapters, style):
        before = bound(folder, style, FSDFMForDiffusionLM.from_pretrained(folder / "base"))
        after = bound(folder, style, load(folder, style))
        assert after < 0.7 * before
        saved = json.loads((folder / style / "eval_results.json").read_text())
        assert saved["eval_loss"] == pytest.approx(after, rel=1e-4)

    def test_touches_no_weight_of_the_base(self, folder, adapters):
        expected = load_file(folder / "base" / "model.safetensors")
        for trainer in adapters.values():
            model = trainer.model.unload()
            assert_close(dict(model.state_dict()), expected, atol=0, rtol=0)
        trained = {name for name in load_file(folder / "backward" / "adapter_model.safetensors") if "lora_" not in name}
        assert trained == set()

    def test_distillation_averages_the_adapter_and_has_no_second_model(self, folder):
        trainer = tune(folder, "backward", folder / "short", *DISTILLATION, "--max_steps", "3")
        assert trainer.teacher is None
        names = trainer.ema.state_dict().keys()
        assert names
        assert all("lora_" in name for name in names)
        models = [module for module in vars(trainer).values() if isinstance(module, FSDFMForDiffusionLM)]
        assert models == []
        held = {value.data_ptr() for value in trainer.ema.state_dict().values()}
        assert held.isdisjoint(parameter.data_ptr() for parameter in trainer.model.parameters())

    def test_saved_adapter_is_the_average_or_on_request_the_trained_one(self, folder):
        options = (*DISTILLATION, "--max_steps", "3", "--seed", "1")
        average = tune(folder, "backward", folder / "average", *options)
        tune(folder, "backward", folder / "raw", *options, "--saved_weights", "raw")
        saved = {name: load_file(folder / name / "adapter_model.safetensors") for name in ("average", "raw")}
        name = "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"
        ema = average.ema.state_dict()[name.replace(".weight", ".default.weight")]
        assert_close(saved["average"][name], ema, atol=0, rtol=0)
        assert saved["raw"][name].norm() > saved["average"][name].norm()


class TestAdapter:
    def test_is_saved_alone(self, folder, adapters):
        assert not list((folder / "backward").glob("model*.safetensors"))
        numel = sum(value.numel() for value in load_file(folder / "backward" / "adapter_model.safetensors").values())
        trained = adapters["backward"].ema.state_dict().values()
        assert numel == sum(value.numel() for value in trained)
        settings = json.loads((folder / "backward" / "adapter_config.json").read_text())
        targets = {"q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"}
        assert (settings["r"], settings["lora_alpha"], set(settings["target_modules"])) == (16, 32, targets)

    def test_generates_in_8_steps_where_the_package_is_not_installed(self, folder, adapters, tmp_path):
        environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", STRANGER, str(folder / "base"), str(folder / "backward")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        tokens = load(folder, "backward").generate(num_steps=8, generator=torch.Generator().manual_seed(0))
        assert json.loads(done.stdout.splitlines()[-1]) == digest(tokens)

    def test_writes_in_the_style(self, folder, adapters):
        def share_of_backward_steps(model):
            tokens = model.generate(num_steps=8, num_return_sequences=32, generator=torch.Generator().manual_seed(0))
            return float(((tokens[:, 1:] - tokens[:, :-1]) % NUM_WORDS == NUM_WORDS - 1).float().mean())

        base = FSDFMForDiffusionLM.from_pretrained(folder / "base")
        assert share_of_backward_steps(load(folder, "backward")) > share_of_backward_steps(base) + 0.2

    def test_merged_model_gives_the_same_logits(self, folder, adapters):
        adapted = load(folder, "backward")
        logits = adapted(input_ids=IDS, **TIMES).logits
        saved = AutoModel.from_pretrained(folder / "backward" / "merged", trust_remote_code=True)
        assert_close(saved(IDS, **TIMES).logits, logits, atol=1e-5, rtol=1e-5)
        assert_close(adapted.merge_and_unload()(IDS, **TIMES).logits, logits, atol=1e-5, rtol=1e-5)

    def test_two_can_be_switched_and_combined(self, folder, adapters):
        model = load(folder, "backward")
        model.load_adapter(folder / "wide", "wide")
        for adapter, name in (("wide", "wide"), ("default", "backward")):
            model.set_adapter(adapter)
            expected = load(folder, name)(input_ids=IDS, **TIMES).logits
            assert torch.equal(model(input_ids=IDS, **TIMES).logits, expected)
        with model.disable_adapter():
            base = FSDFMForDiffusionLM.from_pretrained(folder / "base")
            assert_close(model(input_ids=IDS, **TIMES).logits, base(IDS, **TIMES).logits)
        model.add_weighted_adapter(["default", "wide"], [1.0, 1.0], "both", combination_type="cat")
        model.set_adapter("both")
        weight = "model.layers.0.mlp.up_proj.weight"
        alone = [load(folder, name).merge_and_unload().state_dict()[weight] for name in ("backward", "wide")]
        stacked = model.merge_and_unload().state_dict()[weight]
        assert_close(stacked, sum(alone) - base.state_dict()[weight], atol=1e-5, rtol=1e-5)


class TestFewStepAdapterOfADFM:
    def test_trains_and_saves_the_step_size_embedding_and_its_base(self, folder):
        out = folder / "few-step"
        options = ("--objective", "distill", *DISTILLATION, "--max_steps", "4", "--lora_rank", "2", "--merge_adapter")
        trainer = tune(folder, "backward", out, *options, base="dfm")
        settings = json.loads((out / "adapter_config.json").read_text())
        assert settings["base_model_name_or_path"] == str(out / "base")
        assert settings["modules_to_save"] == ["step_size_embedding"]
        assert any("step_size_embedding" in name for name in trainer.ema.state_dict())
        base = FSDFMForDiffusionLM.from_pretrained(out / "base")
        assert base.config.step_size_conditioning
        adapted = PeftModel.from_pretrained(base, out).eval()
        logits = adapted(input_ids=IDS, **TIMES).logits
        coarse = adapted(input_ids=IDS, time=TIMES["time"], step_size=torch.tensor(0.5)).logits
        assert not torch.equal(logits, coarse)  # it has begun to tell step sizes apart
        merged = FSDFMForDiffusionLM.from_pretrained(out / "merged")
        assert_close(merged(IDS, **TIMES).logits, logits, atol=1e-5, rtol=1e-5)

    def test_resumes_exactly_on_the_same_base(self, folder):
        options = (
            "--objective",
            "distill",
            *DISTILLATION,
            "--max_steps",
            "4",
            "--lora_rank",
            "2",
            "--lora_dropout",
            "0.1",
        )
        options += ("--save_strategy", "steps", "--save_steps", "2")
        tune(folder, "backward", folder / "whole", *options, base="dfm")
        whole = load_file(folder / "whole" / "adapter_model.safetensors")
        tune(
            folder,
            "backward",
            folder / "whole",
            *options,
            "--resume_from_checkpoint",
            str(folder / "whole" / "checkpoint-2"),
            base="dfm",
        )
        resumed = load_file(folder / "whole" / "adapter_model.safetensors")
        assert all(torch.equal(resumed[name], value) for name, value in whole.items())

    def test_frozen_weights_may_be_bfloat16(self, folder):
        options = (
            *DISTILLATION,
            "--max_steps",
            "3",
            "--model_dtype",
            "bfloat16",
            "--lora_target_modules",
            "q_proj",
            "v_proj",
        )
        trainer = tune(folder, "backward", folder / "bfloat16", *options)
        kinds = {(parameter.requires_grad, parameter.dtype) for parameter in trainer.model.parameters()}
        assert kinds == {(True, torch.float32), (False, torch.bfloat16)}
