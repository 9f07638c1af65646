"""Two real processes on the CPU, each strategy from its file in `trainer/launch`, against the same batches in one."""

import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from peft import PeftModel
from safetensors.torch import load_file

import transformers_fsdfm.trainer
from tests.conftest import tiny_model
from tests.trainer.distributed_run import run
from transformers_fsdfm import FSDFMForDiffusionLM


LAUNCH_FOLDER = Path(transformers_fsdfm.trainer.__file__).parent / "launch"
LAUNCH_NAMES = ("cpu", "fsdp2", "multi_gpu", "zero1", "zero2", "zero3")
HAS_DEEPSPEED = importlib.util.find_spec("deepspeed") is not None
STEPS = 3

needs_deepspeed = pytest.mark.skipif(not HAS_DEEPSPEED, reason="deepspeed is not installed")
STRATEGIES = [
    pytest.param("multi_gpu"),
    pytest.param("fsdp2"),
    pytest.param("zero2", marks=[needs_deepspeed, pytest.mark.slow]),
    pytest.param("zero3", marks=[needs_deepspeed, pytest.mark.slow]),
    pytest.param("zero1", marks=[needs_deepspeed, pytest.mark.slow]),
]
# What the trainer reports of each: (distributed_type, wrapper, zero_stage, type of the parameters).
REALLY_RUN = {
    "multi_gpu": ("MULTI_CPU", "DistributedDataParallel", None, "Parameter"),
    "fsdp2": ("FSDP", "FSDPFSDFMForDiffusionLM", None, "DTensor"),
    "zero1": ("DEEPSPEED", "DeepSpeedEngine", 1, "Parameter"),
    "zero2": ("DEEPSPEED", "DeepSpeedEngine", 2, "Parameter"),
    "zero3": ("DEEPSPEED", "DeepSpeedEngine", 3, "Parameter"),
}
SHARDS_WEIGHTS = ("fsdp2", "zero3")


def launch_environment(name: str) -> dict[str, str]:
    """What `accelerate launch --config_file trainer/launch/NAME.yaml` tells its processes."""
    parsed = launch_command_parser().parse_args(["--config_file", str(LAUNCH_FOLDER / f"{name}.yaml"), "-m", "script"])
    parsed, defaults, _ = _validate_launch_command(parsed)
    parsed.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
    prepare = (lambda args: prepare_deepspeed_cmd_env(args)[1]) if parsed.use_deepspeed else prepare_multi_gpu_env
    return {key: value for key, value in prepare(parsed).items() if key.startswith(("ACCELERATE_", "FSDP_"))}


@pytest.fixture(scope="module")
def data(tmp_path_factory, request) -> Path:
    """A DFM with its tokenizer, and a text."""
    folder = tmp_path_factory.mktemp("data")
    tiny_model(step_size_conditioning=False, hidden_dropout_prob=0.0).save_pretrained(folder / "dfm")
    request.getfixturevalue("tokenizer").save_pretrained(folder / "dfm")
    draws = torch.Generator().manual_seed(0)
    words = torch.randint(2, 60, (24 * 16,), generator=draws)
    (folder / "text.txt").write_text(" ".join(f"w{index}" for index in words.tolist()))
    return folder


