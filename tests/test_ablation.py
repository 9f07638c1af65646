"""The ablation: each variant is what it says, costs what is counted, and a run can be stopped and gone on with."""

import dataclasses
import importlib
import json
import math
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.benchmark_script import BENCHMARKS
from tests.conftest import generator, tiny_model
from tests.trainer.toy import Rows
from transformers_fsdfm import FSDFMForDiffusionLM
from transformers_fsdfm.metrics.repetition.functional import repetition
from transformers_fsdfm.metrics.token_entropy.functional import token_entropy
from transformers_fsdfm.modeling_fsdfm import FSDFMModel
from transformers_fsdfm.trainer import shortcut_teacher
from transformers_fsdfm.trainer.noise import seeded_generator


LENGTH = 8
TRAININGS = (
    *("full", "no-step-size", "euler-training", "no-teacher", "rk2", "live-teacher", "weighted-steps"),
    *("annealed-steps", "raw-embedding", "concat-fusion", "published-network", "plain-path-loss", "cross-entropy"),
    "dfm-trained-on",
)


@pytest.fixture(scope="module")
def ablation():
    """The names of all files of the script."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        names = ("ablation_variants", "ablation_scores", "ablation_table", "ablation_work", "ablation")
        modules = [importlib.import_module(name) for name in names]
        yield SimpleNamespace(**{name: value for module in modules for name, value in vars(module).items()})


def tiny_dfm(**changes) -> FSDFMForDiffusionLM:
    sizes = {"max_position_embeddings": LENGTH, "hidden_dropout_prob": 0.0, "step_size_conditioning": False}
    return tiny_model(**{**sizes, **changes})


def make_trainer(ablation, name: str, folder: Path, max_steps: int = 3, seed: int = 0, **changes):
    """The trainer of a variant, on random text; `changes` are of the scale."""
    scale = dataclasses.replace(ablation.TINY, length=LENGTH, **changes)
    training = ablation.TRAININGS[name]
    rows = Rows(torch.randint(60, (64, LENGTH), generator=generator(1)))
    arguments = training.arguments(scale, folder, seed, max_steps)
    return training.trainer(training.start(tiny_dfm(), seed), arguments, rows)


def logits(model: FSDFMForDiffusionLM, step_size: float | None) -> torch.Tensor:
    ids = torch.randint(60, (2, LENGTH), generator=generator(2))
    step = {} if step_size is None else {"step_size": torch.tensor([step_size])}
    with torch.no_grad():
        return model.eval()(ids, time=torch.tensor([0.25]), **step).logits


class TestVariants:
    def test_the_trainings_are_those_of_these_tests(self, ablation):
        assert tuple(ablation.TRAININGS) == TRAININGS
        assert {variant.training for variant in ablation.VARIANTS.values()} == {None, *TRAININGS}
        assert all(variant.description for variant in ablation.VARIANTS.values())

    @pytest.mark.parametrize(
        ("name", "changes"),
        [
            ("no-step-size", {}),
            ("euler-training", {"solver": "euler", "step_aware_path_loss": False}),
            ("no-teacher", {}),
            ("rk2", {"shortcut_teacher": "rk2"}),
            ("live-teacher", {"ema_decay": 0.0}),
            ("weighted-steps", {"step_size_policy": "weighted"}),
            ("annealed-steps", {"step_size_policy": "annealed", "anneal_interval": 20_000}),
            ("raw-embedding", {"step_size_embedding": "raw"}),
            ("concat-fusion", {"step_size_fusion": "concat"}),
            ("published-network", {"step_size_embedding": "raw", "step_size_fusion": "concat"}),
            ("plain-path-loss", {"step_aware_path_loss": False}),
            ("cross-entropy", {"loss_type": "cross_entropy"}),
            ("dfm-trained-on", {"step_size_policy": "weighted", "step_size_weights": [0, 0, 0, 0, 0, 0, 0, 1]}),
        ],
    )
    def test_one_thing_differs_from_the_full_training(self, ablation, name, changes):
        scale = ablation.Scale(steps=20_000 * 14, num_levels=8)
        ours, full = (ablation.TRAININGS[training].settings(scale) for training in (name, "full"))
        assert {key: value for key, value in ours.items() if full.get(key) != value} == changes
        assert full.keys() <= ours.keys()

    def test_the_full_training_reads_the_step_size(self, ablation, tmp_path):
        trainer = make_trainer(ablation, "full", tmp_path, max_steps=2)
        assert torch.equal(logits(trainer.model, 0.5), logits(tiny_dfm(), None))  # starts as the DFM
        trainer.train()
        assert not torch.equal(logits(trainer.model, 0.5), logits(trainer.model, 1 / 32))
        assert not torch.equal(logits(trainer.teacher, 0.5), logits(trainer.teacher, 1 / 32))

    @pytest.mark.parametrize("name", ["no-step-size", "dfm-trained-on"])
    def test_a_blind_network_stays_blind_to_the_step_size(self, ablation, tmp_path, name):
        trainer = make_trainer(ablation, name, tmp_path, max_steps=2)
        trainer.train()
        trainer.save_model(str(tmp_path / "saved"))
        saved = FSDFMForDiffusionLM.from_pretrained(tmp_path / "saved")
        for model in (trainer.model, saved):
            assert torch.equal(logits(model, 0.5), logits(model, 1 / 32))
            assert not torch.equal(logits(model, 0.5), logits(tiny_dfm(), None))  # it has learned all the same

    def test_the_published_start_is_random_and_the_other_one_is_the_dfm(self, ablation):
        dfm = tiny_dfm()
        starts = [ablation.published_start(dfm, seed) for seed in (0, 0, 1)]
        first, again, other = (logits(model, 0.5) for model in starts)
        assert torch.equal(first, again)
        assert not torch.allclose(first, other, atol=1e-3)
        assert not torch.allclose(first, logits(dfm, None), atol=1e-2)
        config = starts[0].config
        assert (config.step_size_embedding, config.step_size_fusion) == ("raw", "concat")
        assert not dfm.config.step_size_conditioning
        for name, weight in dfm.state_dict().items():
            assert torch.equal(weight, starts[0].state_dict()[name]), name

    def test_all_trainings_start_from_the_same_weights_whatever_was_drawn_before(self, ablation, tmp_path):
        starts = []
        for number, name in enumerate(("full", "rk2", "full")):
            torch.manual_seed(number)
            starts.append(make_trainer(ablation, name, tmp_path / str(number)).model.state_dict())
        for other in starts[1:]:
            assert all(torch.equal(weight, starts[0][key]) for key, weight in other.items())
        another_seed = make_trainer(ablation, "full", tmp_path / "3", seed=1).model.state_dict()
        assert not all(torch.equal(weight, starts[0][key]) for key, weight in another_seed.items())

    def test_concat_fusion_starts_as_the_dfm(self, ablation, tmp_path):
        model = make_trainer(ablation, "concat-fusion", tmp_path).model
        assert (model.config.step_size_embedding, model.config.step_size_fusion) == ("log2", "concat")
        torch.testing.assert_close(logits(model, 0.5), logits(tiny_dfm(), None), rtol=1e-4, atol=1e-4)

    def test_a_live_teacher_is_the_student_and_an_average_is_not(self, ablation, tmp_path):
        for name, is_live in (("live-teacher", True), ("full", False)):
            trainer = make_trainer(ablation, name, tmp_path / name)
            trainer.train()
            pairs = zip(trainer.model.parameters(), trainer.teacher.parameters(), strict=True)
            assert all(torch.equal(student, teacher) for student, teacher in pairs) == is_live

    def test_the_teacher_jumps_by_the_solver_of_the_training(self, ablation, tmp_path, monkeypatch):
        used, real = [], shortcut_teacher.candidate_hazard
        monkeypatch.setattr(
            shortcut_teacher, "candidate_hazard", lambda solver, *rest: used.append(solver) or real(solver, *rest)
        )
        for name, solver in (("euler-training", "euler"), ("full", "cumulative_scalar")):
            used.clear()
            make_trainer(ablation, name, tmp_path / name, max_steps=1).train()
            assert set(used) == {solver}

    def test_without_teacher_every_row_has_the_integral_up_to_the_last_finest_step(self, ablation, tmp_path):
        trainer = make_trainer(ablation, "no-teacher", tmp_path)
        time, step_size = torch.tensor([0.0, 0.5, 0.25, 0.25]), torch.tensor([1.0, 0.5, 0.25, 1 / 32])
        ids = torch.zeros(4, LENGTH, dtype=torch.long)
        batch = SimpleNamespace(clean=SimpleNamespace(labels=ids), noisy_ids=ids, time=time, step_size=step_size)
        weight = trainer._data_part(batch).position_inputs[-1][:, 0]
        unit = 1 / 32
        expected = [
            math.log(1 / unit) / 1,
            math.log(0.5 / unit) / 0.5,
            math.log(0.75 / 0.5) / 0.25,
            math.log(0.75 / (0.75 - unit)) / unit,
        ]
        assert weight.tolist() == pytest.approx(expected, rel=1e-5)

    def test_annealed_step_sizes_are_even_from_the_middle_on(self, ablation):
        scale = ablation.Scale(steps=280, num_levels=8)
        annealed, weighted = (
            ablation.TRAININGS[name].arguments(scale, Path("unused")).step_size_grid
            for name in ("annealed-steps", "weighted-steps")
        )
        torch.testing.assert_close(annealed.level_weights(0), weighted.level_weights(0))
        assert annealed.level_weights(130).std() > 0
        torch.testing.assert_close(annealed.level_weights(140), torch.full((8,), 1 / 8, dtype=torch.float64))


class Counter:
    """Rows that went through backbones: with gradient (the student) and without (the teacher), and backwards."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.student = self.teacher = self.backward = 0
        forward = FSDFMModel.forward

        def counted(model, *args, **kwargs):
            output = forward(model, *args, **kwargs)
            rows = len(output.last_hidden_state)
            if output.last_hidden_state.requires_grad:
                self.student += rows
                output.last_hidden_state.register_hook(lambda grad: self._add_backward(len(grad)))
            else:
                self.teacher += rows
            return output

        monkeypatch.setattr(FSDFMModel, "forward", counted)

    def _add_backward(self, rows: int) -> None:
        self.backward += rows


