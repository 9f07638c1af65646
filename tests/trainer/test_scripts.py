"""`pretrain`, `distill` and `finetune`: from text files to a few-step model, on the command line."""

import importlib.util
import json
import os
import shutil
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import yaml
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from tests.cli.test_convert import last_line
from tests.conftest import generator, tiny_model
from transformers_fsdfm import FSDFMConfig, FSDFMForDiffusionLM, cli
from transformers_fsdfm.cli import main as fsdfm
from transformers_fsdfm.trainer import distill, finetune, pretrain, script_data
from transformers_fsdfm.trainer.data import DataCollatorForDFM
from transformers_fsdfm.trainer.script_models import set_trained_length
from transformers_fsdfm.trainer.script_run import environment


SCRIPTS = {"pretrain": pretrain, "distill": distill, "finetune": finetune}
SIZES = ["--hidden_size", "32", "--num_hidden_layers", "1", "--num_attention_heads", "2"]
SHORT = ["--block_size", "16", "--max_steps", "4", "--logging_steps", "2", "--save_steps", "2", "--use_cpu"]
SHORT += ["--per_device_train_batch_size", "4", "--eval_num_times", "2", "--disable_tqdm", "true"]
FEW_LEVELS = ["--num_step_size_levels", "4"]


def run(name: str, *arguments) -> None:
    SCRIPTS[name].main([str(argument) for argument in arguments])


def error_of(capsys, name: str, *arguments) -> str:
    """The last line of a script that refuses to start."""
    with pytest.raises(SystemExit) as exit_info:
        run(name, *arguments)
    assert exit_info.value.code == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return last_line(error)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Tokenised data goes to a folder of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    """A folder of text files."""
    folder = tmp_path_factory.mktemp("text")
    for number in range(3):
        stories = [f"Tom had {count} red apples and {number} dogs." for count in range(20)]
        (folder / f"part-{number}.txt").write_text("\n<|endoftext|>\n".join(stories))
    return folder


