"""The benchmark script runs, and the plain sampler that it measures against has the exact law."""

import csv
import functools
import json
import math
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import chi2_contingency, chisquare

from benchmarks.plain_sampler import plain_generate, plain_step
from tests.benchmark_script import run_script, table_of
from tests.conftest import generator, tiny_model
from transformers_fsdfm import FSDFMConfig


POSTERIOR = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
SAMPLES = 30_000


def assert_follows(tokens: torch.Tensor, law: torch.Tensor) -> None:
    counts = torch.bincount(tokens.flatten(), minlength=len(law))
    assert chisquare(counts.numpy(), (law * counts.sum()).numpy()).pvalue > 1e-3


def exact_step(posterior: torch.Tensor, current: int, time: float, step_size: float) -> torch.Tensor:
    """P(x_{t+h} | x_t = current) for the linear schedule."""
    jump = 1 - ((1 - time - step_size) / (1 - time)) ** (1 - posterior[current])
    law = jump * posterior / (1 - posterior[current])
    law[current] = 1 - jump
    return law


class StubModel:
    """A model on three tokens whose posterior at a position depends on the token there, and records its inputs."""

    posteriors = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6], [0.1, 0.8, 0.1]], dtype=torch.float64)
    device = torch.device("cpu")

    def __init__(self, **settings):
        self.config = FSDFMConfig(vocab_size=3, hidden_size=4, num_attention_heads=1, **settings)
        self.inputs = []

    def __call__(self, input_ids, **inputs):
        self.inputs.append(inputs)
        return SimpleNamespace(logits=self.posteriors[input_ids].log().float())


class TestPlainSampler:
    @pytest.mark.parametrize("draw_everywhere", [False, True])
    @pytest.mark.parametrize("current", [0, 1, 2])
    def test_one_step_has_the_exact_law(self, current, draw_everywhere):
        time, step_size = 0.4, 0.35
        scalar = torch.tensor([math.log((1 - time) / (1 - time - step_size))])
        ids = torch.full((1, SAMPLES), current)
        probs = POSTERIOR.float().expand(1, SAMPLES, 3)
        next_ids = plain_step(probs, ids, scalar, torch.tensor([step_size]), generator(current), draw_everywhere)
        assert_follows(next_ids, exact_step(POSTERIOR, current, time, step_size))

    def test_a_whole_run_has_the_exact_law(self):
        model = StubModel()
        ids = plain_generate(model, num_steps=2, batch_size=3, length=SAMPLES // 3, generator=generator(0))
        after_first = sum(exact_step(model.posteriors[current], current, 0.0, 0.5) for current in range(3)) / 3
        assert ids.shape == (3, SAMPLES // 3)
        assert_follows(ids, after_first @ model.posteriors)

    def test_generate_has_the_law_of_the_plain_sampler(self):
        model, rows = tiny_model(vocab_size=3, mask_token_id=None, max_position_embeddings=4), 3000
        plain = plain_generate(model, num_steps=3, batch_size=rows, length=4, generator=generator(1))
        ours = model.generate(num_steps=3, num_return_sequences=rows, generator=generator(2))
        # One position of each text, for those of one text depend on each other.
        counts = torch.stack([torch.bincount(ids[:, 1], minlength=3) for ids in (plain, ours)])
        assert chi2_contingency(counts.numpy()).pvalue > 1e-3

    def test_the_model_is_asked_once_a_step_with_its_time_and_step_size(self):
        model, dfm = StubModel(), StubModel(step_size_conditioning=False)
        plain_generate(model, num_steps=4, batch_size=2, length=5)
        plain_generate(dfm, num_steps=4, batch_size=2, length=5)
        assert [inputs["time"].tolist() for inputs in model.inputs] == [[t, t] for t in (0, 0.25, 0.5, 0.75)]
        assert all(inputs["step_size"].tolist() == [0.25, 0.25] for inputs in model.inputs)
        assert all("step_size" not in inputs for inputs in dfm.inputs)

    def test_a_mask_source_is_refused(self):
        with pytest.raises(ValueError, match="uniform source"):
            plain_generate(StubModel(source_distribution="mask"))


@pytest.fixture
def run_benchmark(monkeypatch, capsys):
    return functools.partial(run_script, monkeypatch, capsys, "generation.py", "--rounds", 1)


class TestScript:
    def test_comparison_prints_a_line_for_every_setting(self, run_benchmark, tmp_path):
        output = run_benchmark(
            "--steps", 2, 3, "--batch-sizes", 1, 2, "--dtypes", "float32", "--json", tmp_path / "out"
        )
        rows = table_of(output)
        assert len(rows) == 2 * 2 * 5
        assert {row["contender"] for row in rows} == {"ours", "plain", "plain-everywhere", "floor", "gpt2"}
        assert all(float(row["seconds"]) > 0 and row["time / ours"] for row in rows)
        assert torch.__version__ in output
        assert len(json.loads((tmp_path / "out").read_text())["rows"]) == len(rows)

    def test_an_estimate_is_labelled(self, run_benchmark):
        options = ("--contenders", "plain", "--batch-sizes", 1, "--dtypes", "float32", "--plain-max-steps", 2)
        eight, sixty_four = table_of(run_benchmark(*options))
        assert eight["note"] == "ESTIMATE: 2 steps run, time multiplied by 4"
        assert sixty_four["note"] == "ESTIMATE: 2 steps run, time multiplied by 32"
        assert not any("note" in row for row in table_of(run_benchmark(*options[:-2], "--steps", 2)))

    def test_forward_profile_compares_with_the_products_alone(self, run_benchmark):
        rows = table_of(run_benchmark("--forward-profile", "--batch-sizes", 1))
        assert [row["call"] for row in rows] == ["products", "forward"] * 2
        assert all(float(row["time / products"]) > 0 for row in rows)

    def test_scaling_writes_its_table(self, run_benchmark, tmp_path):
        settings = ("--scaling-steps", 1, 2, "--scaling-lengths", 16, 64, "--dtypes", "float32", "--batch-sizes", 1)
        path = tmp_path / "scaling.csv"
        run_benchmark("--scaling", path, "--plot", tmp_path / "scaling.png", *settings)
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        assert [(row["axis"], row["steps"], row["length"], row["window"]) for row in rows] == [
            ("steps", "1", "32", "32"),
            ("steps", "2", "32", "32"),
            ("length", "8", "16", "16"),
            ("length", "8", "64", "64"),
            ("length, in windows", "8", "64", "32"),
        ]

    @pytest.mark.slow
    def test_memory_is_measured_in_processes_of_their_own(self, run_benchmark):
        rows = table_of(run_benchmark("--memory", "--dtypes", "float32", "--batch-sizes", 1))
        assert [row["contender"] for row in rows] == ["ours", "plain", "plain-everywhere", "floor", "gpt2"]
        assert all(float(row["above weights"]) >= 0 for row in rows)

    @pytest.mark.slow
    def test_compiled_contenders_are_measured(self, run_benchmark):
        options = ("--compile", "--steps", 2, "--batch-sizes", 1, "--dtypes", "float32")
        names = {row["contender"] for row in table_of(run_benchmark("--contenders", "ours", "floor", *options))}
        assert names == {"ours", "floor", "ours (compiled)", "floor (compiled)"}
        assert len(table_of(run_benchmark("--forward-profile", *options))) == 4
