import dataclasses
import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import HfArgumentParser

from transformers_fsdfm import FSDFMForDiffusionLM, Schedule
from transformers_fsdfm.flow_fsdfm import candidate_hazard, jump_candidates
from transformers_fsdfm.trainer.arguments import DFMTrainingArguments, FSDFMTrainingArguments
from transformers_fsdfm.trainer.dfm_trainer import DFMTrainer
from transformers_fsdfm.trainer.fsdfm_trainer import FSDFMTrainer
from transformers_fsdfm.trainer.losses import distillation_loss, path_loss
from transformers_fsdfm.trainer.sample_logging import SAMPLES_FILE, draw_samples, sample_metrics
from transformers_fsdfm.trainer.shortcut_teacher import SHORTCUT_TEACHERS

from ..conftest import generator, tiny_model
from .toy import MarkovChain, Rows, arguments, losses, small_model


LENGTH, LEVELS = 8, 5


def rows(count=32, seed=0, **columns):
    return Rows(torch.randint(2, 60, (count, LENGTH), generator=generator(seed)), **columns)


def batch_of(count=8, prompt=0, padding=0):
    input_ids = rows(count).columns["input_ids"]
    batch = {"input_ids": input_ids, "labels": input_ids.clone(), "attention_mask": torch.ones_like(input_ids)}
    batch["labels"][: count // 2, :prompt] = -100
    if padding:
        batch["labels"][0, -padding:], batch["attention_mask"][0, -padding:] = -100, 0
    return batch


def make_trainer(tmp_path, model=None, data=None, eval_data=None, processing_class=None, peft_config=None, **changes):
    model = tiny_model(hidden_dropout_prob=0.0) if model is None else model
    settings = {"step_size_policy": "uniform", **changes}
    return FSDFMTrainer(
        model,
        arguments(tmp_path, FSDFMTrainingArguments, **settings),
        data or rows(),
        eval_data,
        processing_class=processing_class,
        peft_config=peft_config,
    )


def ready_to_train(tmp_path, **changes):
    """A trainer that stands before its first step, with a teacher that differs from the student."""
    trainer = make_trainer(tmp_path, **changes)
    trainer._prepare_for_training(1, None, None)
    for value, seed in zip(trainer.ema.state_dict().values(), range(10_000), strict=False):
        value.add_(torch.randn(value.shape, generator=generator(seed)), alpha=0.05)
    return trainer


def step_losses(trainer, batch):
    """The loss of a step and those of its rows; the same noise at every call."""
    trainer._micro_batch = 0
    loss, outputs = trainer.compute_loss(trainer.model, batch, return_outputs=True)
    return loss, outputs["row_loss"]


# ---- A training step -------------------------------------------------------------------------------------------------


def plain_row_loss(student, teacher, batch, drawn, row, args):
    """The loss of one row by the formulas, with the logits of all positions."""
    ids, labels = drawn.noisy_ids[row : row + 1], batch["labels"][row]
    mask, counted = batch["attention_mask"][row : row + 1], labels != -100
    t, h = drawn.time[row : row + 1], drawn.step_size[row : row + 1]
    logits = student(ids, time=t, step_size=h, attention_mask=mask).logits[0][counted]
    schedule = Schedule()
    if h == args.finest_step_size:
        weight = schedule.cumulative_scalar(t, h) / h if args.step_aware_path_loss else schedule.velocity_scalar(t)
        return path_loss(logits, labels[counted], ids[0][counted], weight.expand(counted.sum())).mean()
    scheme, target = SHORTCUT_TEACHERS[args.shortcut_teacher], 0
    with torch.no_grad():
        for weight, halves in zip(*scheme, strict=True):
            now = t + halves * h / 2
            teacher_logits = teacher(ids, time=now, step_size=h / 2, attention_mask=mask).logits[0]
            target = target + weight * teacher_logits
            hazard = candidate_hazard(args.solver, schedule, now.double(), h.double() / 2).expand(LENGTH)
            if halves == scheme.half_steps[-1] and args.shortcut_teacher == "rk4":
                break
            candidate, uniform = torch.rand((2, LENGTH), generator=drawn.generators[row], dtype=torch.float64)
            moved = jump_candidates(args.solver, teacher_logits, ids[0], hazard, uniform)
            ids = torch.where((candidate < -torch.expm1(-hazard)) & counted, moved, ids[0])[None]
    return distillation_loss(logits, target[counted], **args.distillation_options).mean()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"shortcut_teacher": "rk2", "step_aware_path_loss": False},
        {"solver": "posterior", "distillation_temperature": 2.0, "distillation_top_k": 7},
        {"solver": "euler", "distillation_top_p": 0.7, "confidence_weighting": True},
    ],
)
def test_a_step_equals_the_plain_computation_row_by_row(tmp_path, options):
    trainer = ready_to_train(tmp_path, per_device_train_batch_size=12, **options)
    batch = batch_of(12, prompt=3, padding=2)
    drawn = trainer._draw_training_batch(batch)
    assert len(drawn.step_size.unique()) == LEVELS
    expected = torch.stack(
        [plain_row_loss(trainer.model, trainer.teacher, batch, drawn, row, trainer.args) for row in range(12)]
    )
    loss, row_loss = step_losses(trainer, batch)
    torch.testing.assert_close(row_loss, expected.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loss, expected.mean(), rtol=1e-4, atol=1e-5)
    parameters = list(trainer.model.parameters())
    gradients = torch.autograd.grad(loss, parameters)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected.mean(), parameters), rtol=1e-3, atol=1e-5)