@pytest.fixture(scope="module")
def dfm(text, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("dfm")
    new = ["--train_tokenizer_vocab_size", "300", *SIZES, "--validation_share", "0.1"]
    run("pretrain", "--train_data", text, "--output_dir", out, *new, *SHORT)
    return out


@pytest.fixture(scope="module")
def fsdfm_folder(text, dfm, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("fsdfm")
    options = ["--sample_steps", "4", "--num_samples", "1", *FEW_LEVELS, *SHORT]
    run("distill", "--model_name_or_path", dfm, "--train_data", text, "--output_dir", out, *options)
    return out


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [{"prompt": f"Tom had {count}", "completion": " dogs."} for count in range(12)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def metrics_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


class TestThreeCommands:
    def test_lead_from_text_files_to_a_few_step_model(self, fsdfm_folder):
        tokenizer = AutoTokenizer.from_pretrained(fsdfm_folder, trust_remote_code=True)
        model = AutoModel.from_pretrained(fsdfm_folder, trust_remote_code=True)
        assert model.config.step_size_conditioning
        assert (model.config.vocab_size, model.config.mask_token_id) == (len(tokenizer) - 1, tokenizer.mask_token_id)
        assert (model.config.eos_token_id, model.config.max_position_embeddings) == (tokenizer.eos_token_id, 16)
        prompt = tokenizer("Tom had", return_tensors="pt")
        tokens = model.generate(**prompt, num_steps=2, max_new_tokens=4)
        assert tokenizer.decode(tokens[0]).startswith("Tom had")

    def test_go_on_to_an_adapter_that_is_saved_alone(self, fsdfm_folder, pairs, tmp_path):
        options = ["--lora_rank", "2", *FEW_LEVELS, *SHORT, "--output_dir", tmp_path]
        run("finetune", "--model_name_or_path", fsdfm_folder, "--train_data", pairs, *options)
        assert (tmp_path / "adapter_model.safetensors").exists()
        assert not (tmp_path / "model.safetensors").exists()
        assert not (tmp_path / "merged").exists()

    def test_an_adapter_may_be_on_all_linear_layers(self, dfm, text, tmp_path):
        options = ["--lora_target_modules", "all-linear", "--lora_rank", "2", *SHORT, "--output_dir", tmp_path]
        run("finetune", "--model_name_or_path", dfm, "--train_data", text, *options)
        names = load_file(tmp_path / "adapter_model.safetensors").keys()
        assert {"q_proj", "time_embedding"} <= {part for name in names for part in name.split(".")}
        assert not any("lm_head" in name for name in names)

    def test_all_weights_are_trained_with_rank_0(self, dfm, text, tmp_path):
        run(
            "finetune",
            "--model_name_or_path",
            dfm,
            "--train_data",
            text,
            "--lora_rank",
            0,
            *SHORT,
            "--output_dir",
            tmp_path,
        )
        before, after = (load_file(folder / "model.safetensors") for folder in (dfm, tmp_path))
        assert all(not torch.equal(before[name], value) for name, value in after.items() if "proj" in name)

    def test_work_for_a_mask_source(self, text, tmp_path):
        options = ["--source_distribution", "mask", "--train_tokenizer_vocab_size", "280", *SIZES, *SHORT]
        run("pretrain", "--train_data", text, "--output_dir", tmp_path / "dfm", *options)
        distillation = ["--model_name_or_path", tmp_path / "dfm", *FEW_LEVELS, *SHORT]
        run("distill", "--train_data", text, "--output_dir", tmp_path / "fsdfm", *distillation)
        model = FSDFMForDiffusionLM.from_pretrained(tmp_path / "fsdfm")
        assert model.config.source_distribution == "mask"
        assert (model.generate(num_steps=2) < model.config.vocab_size).all()

    def test_activation_checkpointing_changes_no_loss(self, dfm, text, tmp_path):
        losses = {}
        for name, option in (("plain", []), ("checkpointed", ["--activation_checkpointing"])):
            options = ["--model_name_or_path", dfm, *FEW_LEVELS, *SHORT, "--max_steps", "2", "--logging_steps", "1"]
            run("distill", "--train_data", text, "--output_dir", tmp_path / name, *options, *option)
            losses[name] = [entry["loss"] for entry in metrics_of(tmp_path / name) if "loss" in entry]
        assert losses["checkpointed"] == pytest.approx(losses["plain"], rel=1e-6)


class TestRunFolder:
    def test_holds_settings_versions_and_logs(self, dfm, fsdfm_folder):
        settings = yaml.safe_load((dfm / "run.yaml").read_text())
        assert (settings["hidden_size"], settings["max_steps"], settings["learning_rate"]) == (32, 4, 3e-4)
        (entry,) = map(json.loads, (dfm / "environment.jsonl").read_text().splitlines())
        assert entry["script"] == "pretrain"
        assert entry["packages"]["torch"] == version("torch")
        assert {"loss", "grad_norm", "learning_rate"} <= metrics_of(dfm)[0].keys()
        assert "eval_bits_per_byte" in metrics_of(dfm)[-1]
        log = (dfm / "train.log").read_text()
        assert "Training a DFM of" in log
        assert "eval_bits_per_byte" in log
        assert {row["num_steps"] for row in map(json.loads, (fsdfm_folder / "samples.jsonl").open())} == {1, 2, 4, 8}

    def test_settings_repeat_the_run(self, dfm, tmp_path):
        run("pretrain", "--config", dfm / "run.yaml", "--output_dir", tmp_path)
        again, settings = (yaml.safe_load((folder / "run.yaml").read_text()) for folder in (tmp_path, dfm))
        assert {**again, "output_dir": settings["output_dir"]} == settings
        weights, expected = (load_file(folder / "model.safetensors") for folder in (tmp_path, dfm))
        assert all(torch.equal(weights[name], value) for name, value in expected.items())

    def test_git_revision_is_recorded_only_for_a_working_copy(self, monkeypatch):
        assert environment()["git"] is None or len(environment()["git"]["commit"]) == 40
        monkeypatch.setattr("subprocess.run", lambda *args, **kwargs: (_ for _ in ()).throw(FileNotFoundError("git")))
        assert environment()["git"] is None

    @pytest.mark.parametrize("option", [["--hub_token", "hidden-word"], ["--hub-token=hidden-word"]])
    def test_has_no_access_token_in_what_it_says_of_the_run(self, text, monkeypatch, tmp_path, option):
        options = ["--train_tokenizer_vocab_size", "300", *SIZES, *SHORT, "--save_strategy", "no", "--output_dir"]
        arguments = [str(word) for word in ("--train_data", text, *options, tmp_path, *option)]
        monkeypatch.setattr(sys, "argv", ["pretrain", *arguments])
        pretrain.main()
        (entry,) = map(json.loads, (tmp_path / "environment.jsonl").read_text().splitlines())
        assert entry["command"][:2] == ["pretrain", "--train_data"]
        for name in ("run.yaml", "environment.jsonl", "metrics.jsonl", "train.log"):
            assert "hidden-word" not in (tmp_path / name).read_text()

    @pytest.mark.skipif(torch.accelerator.is_available(), reason="needs a machine without an accelerator")
    @pytest.mark.parametrize("script", ["distill", "finetune"])
    def test_warns_of_nothing_that_its_user_can_not_change(self, dfm, text, tmp_path, script):
        options = [word for word in SHORT if word != "--use_cpu"]
        with warnings.catch_warnings():
            for words in ("pin_memory", "is_gradient_checkpointing"):
                warnings.filterwarnings("error", message=f".*{words}")
            run(script, "--model_name_or_path", dfm, "--train_data", text, "--output_dir", tmp_path, *options)

    def test_warns_that_the_saved_average_will_hardly_move(self, dfm, text, tmp_path):
        options = ["--model_name_or_path", dfm, "--train_data", text, *FEW_LEVELS, *SHORT]
        run("distill", *options, "--output_dir", tmp_path / "slow")
        assert "100% what they were at the start" in (tmp_path / "slow" / "train.log").read_text()
        run("distill", *options, "--output_dir", tmp_path / "fast", "--ema_decay", "0.5")
        assert "at the start" not in (tmp_path / "fast" / "train.log").read_text()


class TestConfigFile:
    def test_stands_above_defaults_and_below_the_command_line(self, text, tmp_path):
        settings = {
            "train_data": [str(text / "part-0.txt"), str(text / "part-1.txt")],
            "train_tokenizer_vocab_size": 300,
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "learning_rate": "1e-3",
            "warmup_steps": 2,
            "lr_scheduler_type": "cosine_with_min_lr",
            "lr_scheduler_kwargs": {"min_lr_rate": 0.1},
            "low_discrepancy_times": True,
            "run_name": None,
        }
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
        run(
            "pretrain",
            "--config",
            tmp_path / "run.yaml",
            *SHORT,
            "--output_dir",
            tmp_path / "out",
            "--warmup_steps",
            "1",
        )
        resolved = yaml.safe_load((tmp_path / "out" / "run.yaml").read_text())
        assert (resolved["learning_rate"], resolved["warmup_steps"], resolved["seed"]) == (1e-3, 1, 42)
        assert resolved["low_discrepancy_times"] is True
        assert resolved["train_data"] == settings["train_data"]

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ("learning_rte: 1", "unknown argument --learning_rte; did you mean --learning_rate?"),
            ("- a\n- b", "must have lines `argument: value`"),
            ("a: [", "can't be read"),
            ("max_steps: many", "argument --max_steps/--max-steps: invalid int value: 'many'"),
            ("config: other.yaml", "config can't stand in the file"),
        ],
    )
    def test_mistakes_in_it_are_named(self, capsys, tmp_path, content, words):
        (tmp_path / "run.yaml").write_text(content)
        assert words in error_of(capsys, "pretrain", "--config", tmp_path / "run.yaml")

    def test_that_is_missing_is_named(self, capsys):
        assert "nowhere.yaml can't be read" in error_of(capsys, "pretrain", "--config", "nowhere.yaml")


class TestArguments:
    """All are checked before data is read and before anything is written."""

    NEW = ("--hidden_size", "32", "--num_hidden_layers", "1", "--num_attention_heads", "2")
    TOKENIZER = ("--train_tokenizer_vocab_size", "300")

    @pytest.mark.parametrize(
        ("script", "arguments", "words"),
        [
            ("pretrain", ["--hiden_size", "32"], "unknown argument --hiden_size; did you mean --hidden_size?"),
            ("pretrain", ["--learning-rte=1"], "unknown argument --learning-rte; did you mean --learning_rate?"),
            ("pretrain", ["--zzzzzzzz"], "unknown argument --zzzzzzzz"),
            ("pretrain", [*NEW, *TOKENIZER, "words"], "'words' belongs to no argument"),
            ("pretrain", [*TOKENIZER], "give a model: --config_name, sizes (--hidden_size ...)"),
            ("pretrain", [*NEW], "give --tokenizer, or have one trained"),
            ("pretrain", [*NEW, "--train_tokenizer_vocab_size", "100"], "must be at least 258"),
            ("pretrain", [*NEW, *TOKENIZER, "--tokenizer", "x"], "exclude each other"),
            ("pretrain", [*NEW, "--model_name_or_path", "x"], "can't be changed in the model"),
            ("pretrain", [*NEW, "--num_attention_heads", "5", *TOKENIZER], "`hidden_size` must be an even multiple"),
            ("pretrain", ["--config_name", "dfm-170b", *TOKENIZER], "none of dfm-170m, dfm-tinystories, fsdfm-1.3b"),
            ("pretrain", [*NEW, "--tokenizer", "nowhere/here"], "nowhere/here has no tokenizer"),
            ("pretrain", [*NEW, *TOKENIZER, "--schedule", "sine"], "invalid choice: 'sine'"),
            ("pretrain", [*NEW, *TOKENIZER, "--loss_type", "mse"], "invalid choice: 'mse'"),
            ("pretrain", [*NEW, *TOKENIZER, "--time_epsilon", "2"], "`time_epsilon` must be in (0, 1)"),
            ("pretrain", [*NEW, *TOKENIZER, "--validation_share", "1.5"], "--validation_share must be in [0, 1)"),
            ("pretrain", [*NEW, *TOKENIZER, "--block_size", "0"], "--block_size must be at least 1"),
            ("pretrain", [*NEW, *TOKENIZER, "--streaming"], "--streaming needs --max_steps"),
            ("pretrain", [*NEW, *TOKENIZER, "--eval_strategy", "steps"], "--eval_strategy needs a text to evaluate on"),
            ("pretrain", [*NEW, *TOKENIZER, "--validation_data", "none.txt"], "--validation_data 'none.txt': no such"),
            ("pretrain", [*NEW, *TOKENIZER, "--train_data", "a/b/c"], "--train_data 'a/b/c' is no file or folder, and"),
            ("pretrain", [*NEW, "--tokenizer", "./nowhere"], "--tokenizer ./nowhere is no folder, and no Hub id"),
            ("pretrain", [*NEW, *TOKENIZER, "--train_split", "train"], "--train_split belongs to a dataset id"),
            ("pretrain", [*NEW, *TOKENIZER, "--validation_split", "test"], "--validation_split belongs to a dataset"),
            ("pretrain", [*NEW, *TOKENIZER, "--streaming", "--num_proc", "2"], "--num_proc has no effect on a stream"),
            ("pretrain", [*NEW, *TOKENIZER, "--num_step_size_levels", "4"], "has no effect on a plain DFM"),
            ("pretrain", [*NEW, *TOKENIZER, "--max_steps", "0"], "--max_steps must be at least 1"),
            ("pretrain", [*NEW, *TOKENIZER, "--num_train_epochs", "0"], "--num_train_epochs must be > 0"),
            ("pretrain", [*NEW, *TOKENIZER, "--learning_rate", "-1"], "--learning_rate must be >= 0"),
            ("pretrain", [*NEW, *TOKENIZER, "--per_device_train_batch_size", "0"], "batch_size must be at least 1"),
            ("pretrain", [*NEW, *TOKENIZER, "--gradient_accumulation_steps", "0"], "steps must be at least 1"),
            ("pretrain", [*NEW, *TOKENIZER, "--report_to", "tensorbord"], "--report_to tensorbord: tensorbord is not"),
            ("pretrain", [*NEW, *TOKENIZER, "--resume_from_checkpoint"], "there is no checkpoint in --output_dir"),
            ("pretrain", [*NEW, *TOKENIZER, "--resume_from_checkpoint", "x"], "x is no folder of a checkpoint"),
            ("distill", [], "give the model to start from: --model_name_or_path"),
            ("distill", ["--model_name_or_path", "nowhere/here"], "nowhere/here is no model folder"),
            ("distill", ["--model_name_or_path", "./nowhere"], "./nowhere is no model folder, and no Hub id (org"),
            ("distill", ["--model_name_or_path", "nowhere"], "nowhere is no model folder, and no Hub id (org"),
            ("distill", ["--model_name_or_path", "gpt2"], "models of this package are dfm-tinystories, fsdfm-tinyst"),
            (
                "pretrain",
                ["--model_name_or_path", "fsdfm-tinystories"],
                "fsdfm-tinystories is an FS-DFM; `distill` and",
            ),
            ("finetune", ["--model_name_or_path", "fsdfm-tinystories", "--block_size", "9999"], "trained on (1024)"),
            ("distill", ["--model_name_or_path", "dfm.pth"], "convert it to a model folder first (fsdfm convert)"),
            ("distill", ["--model_name_or_path", "x", "--ema_decay", "1"], "`ema_decay` must be in [0, 1)"),
            ("distill", ["--model_name_or_path", "x", "--solver", "rk4"], "invalid choice: 'rk4'"),
            ("distill", ["--model_name_or_path", "x", "--lora_rank", "4"], "unknown argument --lora_rank"),
            (
                "finetune",
                ["--model_name_or_path", "x", "--data_format", "text", "--learn_padding"],
                "--learn_padding has no effect on text without pairs",
            ),
            (
                "finetune",
                ["--model_name_or_path", "x", "--data_format", "pairs", "--detokenizer", "wikitext"],
                "--detokenizer has no effect on pairs",
            ),
            ("finetune", ["--model_name_or_path", "x", "--lora_rank", "-1"], "--lora_rank must be at least 0"),
            (
                "finetune",
                ["--model_name_or_path", "x", "--lora_rank", "0", "--lora_dropout", "0.1"],
                "--lora_dropout has no effect with --lora_rank 0",
            ),
        ],
    )
    def test_mistakes_are_one_line_and_exit_code_2(self, capsys, monkeypatch, text, tmp_path, script, arguments, words):
        monkeypatch.setattr(script_data, "load_documents", lambda *args, **kwargs: pytest.fail("data was read"))
        common = ["--train_data", text, "--output_dir", tmp_path / "out"]
        assert words in error_of(capsys, script, *common, *arguments)
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("script", ["pretrain", "distill", "finetune"])
    def test_a_mistyped_folder_is_not_looked_for_on_the_hub(self, capsys, monkeypatch, text, tmp_path, script):
        monkeypatch.setattr("transformers.utils.hub.hf_hub_download", lambda *_, **__: pytest.fail("the Hub was asked"))
        monkeypatch.chdir(tmp_path)
        (tmp_path / "models").mkdir()
        common = ["--output_dir", tmp_path / "out"]
        error = error_of(capsys, script, *common, "--train_data", text, "--model_name_or_path", "models/dmf")
        assert "--model_name_or_path models/dmf is no model folder, and not taken for a Hub id" in error
        error = error_of(capsys, script, *common, "--train_data", "models/text", "--model_name_or_path", "models/dmf")
        assert "models/text" in error or "models/dmf" in error

    def test_data_and_run_folder_are_required(self, capsys, text, tmp_path):
        model = [*SIZES, "--train_tokenizer_vocab_size", "300"]
        assert "give the run folder: --output_dir" in error_of(capsys, "pretrain", "--train_data", text, *model)
        assert "give the text to train on: --train_data" in error_of(
            capsys, "pretrain", "--output_dir", tmp_path, *model
        )

    def test_models_that_do_not_fit_are_refused(self, capsys, dfm, fsdfm_folder, text, tokenizer, tmp_path):
        common = ["--train_data", text, "--output_dir", tmp_path / "out"]
        assert "is an FS-DFM" in error_of(capsys, "pretrain", *common, "--model_name_or_path", fsdfm_folder)
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
        assert "is a gpt2 model" in error_of(capsys, "distill", *common, "--model_name_or_path", tmp_path)
        (tmp_path / "config.json").write_text("{")
        assert "not a valid JSON file" in error_of(capsys, "distill", *common, "--model_name_or_path", tmp_path)
        (tmp_path / "adapter_config.json").write_text("{}")
        assert "is an adapter: merge it" in error_of(capsys, "distill", *common, "--model_name_or_path", tmp_path)
        small = tmp_path / "small"
        tiny_model(vocab_size=50, mask_token_id=None).save_pretrained(small)
        tokenizer.save_pretrained(small)
        assert "60 tokens, the model only 50" in error_of(capsys, "distill", *common, "--model_name_or_path", small)
        long = ["--model_name_or_path", dfm, "--block_size", "17"]
        assert "more than the model was trained on (16)" in error_of(capsys, "finetune", *common, *long)

    @pytest.mark.parametrize(("length", "is_warned"), [(16, True), (32, False), (64, False)])
    def test_a_model_that_is_to_write_windows_from_now_on_says_so(self, caplog, length, is_warned):
        model = tiny_model(max_position_embeddings=32)
        set_trained_length(model, length)
        assert model.config.max_position_embeddings == length
        assert ("trained on 32 tokens, and is now on 16 (--block_size)" in caplog.text) == is_warned

    def test_a_model_without_a_tokenizer_is_named(self, capsys, dfm, text, tmp_path):
        shutil.copytree(dfm, tmp_path / "dfm", ignore=shutil.ignore_patterns("tokenizer*", "checkpoint-*"))
        common = ["--train_data", text, "--output_dir", tmp_path / "out"]
        error = error_of(capsys, "distill", *common, "--model_name_or_path", tmp_path / "dfm")
        assert "dfm has no tokenizer that can be loaded (set --tokenizer)" in error

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--lora_target_modules", "q_proj", "k_prj"], "--lora_target_modules: the model has no k_prj, only "),
            (["--lora_modules_to_save", "step_size_embedding"], "the model has no step_size_embedding"),
            (["--lora_target_modules", "q_proj", "all-linear"], "all-linear stands alone"),
        ],
    )
    def test_modules_that_the_model_lacks_are_named(self, capsys, dfm, text, tmp_path, options, words):
        common = ["--train_data", text, "--output_dir", tmp_path / "out", "--model_name_or_path", dfm]
        assert words in error_of(capsys, "finetune", *common, *options)

    def test_what_only_distillation_knows_is_refused_with_the_path_objective(self, capsys, dfm, text, tmp_path):
        common = ["--train_data", text, "--output_dir", tmp_path / "out", "--model_name_or_path", dfm]
        error = error_of(capsys, "finetune", *common, "--shortcut_teacher", "rk2")
        assert "--shortcut_teacher has no effect with the objective `path`" in error

    @pytest.mark.parametrize("backend", ["tensorboard", "trackio"])
    def test_a_report_backend_that_is_not_installed_is_named(self, capsys, monkeypatch, text, tmp_path, backend):
        find_spec = importlib.util.find_spec
        missing = (backend, "tensorboardX")
        monkeypatch.setattr(
            "importlib.util.find_spec", lambda name, *a: None if name in missing else find_spec(name, *a)
        )
        model = [*SIZES, "--train_tokenizer_vocab_size", "300", "--output_dir", tmp_path, "--report_to", backend]
        error = error_of(capsys, "pretrain", "--train_data", text, *model)
        assert f"the package is not installed (pip install {backend})" in error

    def test_help_shows_what_is_common_and_on_request_everything(self, capsys):
        pages = {}
        for option in ("--help", "--help_all"):
            with pytest.raises(SystemExit) as exit_info:
                run("finetune", option)
            assert exit_info.value.code == 0
            pages[option] = capsys.readouterr().out
        for words in ("Adapter:", "--lora_target_modules VALUE ...", "path|distill", "--ema_decay X", "[0.99]", "10%]"):
            assert words in pages["--help"]
        assert "--adam_beta1" not in pages["--help"]
        assert "--adam_beta1" in pages["--help_all"]
        assert max(map(len, pages["--help"].splitlines())) < 220
        assert "==SUPPRESS==" not in pages["--help_all"]