class TestEqualCompute:
    @pytest.mark.parametrize("name", TRAININGS)
    def test_the_calls_that_are_counted_are_made(self, ablation, name, tmp_path, monkeypatch):
        max_steps, batch_size = 4, 4
        trainer = make_trainer(ablation, name, tmp_path, max_steps=max_steps, batch_size=batch_size)
        counter = Counter(monkeypatch)
        trainer.train()
        assert counter.student == counter.backward == max_steps * batch_size

        arguments, grid = trainer.args, trainer.args.step_size_grid
        draws = [
            grid.draw(batch_size, seeded_generator(arguments.seed, "time", step), step, arguments.step_aware_path_loss)
            for step in range(max_steps)
        ]
        num_taught = sum(int((draw.level < grid.finest_level).sum()) for draw in draws)
        calls = {"no-teacher": 0, "rk2": 2}.get(name, 4)
        assert num_taught > 0 or name == "dfm-trained-on"
        assert counter.teacher == calls * num_taught

    @pytest.mark.parametrize("name", TRAININGS)
    def test_expected_calls_are_those_of_the_draws(self, ablation, name):
        scale, rows = dataclasses.replace(ablation.Scale(), steps=14), 4000
        training = ablation.TRAININGS[name]
        grid = training.arguments(scale, Path("unused")).step_size_grid
        plan = ablation.plan_within(ablation.full_plan(scale).cost, training, scale)
        levels = [grid.draw(rows, generator(step), step).level for step in range(plan.steps)]
        taught = sum(float((level < grid.finest_level).float().mean()) for level in levels)
        calls = {"no-teacher": 0, "rk2": 2}.get(name, 4)
        assert plan.student == plan.steps
        assert plan.teacher == pytest.approx(calls * taught, rel=0.02, abs=1e-9)
        assert plan.cost == pytest.approx(3 * plan.student + plan.teacher)

    @pytest.mark.parametrize(
        ("name", "steps"),
        # Of 8 levels; the budget is 300 (3 + 4 * 7 / 8) = 1950. Weighted: 127 of 255 rows are taught.
        [
            ("full", 300),
            ("no-step-size", 300),
            ("live-teacher", 300),
            ("rk2", int(1950 / (3 + 2 * 7 / 8))),
            ("no-teacher", 650),
            ("dfm-trained-on", 650),
            ("weighted-steps", int(1950 / (3 + 4 * 127 / 255))),
        ],
    )
    def test_cheaper_steps_are_more_steps(self, ablation, name, steps):
        scale = ablation.Scale(steps=300, num_levels=8)
        plan = ablation.plan_within(ablation.full_plan(scale).cost, ablation.TRAININGS[name], scale)
        assert plan.steps == steps
        assert plan.cost <= 1950 + 1e-6

    def test_annealed_steps_cost_between_the_policies(self, ablation):
        scale = ablation.Scale(steps=300, num_levels=8)
        steps = [
            ablation.plan_within(ablation.full_plan(scale).cost, ablation.TRAININGS[name], scale).steps
            for name in ("full", "annealed-steps", "weighted-steps")
        ]
        assert steps == sorted(set(steps))