def plan(data: Path, out: Path, rows_per_device: int, on_cpu: bool = True) -> list[tuple[str, list[str]]]:
    """Pre-train; distil another DFM; resume that; distil it with an adapter. Half the rows for two processes."""
    common = ["--train_data", str(data / "text.txt"), "--data_cache", str(data / "cache"), "--block_size", "16"]
    common += ["--per_device_train_batch_size", str(rows_per_device), "--gradient_accumulation_steps", "2"]
    common += ["--per_device_eval_batch_size", str(rows_per_device), "--logging_steps", "1", "--max_steps", str(STEPS)]
    common += ["--lr_scheduler_type", "constant", "--eval_num_times", "2", "--disable_tqdm", "true"]
    common += ["--validation_data", str(data / "text.txt")]
    # Adam would turn a rounding difference of a gradient near 0 into a step of full length.
    common += ["--learning_rate", "3e-3", "--adam_epsilon", "1e-3", "--save_steps", "2"]
    common += ["--use_cpu"] if on_cpu else []
    model = ["--model_name_or_path", str(data / "dfm"), "--ema_decay", "0.5", "--num_step_size_levels", "4"]
    new = ["--train_tokenizer_vocab_size", "260", "--hidden_size", "32", "--num_hidden_layers", "1"]
    new += ["--num_attention_heads", "2", "--hidden_dropout_prob", "0"]
    adapter = ["--objective", "distill", "--lora_rank", "2", "--merge_adapter"]
    resume = ["--resume_from_checkpoint", str(out / "full" / "checkpoint-2")]
    return [
        ("pretrain", [*new, *common, "--output_dir", str(out / "new")]),
        ("distill", [*model, *common, "--output_dir", str(out / "full")]),
        ("distill", [*model, *common, "--output_dir", str(out / "resumed"), *resume]),
        ("finetune", [*model, *common, *adapter, "--output_dir", str(out / "adapter")]),
    ]


def start(plan: list, folder: Path, strategy: str) -> list[dict]:
    """Runs the plan in two processes -> the reports of each process."""
    folder.mkdir(parents=True, exist_ok=True)
    plan_file = folder / "plan.json"
    plan_file.write_text(json.dumps(plan))
    environment = {**os.environ, **launch_environment(strategy), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*launch, "-m", "tests.trainer.distributed_run", str(plan_file)]
    if strategy == "fsdp2":
        environment["ACCELERATE_TORCH_DEVICE"] = "cpu"
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    reports = sorted(folder.glob("plan.json.*"))
    assert len(reports) == 2, done.stderr[-6000:]
    return [json.loads(report.read_text()) for report in reports]