class TestModels:
    def config_of(self, text, tmp_path, *options) -> FSDFMConfig:
        run("pretrain", "--train_data", text, *SHORT, "--max_steps", 1, "--output_dir", tmp_path / "out", *options)
        return FSDFMConfig.from_pretrained(tmp_path / "out")

    def test_a_named_configuration_can_be_changed(self, text, tmp_path):
        smaller = ["--hidden_size", "16", "--num_hidden_layers", "1", "--num_attention_heads", "2"]
        options = ["--config_name", "fsdfm-1.3b", *smaller, "--train_tokenizer_vocab_size", "270"]
        config = self.config_of(text, tmp_path, *options)
        assert (config.hidden_size, config.intermediate_size, config.conditioning_size) == (16, 64, 256)
        assert config.vocab_size == 270
        assert not config.step_size_conditioning

    def test_a_configuration_file_and_a_given_tokenizer(self, text, tokenizer, tmp_path):
        tiny_model(schedule="cosine").config.save_pretrained(tmp_path / "config")
        tokenizer.save_pretrained(tmp_path / "tokenizer")
        options = ["--config_name", tmp_path / "config" / "config.json", "--tokenizer", tmp_path / "tokenizer"]
        config = self.config_of(text, tmp_path, *options)
        assert (config.schedule, config.hidden_size, config.max_position_embeddings) == ("cosine", 32, 16)
        assert (config.vocab_size, config.eos_token_id, config.pad_token_id, config.mask_token_id) == (60, 0, 1, 60)

    def test_pretraining_goes_on_with_a_model(self, dfm, text, tmp_path):
        options = ["--model_name_or_path", dfm, "--max_steps", "1", "--learning_rate", "1e-9", "--weight_decay", "0"]
        run("pretrain", "--train_data", text, *SHORT, *options, "--output_dir", tmp_path)
        before, after = (load_file(folder / "model.safetensors") for folder in (dfm, tmp_path))
        assert all(torch.allclose(before[name], value, atol=1e-6) for name, value in after.items())

    def test_initial_weights_depend_on_the_seed_alone(self, text, tmp_path):
        options = [*SIZES, "--train_tokenizer_vocab_size", "300", "--learning_rate", "0", "--max_steps", "1"]
        weights = []
        for name, seed in (("a", 1), ("b", 1), ("c", 2)):
            torch.rand(3)
            run("pretrain", "--train_data", text, *SHORT, *options, "--seed", seed, "--output_dir", tmp_path / name)
            weights.append(load_file(tmp_path / name / "model.safetensors")["model.embed_tokens.weight"])
        assert torch.equal(weights[0], weights[1])
        assert not torch.equal(weights[0], weights[2])