def make_scores(ablation, nats: np.ndarray, entropy: float = 2.0):
    """Texts of 10 tokens with so many nats per token."""
    count = len(nats)
    lists = {
        "nll": 10 * nats,
        "tokens": np.full(count, 10),
        "repeats": np.arange(count) % 2,
        "ngrams": np.full(count, 7),
    }
    return ablation.Scores(
        entropy=[entropy] * count, token_ids=[[0]] * count, **{k: v.tolist() for k, v in lists.items()}
    )


@pytest.fixture
def results(ablation):
    """Two seeds; `rk2` has twice the perplexity of `full`, text by text, and `no-teacher` nothing but more noise."""
    random = np.random.default_rng(0)

    def result(seed: int, shift: float, noise: float = 0.0):
        nats = 3 + 0.1 * seed + 0.3 * np.random.default_rng(seed).normal(size=40) + shift
        nats = nats + noise * random.normal(size=40)
        return ablation.Result(1.0, {steps: make_scores(ablation, nats) for steps in (1, 8)})

    shifts = {"full": (0, 0), "rk2": (math.log(2), 0), "no-teacher": (0, 0.2), "dfm": (1, 0)}
    return {name: {seed: result(seed, *shift) for seed in (0, 1)} for name, shift in shifts.items()}


class TestTable:
    def row(self, ablation, results, variant: str, num_steps: int | None = 8):
        rows = ablation.quality_rows(results, make_scores(ablation, np.linspace(1, 2, 30)))
        (found,) = [row for row in rows if (row["variant"], row["num_steps"]) == (variant, num_steps)]
        return found

    def test_values_are_those_of_all_texts(self, ablation, results):
        row = self.row(ablation, results, "full")
        nats = np.concatenate([results["full"][seed].scores[8].nll for seed in (0, 1)]) / 10
        assert row["perplexity"]["value"] == pytest.approx(math.exp(nats.mean()))
        assert row["perplexity"]["low"] < row["perplexity"]["value"] < row["perplexity"]["high"]
        by_seed = [math.exp(half.mean()) for half in np.split(nats, 2)]
        assert row["perplexity"]["by_seed"] == pytest.approx(by_seed)
        assert row["perplexity"]["sd"] == pytest.approx(abs(by_seed[0] - by_seed[1]) / math.sqrt(2))
        assert row["entropy"]["value"] == 2
        assert row["rep_4"]["value"] == pytest.approx(0.5 / 7)
        assert row["ratio"] is None

    def test_pairs_leave_no_noise_in_a_constant_ratio(self, ablation, results):
        ratio = self.row(ablation, results, "rk2")["ratio"]
        ends = [ratio[name] for name in ("value", "low", "high", "seeds_low", "seeds_high")]
        assert ends == pytest.approx([2] * 5)
        assert ratio["by_seed"] == pytest.approx([2, 2])
        assert ablation.differs(ratio)

    def test_noise_alone_is_no_difference(self, ablation, results):
        ratio = self.row(ablation, results, "no-teacher")["ratio"]
        assert ratio["low"] < 1 < ratio["high"]
        assert not ablation.differs(ratio)

    def test_a_difference_must_hold_over_texts_and_over_seeds(self, ablation):
        beyond, across = (1.1, 1.3), (0.9, 1.3)
        for texts, seeds, expected in ((beyond, beyond, True), (beyond, across, False), (across, beyond, False)):
            ratio = dict(zip(("low", "high", "seeds_low", "seeds_high"), (*texts, *seeds), strict=True))
            assert ablation.differs(ratio) == expected
        assert not ablation.differs({"low": 1.1, "high": 1.3, "seeds_low": None, "seeds_high": None})

    def test_what_was_not_trained_has_no_spread_of_training(self, ablation, results):
        row = self.row(ablation, results, "dfm")
        assert row["perplexity"]["sd"] is None
        assert row["ratio"]["value"] == pytest.approx(math.e)
        assert self.row(ablation, results, "real text", None)["perplexity"]["value"] == pytest.approx(math.exp(1.5))

    def test_seeds_that_are_missing_are_left_out_of_pairs(self, ablation, results):
        del results["full"][1]
        ratio = self.row(ablation, results, "rk2")["ratio"]
        assert ratio["by_seed"] == pytest.approx([2])
        assert ratio["seeds_low"] is None
        del results["full"]
        assert self.row(ablation, results, "rk2")["ratio"] is None

    def test_tables_have_a_line_for_each_variant(self, ablation, results):
        rows = ablation.quality_rows(results, make_scores(ablation, np.linspace(1, 2, 30)))
        overview = {line["variant"]: line for line in ablation.overview(rows)}
        assert list(overview) == ["full", "rk2", "no-teacher", "dfm"]
        assert overview["rk2"]["8"].startswith("**")
        assert overview["rk2"]["8"].endswith("(x 2.00)**")
        assert "x" not in overview["full"]["1"]
        table = ablation.quality_table(rows)
        assert [(line["variant"], line["steps"]) for line in table[:3]] == [("real text", ""), ("full", 1), ("full", 8)]
        assert table[3]["perplexity / full"] == "2.000 [2.000, 2.000]"
        assert table[1]["SD, perplexity"]
        assert not table[-1]["SD, perplexity"]

    def test_costs_stand_beside_those_of_the_full_training(self, ablation):
        plans = {"full": ablation.Plan(10, 10.0, 20.0), "rk2": ablation.Plan(12, 12.0, 13.0)}
        rows = ablation.cost_rows(plans, {"full": [3.0, 1.0, 2.0], "rk2": []})
        assert [row["cost / full"] for row in rows] == pytest.approx([1, 49 / 50])
        assert [row["steps / full"] for row in rows] == pytest.approx([1, 1.2])
        assert [row["seconds"] for row in ablation.cost_table(rows)] == ["2", ""]


