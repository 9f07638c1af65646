import contextlib
import dataclasses
import itertools
import math
import random
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import HfArgumentParser, PreTrainedTokenizerFast, TrainerCallback, TrainingArguments

from transformers_fsdfm import FSDFMForDiffusionLM, Schedule
from transformers_fsdfm.trainer.arguments import DFMTrainingArguments
from transformers_fsdfm.trainer.bound import byte_counter
from transformers_fsdfm.trainer.dfm_trainer import DFMTrainer
from transformers_fsdfm.trainer.losses import path_loss, path_weight
from transformers_fsdfm.trainer.noise import random_state_kept, read_batch
from transformers_fsdfm.trainer.step_sizes import evaluation_times

from ..conftest import generator, tiny_model
from .toy import MarkovChain, Rows, arguments, losses, small_model


LENGTH = 16


def rows(count=32, length=LENGTH, seed=0, **columns):
    return Rows(torch.randint(2, 60, (count, length), generator=generator(seed)), **columns)


def dfm(**changes):
    return tiny_model(step_size_conditioning=False, **{"hidden_dropout_prob": 0.0, **changes})


def padded_batch():
    """Two rows of prompt and completion, the second one padded."""
    input_ids = torch.randint(2, 60, (2, 8), generator=generator(3))
    labels = input_ids.clone()
    labels[0, :3], labels[1, :2], labels[1, 6:] = -100, -100, -100
    attention_mask = torch.ones_like(input_ids)
    attention_mask[1, 6:] = 0
    return {"input_ids": input_ids, "labels": labels, "attention_mask": attention_mask}


def one_step(tmp_path, model, batch, **changes):
    """The noisy batch that a trainer draws first, and its loss."""
    trainer = DFMTrainer(model, arguments(tmp_path, per_device_train_batch_size=2, **changes), Rows(**batch))
    drawn = trainer._draw_training_batch(batch)
    trainer._micro_batch = 0
    return trainer, drawn, trainer.compute_loss(trainer.model, batch)


# ---- A training step -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source_distribution", ["uniform", "mask"])
def test_the_loss_of_a_step_is_the_plain_formula(tmp_path, source_distribution):
    model = dfm(source_distribution=source_distribution)
    batch = padded_batch()
    _, drawn, loss = one_step(tmp_path, model, batch)
    logits = model(drawn.noisy_ids, drawn.time, attention_mask=batch["attention_mask"]).logits
    expected = []
    for row in range(2):
        probs, t = logits[row].softmax(-1), drawn.time[row]
        terms = []
        for position in (batch["labels"][row] != -100).nonzero()[:, 0]:
            x_1, x_t = batch["labels"][row, position], drawn.noisy_ids[row, position]
            prob_of_noisy = 0 if x_t == 60 else probs[position, x_t]
            same = float(x_1 == x_t)
            terms.append(-(prob_of_noisy - same + (1 - same) * probs[position, x_1].log()) / (1 - t))
        expected.append(sum(terms) / len(terms))
    torch.testing.assert_close(loss, sum(expected) / 2)
    gradient = torch.autograd.grad(loss, model.lm_head.weight)
    plain_gradient = torch.autograd.grad(sum(expected) / 2, model.lm_head.weight)
    torch.testing.assert_close(gradient, plain_gradient)


def test_prompts_stay_clean_and_the_rest_is_noisy(tmp_path):
    batch = padded_batch()
    trainer, _, _ = one_step(tmp_path, dfm(source_distribution="mask"), batch)
    kept = batch["labels"] == -100
    changed = torch.zeros_like(kept)
    for _ in range(50):
        noisy_ids = trainer._draw_training_batch(batch).noisy_ids
        assert torch.equal(noisy_ids[kept], batch["input_ids"][kept])
        changed |= noisy_ids != batch["input_ids"]
    assert torch.equal(changed, ~kept)


def test_what_stands_in_the_padding_does_not_matter(tmp_path):
    batch = padded_batch()
    _, _, loss = one_step(tmp_path, dfm(), batch)
    batch["input_ids"][1, 6:] = 59
    _, _, other = one_step(tmp_path, dfm(), batch)
    torch.testing.assert_close(loss, other)


def test_without_labels_everything_but_padding_is_learned():
    batch = padded_batch()
    del batch["labels"]
    clean = read_batch(batch)
    assert torch.equal(clean.editable, batch["attention_mask"].bool())
    with pytest.raises(ValueError, match="input_ids"):
        read_batch({"labels": torch.ones(1)})