class TestData:
    def arguments(self, **values):
        from transformers_fsdfm.trainer.script_arguments import FinetuningDataArguments

        return FinetuningDataArguments(**values)

    def test_held_out_rows_are_the_last(self, dfm, text, tmp_path):
        from transformers_fsdfm.trainer.arguments import DFMTrainingArguments

        tokenizer = AutoTokenizer.from_pretrained(dfm)
        args = DFMTrainingArguments(str(tmp_path), use_cpu=True)
        whole, split = (
            script_data.packed_rows(script_data.open_documents(data_args, args), tokenizer, data_args, 16, args)
            for data_args in (
                self.arguments(train_data=[str(text)]),
                self.arguments(train_data=[str(text)], validation_share=0.25),
            )
        )
        assert len(split.validation) == round(0.25 * len(whole.train))
        rows = [*split.train["input_ids"], *split.validation["input_ids"]]
        assert all((row == expected).all() for row, expected in zip(rows, whole.train["input_ids"], strict=True))

    def test_a_stream_trains_more_steps_than_it_has_batches_and_resumes(self, text, tmp_path):
        options = [
            *SIZES,
            "--train_tokenizer_vocab_size",
            "300",
            "--streaming",
            "--validation_data",
            text / "part-0.txt",
        ]
        common = ["--train_data", text / "part-0.txt", *options, *SHORT, "--max_train_documents", "10"]
        common += ["--max_steps", "12", "--save_steps", "6", "--logging_steps", "1"]
        run("pretrain", *common, "--output_dir", tmp_path / "whole")
        shutil.copytree(tmp_path / "whole" / "checkpoint-6", tmp_path / "half" / "checkpoint-6")
        run("pretrain", *common, "--output_dir", tmp_path / "half", "--resume_from_checkpoint", "last")
        whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "half"))
        assert all(torch.equal(resumed[name], value) for name, value in whole.items())

    def test_prompts_are_kept_clean_and_padding_is_learned_on_request(self, dfm, pairs, tmp_path):
        from transformers_fsdfm.trainer.arguments import DFMTrainingArguments

        tokenizer = AutoTokenizer.from_pretrained(dfm)
        args = DFMTrainingArguments(str(tmp_path), use_cpu=True)
        batches = {}
        for learn_padding in (False, True):
            data_args = self.arguments(train_data=[str(pairs)], learn_padding=learn_padding)
            rows, collator = finetune._rows(data_args, tokenizer, 32, args)
            assert isinstance(collator, DataCollatorForDFM)
            batches[learn_padding] = collator([rows.train[index] for index in range(4)])
        prompt_length = len(tokenizer("Tom had 0")["input_ids"])
        for batch in batches.values():
            assert (batch["labels"][0, :prompt_length] == -100).all()
            assert tokenizer.decode(batch["labels"][0, prompt_length:][:3]).startswith(" d")
        assert (batches[False]["labels"][batches[False]["attention_mask"] == 0] == -100).all()
        padded = batches[True]
        assert padded["input_ids"].shape == (4, 32)
        assert padded["attention_mask"].all()
        assert (padded["labels"][:, -1] == tokenizer.pad_token_id).all()

    @pytest.mark.parametrize(
        ("data", "option", "words"),
        [
            ("text", ["--learn_padding"], "--learn_padding has no effect on text without pairs"),
            ("text", ["--prompt_column", "question"], "--prompt_column has no effect on text without pairs"),
            ("pairs", ["--text_column", "story"], "--text_column has no effect on pairs of prompt and completion"),
            ("pairs", ["--detokenizer", "wikitext"], "--detokenizer has no effect on pairs of prompt and completion"),
        ],
    )
    def test_options_of_the_other_format_are_refused_when_the_data_is_seen(
        self, request, dfm, tmp_path, data, option, words
    ):
        options = ["--train_data", request.getfixturevalue(data), "--output_dir", tmp_path, *SHORT]
        with pytest.raises(ValueError, match=words):
            run("finetune", "--model_name_or_path", dfm, *options, *option)

    def test_split_belongs_to_the_text_that_is_evaluated_on(self, text):
        wrong = self.arguments(train_data=["owner/name"], validation_data=[str(text)], validation_split="test")
        with pytest.raises(ValueError, match="--validation_split belongs to a dataset id"):
            script_data.check_sources(wrong)
        script_data.check_sources(self.arguments(train_data=["owner/name"], validation_split="test"))

    @pytest.mark.parametrize(("wanted", "taken"), [(None, 1000), (7, 7)])
    def test_of_a_streamed_dataset_only_the_beginning_is_evaluated_on(self, monkeypatch, tmp_path, wanted, taken):
        from transformers_fsdfm.trainer.arguments import DFMTrainingArguments

        stream = Dataset.from_dict({"text": [f"Tom had {count} dogs." for count in range(1100)]}).to_iterable_dataset()
        monkeypatch.setattr(script_data, "load_documents", lambda *args, **kwargs: stream)
        data_args = self.arguments(
            train_data=["owner/name"], validation_split="test", streaming=True, max_validation_documents=wanted
        )
        documents = script_data.open_documents(data_args, DFMTrainingArguments(str(tmp_path), use_cpu=True))
        assert len(documents.validation) == taken