class TestTimeLimit:
    def test_nothing_begins_that_would_not_end_in_time(self, ablation, monkeypatch):
        now = [0.0]
        work = importlib.import_module("ablation_work")
        monkeypatch.setattr(work.clock, "perf_counter", lambda: now[0])
        limit = ablation.TimeLimit(hours=100 / 3600)
        assert limit.allows("training")
        with limit.measure("training"):
            now[0] = 60.0
        assert not limit.allows("training")
        assert limit.allows("sampling")
        now[0] = 100.0
        assert not limit.allows("sampling")

    def test_without_a_limit_all_may_begin(self, ablation):
        assert ablation.TimeLimit(None).allows("training")


STORIES = [f"Once upon a time Tom had {count} red apples and a dog that ran. The end." for count in range(60)]
CHOSEN = ("full", "euler-sampling", "full-raw-weights", "rk2", "dfm")


@pytest.fixture(scope="module")
def run(ablation, tmp_path_factory):
    """A finished run: its folder, and the options it was made with."""
    folder = tmp_path_factory.mktemp("ablation")
    for name in ("train", "valid"):
        (folder / f"{name}.txt").write_text("\n<|endoftext|>\n".join(STORIES), encoding="utf-8")
    files = {"data": "train.txt", "validation-data": "valid.txt", "output-dir": "run", "json": "out", "markdown": "md"}
    options = [word for name, file in files.items() for word in (f"--{name}", str(folder / file))]
    options += ["--tiny", "--seeds", "0", "1", "--variants", *CHOSEN]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
        ablation.main(options)
        yield SimpleNamespace(folder=folder / "run", options=options, json=folder / "out", markdown=folder / "md")


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file, with its time and its place on the disk."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_ino)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def sampled_ids(ablation, folder: Path, variant: str, seed: int = 0) -> list[list[int]]:
    """What was sampled with 4 steps."""
    return ablation.Result.read(folder / "results" / variant / f"seed-{seed}.json").scores[4].token_ids


