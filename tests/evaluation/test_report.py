# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The numbers, tables and pictures of a report, from scores that are made up."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t as student

from transformers_fsdfm.evaluation.markdown import describe_comparison, to_markdown
from transformers_fsdfm.evaluation.measures import RunScores
from transformers_fsdfm.evaluation.report import Report, finite, make_report
from transformers_fsdfm.evaluation.samples import Samples
from transformers_fsdfm.evaluation.settings import Cell, EvaluationSettings


MODES = ("unconditional", "infill-50")
ROWS = 30
METRICS = ("generative_perplexity", "token_entropy", "mauve", "infilling_accuracy", "likelihood_bound")


def settings(**changes) -> EvaluationSettings:
    return EvaluationSettings(
        models=["few=a", "many=b"],
        reference=["text.txt"],
        scorers=["judge=x"],
        out="out",
        **{"steps": (8, 1024), "seeds": (0, 1), "num_samples": ROWS, "num_resamples": 200, "modes": MODES, **changes},
    )


def make_scores(mode: str, cell: Cell | None, seed: int) -> RunScores:
    """Losses of 3 nats; with one model and few steps 3.5."""
    random = np.random.default_rng([seed, 0 if cell is None else cell.num_steps])
    tokens = np.random.default_rng(seed).integers(50, 60, ROWS)
    mean = 3.5 if cell and cell.model == "few" and cell.num_steps == 8 else 3.0
    nll = tokens * (mean + random.normal(0, 0.05, ROWS))
    name = "generative_perplexity[judge]"
    scores = RunScores(
        {
            f"{name}.nll": nll.tolist(),
            f"{name}.tokens": tokens.tolist(),
            f"{name}.bytes": (4 * tokens).tolist(),
            f"{name}.perplexity": np.exp(nll / tokens).tolist(),
            f"{name}.is_scored": [1.0] * ROWS,
            f"{name}.full_nll": (2 * nll).tolist(),
            f"{name}.full_tokens": (2 * tokens).tolist(),
            "token_entropy.nats": random.normal(4, 0.1, ROWS).tolist(),
            "token_entropy.bits": random.normal(6, 0.1, ROWS).tolist(),
        },
        {"mauve[judge].mauve": 0.5 + 0.1 * seed, "mauve[judge].mauve_human": 0.9, "mauve[judge].mauve_shuffled": 0.01},
    )
    scores.deviations["mauve[judge].mauve"] = [0.06 - 0.04 * seed, 0.04 * seed - 0.06]
    mauve_settings = {"num_buckets": 3, "num_references": 30, "pieces": 2, "scaling_factor": 5, "seed": 0}
    scores.values.update({f"mauve[judge].{key}": value for key, value in mauve_settings.items()})
    if mode == "infill-50" and cell:
        scores.per_sequence["infilling_accuracy.correct"] = random.integers(0, 9, ROWS).tolist()
        scores.per_sequence["infilling_accuracy.positions"] = [10] * ROWS
        scores.values["infilling_accuracy.majority_accuracy"] = 0.1
        scores.deviations["infilling_accuracy.majority_accuracy"] = [0.04, -0.04]
    return scores


def make_samples(cell: Cell) -> Samples:
    seconds = cell.num_steps / 8 * np.array([1.0, 2.0, 6.0])
    ids = np.zeros((ROWS, 20), int)
    return Samples(ids, ids == 0, [], seconds, cell.num_steps - 0.5, batch_size=10, machine="cpu, threads: 1")


@pytest.fixture(scope="module")
def report() -> Report:
    own = settings(metrics=METRICS)
    cells = own.cells()
    about = {"confidence": own.confidence, "equivalence_margin": own.equivalence_margin, "models": {"few": "a"}}
    return make_report(
        own,
        about,
        {cell: [make_samples(cell)] * 2 for cell in cells},
        {cell: [make_scores(cell.mode, cell, seed) for seed in own.seeds] for cell in cells},
        {mode: make_scores(mode, None, 0) for mode in MODES},
        {name: {"nll": [40.0] * ROWS, "tokens": [10.0] * ROWS, "bytes": [20.0] * ROWS} for name in ("few", "many")},
    )