def test_cross_entropy_is_selectable(tmp_path):
    model, batch = dfm(), {"input_ids": rows().columns["input_ids"][:2]}
    _, drawn, loss = one_step(tmp_path, model, batch, loss_type="cross_entropy")
    logits = model(drawn.noisy_ids, drawn.time).logits
    torch.testing.assert_close(loss, nn.functional.cross_entropy(logits.flatten(0, 1), batch["input_ids"].flatten()))


def test_cross_entropy_steps_switch_to_the_path_loss(tmp_path):
    batch = {"input_ids": rows().columns["input_ids"][:2]}

    def loss_at(step, **changes):
        trainer = DFMTrainer(dfm(), arguments(tmp_path, **changes), Rows(**batch))
        trainer.state.global_step = step
        return trainer.compute_loss(trainer.model, batch).item()

    assert loss_at(4, cross_entropy_steps=5) == loss_at(4, loss_type="cross_entropy") != loss_at(4)
    assert loss_at(5, cross_entropy_steps=5) == loss_at(5) != loss_at(5, loss_type="cross_entropy")


def test_times_stay_below_one_by_epsilon_and_can_be_spread_evenly(tmp_path):
    def times(**changes):
        settings = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "time_epsilon": 0.2}
        trainer = DFMTrainer(dfm(), arguments(tmp_path, **settings, **changes), rows())
        drawn = []
        for step in range(50):
            trainer.state.global_step, trainer._micro_batch = step, 0
            batch = {"input_ids": rows().columns["input_ids"][:4]}
            drawn.append(torch.cat([trainer._draw_training_batch(batch).time for _ in range(2)]))
        return torch.stack(drawn)

    plain, even = times(), times(low_discrepancy_times=True)
    assert plain.max() < 0.8
    assert plain.max() > 0.7
    parts = (even / 0.8 * 8).long().sort(-1).values
    assert torch.equal(parts, torch.arange(8).expand(50, 8))
    assert not torch.equal((plain / 0.8 * 8).long().sort(-1).values, parts)


def test_how_a_global_batch_is_split_does_not_change_its_noise_nor_the_losses(tmp_path):
    def run(batch_size, accumulation):
        settings = {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": accumulation}
        trainer = DFMTrainer(dfm(), arguments(tmp_path, max_steps=5, **settings), rows())
        trainer.train()
        return losses(trainer)

    torch.testing.assert_close(run(8, 1), run(2, 4), rtol=1e-5, atol=1e-6)


def test_the_seed_decides_the_noise_and_every_step_has_its_own(tmp_path):
    def noise(seed, step):
        trainer = DFMTrainer(dfm(), arguments(tmp_path, seed=seed), rows())
        trainer.state.global_step = step
        torch.rand(3)  # torch's global generator has no say
        return trainer._draw_training_batch({"input_ids": rows().columns["input_ids"][:8]})

    assert torch.equal(noise(1, 0).noisy_ids, noise(1, 0).noisy_ids)
    assert torch.equal(noise(1, 0).time, noise(1, 0).time)
    for other in (noise(2, 0), noise(1, 1)):
        assert not torch.equal(noise(1, 0).noisy_ids, other.noisy_ids)
        assert not torch.equal(noise(1, 0).time, other.time)


def test_an_fs_dfm_is_trained_at_the_finest_step_size(tmp_path):
    model = tiny_model(hidden_dropout_prob=0.0)
    batch = {"input_ids": rows().columns["input_ids"][:2]}
    _, drawn, loss = one_step(tmp_path, model, batch, num_step_size_levels=4)
    assert torch.equal(drawn.step_size, torch.full((2,), 1 / 8))
    logits = model(drawn.noisy_ids, drawn.time, torch.full((2,), 1 / 8)).logits.flatten(0, 1)
    weight = path_weight(Schedule(), drawn.time).repeat_interleave(LENGTH)
    expected = path_loss(logits, batch["input_ids"].flatten(), drawn.noisy_ids.flatten(), weight).mean()
    torch.testing.assert_close(loss, expected)


def test_a_compiled_model_has_the_same_losses(tmp_path):
    def run(**changes):
        trainer = DFMTrainer(dfm(), arguments(tmp_path, max_steps=4, **changes), rows())
        trainer.train()
        return losses(trainer)

    torch._dynamo.reset()
    with torch._dynamo.config.patch(error_on_recompile=True):
        compiled = run(torch_compile=True, torch_compile_backend="eager")
    torch.testing.assert_close(compiled, run(), rtol=1e-5, atol=1e-5)


def test_bfloat16_autocast_and_activation_checkpointing_train(tmp_path):
    def run(**changes):
        trainer = DFMTrainer(dfm(), arguments(tmp_path, max_steps=3, **changes), rows())
        trainer.train()
        return losses(trainer)

    plain = run()
    fields = {field.name for field in dataclasses.fields(TrainingArguments)}
    name = "activation_checkpointing" if "activation_checkpointing" in fields else "gradient_checkpointing"
    torch.testing.assert_close(run(**{name: True}), plain)
    low = run(bf16=True)
    assert low != plain
    torch.testing.assert_close(low, plain, rtol=0.05, atol=0.05)


def test_fsdp_is_told_to_leave_times_in_float32(tmp_path):
    trainer = DFMTrainer(dfm(), arguments(tmp_path), rows())
    plugin = SimpleNamespace(mixed_precision_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    trainer.accelerator = SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin))
    assert plugin.mixed_precision_policy.cast_forward_inputs
    trainer._keep_times_in_float32()
    assert plugin.mixed_precision_policy == MixedPrecisionPolicy(torch.bfloat16, cast_forward_inputs=False)


