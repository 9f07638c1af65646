"""The benchmark of distillation runs, and the plain step that it measures against is the same step."""

import functools
import json
import math
import runpy
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import chisquare

from tests.benchmark_script import BENCHMARKS, run_script, table_of
from tests.conftest import generator
from transformers_fsdfm import FSDFMConfig
from transformers_fsdfm.flow_fsdfm import Schedule


@pytest.fixture
def load(monkeypatch):
    """The names of a benchmark script, as when it is run as a file."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return lambda name: SimpleNamespace(**runpy.run_path(str(BENCHMARKS / f"{name}.py"), run_name=name))


@pytest.fixture
def benchmark(load):
    return load("training")


@pytest.fixture
def run_benchmark(monkeypatch, capsys):
    return functools.partial(run_script, monkeypatch, capsys, "training.py", "--length", 8)


def tiny_arguments(benchmark, *options: object):
    return benchmark.parse_arguments(["--tiny", "--length", "8", "--dtype", "float32", *map(str, options)])


class TestPlainStep:
    def test_loss_and_gradients_are_those_of_the_trainer(self, run_benchmark):
        rows = table_of(run_benchmark("--equal", "--batch-size", 3, "--rounds", 2))
        assert [row["taught rows"] for row in rows] == ["0", "0", "1", "1", "2", "2", "3", "3"]
        assert all(row["equal"] == "yes" and float(row["loss, ours"]) > 1e-3 for row in rows)

    def test_another_gradient_is_noticed(self, benchmark):
        args = tiny_arguments(benchmark)
        gradients = {"weight": torch.tensor([3.0, 4.0])}
        for shift, equal in ((0.0, "yes"), (1e-3, "NO")):
            ours = {"weight": gradients["weight"] + shift}
            assert benchmark.equality_row(args, 1, 0, (1.0, ours), (1.0, gradients))["equal"] == equal
        assert benchmark.equality_row(args, 1, 0, (1.001, gradients), (1.0, gradients))["equal"] == "NO"

    def test_its_unused_work_reaches_no_loss(self, benchmark):
        args = tiny_arguments(benchmark)
        plain, lean = benchmark.Plain(args), benchmark.PlainLean(args)
        plain.jump = lean.jump
        for contender in (plain, lean):
            benchmark.without_dropout(contender.student)
        results = [benchmark.loss_and_gradients(args, contender, 1, 0) for contender in (plain, lean)]
        assert results[0][0] == results[1][0]
        for name, gradient in results[0][1].items():
            torch.testing.assert_close(gradient, results[1][1][name], rtol=0, atol=0)

    def test_a_jump_by_rates_has_the_exact_law_in_the_last_step_too(self, load):
        posterior, samples = torch.tensor([0.6, 0.3, 0.1]), 20_000
        logits = posterior.log().expand(2, samples, 3)
        ids = torch.ones(2, samples, dtype=torch.long)
        time, step_size = torch.tensor([0.4, 0.5]), torch.tensor([0.35, 0.5])
        jump = load("plain_distillation").jump_by_rates
        inner, last = jump(logits, ids, time, step_size, Schedule(), [generator(0)])
        leaves = 1 - (0.25 / 0.6) ** 0.7
        inner_law = torch.tensor([leaves * 0.6 / 0.7, 1 - leaves, leaves * 0.1 / 0.7])
        for next_ids, law in ((inner, inner_law), (last, posterior)):
            counts = torch.bincount(next_ids, minlength=3).numpy()
            assert chisquare(counts, law.double().numpy() / float(law.double().sum()) * samples).pvalue > 1e-3

    def test_its_average_is_the_formula(self, load):
        teacher, student = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
        expected = 0.9 * teacher.weight.detach() + 0.1 * student.weight.detach()
        load("plain_distillation").plain_average(teacher, student, 0.9)
        torch.testing.assert_close(teacher.weight.detach(), expected)


class TestFloor:
    @pytest.mark.parametrize("num_taught", [0, 1, 2])
    def test_it_runs_what_the_rows_need_and_nothing_else(self, benchmark, num_taught):
        args = tiny_arguments(benchmark)
        floor, calls = benchmark.Floor(args), []
        for name, model in (("student", floor.student), ("teacher", floor.teacher)):
            for part in ("model", "lm_head"):
                getattr(model, part).register_forward_hook(
                    lambda module, inputs, output, name=name, part=part: calls.append(f"{name} {part}")
                )
        floor.step(benchmark.draw_batch(args, floor.student.config, num_taught, 0, 8))
        taught = ["teacher model"] * 4 + ["teacher lm_head"] if num_taught else []
        assert calls == [*taught, "student model", "student lm_head"]
        assert all(parameter.grad is not None for parameter in floor.student.parameters())
        assert all(parameter.grad is None for parameter in floor.teacher.parameters())


class TestBatches:
    def test_a_batch_has_so_many_taught_rows_and_is_the_same_again(self, benchmark):
        args, config = tiny_arguments(benchmark, "--batch-size", 4), FSDFMConfig(vocab_size=97)
        for num_taught in range(5):
            batch, again = (benchmark.draw_batch(args, config, num_taught, 0, 8) for _ in range(2))
            assert int((batch.step_size > 2**-10).sum()) == num_taught
            assert bool(((batch.time >= 0) & (batch.time + batch.step_size <= 1)).all())
            assert torch.equal(batch.noisy_ids, again.noisy_ids)
            assert torch.equal(
                torch.rand(3, generator=batch.generators[0]), torch.rand(3, generator=again.generators[0])
            )
        assert not torch.equal(batch.noisy_ids, benchmark.draw_batch(args, config, 4, 1, 8).noisy_ids)

    def test_half_of_the_rows_are_taught_by_default(self, benchmark):
        shares = [benchmark.mix_probability(2, num_taught) for num_taught in range(3)]
        assert shares == pytest.approx([0.25, 0.5, 0.25], abs=1e-3)
        assert sum(shares) == pytest.approx(1)


class TestScript:
    def test_comparison_prints_every_mix_and_an_expectation_that_is_labelled(self, run_benchmark, tmp_path):
        output = run_benchmark("--rounds", 1, "--json", tmp_path / "out")
        rows = table_of(output)
        names = ["ours", "plain", "plain-lean", "floor"]
        assert [row["contender"] for row in rows] == names * 4
        assert [row["taught rows"] for row in rows[::4]] == ["0", "1", "2", "ESTIMATE: expected"]
        mixes = json.loads((tmp_path / "out").read_text())["rows"]
        mean = sum(share * mixes[4 * mix]["seconds"] for mix, share in enumerate((0.25, 0.5, 0.25)))
        assert math.isclose(mixes[12]["seconds"], mean, rel_tol=0.01)
        assert "ESTIMATE, plain / ours:" in output
        assert "ESTIMATE, ours / floor:" in output

    def test_some_mixes_alone_give_no_expectation(self, run_benchmark):
        output = run_benchmark("--rounds", 1, "--taught-rows", 1, "--contenders", "floor", "ours", "--clock", "cpu")
        assert [row["taught rows"] for row in table_of(output)] == ["1", "1"]
        assert "ESTIMATE" not in output
        assert "not of the wall clock" in output

    def test_a_mix_beyond_the_batch_is_refused(self, benchmark):
        with pytest.raises(SystemExit):
            benchmark.parse_arguments(["--taught-rows", "3"])

    def test_the_updates_of_the_average_are_compared(self, run_benchmark):
        rows = table_of(run_benchmark("--ema", "--rounds", 1))
        assert [row["update"] for row in rows] == ["loop of mul_ and add_", "loop of lerp_", "_foreach_lerp_", "ours"]
        assert all(float(row["seconds"]) > 0 for row in rows)

    def test_the_updates_of_the_average_agree(self, benchmark):
        results = []
        for name in ("loop of mul_ and add_", "loop of lerp_", "_foreach_lerp_", "ours"):
            torch.manual_seed(0)
            student, start = torch.nn.Linear(3, 3), torch.ones(3, 3)
            teacher = torch.nn.Linear(3, 3).requires_grad_(False)
            update = benchmark.average_updates(student, teacher)[name]
            teacher.weight.copy_(start)
            update()
            results.append(teacher.weight.clone())
            assert not torch.equal(results[-1], start)
        for result in results[1:]:
            torch.testing.assert_close(result, results[0])

    @pytest.mark.slow
    def test_memory_is_measured_in_processes_of_their_own(self, run_benchmark):
        rows = table_of(run_benchmark("--memory", "--taught-rows", 1))
        assert [row["contender"] for row in rows] == ["ours", "plain", "plain-lean", "floor"]
        assert all(float(row["above weights"]) >= 0 and row["peak / plain"] for row in rows)