def row(report: Report, mode: str, model: str | None, steps: int = 8):
    found = [one for one in report.rows if one.mode == mode and (one.cell and one.cell.model) == model]
    return next(one for one in found if one.cell is None or one.cell.num_steps == steps)


# ---- Numbers ---------------------------------------------------------------------------------------------------------


def test_the_table_begins_with_the_real_text_in_each_mode(report):
    assert [(one.mode, one.cell is None) for one in report.rows] == [
        (mode, first) for mode in MODES for first in (True, False, False, False, False)
    ]


def test_perplexity_is_exp_of_the_mean_over_all_tokens_of_all_seeds(report):
    value = row(report, "unconditional", "few").values["perplexity[judge]"]
    cell = Cell("unconditional", "few", "cumulative_scalar", 8)
    runs = [make_scores("unconditional", cell, seed).per_sequence for seed in (0, 1)]
    sums = [[sum(run[f"generative_perplexity[judge].{name}"]) for name in ("nll", "tokens", "bytes")] for run in runs]
    nll, tokens, num_bytes = np.sum(sums, axis=0)
    assert value.value == pytest.approx(math.exp(nll / tokens))
    assert value.low < value.value < value.high
    own = [math.exp(one[0] / one[1]) for one in sums]
    assert value.seed_deviation == pytest.approx(np.std(own, ddof=1))
    bits = row(report, "unconditional", "few").values["bits_per_byte[judge]"]
    assert bits.value == pytest.approx(nll / math.log(2) / num_bytes)


def test_intervals_count_prompts_once_where_seeds_share_them(report):
    free, shared = (row(report, mode, "many").values["token_entropy_nats"] for mode in MODES)
    assert report.comparisons[0].num_units == 2 * ROWS
    assert {one.num_units for one in report.comparisons if one.pair.first.mode == "infill-50"} == {ROWS}
    assert free.value == pytest.approx(4, abs=0.1)
    assert shared.value == pytest.approx(4, abs=0.1)


def test_numbers_of_a_whole_set_have_a_mean_a_deviation_over_seeds_and_a_jackknife_interval(report):
    value = row(report, "unconditional", "few").values["mauve[judge]"]
    assert value.value == pytest.approx(0.55)
    assert value.seed_deviation == pytest.approx(np.std([0.5, 0.6], ddof=1))
    # The deviations of the two seeds, +-0.06 and +-0.02, are averaged subset by subset.
    assert value.high - value.value == pytest.approx(0.04 * student(2 * ROWS - 1).ppf(0.975))
    assert value.value - value.low == pytest.approx(value.high - value.value)


def test_where_seeds_share_prompts_a_number_of_a_whole_set_has_as_many_units_as_prompts(report):
    value = row(report, "infill-50", "few").values["majority_accuracy"]
    assert value.high - value.value == pytest.approx(0.04 * student(ROWS - 1).ppf(0.975))


def test_the_text_that_was_given_counts_only_in_the_full_text(report):
    few = row(report, "infill-50", "few").values
    assert few["full_text_perplexity[judge]"].value == pytest.approx(few["perplexity[judge]"].value)
    assert "full_text_perplexity[judge]" not in row(report, "unconditional", "few").values
    assert "infilling_accuracy" not in row(report, "infill-50", None).values


def test_seconds_are_the_median_and_quartiles_of_whole_batches(report):
    speed = row(report, "unconditional", "few").speed
    assert (speed.seconds, speed.seconds_low, speed.seconds_high) == (2, 1.25, 5)
    assert (speed.num_batches, speed.batch_size) == (6, 10)
    assert speed.tokens_per_second == 20 * 10 / 2
    assert speed.num_function_evaluations == 7.5