def test_with_an_adapter_the_averaged_adapter_teaches_even_on_the_head(tmp_path):
    config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], modules_to_save=["lm_head"])
    trainer = ready_to_train(tmp_path, per_device_train_batch_size=12, peft_config=config)
    assert trainer.teacher is None
    batch = batch_of(12, prompt=3)
    drawn = trainer._draw_training_batch(batch)
    teacher = get_peft_model(tiny_model(hidden_dropout_prob=0.0), config)
    teacher.load_state_dict(trainer.ema.state_dict(), strict=False)
    expected = [plain_row_loss(trainer.model, teacher, batch, drawn, row, trainer.args) for row in range(12)]
    loss, row_loss = step_losses(trainer, batch)
    torch.testing.assert_close(row_loss, torch.stack(expected).detach(), rtol=1e-4, atol=1e-5)
    trained = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(loss, trained)
    torch.testing.assert_close(
        gradients, torch.autograd.grad(torch.stack(expected).mean(), trained), rtol=1e-3, atol=1e-5
    )


def test_a_model_that_is_consistent_already_has_no_distillation_loss(tmp_path):
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight.zero_()  # the same posterior whatever x_t, t and h
    trainer = make_trainer(tmp_path, model, step_size_weights=[1, 1, 1, 1, 0], step_size_policy="weighted")
    trainer.train()
    assert max(losses(trainer)) < 1e-10


def teacher_calls(trainer):
    """What the teacher's backbone is asked from now on: rows, step sizes, mode, whether gradients are on."""
    calls = []

    def note(module, _, inputs):
        calls.append((inputs["input_ids"], inputs["step_size"], module.training, torch.is_grad_enabled()))

    trainer.teacher.model.register_forward_pre_hook(note, with_kwargs=True)
    return calls


@pytest.mark.parametrize(("shortcut_teacher", "num_calls"), [("rk4", 4), ("rk2", 2)])
def test_the_teacher_runs_for_the_rows_that_need_it_alone(tmp_path, shortcut_teacher, num_calls):
    model = tiny_model(hidden_dropout_prob=0.5)
    trainer = ready_to_train(tmp_path, model=model, shortcut_teacher=shortcut_teacher)
    calls, batch = teacher_calls(trainer), batch_of(24)
    drawn = trainer._draw_training_batch(batch)
    taught = drawn.step_size > trainer.args.finest_step_size
    trainer.model.train()
    step_losses(trainer, batch)
    assert len(calls) == num_calls
    for ids, step_size, is_training, has_grad in calls:
        assert len(ids) == taught.sum() < len(taught)
        assert torch.equal(step_size, drawn.step_size[taught] / 2)
        assert not is_training
        assert not has_grad