class TestRun:
    def test_every_variant_and_number_of_steps_has_its_row(self, run):
        content = json.loads(run.json.read_text())
        assert content["options"]["scale"]["steps"] == 3
        quality = [row for row in content["rows"] if "variant" in row]
        expected = [(name, steps) for name in CHOSEN for steps in (1, 2, 4, 8, 16, 32)]
        assert [(row["variant"], row["num_steps"]) for row in quality] == [("real text", None), *expected]
        assert all(row["seeds"] == [0, 1] and row["perplexity"]["low"] > 1 for row in quality[1:])
        costs = {row["training"]: row for row in content["rows"] if "training" in row}
        assert list(costs) == ["full", "rk2"]
        assert costs["full"]["cost / full"] == 1
        assert costs["rk2"]["optimizer steps"] == 4
        assert all(row["seconds"] > 0 for row in costs.values())
        text = run.markdown.read_text()
        assert all(f"| {name} |" in text for name in (*CHOSEN, "real text"))
        assert "Not complete" not in text

    def test_samples_are_of_what_the_row_says(self, run, ablation):
        made_of = {
            "full": ("trainings/full/seed-0/ema", "cumulative_scalar"),
            "euler-sampling": ("trainings/full/seed-0/ema", "euler"),
            "full-raw-weights": ("trainings/full/seed-0/raw", "cumulative_scalar"),
            "rk2": ("trainings/rk2/seed-0/ema", "cumulative_scalar"),
            "dfm": ("dfm", "cumulative_scalar"),
        }
        samples = {}
        for variant, (folder, solver) in made_of.items():
            model = FSDFMForDiffusionLM.from_pretrained(run.folder / folder)
            noise = [seeded_generator("ablation", 0, number) for number in range(20)]
            shape = {"max_length": 16, "num_return_sequences": 20}
            samples[variant] = model.generate(num_steps=4, solver=solver, generator=noise, **shape)
            assert samples[variant].tolist() == sampled_ids(ablation, run.folder, variant), variant
        for variant in CHOSEN[1:]:
            is_equal = samples[variant] == samples["full"]
            assert not is_equal.all(), variant
            assert is_equal.float().mean() > 0.1, variant  # by chance 1 / 280: the noise is the same
        other_seed = torch.tensor(sampled_ids(ablation, run.folder, "full", seed=1))
        assert (other_seed == samples["full"]).float().mean() < 0.1

    def test_scores_are_of_the_samples(self, run, ablation):
        scores = ablation.Result.read(run.folder / "results" / "rk2" / "seed-1.json").scores[1]
        assert np.mean(scores.entropy) == pytest.approx(token_entropy(scores.token_ids)["nats"])
        assert sum(scores.repeats) / sum(scores.ngrams) == pytest.approx(repetition(scores.token_ids)["rep_4"])
        assert all(nats > 0 and tokens > 0 for nats, tokens in zip(scores.nll, scores.tokens, strict=True))

    def test_a_finished_run_does_nothing_again(self, run, ablation):
        before = contents(run.folder)
        ablation.main(run.options)
        assert contents(run.folder) == before

    def test_what_is_missing_is_done_again_and_is_the_same(self, run, ablation, capsys):
        result = run.folder / "results" / "rk2" / "seed-1.json"
        samples = ablation.Result.read(result).scores
        before = contents(run.folder)
        result.unlink()
        shutil.rmtree(run.folder / "trainings" / "rk2" / "seed-1")
        ablation.main(run.options)
        output = capsys.readouterr().out
        assert [line for line in output.splitlines() if line.startswith("[")] == [
            "[12/17] training rk2, seed 1",
            "[16/17] sampling rk2, seed 1",
        ]
        assert ablation.Result.read(result).scores == samples
        after = contents(run.folder)
        assert {name for name in before if before[name] != after[name]} == {
            name for name in before if "rk2/seed-1" in name
        }

    def test_processes_share_the_work_and_end_with_the_same_tables(self, run, ablation, tmp_path):
        """Two processes, begun at once, do each piece once; what they make is what one makes."""
        options = run.options.copy()
        for name, value in {"--output-dir": "shared", "--json": "json", "--markdown": "markdown"}.items():
            options[options.index(name) + 1] = str(tmp_path / value)
        command = [sys.executable, str(BENCHMARKS / "ablation.py"), *options, "--threads", "1"]
        environment = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache")}
        processes = [
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        outputs = [process.communicate(timeout=300) for process in processes]
        assert [process.returncode for process in processes] == [0, 0], outputs
        begun = [[line for line in output.splitlines() if line.startswith("[")] for output, _ in outputs]
        assert sorted(int(line[1 : line.index("/")]) for lines in begun for line in lines) == list(range(1, 18))
        assert all(begun)
        assert all("| rk2 | 8 | 2 |" in output for output, _ in outputs)
        assert [path.name for path in (tmp_path / "shared" / ".locks").iterdir()] == ["settings"]
        for variant in CHOSEN:
            assert sampled_ids(ablation, tmp_path / "shared", variant) == sampled_ids(ablation, run.folder, variant)

    def test_a_folder_can_be_claimed_by_many_at_once(self, run, ablation, tmp_path, monkeypatch):
        monkeypatch.setattr("os.fsync", lambda _: time.sleep(0.05))  # a slow disk: all are at it together
        args = ablation.parse_arguments([*run.options, "--output-dir", str(tmp_path / "new")])
        runs = [ablation.Ablation(args.output_dir, args.data, args.validation_data, args.scale, (0,), ())] * 4
        with ThreadPoolExecutor(len(runs)) as pool:
            list(pool.map(ablation.Ablation.claim_folder, runs))  # raises what one of them raised
        settings = json.loads((tmp_path / "new" / "settings.json").read_text(encoding="utf-8"))
        assert settings["steps"] == args.scale.steps
        assert not list((tmp_path / "new").glob("*.unfinished"))

    def test_a_training_that_fails_leaves_nothing(self, run, ablation, monkeypatch):
        options = [*run.options[: -len(CHOSEN)], "full", "weighted-steps"]
        monkeypatch.setattr("transformers_fsdfm.trainer.fsdfm_trainer.FSDFMTrainer.save_model", failing_save)
        with pytest.raises(RuntimeError, match="no space"):
            ablation.main(options)
        assert list((run.folder / "trainings" / "weighted-steps").iterdir()) == []

    def test_no_time_is_no_work(self, run, ablation, tmp_path, capsys):
        options = run.options.copy()
        options[options.index("--output-dir") + 1] = str(tmp_path / "other")
        options[options.index("--json") + 1] = str(tmp_path / "json")
        ablation.main([*options, "--max-hours", "1e-12"])
        assert "17 pieces of work are left" in capsys.readouterr().out
        assert {path.name for path in (tmp_path / "other").iterdir()} == {"settings.json", ".locks"}
        assert not (tmp_path / "json").exists()

    def test_tables_of_an_incomplete_run_say_so(self, run, ablation, capsys):
        options = [
            *run.options,
            "--seeds",
            "0",
            "1",
            "2",
            "--max-hours",
            "1e-12",
            "--markdown",
            str(run.markdown) + "2",
        ]
        ablation.main([*options, "--json", str(run.json) + "2"])
        output = capsys.readouterr().out
        assert "**Not complete: 7 pieces of work are left.**" in output
        assert "| rk2 | 8 | 2 |" in output  # two seeds are there

    @pytest.mark.parametrize("change", [("--steps", "4"), ("--data", "valid2.txt")])
    def test_other_settings_in_the_same_folder_are_refused(self, run, ablation, change, tmp_path):
        option, value = change
        if option == "--data":
            value = str(tmp_path / value)
            Path(value).write_text(STORIES[0], encoding="utf-8")
        before = contents(run.folder)
        with pytest.raises(SystemExit, match="was begun with other settings"):
            ablation.main([*run.options, option, value])
        assert contents(run.folder) == before

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            (("--samples", "5"), "--samples must be at least 20"),
            (("--num-levels", "5"), "--num-levels must be at least 6"),
            (("--steps", "0"), "--steps must be at least 1"),
            (("--seeds", "1", "1"), "--seeds must differ"),
            (("--max-hours", "0"), "--max-hours must be > 0"),
            (("--data", "nowhere.txt"), "--data: there is no file nowhere.txt"),
        ],
    )
    def test_bad_options_are_named(self, run, ablation, option, message, capsys):
        with pytest.raises(SystemExit):
            ablation.parse_arguments([*run.options, *option])
        assert message in capsys.readouterr().err


def failing_save(*args: object) -> None:
    raise RuntimeError("no space")