class TestResume:
    def test_goes_on_where_the_last_checkpoint_was_written(self, capsys, fsdfm_folder, text, tmp_path):
        shutil.copytree(fsdfm_folder / "checkpoint-2", tmp_path / "checkpoint-2")
        settings = ["--config", fsdfm_folder / "run.yaml", "--output_dir", tmp_path]
        assert "go on with --resume_from_checkpoint" in error_of(capsys, "distill", *settings)
        run("distill", *settings, "--resume_from_checkpoint")
        resumed, expected = (load_file(folder / "model.safetensors") for folder in (tmp_path, fsdfm_folder))
        assert all(torch.equal(resumed[name], value) for name, value in expected.items())
        assert [entry["global_step"] for entry in metrics_of(tmp_path) if "loss" in entry] == [4]
        run("distill", *settings, "--resume_from_checkpoint", "auto", "--max_steps", "5")
        assert (tmp_path / "checkpoint-5").exists()
        assert len((tmp_path / "environment.jsonl").read_text().splitlines()) == 2

    def test_goes_on_in_another_folder_with_the_tokenizer_of_the_checkpoint(self, dfm, monkeypatch, tmp_path):
        monkeypatch.setattr("transformers_fsdfm.trainer.tokenizer.train_tokenizer", lambda *args: pytest.fail("again"))
        options = ["--output_dir", tmp_path, "--resume_from_checkpoint", dfm / "checkpoint-2"]
        run("pretrain", "--config", dfm / "run.yaml", *options)
        resumed, expected = (load_file(folder / "model.safetensors") for folder in (tmp_path, dfm))
        assert all(torch.equal(resumed[name], value) for name, value in expected.items())
        assert (tmp_path / "tokenizer.json").read_text() == (dfm / "tokenizer.json").read_text()
        assert "resume_from_checkpoint" not in yaml.safe_load((tmp_path / "run.yaml").read_text())

    def test_auto_begins_anew_without_a_checkpoint(self, dfm, text, tmp_path):
        options = ["--model_name_or_path", dfm, *FEW_LEVELS, *SHORT, "--resume_from_checkpoint", "auto"]
        run("distill", "--train_data", text, "--output_dir", tmp_path, *options, "--max_steps", "1")
        assert (tmp_path / "checkpoint-1").exists()