def test_verdicts_are_about_the_ratio_of_perplexities(report):
    found = {
        (one.pair.first.num_steps, one.pair.second.num_steps): one
        for one in report.comparisons
        if one.measure.is_exponential and one.pair.first.mode == "unconditional"
    }
    assert found.keys() == {(8, 8), (8, 1024), (1024, 1024)}
    assert found[8, 1024].effect.value == pytest.approx(math.exp(0.5), rel=0.05)
    assert found[8, 1024].result.verdict.value == "higher"
    assert found[1024, 1024].effect.value == pytest.approx(1)
    assert found[1024, 1024].result.verdict.value == "equivalent"


def test_p_values_are_adjusted_for_the_comparisons_of_a_measure(report):
    tested = [one for one in report.comparisons if one.measure.key == "token_entropy_nats"]
    assert len(tested) == 6
    assert all(one.p_adjusted >= one.result.p_difference for one in tested)
    smallest = min(tested, key=lambda one: one.result.p_difference)
    assert smallest.p_adjusted == pytest.approx(min(1, 6 * smallest.result.p_difference))


def test_bounds_are_of_the_model(report):
    assert report.bounds["few"]["nats_per_token"].value == 4
    assert report.bounds["few"]["bits_per_byte"].value == pytest.approx(2 / math.log(2))


def test_one_seed_has_no_deviation():
    own = settings(metrics=("token_entropy",), seeds=(0,), modes=("unconditional",))
    cells = own.cells()
    about = {"confidence": 0.95, "equivalence_margin": 0.05}
    scores = {cell: [make_scores(cell.mode, cell, 0)] for cell in cells}
    samples = {cell: [make_samples(cell)] for cell in cells}
    made = make_report(own, about, samples, scores, {"unconditional": make_scores("unconditional", None, 0)}, {})
    assert row(made, "unconditional", "few").values["token_entropy_nats"].seed_deviation is None


# ---- Files -----------------------------------------------------------------------------------------------------------


def test_records_are_json_and_complete(report):
    records = json.loads(json.dumps(finite(report.records()), allow_nan=False))
    kinds = [one["kind"] for one in records]
    assert kinds == ["about"] + ["row"] * 10 + ["bound"] * 2 + ["comparison"] * len(report.comparisons)
    few = next(one for one in records if one.get("model") == "few" and one["kind"] == "row")
    assert few["measures"]["perplexity[judge]"].keys() == {"value", "low", "high", "seed_deviation"}
    assert few["speed"]["num_batches"] == 6
    verdict = next(one for one in records if one["kind"] == "comparison" and "ratio" in one)
    assert verdict["first"] == {"model": "few", "solver": "cumulative_scalar", "num_steps": 8}
    assert {"p_difference", "p_difference_holm", "p_equivalence", "verdict", "num_units"} <= verdict.keys()
    assert finite({"a": [float("nan"), 1.0, {"b": math.inf}]}) == {"a": [None, 1.0, {"b": None}]}


def tables(markdown: str) -> list[list[list[str]]]:
    found = re.findall(r"(?:^\|.*\|\n)+", markdown, flags=re.MULTILINE)
    return [
        [[cell.strip() for cell in line.strip("|").split(" | ")] for line in one.strip().split("\n")] for one in found
    ]


def test_the_tables_are_rectangular_and_say_units_scorer_sequences_and_seeds(report):
    markdown = to_markdown(report, ["plots/unconditional--quality-steps.png"])
    for table in tables(markdown):
        assert len({len(line) for line in table}) == 1, table[0]
    quality = next(table for table in tables(markdown) if any("perplexity, judge" in cell for cell in table[0]))
    assert "perplexity, judge (per scorer token)" in quality[0]
    assert "bits per byte, judge (bits/byte)" in quality[0]
    assert quality[2][0] == "*real text*"
    assert quality[3][:3] == ["few", "cumulative_scalar", "8"]
    assert quality[3][-1] == f"{2 * ROWS} (2)"
    assert re.fullmatch(r"[\d.]+ \[[\d.]+, [\d.]+\] ± [\d.]+", quality[3][3])
    assert "![plots/unconditional--quality-steps.png](plots/unconditional--quality-steps.png)" in markdown