def test_without_rows_for_it_the_teacher_does_not_run(tmp_path):
    trainer = ready_to_train(tmp_path, step_size_policy="weighted", step_size_weights=[0, 0, 0, 0, 1])
    calls = teacher_calls(trainer)
    loss, _ = step_losses(trainer, batch_of())
    assert calls == []
    loss.backward()
    assert all(parameter.grad is not None for parameter in trainer.model.lm_head.parameters())


def test_prompts_stay_clean_for_teacher_and_student(tmp_path):
    trainer = ready_to_train(tmp_path)
    calls, batch = teacher_calls(trainer), batch_of(prompt=5)
    taught = trainer._draw_training_batch(batch).step_size > trainer.args.finest_step_size
    step_losses(trainer, batch)
    kept, ids = (batch[name][taught] for name in ("labels", "input_ids"))
    assert len(calls) == 4
    for seen, *_ in calls:
        assert torch.equal(seen[kept == -100], ids[kept == -100])


def test_how_a_global_batch_is_split_does_not_change_the_losses(tmp_path):
    def run(batch_size, accumulation):
        settings = {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": accumulation}
        trainer = make_trainer(tmp_path, max_steps=4, **settings)
        trainer.train()
        return losses(trainer)

    torch.testing.assert_close(run(8, 1), run(2, 4), rtol=1e-5, atol=1e-6)


def test_compiled_and_low_precision_runs_have_nearly_the_same_losses(tmp_path):
    def run(**changes):
        torch._dynamo.reset()
        trainer = make_trainer(tmp_path, max_steps=3, **changes)
        trainer.train()
        return losses(trainer)

    plain = run()
    compiled = run(torch_compile=True, torch_compile_backend="eager")
    torch.testing.assert_close(compiled, plain, rtol=1e-5, atol=1e-5)
    low = run(bf16=True)
    assert low != plain
    torch.testing.assert_close(low, plain, rtol=0.1, atol=0.1)


# ---- Options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "is_taught"),
    [
        ({"shortcut_teacher": "rk2"}, True),
        ({"solver": "posterior"}, True),
        ({"distillation_temperature": 3.0}, True),
        ({"distillation_top_k": 3}, True),
        ({"distillation_top_p": 0.5}, True),
        ({"confidence_weighting": True}, True),
        ({"step_aware_path_loss": False}, False),
        ({"loss_type": "cross_entropy"}, False),
        ({"cross_entropy_steps": 1}, False),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_each_option_of_the_loss_changes_its_rows_and_no_others(tmp_path, option, is_taught):
    batch = batch_of(16)
    plain = ready_to_train(tmp_path, per_device_train_batch_size=16)
    other = ready_to_train(tmp_path, per_device_train_batch_size=16, **option)
    drawn = plain._draw_training_batch(batch)

    def draw_as_plain(inputs):  # the option may change which times are drawn
        plain._micro_batch = 0
        return draw(inputs)

    draw, other._draw_training_batch = plain._draw_training_batch, draw_as_plain
    rows_of_option = (drawn.step_size > plain.args.finest_step_size) == is_taught
    before, after = step_losses(plain, batch)[1], step_losses(other, batch)[1]
    assert torch.isclose(before, after)[rows_of_option].float().mean() < 0.5  # jumps may agree by chance
    torch.testing.assert_close(before[~rows_of_option], after[~rows_of_option])


def shares(tmp_path, **changes):
    """How often each level is drawn, from h = 1 down, in 512 rows."""
    trainer = make_trainer(tmp_path, per_device_train_batch_size=512, **changes)
    trainer.state.global_step = 40
    step_size = trainer._draw_training_batch({"input_ids": torch.zeros(512, 2)}).step_size
    return torch.stack([(step_size == 2.0**-level).float().mean() for level in range(trainer._grid.num_levels)])


def test_policies_weights_and_levels_decide_how_often_a_step_size_is_trained(tmp_path):
    close = {"rtol": 0, "atol": 0.08}
    ladder = torch.tensor([1, 2, 4, 8, 16]) / 31
    torch.testing.assert_close(shares(tmp_path), torch.full((5,), 0.2), **close)
    torch.testing.assert_close(shares(tmp_path, step_size_policy="weighted"), ladder, **close)
    weighted = shares(tmp_path, step_size_policy="weighted", step_size_weights=[1, 0, 0, 0, 1])
    torch.testing.assert_close(weighted, torch.tensor([0.5, 0, 0, 0, 0.5]), **close)
    late = shares(tmp_path, step_size_policy="annealed", anneal_interval=10)
    torch.testing.assert_close(late, torch.full((5,), 0.2), **close)
    early = shares(tmp_path, step_size_policy="annealed", anneal_interval=100)
    torch.testing.assert_close(early, ladder, **close)
    torch.testing.assert_close(shares(tmp_path, num_step_size_levels=2), torch.full((2,), 0.5), **close)


def test_the_step_aware_loss_never_sees_the_last_step(tmp_path):
    def last_times(**changes):
        trainer = make_trainer(tmp_path, per_device_train_batch_size=512, **changes)
        drawn = trainer._draw_training_batch({"input_ids": torch.zeros(512, 2)})
        finest = drawn.step_size == trainer.args.finest_step_size
        return (drawn.time + drawn.step_size)[finest].max().item()

    assert last_times() == 15 / 16
    assert last_times(step_aware_path_loss=False) == 1


def test_a_plain_dfm_becomes_an_fs_dfm_with_the_same_logits(tmp_path):
    dfm = tiny_model(step_size_conditioning=False)
    ids, time = rows(3).columns["input_ids"], torch.tensor([0.2, 0.5, 0.9])
    expected = dfm(ids, time=time).logits
    for embedding, fusion in (("log2", "add"), ("raw", "concat")):
        trainer = make_trainer(tmp_path, dfm, step_size_embedding=embedding, step_size_fusion=fusion)
        config = trainer.model.config
        assert (config.step_size_conditioning, config.step_size_embedding, config.step_size_fusion) == (
            True,
            embedding,
            fusion,
        )
        logits = trainer.model.eval()(ids, time=time, step_size=torch.tensor([1.0, 0.5, 0.25])).logits
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    assert not dfm.config.step_size_conditioning
    trainer.train()
    assert torch.equal(dfm(ids, time=time).logits, expected)


# ---- The average -----------------------------------------------------------------------------------------------------


class Watch:
    """Keeps a copy of the trained weights after every optimizer step."""

    def __init__(self, trainer):
        self.weights = [trainer.model.lm_head.weight.detach().clone()]
        step = trainer.create_optimizer

        def create(*args, **kwargs):
            optimizer = step(*args, **kwargs)
            optimizer.register_step_post_hook(
                lambda *_: self.weights.append(trainer.model.lm_head.weight.detach().clone())
            )
            return optimizer

        trainer.create_optimizer = create


@pytest.mark.parametrize("adapter", [None, LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"])])
def test_the_average_moves_once_an_optimizer_step_and_never_else(tmp_path, adapter):
    if adapter is not None:
        model = tiny_model()
        trainer = make_trainer(tmp_path, model, max_steps=3, ema_decay=0.5, peft_config=adapter)
        trainer.train()
        assert trainer.teacher is None
        names = set(trainer.ema.state_dict())
        trainable = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
        assert names == trainable
        assert len(names) < 10
        return
    settings = {"gradient_accumulation_steps": 2, "eval_strategy": "steps", "eval_steps": 1, "eval_num_times": 1}
    trainer = make_trainer(tmp_path, eval_data=rows(4), max_steps=4, ema_decay=0.5, **settings)
    watch = Watch(trainer)
    trainer.train()
    assert len(watch.weights) == 5
    expected = watch.weights[0]
    for weight in watch.weights[1:]:
        expected = 0.5 * expected + 0.5 * weight
    torch.testing.assert_close(trainer.ema.state_dict()["lm_head.weight"], expected)
    assert torch.equal(trainer.teacher.lm_head.weight, trainer.ema.state_dict()["lm_head.weight"])


def test_an_adapter_leaves_the_base_alone_and_saves_its_average(tmp_path):
    model = tiny_model()
    before = {name: value.clone() for name, value in model.named_parameters()}
    config = LoraConfig(r=2, target_modules=["q_proj", "up_proj"])
    trainer = make_trainer(tmp_path, model, max_steps=3, ema_decay=0.5, learning_rate=0.1, peft_config=config)
    trainer.train()
    trainer.save_model()
    base = trainer.model.get_base_model()
    for name, value in base.named_parameters():
        if "lora" not in name:
            assert torch.equal(value, before[name.replace(".base_layer", "")])
    saved = get_peft_model(tiny_model(), config)
    saved.load_adapter(str(tmp_path), "default")
    average = trainer.ema.state_dict()
    kept = {name: value for name, value in saved.named_parameters() if name in average}
    assert kept.keys() == average.keys()
    assert all(torch.equal(value, average[name]) for name, value in kept.items())


@pytest.mark.parametrize("adapter", [None, LoraConfig(r=2, target_modules=["q_proj", "up_proj"])])
def test_evaluation_looks_at_the_weights_that_are_saved(tmp_path, adapter):
    def bound(kind):
        settings = {"ema_decay": 0.5, "learning_rate": 0.05, "eval_num_times": 2, "saved_weights": kind}
        trainer = make_trainer(tmp_path / kind, eval_data=rows(8, seed=1), peft_config=adapter, **settings)
        trainer.train()
        metrics = trainer.evaluate()
        trainer.save_model()
        if adapter is None:
            model = FSDFMForDiffusionLM.from_pretrained(tmp_path / kind)
        else:
            model = get_peft_model(tiny_model(), adapter)
            model.load_adapter(str(tmp_path / kind), "default")
        own = DFMTrainer(model, arguments(tmp_path, num_step_size_levels=LEVELS, eval_num_times=2))
        assert metrics["eval_loss"] == pytest.approx(own.evaluate(rows(8, seed=1))["eval_loss"], rel=1e-6)
        return metrics["eval_loss"]

    assert bound("ema") != bound("raw")


# ---- Logs and samples ------------------------------------------------------------------------------------------------


def test_logs_tell_of_every_step_size_and_add_up(tmp_path):
    settings = {"per_device_train_batch_size": 16, "logging_steps": 3, "max_steps": 6}
    trainer = make_trainer(tmp_path, gradient_accumulation_steps=2, **settings)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logs) == 2
    names = ["h_1", "h_1_2", "h_1_4", "h_1_8", "h_1_16"]
    for log in logs:
        assert sum(log[f"{name}/rows"] for name in names) == pytest.approx(1)
        mean = sum(log[f"{name}/rows"] * log[f"{name}/loss"] for name in names)
        assert mean == pytest.approx(log["loss"], rel=1e-4)
        assert all(log[f"{name}/kl"] == pytest.approx(log[f"{name}/loss"]) for name in names[:-1])
        assert "h_1_16/kl" not in log
        assert log["grad_norm"] > 0
        assert log["teacher_seconds"] > 0
        assert log["student_seconds"] > 0


def test_the_kl_is_logged_whatever_the_loss_is(tmp_path):
    def log(**changes):
        trainer = make_trainer(tmp_path, per_device_train_batch_size=32, max_steps=1, **changes)
        trainer.train()
        return trainer.state.log_history[0]

    plain, warm = log(), log(distillation_temperature=2.0, confidence_weighting=True)
    for name in ("h_1", "h_1_2", "h_1_4", "h_1_8"):
        assert warm[f"{name}/kl"] == pytest.approx(plain[f"{name}/kl"], rel=1e-4)
        assert warm[f"{name}/loss"] != pytest.approx(plain[f"{name}/loss"], rel=1e-2)


def test_samples_of_the_averaged_model_are_logged_while_it_trains(tmp_path, tokenizer):
    texts = []

    def run(folder, **changes):
        settings = {"max_steps": 4, "sample_steps": 2, "num_samples": 3, "sample_length": 12, "logging_steps": 2}
        trainer = make_trainer(tmp_path / folder, processing_class=tokenizer, **settings, **changes)
        on_log = trainer.callback_handler.on_log

        def spy(args, state, control, logs):
            texts.extend(value for value in logs.values() if isinstance(value, str))
            return on_log(args, state, control, logs)

        trainer.callback_handler.on_log = spy
        trainer.train()
        return trainer, [json.loads(line) for line in (tmp_path / folder / SAMPLES_FILE).read_text().splitlines()]

    trainer, samples = run("a")
    assert [(sample["global_step"], sample["num_steps"]) for sample in samples] == [
        (step, num_steps) for step in (2, 4) for num_steps in (1, 2, 4, 8) for _ in range(3)
    ]
    assert texts == [samples[index]["text"] for index in range(0, len(samples), 3)]
    assert all(len(sample["token_ids"]) == 12 for sample in samples)
    logged = [entry for entry in trainer.state.log_history if "samples_8_steps/unigram_entropy" in entry]
    assert [entry["step"] for entry in logged] == [2, 4]
    assert not any(isinstance(value, str) for entry in trainer.state.log_history for value in entry.values())
    last = [sample["token_ids"] for sample in samples if (sample["global_step"], sample["num_steps"]) == (4, 8)]
    assert logged[-1]["samples_8_steps/distinct_2"] == sample_metrics(last)["distinct_2"]
    again = trainer.teacher.generate(
        num_steps=8, max_length=12, num_return_sequences=3, generator=generator(trainer.args.eval_seed)
    )
    assert again.tolist() == last

    _, prompted = run("b", sample_prompts=["w5 w6", "w7"], sample_num_steps=[2])
    assert [sample["prompt"] for sample in prompted[:6]] == ["w5 w6"] * 3 + ["w7"] * 3
    assert {len(sample["token_ids"]) for sample in prompted} == {10, 11}
    assert {sample["num_steps"] for sample in prompted} == {2}


def test_samples_are_tokens_even_if_the_checkpoint_asks_for_whole_outputs(tmp_path):
    trainer = make_trainer(tmp_path, num_samples=2)
    trainer.model.generation_config.return_dict_in_generate = True
    samples = draw_samples(trainer.model, None, trainer.args, num_steps=2)
    assert [len(sample["token_ids"]) for sample in samples] == [trainer.model.config.max_position_embeddings] * 2


def test_metrics_of_samples():
    metrics = sample_metrics([[1, 2, 1, 2, 1, 2, 1, 2], [3, 3, 3, 3, 3, 3, 3, 3]])
    assert metrics["unigram_entropy"] == pytest.approx(0.5 * torch.tensor(2.0).log().item())
    assert metrics["distinct_2"] == 3 / 14
    assert metrics["repeated_4"] == pytest.approx(1 - 3 / 10)
    assert sample_metrics([[1]]) == {"unigram_entropy": 0, "distinct_2": 1, "repeated_4": 0}


# ---- Arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("step_size_embedding", "sin"),
        ("step_size_fusion", "mul"),
        ("shortcut_teacher", "rk3"),
        ("solver", "heun"),
        ("step_size_policy", "random"),
        ("saved_weights", "best"),
        ("ema_decay", 1.0),
        ("anneal_interval", 0),
        ("step_size_weights", [1.0, 2.0]),
        ("step_size_weights", [0.0] * 11),
        ("step_size_weights", [-1.0] * 11),
        ("distillation_temperature", 0.0),
        ("distillation_top_k", 0),
        ("distillation_top_p", 1.5),
        ("sample_steps", -1),
        ("sample_num_steps", []),
        ("sample_num_steps", [0]),
        ("num_samples", 0),
        ("sample_length", 0),
        ("low_discrepancy_times", True),
    ],
)
def test_a_bad_argument_is_refused_by_name(tmp_path, field, value):
    with pytest.raises(ValueError, match=f"`{field}`"):
        FSDFMTrainingArguments(str(tmp_path), **{field: value})


def test_contradictions_are_refused(tmp_path):
    with pytest.raises(ValueError, match="distillation_top_k"):
        FSDFMTrainingArguments(str(tmp_path), distillation_top_k=2, distillation_top_p=0.5)
    with pytest.raises(ValueError, match="step_size_weights"):
        FSDFMTrainingArguments(str(tmp_path), step_size_policy="uniform", step_size_weights=[1.0] * 11)
    with pytest.raises(ValueError, match="distillation_top_k"):
        make_trainer(tmp_path, distillation_top_k=61)
    with pytest.raises(ValueError, match="sample_prompts"):
        make_trainer(tmp_path, sample_steps=1, sample_prompts=["a"])
    with pytest.raises(TypeError, match="FSDFMTrainingArguments"):
        FSDFMTrainer(tiny_model(), arguments(tmp_path))
    adapter = get_peft_model(tiny_model(step_size_conditioning=False), LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ValueError, match="from_dfm"):
        make_trainer(tmp_path, adapter)


def test_the_command_line_knows_every_field_and_explains_it():
    parser = HfArgumentParser(FSDFMTrainingArguments)
    text = parser.format_help()
    inherited = {field.name for field in dataclasses.fields(DFMTrainingArguments)}
    for field in dataclasses.fields(FSDFMTrainingArguments):
        if field.name not in inherited:
            assert f"--{field.name}" in text
            assert field.metadata["help"]
    line = (
        "--output_dir x --num_step_size_levels 3 --step_size_weights 1 2 3 --sample_num_steps 1 16 --sample_prompts a b"
    )
    (parsed,) = parser.parse_args_into_dataclasses(line.split())
    assert parsed.step_size_grid.weights == (1, 2, 3)
    assert (parsed.sample_num_steps, parsed.sample_prompts) == ([1, 16], ["a", "b"])
    assert parsed.step_aware_path_loss


# ---- Does it work? ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chain():
    return MarkovChain(vocab_size=3, length=3, stay=0.9)


@pytest.fixture(scope="module")
def trained_dfm(chain, tmp_path_factory):
    settings = {"max_steps": 300, "per_device_train_batch_size": 64, "learning_rate": 3e-3, "logging_steps": 100}
    model = small_model(chain)
    trainer = DFMTrainer(
        model,
        arguments(tmp_path_factory.mktemp("dfm"), loss_type="cross_entropy", lr_scheduler_type="cosine", **settings),
        Rows(chain.sample(20_000)),
    )
    trainer.train()
    return model.eval()


def distance(model, chain, num_steps):
    with torch.no_grad():
        ids = model.generate(
            num_steps=num_steps, max_length=chain.length, num_return_sequences=2000, generator=generator(1)
        )
    return chain.distance(ids)


@pytest.fixture(scope="module")
def undistilled_distance(trained_dfm, chain):
    return {num_steps: distance(trained_dfm, chain, num_steps) for num_steps in (1, 2, 4)}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_distilled_samples_in_few_steps_are_closer_to_the_data_law(
    tmp_path, chain, trained_dfm, undistilled_distance, seed
):
    trainer = make_trainer(
        tmp_path,
        trained_dfm,
        Rows(chain.sample(20_000, seed=seed)),
        seed=seed,
        max_steps=200,
        per_device_train_batch_size=64,
        learning_rate=2e-3,
        lr_scheduler_type="cosine",
        ema_decay=0.97,
        num_step_size_levels=4,
        logging_steps=100,
    )
    trainer.train()
    for num_steps, margin in ((1, 0.06), (2, 0.06), (4, 0.02)):
        before, after = undistilled_distance[num_steps], distance(trainer.teacher, chain, num_steps)
        assert after < before - margin, f"{num_steps} steps: {before:.3f} -> {after:.3f}"


@pytest.mark.parametrize("cls", [DFMTrainer, FSDFMTrainer])
def test_an_adapter_learns_a_shifted_style_without_touching_the_base(tmp_path, chain, trained_dfm, cls):
    base = FSDFMForDiffusionLM.from_dfm(trained_dfm)
    before = {name: value.clone() for name, value in base.named_parameters()}
    style = MarkovChain(chain.vocab_size, chain.length, stay=0.2)
    is_fsdfm = cls is FSDFMTrainer
    trainer = cls(
        base,
        arguments(
            tmp_path,
            FSDFMTrainingArguments if is_fsdfm else DFMTrainingArguments,
            max_steps=120,
            per_device_train_batch_size=64,
            per_device_eval_batch_size=500,
            learning_rate=5e-3,
            loss_type="cross_entropy",
            num_step_size_levels=4,
            logging_steps=100,
            **({"ema_decay": 0.9} if is_fsdfm else {}),
        ),
        Rows(style.sample(20_000)),
        Rows(style.sample(500, seed=1)),
        peft_config=LoraConfig(r=8, target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]),
    )
    untrained = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < untrained - 0.2
    unloaded = trainer.model.unload()
    assert all(torch.equal(value, before[name]) for name, value in unloaded.named_parameters())
    assert isinstance(unloaded.lm_head, nn.Linear)