@pytest.fixture(scope="module")
def memory():
    """`benchmarks/training_memory.py`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
        yield importlib.import_module("training_memory")


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory) -> tuple[Path, dict]:
    """One process: its folder, its report."""
    folder = tmp_path_factory.mktemp("alone")
    return folder, run(plan(data, folder, rows_per_device=4))


@pytest.fixture(scope="module", params=STRATEGIES)
def together(request, data, tmp_path_factory) -> tuple[str, Path, list[dict]]:
    """Two processes: the strategy, its folder, the report of each process."""
    folder = tmp_path_factory.mktemp(request.param)
    runs = plan(data, folder, rows_per_device=2, on_cpu=request.param != "fsdp2")
    return request.param, folder, start(runs, folder, request.param)


def weights(folder: Path) -> dict:
    return FSDFMForDiffusionLM.from_pretrained(folder).state_dict()


def assert_close(actual: dict, expected: dict, tolerance: float = 1e-4) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, atol=tolerance, rtol=tolerance, msg=name)


class TestTwoProcesses:
    def test_strategy_of_the_launch_file_really_ran(self, together):
        strategy, _, reports = together
        for report in reports:
            for one_run in report.values():
                wrapper = "FSDPPeftModelForCausalLM" if one_run["wrapper"].startswith("FSDPPeft") else None
                found = (
                    one_run["distributed_type"],
                    one_run["wrapper"],
                    one_run["zero_stage"],
                    one_run["parameter_type"],
                )
                expected = REALLY_RUN[strategy]
                assert found == (expected[0], wrapper or expected[1], *expected[2:])
                assert one_run["num_processes"] == 2

    def test_losses_are_those_of_one_process(self, together, alone):
        _, _, reports = together
        for name, expected in alone[1].items():
            for report in reports:
                assert report[name]["losses"] == pytest.approx(expected["losses"], abs=1e-4)
                assert report[name]["grad_norms"] == pytest.approx(expected["grad_norms"], rel=1e-3)
                bound = report[name]["metrics"]["eval_loss"]
                assert bound == pytest.approx(expected["metrics"]["eval_loss"], abs=1e-4)

    def test_average_is_that_of_one_process_and_saved_once(self, together, alone):
        strategy, folder, reports = together
        checkpoint = folder / "full" / f"checkpoint-{STEPS}"
        averages = sorted(checkpoint.glob("ema*.pt"))
        if strategy in SHARDS_WEIGHTS:
            assert [path.name for path in averages] == ["ema_0.pt", "ema_1.pt"]
            total = alone[1]["full"]["average_bytes"]
            assert [report["full"]["average_bytes"] for report in reports] == pytest.approx([total / 2] * 2, rel=0.1)
        else:
            assert [path.name for path in averages] == ["ema.pt"]
        assert_close(weights(folder / "full"), weights(alone[0] / "full"))

    def test_checkpoint_loads_as_a_plain_model_with_both_kinds_of_weights(self, together, alone):
        _, folder, _ = together
        name = f"full/checkpoint-{STEPS}"
        assert_close(weights(folder / name), weights(folder / "full"), 0)
        raw = weights(folder / name / "weights" / "raw")
        assert_close(raw, weights(alone[0] / name / "weights" / "raw"))
        assert any(not torch.equal(raw[key], value) for key, value in weights(folder / "full").items())

    def test_each_process_holds_what_the_table_of_memory_says(self, together, memory):
        strategy, _, reports = together
        names = {"multi_gpu": "DDP", "fsdp2": "FSDP2", "zero1": "ZeRO-1", "zero2": "ZeRO-2", "zero3": "ZeRO-3"}
        size = memory.ModelSize.of(FSDFMForDiffusionLM.from_pretrained(together[1] / "full").config)
        expected = memory.state_bytes(size, names[strategy], num_gpus=2)
        # Here ZeRO trains in float32: the weights, which it would keep in the optimizer too, are their own master copy.
        moments = expected["optimizer"] * (2 / 3 if "zero" in strategy else 1)
        for report in reports:
            assert report["full"]["average_bytes"] == pytest.approx(expected["teacher"], rel=0.1)
            assert report["full"]["optimizer_bytes"] == pytest.approx(moments, rel=0.1)

    def test_pretrained_model_and_its_tokenizer_are_those_of_one_process(self, together, alone):
        _, folder, _ = together
        assert_close(weights(folder / "new"), weights(alone[0] / "new"))
        tokenizers = [(root / "new" / "tokenizer.json").read_text() for root in (folder, alone[0])]
        assert tokenizers[0] == tokenizers[1]

    def test_resumed_run_is_the_uninterrupted_one(self, together):
        _, folder, reports = together
        assert reports[0]["resumed"]["losses"][-1] == reports[0]["full"]["losses"][-1]
        assert_close(weights(folder / "resumed"), weights(folder / "full"), 0)

    def test_adapter_is_that_of_one_process_and_needs_no_second_model(self, together, alone):
        _, folder, reports = together
        assert not any(report["adapter"]["has_teacher"] for report in reports)
        adapters = [load_file(root / "adapter" / "adapter_model.safetensors") for root in (folder, alone[0])]
        assert_close(*adapters)
        base = FSDFMForDiffusionLM.from_pretrained(folder / "adapter" / "base")
        merged = PeftModel.from_pretrained(base, folder / "adapter").merge_and_unload()
        assert_close(merged.state_dict(), weights(folder / "adapter" / "merged"), 0)


@needs_deepspeed
@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["zero2", "zero3"])
def test_bfloat16_under_zero_is_close_to_float32(strategy, data, alone, tmp_path):
    runs = [(script, [*arguments, "--bf16"]) for script, arguments in plan(data, tmp_path, rows_per_device=2)]
    for report in start(runs, tmp_path, strategy):
        for name, expected in alone[1].items():
            assert report[name]["losses"] == pytest.approx(expected["losses"], rel=1e-2)
            assert report[name]["losses"] != pytest.approx(expected["losses"], rel=1e-6)


class TestLaunchFiles:
    def test_there_is_one_for_each_strategy(self):
        assert tuple(sorted(path.stem for path in LAUNCH_FOLDER.glob("*.yaml"))) == LAUNCH_NAMES

    @pytest.mark.parametrize("name", LAUNCH_NAMES)
    def test_accelerate_understands_every_option(self, name):
        from accelerate.commands.config.config_args import load_config_from_file

        config = load_config_from_file(str(LAUNCH_FOLDER / f"{name}.yaml"))
        options = vars(launch_command_parser().parse_args(["--config_file", "x", "script"]))
        for key in (*config.fsdp_config, *config.deepspeed_config):
            assert key in options, key
        environment = launch_environment(name)
        assert environment["ACCELERATE_MIXED_PRECISION"] == "no"
        assert (environment.get("ACCELERATE_USE_FSDP") == "true") == (name == "fsdp2")
        assert environment.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "") == name.removeprefix("zero") * ("zero" in name)

    def test_fsdp2_wraps_the_blocks(self):
        environment = launch_environment("fsdp2")
        assert environment["FSDP_VERSION"] == "2"
        assert [environment["FSDP_TRANSFORMER_CLS_TO_WRAP"]] == list(FSDFMForDiffusionLM._no_split_modules)


class TestMemory:
    """`benchmarks/training_memory.py` computes what is measured here on a small model."""

    def test_weights_gradients_optimizer_and_average(self, memory, tmp_path):
        from tests.trainer.toy import MarkovChain, Rows, arguments, small_model
        from transformers_fsdfm.trainer.arguments import FSDFMTrainingArguments
        from transformers_fsdfm.trainer.fsdfm_trainer import FSDFMTrainer

        gradients = []

        class Trainer(FSDFMTrainer):
            def training_step(self, model, *args, **kwargs):
                loss = super().training_step(model, *args, **kwargs)
                gradients.append(bytes_of(parameter.grad for parameter in model.parameters()))
                return loss

        args = arguments(tmp_path, FSDFMTrainingArguments, max_steps=1)
        trainer = Trainer(small_model(), args, Rows(MarkovChain().sample(8)))
        trainer.train()
        expected = memory.state_bytes(memory.ModelSize.of(trainer.model.config), "DDP", num_gpus=1)
        moments = (value for state in trainer.optimizer.state.values() for value in state.values())
        assert bytes_of(trainer.model.parameters()) == expected["weights"]
        assert gradients == [expected["gradients"]]
        assert bytes_of(value for value in moments if value.ndim) == expected["optimizer"]
        assert bytes_of(trainer.teacher.parameters()) == bytes_of(trainer.ema.state_dict().values())
        assert bytes_of(trainer.teacher.parameters()) == expected["teacher"]

    def test_activations_of_a_block(self, memory):
        def kept(length: int, num_layers: int, checkpointing: bool) -> int:
            model = tiny_model(hidden_size=64, num_hidden_layers=num_layers, max_position_embeddings=length).train()
            if checkpointing:
                model.gradient_checkpointing_enable({"use_reentrant": False})
            storages = {}

            def note(tensor: torch.Tensor) -> torch.Tensor:
                storages[tensor.untyped_storage().data_ptr()] = tensor  # kept alive, so no address is used twice
                return tensor

            ids, times = torch.zeros((2, length), dtype=torch.long), torch.full((2,), 0.5)
            with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
                with torch.autocast("cpu", torch.bfloat16):
                    hidden = model.model(ids, time=times, step_size=times).last_hidden_state
                del hidden
            return sum(tensor.untyped_storage().nbytes() for tensor in storages.values())

        config = tiny_model(hidden_size=64).config
        for checkpointing in (False, True):
            # Differences by length leave the weights out, differences by layers what is outside of the blocks.
            one, three = (kept(512, n, checkpointing) - kept(256, n, checkpointing) for n in (1, 3))
            block = (three - one) / 2 / (2 * 256)
            expected = 4 * 64 if checkpointing else memory.block_bytes_per_token(config, dropout_mask_bytes=2)
            assert block == pytest.approx(expected, rel=0.01)

    def test_state_of_each_strategy_computed_by_hand(self, memory):
        size = memory.ModelSize(parameters=1000, block_parameters=100, config=tiny_model().config)
        expected = {  # weights, gradients, optimizer, teacher, buffers; on each of 4 GPUs
            "DDP": [4000, 4000, 8000, 4000, 6000],
            "FSDP2": [1000, 1000, 2000, 1000, 4 * (800 + 300)],
            "ZeRO-1": [2000, 2000, 3000, 4000, 4000],
            "ZeRO-2": [2000, 500, 3000, 4000, 4000],
            "ZeRO-3": [500, 500, 3000, 1000, 4000 + 2000],
        }
        assert {name: list(memory.state_bytes(size, name, 4).values()) for name in memory.STRATEGIES} == expected

    def test_activations_computed_by_hand(self, memory):
        sizes = {"hidden_size": 8, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
        config = tiny_model(**sizes).config
        block = 38 * 8 + 4 * 32 + 4 * 2
        assert memory.block_bytes_per_token(config) == block == 440
        settings = {"rows": 3, "length": 5}
        assert memory.activation_bytes(config, **settings, checkpointing=False) == 15 * (2 * 440 + 440 + 20 * 8)
        assert memory.activation_bytes(config, **settings, checkpointing=True) == 15 * (2 * 4 * 8 + 440 + 20 * 8)
        assert memory.loss_bytes(config) == 6 * 2**28 + 8 * 60 * 8

    def test_table_in_the_docs_is_the_computed_one(self, memory):
        from transformers_fsdfm import FSDFMConfig, available_configs

        sizes = [memory.ModelSize.of(FSDFMConfig.from_pretrained(available_configs()[name])) for name in memory.CONFIGS]
        text = (Path(__file__).parents[2] / "docs/multi_gpu.md").read_text()
        rows = {cells[0]: cells[1:] for cells in (row.split(" | ") for row in re.findall(r"^\| (.*) \|$", text, re.M))}
        for strategy in memory.STRATEGIES:
            per_parameter, *gibibytes = rows[strategy]
            states = [memory.state_bytes(size, strategy, 8) for size in sizes]
            assert gibibytes == [f"{sum(state.values()) / memory.GIB:.1f}" for state in states]
            for size, state in zip(sizes, states, strict=True):
                growing = sum(state.values()) - (0 if strategy == "DDP" else state["buffers"])
                formula = per_parameter.removesuffix(" + buffers")
                assert growing == pytest.approx(eval(formula, {"N": 8}) * size.parameters)
        for name in ("each row of 1,024 tokens", "... with `--activation_checkpointing`"):
            checkpointing = name.startswith("...")
            activations = [memory.activation_bytes(size.config, 1, 1024, checkpointing) for size in sizes]
            assert rows[name] == ["", *(f"{value / memory.GIB:.2f}" for value in activations)]

    def test_more_gpus_and_checkpointing_let_more_rows_fit(self, memory):
        from transformers_fsdfm import FSDFMConfig, available_configs

        size = memory.ModelSize.of(FSDFMConfig.from_pretrained(available_configs()["fsdfm-1.7b"]))
        assert size.parameters == 1_709_403_985
        settings = {"gpu_bytes": 80e9, "rows_per_gpu": 12, "length": 1024}
        assert memory.most_rows(size, "DDP", 8, **settings, checkpointing=False) == 6
        assert memory.most_rows(size, "DDP", 8, **settings, checkpointing=True) == 12
        assert memory.most_rows(size, "FSDP2", 8, **settings, checkpointing=False) == 12
        assert memory.most_rows(size, "DDP", 8, **{**settings, "gpu_bytes": 24e9}, checkpointing=True) is None

    def test_table_has_a_row_for_each_model_and_strategy(self, memory, monkeypatch, capsys):
        monkeypatch.setattr(sys, "argv", ["training_memory.py"])
        memory.main()
        rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| fsdfm")]
        assert len(rows) == len(memory.CONFIGS) * len(memory.STRATEGIES)


def bytes_of(tensors) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