def test_the_report_says_how_equivalence_was_judged(report):
    markdown = to_markdown(report)
    assert "two one-sided paired t-tests (TOST)" in markdown
    assert "a margin of 5 %" in markdown
    assert "[0.9524, 1.0500]" in markdown
    assert "equivalent within the margin" in markdown
    assert "A higher by more than the margin" in markdown
    assert "real against other real text 0.900" in markdown
    assert "3 buckets, too few to tell more than gross differences (more samples or --mauve-pieces help)" in markdown
    assert (
        "scaling factor 5, seed 0, 30 pieces of real texts, none of them a prompt; each text is cut into 2." in markdown
    )
    assert "Sampled on: cpu, threads: 1." in markdown
    assert "in windows" not in markdown
    assert "MAUVE tells nothing" not in markdown


def test_notes_say_where_a_number_is_not_what_it_seems():
    own = settings(metrics=METRICS, modes=("unconditional",), compare=[("few@8", "many@8")])
    samples = {cell: [replace(make_samples(cell), num_function_evaluations=56)] for cell in own.cells()}
    scores = {cell: [make_scores(cell.mode, cell, 0)] for cell in own.cells()}
    real = make_scores("unconditional", None, 0)
    real.values["mauve[judge].mauve_shuffled"] = 0.95
    bounds = {name: {"nll": [40.0] * ROWS, "tokens": [10.0] * ROWS, "bytes": [20.0] * ROWS} for name in ("few", "many")}
    notes = make_report(own, {}, samples, scores, {"unconditional": real}, bounds).notes
    assert any(
        "few, 8 steps (unconditional): the texts are longer" in note and "ran 56 times" in note for note in notes
    )
    assert sum("in windows" in note for note in notes) == 2  # the cells of 1,024 steps ran less often than that
    assert any(note.endswith("MAUVE tells nothing here.") for note in notes)


def test_every_column_is_explained(report):
    markdown = to_markdown(report)
    for mode in MODES:
        for measure in report.measures[mode]:
            assert f"**{measure.title}** ({measure.unit}): {measure.definition}" in markdown


def test_a_comparison_fits_in_a_line(report):
    line = describe_comparison(report.comparisons[0])
    assert re.search(
        r"few, 8 steps, cumulative_scalar / many, 8 steps, .*: ratio 1\.\d+ \[.*\]: A higher by more", line
    )


def test_pictures_show_every_line_and_the_real_text(report, tmp_path):
    from transformers_fsdfm.evaluation.plots import save_plots

    rows = [one for one in report.rows if one.mode == "unconditional"]
    measures = {"unconditional": report.measures["unconditional"]}
    names = save_plots(Report(report.about, measures, rows, [], {}, []), tmp_path)
    assert names == [f"unconditional--quality-{axis}.png" for axis in ("steps", "diversity", "seconds")]
    (tmp_path / "infill-50--quality-steps.svg").write_text("of a report that was here before")
    (tmp_path / "mine.svg").write_text("of the user")
    assert save_plots(Report(report.about, measures, rows, [], {}, []), tmp_path) == names
    assert (tmp_path / "mine.svg").exists()
    (tmp_path / "mine.svg").unlink()
    assert {file.name for file in tmp_path.iterdir()} == {*names, *(name.replace("png", "svg") for name in names)}
    assert (tmp_path / names[0]).read_bytes().startswith(b"\x89PNG")
    drawing = (tmp_path / "unconditional--quality-diversity.svg").read_text()
    for words in ("few, cumulative_scalar", "many, cumulative_scalar", "real text", "unigram entropy (nats)", "1024"):
        assert words in drawing
    assert "perplexity, judge (lower is better)" in drawing


def test_there_are_no_pictures_without_a_scorer(report, tmp_path):
    from transformers_fsdfm.evaluation.plots import save_plots

    without = Report(report.about, {mode: [] for mode in MODES}, report.rows, [], {}, [])
    assert save_plots(without, tmp_path) == []