class TestReports:
    def test_tensorboard_gets_the_metrics(self, dfm, text, tmp_path):
        pytest.importorskip("tensorboard")
        options = [
            "--model_name_or_path",
            dfm,
            *FEW_LEVELS,
            *SHORT,
            "--report_to",
            "tensorboard",
            "--sample_steps",
            "2",
        ]
        run("distill", "--train_data", text, "--output_dir", tmp_path, *options)
        assert list(tmp_path.rglob("events.out.tfevents.*"))

    def test_trackio_gets_the_metrics(self, dfm, text, tmp_path, monkeypatch):
        pytest.importorskip("trackio")
        monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
        options = ["--model_name_or_path", dfm, *FEW_LEVELS, *SHORT, "--report_to", "trackio"]
        run("distill", "--train_data", text, "--output_dir", tmp_path, *options)


class TestCommandLine:
    @pytest.fixture
    def launched(self, monkeypatch) -> list[list[str]]:
        commands = []
        monkeypatch.setattr("signal.signal", lambda *_: None)
        monkeypatch.setattr(os, "execv", lambda path, command: commands.append(command))
        return commands

    def call(self, *arguments) -> int:
        with pytest.raises(SystemExit) as exit_info:
            fsdfm([str(argument) for argument in arguments])
        return exit_info.value.code or 0

    def test_every_command_is_listed_with_the_first_line_of_its_function(self):
        for name, summary in cli.COMMANDS.items():
            module = importlib.import_module(f"transformers_fsdfm.cli.{name}")
            assert getattr(module, name).__doc__.strip().splitlines()[0] == summary

    def test_a_script_runs_in_this_process(self, launched, text, tmp_path):
        options = [*SIZES, "--train_tokenizer_vocab_size", "300", *SHORT, "--output_dir", tmp_path]
        assert self.call("pretrain", "--train_data", text, *options) == 0
        assert (tmp_path / "model.safetensors").exists()
        assert launched == []

    @pytest.mark.parametrize("name", list(SCRIPTS))
    def test_help_is_that_of_the_script(self, launched, capsys, name):
        assert self.call(name, "--help") == 0
        page = capsys.readouterr().out
        assert page.startswith(f"usage: fsdfm {name}")
        assert "--accelerate_config" in page

    def test_a_launch_file_hands_over_to_accelerate(self, launched):
        self.call("distill", "--accelerate_config", "zero2", "--num_processes=4", "--max_steps", "3", "--bf16")
        (command,) = launched
        assert command[:4] == [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
        assert Path(command[4]).name == "zero2.yaml"
        script = ["-m", "transformers_fsdfm.trainer.distill", "--max_steps", "3", "--bf16"]
        assert command[5:] == ["--num_processes", "4", *script]

    def test_mistakes_are_named(self, launched, capsys):
        assert self.call("distill", "--accelerate_config", "zero9") == 1
        assert "none of cpu, fsdp2, multi_gpu, zero1, zero2, zero3" in capsys.readouterr().err
        assert self.call("distill", "--num_processes", "2") == 1
        assert "--num_processes needs --accelerate_config" in capsys.readouterr().err
        assert self.call("distill", "--modle", "x") == 2
        assert "fsdfm distill: error: unknown argument --modle" in capsys.readouterr().err
        assert launched == []


def test_generated_text_of_a_trained_model_is_seeded(fsdfm_folder):
    model = FSDFMForDiffusionLM.from_pretrained(fsdfm_folder)
    first, second = (model.generate(num_steps=3, generator=generator(5)) for _ in range(2))
    assert torch.equal(first, second)