def test_columns_of_text_are_left_out(tmp_path):
    table = rows(8).columns["input_ids"].tolist()
    data = datasets.Dataset.from_dict({"input_ids": table, "text": ["a"] * 8, "time": [0.5] * 8})
    trainer = DFMTrainer(dfm(), arguments(tmp_path, max_steps=1), data)
    trainer.train()
    assert len(losses(trainer)) == 1


def test_an_adapter_trains_alone_and_saves_alone(tmp_path):
    model = dfm()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = DFMTrainer(
        model, arguments(tmp_path, max_steps=3), rows(), peft_config=LoraConfig(target_modules=["q_proj", "up_proj"])
    )
    trainer.train()
    trainer.save_model()
    assert (tmp_path / "adapter_model.safetensors").exists()
    assert not (tmp_path / "model.safetensors").exists()
    base = dfm()
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    loaded = PeftModel.from_pretrained(base, tmp_path)
    ids, time = rows().columns["input_ids"][:2], torch.tensor([0.3])
    trainer.model.eval()
    expected = trainer.model(ids, time=time).logits
    torch.testing.assert_close(loaded(ids, time=time).logits, expected)
    assert not torch.equal(expected, dfm()(ids, time=time).logits)


# ---- Evaluation ------------------------------------------------------------------------------------------------------


def test_two_evaluations_agree_exactly_and_batches_do_not_matter(tmp_path):
    def evaluate(batch_size):
        settings = arguments(tmp_path, per_device_eval_batch_size=batch_size, eval_num_times=4)
        trainer = DFMTrainer(dfm(hidden_dropout_prob=0.3), settings, eval_dataset=rows(11))
        return [trainer.evaluate()["eval_loss"] for _ in range(2)]

    first, second = evaluate(4)
    assert first == second
    assert evaluate(11)[0] == pytest.approx(first, rel=1e-6)


def test_the_bound_is_the_mean_over_tokens_of_the_plain_formula(tmp_path):
    batch, model = padded_batch(), dfm()
    settings = arguments(tmp_path, per_device_eval_batch_size=2, eval_num_times=3, eval_seed=7)
    trainer = DFMTrainer(model, settings, eval_dataset=Rows(**batch))
    calls = []
    hook = model.register_forward_pre_hook(
        lambda _, __, inputs: calls.append((inputs["input_ids"], inputs["time"])), with_kwargs=True
    )
    metrics = trainer.evaluate()
    hook.remove()
    assert torch.equal(torch.stack([time[0] for _, time in calls]), evaluation_times(3))
    counted = batch["labels"] != -100
    total = 0.0
    for noisy_ids, time in calls:
        assert torch.equal(noisy_ids[~counted], batch["input_ids"][~counted])
        logits = model(noisy_ids, time=time, attention_mask=batch["attention_mask"]).logits
        weight = path_weight(Schedule(), time)[:, None].expand(counted.shape)[counted]
        total += path_loss(logits[counted], batch["labels"][counted], noisy_ids[counted], weight).sum().item()
    assert metrics["eval_loss"] == pytest.approx(total / counted.sum().item() / 3, rel=1e-6)
    trainer.args.eval_seed = 8
    assert trainer.evaluate()["eval_loss"] != metrics["eval_loss"]


def test_evaluation_does_not_disturb_training(tmp_path):
    def run(**changes):
        trainer = DFMTrainer(dfm(hidden_dropout_prob=0.3), arguments(tmp_path, **changes), rows(), rows(5, seed=1))
        trainer.train()
        return losses(trainer)

    assert run(eval_strategy="steps", eval_steps=1, eval_num_times=2) == run()


def test_random_states_are_put_back():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    expected = draw()
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    with contextlib.suppress(KeyError), random_state_kept(torch.device("cpu")):
        draw()
        raise KeyError
    assert draw() == expected


def test_several_evaluation_sets_have_bounds_of_their_own(tmp_path):
    trainer = DFMTrainer(
        dfm(), arguments(tmp_path, eval_num_times=2), eval_dataset={"a": rows(3, seed=1), "b": rows(3, seed=2)}
    )
    metrics = trainer.evaluate()
    assert metrics["eval_a_loss"] != metrics["eval_b_loss"]


def byte_level_tokenizer():
    backend = Tokenizer(models.BPE(vocab={"<eos>": 0, "a": 1, "Ã": 2, "¤": 3, "Ġ": 4, "aa": 5}, merges=[("a", "a")]))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")


def test_bytes_of_a_byte_level_tokenizer_are_exact_even_inside_a_character():
    tokenizer = byte_level_tokenizer()
    text = "aaä a"
    ids = torch.tensor([[*tokenizer(text)["input_ids"], 0]])
    count = byte_counter(tokenizer, 6)
    everything = torch.ones_like(ids, dtype=torch.bool)
    assert count(ids, everything).tolist() == [len(text.encode())]
    half_of_the_umlaut = ids == 2
    assert count(ids, half_of_the_umlaut).tolist() == [1]


def test_bits_per_byte_count_the_bytes_of_the_learned_text(tmp_path, tokenizer):
    data = rows(6, labels=torch.full((6, LENGTH), -100))
    data.columns["labels"][:, 4:] = data.columns["input_ids"][:, 4:]
    trainer = DFMTrainer(dfm(), arguments(tmp_path, eval_num_times=2), eval_dataset=data, processing_class=tokenizer)
    metrics = trainer.evaluate()
    num_bytes = sum(len(tokenizer.decode(row[4:])) for row in data.columns["input_ids"])
    nats = metrics["eval_loss"] * 6 * (LENGTH - 4)
    assert metrics["eval_bits_per_byte"] == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-6)


def best_bound(chain, source_distribution, num_times):
    """The bound of the exact posterior, by enumeration of all clean and all noisy sequences."""
    vocab_size, length = chain.vocab_size, chain.length
    is_mask = source_distribution == "mask"
    clean = torch.tensor(list(itertools.product(range(vocab_size), repeat=length)))
    noisy = torch.tensor(list(itertools.product(range(vocab_size + is_mask), repeat=length)))
    source_prob = (noisy == vocab_size).double() if is_mask else torch.full(noisy.shape, 1 / vocab_size).double()
    shows_data = (noisy[:, None] == clean).double()
    one_hot = nn.functional.one_hot(clean, vocab_size).double()
    total = 0.0
    for time in evaluation_times(num_times).double():
        joint = (time * shows_data + (1 - time) * source_prob[:, None]).prod(-1) * chain.law()  # (noisy, clean)
        posterior = torch.einsum("nc,clv->nlv", joint, one_hot) / joint.sum(-1)[:, None, None]
        logits = posterior.clamp_min(1e-30).log()[:, None].expand(-1, len(clean), -1, -1)
        ids = [values.expand(len(noisy), len(clean), length) for values in (clean, noisy[:, None])]
        weight = torch.full_like(ids[0], 1, dtype=torch.float64) / (1 - time)
        loss = path_loss(*(values.flatten(0, 2) for values in (logits, *ids, weight))).view(ids[0].shape)
        total += (joint[..., None] * loss.masked_fill((joint == 0)[..., None], 0)).sum().item() / length
    return total / num_times


@pytest.mark.parametrize("source_distribution", ["mask", "uniform"])
def test_the_trained_bound_approaches_the_best_one_from_above(tmp_path, source_distribution):
    chain = MarkovChain(vocab_size=3, length=4)
    settings = arguments(
        tmp_path,
        max_steps=400,
        per_device_train_batch_size=64,
        per_device_eval_batch_size=1000,
        learning_rate=3e-3,
        lr_scheduler_type="cosine",
        cross_entropy_steps=200,
        logging_steps=100,
        eval_num_times=16,
    )
    model = small_model(chain, source_distribution=source_distribution)
    trainer = DFMTrainer(model, settings, Rows(chain.sample(20_000)), Rows(chain.sample(1000, seed=1)))
    untrained = trainer.evaluate()["eval_loss"]
    trainer.train()
    bound, best = trainer.evaluate()["eval_loss"], best_bound(chain, source_distribution, num_times=16)
    assert untrained > 3
    assert best - 0.04 < bound < best + 0.12  # 1,000 rows: a standard error of about 0.02
    if source_distribution == "mask":
        # Which positions hold data is visible, so the bound is tight: the entropy of the data. With a uniform source it
        # is not, and no model can do better than `best`.
        assert best == pytest.approx(chain.entropy_per_token, rel=2e-3)
    else:
        assert best > chain.entropy_per_token + 0.1


# ---- Arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("loss_type", "mse"),
        ("cross_entropy_steps", -1),
        ("time_epsilon", 0.0),
        ("time_epsilon", 1.0),
        ("num_step_size_levels", 1),
        ("num_step_size_levels", 25),
        ("eval_num_times", 0),
    ],
)
def test_a_bad_argument_is_refused_by_name(tmp_path, field, value):
    with pytest.raises(ValueError, match=f"`{field}`"):
        DFMTrainingArguments(str(tmp_path), **{field: value})


def test_cross_entropy_steps_contradict_cross_entropy_throughout(tmp_path):
    with pytest.raises(ValueError, match="cross_entropy_steps"):
        DFMTrainingArguments(str(tmp_path), loss_type="cross_entropy", cross_entropy_steps=3)


def test_the_command_line_knows_every_field_and_explains_it():
    parser = HfArgumentParser(DFMTrainingArguments)
    text = parser.format_help()
    inherited = {field.name for field in dataclasses.fields(TrainingArguments)}
    for field in dataclasses.fields(DFMTrainingArguments):
        if field.name not in inherited:
            assert f"--{field.name}" in text
            assert field.metadata["help"]
    (parsed,) = parser.parse_args_into_dataclasses(["--output_dir", "x", "--loss_type", "cross_entropy"])
    assert parsed.loss_type == "cross_entropy"
    assert parsed.report_to == []


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(TypeError, match="DFMTrainingArguments"):
        DFMTrainer(dfm(), TrainingArguments(str(tmp_path), use_cpu=True))
    with pytest.raises(TypeError, match="FSDFMForDiffusionLM"):
        DFMTrainer(nn.Linear(2, 2), arguments(tmp_path))
    with pytest.raises(TypeError, match="FSDFMForDiffusionLM"):
        DFMTrainer(dfm().model, arguments(tmp_path))
    with pytest.raises(TypeError, match="compute_metrics"):
        DFMTrainer(dfm(), arguments(tmp_path), compute_metrics=len)
    with pytest.raises(ValueError, match="label_smoothing_factor"):
        DFMTrainer(dfm(), arguments(tmp_path, label_smoothing_factor=0.1))


def test_a_model_of_older_remote_code_is_named(tmp_path):
    class Older(FSDFMForDiffusionLM):
        def forward(self, input_ids, time, step_size=None, attention_mask=None, **kwargs):
            kwargs.pop("head_loss")
            return super().forward(input_ids, time, step_size, attention_mask)

    trainer = DFMTrainer(Older(dfm().config), arguments(tmp_path), rows())
    with pytest.raises(ValueError, match="head_loss"):
        trainer.train()


def test_callbacks_and_the_tokenizer_work_as_in_trainer(tmp_path, tokenizer):
    class Count(TrainerCallback):
        steps = 0

        def on_step_end(self, *args, **kwargs):
            self.steps += 1

    count = Count()
    data = [{"input_ids": row.tolist()} for row in rows(8).columns["input_ids"]]
    trainer = DFMTrainer(dfm(), arguments(tmp_path), data, processing_class=tokenizer, callbacks=[count])
    trainer.train()
    trainer.save_model()
    assert count.steps == 4
    assert (tmp_path / "tokenizer.json").exists()
    loaded = FSDFMForDiffusionLM.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), trainer.model.parameters(), strict=True))
