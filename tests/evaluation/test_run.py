# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Whole evaluations of tiny models: what is written, what is used again, and what a killed run loses."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
from transformers import AutoTokenizer

from tests.conftest import tiny_model
from transformers_fsdfm import FSDFMForDiffusionLM, optional
from transformers_fsdfm.evaluation import EvaluationSettings, evaluate_models
from transformers_fsdfm.evaluation import run as run_module
from transformers_fsdfm.evaluation.progress import Progress
from transformers_fsdfm.evaluation.samples import SampleStore
from transformers_fsdfm.evaluation.scores import Judge
from transformers_fsdfm.trainer.noise import seeded_generator


CHEAP = ("token_entropy", "repetition")


@pytest.fixture
def make(world, tmp_path):
    """Settings of a small evaluation, with changes."""

    def make(**changes) -> EvaluationSettings:
        given = {
            "models": [str(world.fsdfm), str(world.dfm)],
            "reference": [str(world.reference)],
            "scorers": [str(world.scorer)],
            "out": tmp_path / "out",
            "steps": (1, 3),
            "seeds": (0, 1),
            "num_samples": 20,
            "batch_size": 8,
            "num_resamples": 100,
            "metrics": CHEAP,
            "device": "cpu",
        }
        return EvaluationSettings(**{**given, **changes})

    return make


@pytest.fixture
def count_generations(monkeypatch) -> list[dict]:
    """The arguments of every call of `generate`."""
    calls = []
    generate = FSDFMForDiffusionLM.generate

    def generate_and_count(self, *args, **kwargs):
        calls.append(kwargs)
        return generate(self, *args, **kwargs)

    monkeypatch.setattr(FSDFMForDiffusionLM, "generate", generate_and_count)
    return calls


@pytest.fixture(autouse=True)
def draw_pictures(request, monkeypatch) -> None:
    """Pictures take most of the time; only tests that look at them have them drawn."""
    if "pictures" not in request.node.name:
        monkeypatch.setattr(run_module, "save_plots", lambda report, folder: [])


def sample_files(out: Path) -> list[Path]:
    return sorted((out / "samples").rglob("*.parquet"))


def read(file: Path) -> dict[str, list]:
    return parquet.read_table(file).to_pydict()


def without_seconds(file: Path) -> dict[str, list]:
    return {name: values for name, values in read(file).items() if name != "batch_seconds"}


# ---- What is written -------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*number of distinct clusters.*")
def test_an_evaluation_leaves_samples_scores_tables_and_pictures(make, world, tmp_path):
    for library in ("mauve", "sacrebleu", "matplotlib"):
        pytest.importorskip(library)
    settings = make(metrics=EvaluationSettings.metrics, modes=("unconditional", "infill-50"), steps=(2,))
    report = evaluate_models(settings)
    out = tmp_path / "out"
    assert len(sample_files(out)) == len(settings.runs()) == 8
    assert len(list((out / "plots").glob("*.png"))) == len(list((out / "plots").glob("*.svg"))) == 6
    records = [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]
    assert [one["kind"] for one in records].count("row") == 6
    for one in (one for one in records if one["kind"] == "row"):
        measured = one["measures"]
        assert 1 < measured["perplexity[scorer]"]["low"] < measured["perplexity[scorer]"]["high"]
        assert 0 < measured["mauve[scorer]"]["value"] <= 1
        for name in ("mauve[scorer]", "distinct_2", "self_bleu"):
            assert measured[name]["low"] <= measured[name]["value"] <= measured[name]["high"]
        assert ("infilling_accuracy" in measured) == (one["mode"] == "infill-50" and one["model"] != "real text")
    assert {one["model"] for one in records if one["kind"] == "bound"} == {"fsdfm", "dfm"}
    assert "![plots/infill-50--quality-steps.png]" in (out / "report.md").read_text()
    assert not list(out.rglob("*.unfinished"))
    assert len(report.records()) == len(records)


@pytest.mark.parametrize("mode", ["unconditional", "prefix-50", "infill-50"])
def test_samples_are_what_generate_gives_for_prompt_and_seed(make, world, tmp_path, mode):
    settings = make(models=[str(world.fsdfm)], modes=(mode,), steps=(3,), seeds=(5,))
    evaluate_models(settings)
    (file,) = sample_files(tmp_path / "out")
    rows = read(file)
    assert rows["sequence"] == list(range(20))
    assert rows["seed"] == [5] * 20
    model = FSDFMForDiffusionLM.from_pretrained(world.fsdfm)
    ids, editable = torch.tensor(rows["token_ids"]), torch.tensor(rows["editable"])
    assert editable.sum(-1).tolist() == [16 if mode == "unconditional" else 8] * 20
    inputs = {} if mode == "unconditional" else {"input_ids": ids[9:10, :8]}
    if mode == "infill-50":
        inputs = {"input_ids": ids[9:10], "editable_mask": editable[9:10]}
    again = model.generate(**inputs, num_steps=3, generator=[seeded_generator("evaluation", 5, 9)])
    assert torch.equal(again[0], ids[9])
    assert [rows["prompt"][9] is None, "___" in (rows["prompt"][9] or "___")] == [mode == "unconditional", True]


def test_infilling_stores_what_it_started_from(make, world, tmp_path):
    evaluate_models(make(models=[str(world.fsdfm)], modes=("infill-50", "prefix-50"), steps=(1,), seeds=(0,)))
    infill, prefix = (next((tmp_path / "out").rglob(f"{mode}--*.parquet")) for mode in ("infill-50", "prefix-50"))
    rows = {name: np.array(values) for name, values in read(infill).items() if name not in ("written", "prompt")}
    given = ~rows["editable"]
    assert (rows["initial_ids"][given] == rows["token_ids"][given]).all()
    assert (rows["initial_ids"][~given] != rows["token_ids"][~given]).mean() > 0.5
    assert read(prefix)["initial_ids"] == [None] * 20


def test_all_models_and_steps_share_prompts_and_random_numbers(make, tmp_path):
    evaluate_models(make(modes=("infill-50",)))
    rows = [read(file) for file in sample_files(tmp_path / "out")]
    assert len(rows) == 8
    assert len({str(one["editable"]) for one in rows}) == 1
    by_seed = {seed: {str(one["initial_ids"]) for one in rows if one["seed"][0] == seed} for seed in (0, 1)}
    assert [len(initial) for initial in by_seed.values()] == [1, 1]
    assert by_seed[0] != by_seed[1]


def test_time_is_that_of_whole_batches_after_a_first_generation(make, world, tmp_path, count_generations):
    report = evaluate_models(make(models=[str(world.fsdfm)], steps=(3,), seeds=(0,)))
    assert [len(call["generator"]) for call in count_generations] == [8, 8, 8, 4]  # the first one warms up
    (file,) = sample_files(tmp_path / "out")
    rows = read(file)
    assert rows["batch_rows"] == [8] * 16 + [4] * 4
    assert len(set(rows["batch_seconds"])) == 3
    assert min(rows["batch_seconds"]) > 0
    assert rows["num_function_evaluations"] == [3] * 20
    speed = report.rows[1].speed
    assert (speed.num_batches, speed.batch_size) == (2, 8)
    assert speed.seconds == np.median([rows["batch_seconds"][0], rows["batch_seconds"][8]])


def test_sampling_settings_reach_generate(make, world, count_generations):
    options = {"temperature": 0.7, "final_temperature": 0.0, "top_k": 5, "top_p": 0.9, "time_shift": 2.0}
    options |= {"min_step_size": 0.75, "spread_candidates": True}
    evaluate_models(make(models=[str(world.fsdfm)], steps=(2,), solvers=("euler",), seeds=(0,), length=12, **options))
    for call in count_generations:
        assert {name: call[name] for name in options} == options
        assert (call["solver"], call["num_steps"], call["max_new_tokens"]) == ("euler", 2, 12)


def test_a_model_without_step_sizes_samples_as_without_the_smallest_one(make, world, count_generations):
    models = [str(world.fsdfm), str(world.dfm)]
    evaluate_models(make(models=models, steps=(2,), seeds=(0,), min_step_size=0.75))
    assert {call.get("min_step_size") for call in count_generations} == {0.75, None}


def test_a_report_says_how_each_checkpoint_is_sampled_from(make, world, tmp_path):
    shutil.copytree(world.fsdfm, tmp_path / "few")
    file = tmp_path / "few" / "generation_config.json"
    own = json.loads(file.read_text()) | {"top_p": 0.8, "spread_candidates": True, "temperature": 0.9}
    file.write_text(json.dumps(own))
    models = [str(tmp_path / "few"), str(world.dfm)]
    about = evaluate_models(make(models=models, steps=(1,), seeds=(0,), temperature=0.7)).about
    assert about["sampling"] == {"temperature": 0.7}
    assert f"{tmp_path / 'few'}, top_p=0.8, spread_candidates=True, fingerprint" in about["models"]["few"]
    assert f"DFM, {world.dfm}, fingerprint" in about["models"]["dfm"]


def test_files_can_be_read_with_datasets(make, world, tmp_path):
    from datasets import Dataset

    evaluate_models(make(models=[str(world.fsdfm)], steps=(1,), seeds=(0,)))
    (file,) = sample_files(tmp_path / "out")
    rows = Dataset.from_parquet(str(file), cache_dir=str(tmp_path / "cache"))
    assert rows.column_names == list(read(file))
    assert rows[0]["text"] == read(file)["text"][0]


# ---- What is used again ----------------------------------------------------------------------------------------------


def test_a_second_run_samples_nothing_and_says_the_same(make, tmp_path, count_generations):
    evaluate_models(make())
    first = {name: (tmp_path / "out" / name).read_bytes() for name in ("report.md", "scores.jsonl")}
    count_generations.clear()
    evaluate_models(make())
    assert not count_generations
    assert {name: (tmp_path / "out" / name).read_bytes() for name in first} == first


def test_more_steps_seeds_and_models_add_only_what_is_missing(make, world, tmp_path, count_generations):
    evaluate_models(make(models=[str(world.fsdfm)], steps=(1,), seeds=(0, 1)))
    before = {file: file.stat().st_mtime_ns for file in sample_files(tmp_path / "out")}
    count_generations.clear()
    evaluate_models(make(models=[str(world.fsdfm)], steps=(1, 2), seeds=(0, 1)))
    assert {call["num_steps"] for call in count_generations} == {2}
    assert all(file.stat().st_mtime_ns == time for file, time in before.items())
    assert len(sample_files(tmp_path / "out")) == 4


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 0.5},
        {"final_temperature": 0.0},
        {"top_k": 3},
        {"top_p": 0.5},
        {"time_shift": 3.0},
        {"min_step_size": 0.75},
        {"spread_candidates": True},
        {"length": 10},
        {"num_samples": 21},
        {"batch_size": 7},
        {"dtype": "bfloat16"},
    ],
)
def test_a_changed_setting_never_takes_old_samples_and_never_removes_them(make, world, tmp_path, changes, caplog):
    base = {"models": [str(world.fsdfm)], "steps": (2,), "seeds": (0,)}
    evaluate_models(make(**base))
    (old,) = sample_files(tmp_path / "out")
    content = old.read_bytes()
    (name,) = changes
    with pytest.raises(FileNotFoundError, match=rf"no samples of .*; there are samples of other settings \(.*{name}"):
        evaluate_models(make(**base, **changes), sample=False)
    evaluate_models(make(**base, **changes))
    assert f"samples of other settings ({name}" in caplog.text
    assert len(sample_files(tmp_path / "out")) == 2
    assert old.read_bytes() == content
    caplog.clear()
    evaluate_models(make(**base), sample=False)  # the old ones are used again
    assert not caplog.text


def test_other_weights_in_the_same_folder_are_another_model(make, world, tmp_path, count_generations):
    folder = tmp_path / "model"
    shutil.copytree(world.fsdfm, folder)
    base = {"models": [str(folder)], "steps": (2,), "seeds": (0,)}
    evaluate_models(make(**base))
    model = FSDFMForDiffusionLM.from_pretrained(folder)
    model.lm_head.bias.data[0] += 1
    model.save_pretrained(folder)
    count_generations.clear()
    evaluate_models(make(**base))
    assert count_generations
    assert len(sample_files(tmp_path / "out")) == 2


def test_other_prompts_are_sampled_anew_only_where_there_are_prompts(make, world, tmp_path, count_generations):
    base = {"models": [str(world.fsdfm)], "steps": (2,), "seeds": (0,), "modes": ("unconditional", "prefix-25")}
    evaluate_models(make(**base))
    count_generations.clear()
    text = tmp_path / "other.txt"
    text.write_text(world.reference.read_text(encoding="utf-8").replace("dog", "cow"), encoding="utf-8")
    evaluate_models(make(**base, reference=[str(text)]))
    assert {call["input_ids"].shape[1] for call in count_generations} == {4}


def test_scoring_can_be_repeated_with_other_scorers_without_sampling(make, world, tmp_path, count_generations):
    base = {"models": [str(world.fsdfm)], "steps": (1,), "seeds": (0,), "metrics": ("generative_perplexity",)}
    first = evaluate_models(make(**base))
    count_generations.clear()
    second = evaluate_models(make(**base, scorers=[f"first={world.scorer}", f"second={world.scorer}"]), sample=False)
    assert not count_generations
    assert second.rows[1].values["perplexity[second]"] == first.rows[1].values["perplexity[scorer]"]


def test_scores_are_computed_once(make, monkeypatch):
    evaluate_models(make())

    def fail(*args):
        raise AssertionError("scored again")

    monkeypatch.setattr(Judge, "compute", fail)
    evaluate_models(make())
    with pytest.raises(AssertionError, match="scored again"):
        evaluate_models(make(metrics=(*CHEAP, "generative_perplexity")))


def test_with_the_training_text_there_is_a_column_of_what_was_memorized(make, world, tmp_path, monkeypatch):
    unseen, copied = tmp_path / "unseen.txt", world.reference
    unseen.write_text("\n<|endoftext|>\n".join(f"{number} words of another text, " * 9 for number in range(5)))
    assert "memorized" not in evaluate_models(make()).rows[0].values
    report = evaluate_models(make(training_text=[str(unseen)]), sample=False)
    assert [row.values["memorized"].value for row in report.rows] == [0] * 5
    # Other training text: scored again. Blocks of 16 tokens hold the end of a document now and then.
    report = evaluate_models(make(training_text=[str(copied)]), sample=False)
    assert 0.5 < report.rows[0].values["memorized"].value <= 1
    assert report.rows[0].values["memorized"].low < 1
    assert report.rows[1].values["memorized"].value < 0.1
    computed = []
    monkeypatch.setattr(Judge, "compute", lambda *args: computed.append(args))
    evaluate_models(make(training_text=[str(copied)]), sample=False)
    assert not computed


def test_in_infilling_only_unbroken_runs_of_written_tokens_can_be_memorized(make, world):
    """Given tokens stand between them; 13 in a row are rare among 16 positions of which a tenth is given."""
    settings = make(training_text=[str(world.reference)], modes=("infill-10", "infill-50"), seeds=(0,), steps=(1,))
    real, _, _, half, *_ = evaluate_models(settings).rows
    assert 0.3 < real.values["memorized"].value <= 1
    assert "memorized" not in half.values


def test_training_text_that_is_missing_or_too_short_is_refused(refused, tmp_path):
    short = tmp_path / "short.txt"
    short.write_text("a b")
    message = refused(FileNotFoundError, training_text=[str(tmp_path / "nowhere.txt")])
    assert "`training_text`" in message
    assert "nowhere.txt" in message
    table = tmp_path / "table.csv"
    table.write_text("story\na long story\n")
    assert "table.csv has no column text, but ['story']" in refused(training_text=[str(table)])
    assert "`training_text` has no document of `n` = 13 tokens" in refused(training_text=[str(short)])


# ---- What a killed run loses -----------------------------------------------------------------------------------------


def test_an_interrupted_run_goes_on_where_it_was_and_ends_the_same(make, tmp_path, monkeypatch):
    evaluate_models(make(out=tmp_path / "whole"))
    generate, calls = FSDFMForDiffusionLM.generate, []

    def interrupt_in_the_third_run(self, *args, **kwargs):
        calls.append(0)
        if len(calls) == 9:  # a warm-up and three batches a run: in the middle of the third
            raise KeyboardInterrupt
        return generate(self, *args, **kwargs)

    monkeypatch.setattr(FSDFMForDiffusionLM, "generate", interrupt_in_the_third_run)
    with pytest.raises(KeyboardInterrupt):
        evaluate_models(make())
    assert len(sample_files(tmp_path / "out")) == 2
    assert not list((tmp_path / "out").rglob("*.unfinished"))
    monkeypatch.undo()
    before = {file: file.stat().st_mtime_ns for file in sample_files(tmp_path / "out")}
    evaluate_models(make())
    assert all(file.stat().st_mtime_ns == time for file, time in before.items())
    whole, resumed = (sample_files(tmp_path / name) for name in ("whole", "out"))
    assert [file.name for file in whole] == [file.name for file in resumed]
    assert [without_seconds(file) for file in whole] == [without_seconds(file) for file in resumed]


def test_scoring_that_was_interrupted_goes_on_where_it_was(make, tmp_path, monkeypatch):
    compute, done = Judge.compute, []

    def interrupt(self, job, *args):
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(job)
        return compute(self, job, *args)

    monkeypatch.setattr(Judge, "compute", interrupt)
    with pytest.raises(KeyboardInterrupt):
        evaluate_models(make())
    assert len(list((tmp_path / "out" / "scores").rglob("*.json"))) == 5
    assert not (tmp_path / "out" / "report.md").exists()
    done.clear()
    monkeypatch.setattr(Judge, "compute", lambda self, job, *args: done.append(job) or compute(self, job, *args))
    evaluate_models(make())
    assert len(done) == (8 + 1) * len(CHEAP) - 5  # eight runs and the real text


def test_bars_count_sequences_and_scores_where_they_are_wanted(make, capsys):
    evaluate_models(make(), progress="bars")
    bars = capsys.readouterr().err
    assert "Sampling: 100%" in bars
    assert "160/160" in bars
    assert "Scoring: 100%" in bars
    evaluate_models(make(temperature=0.9))
    assert "Sampling" not in capsys.readouterr().err


def test_lines_say_what_was_done_and_how_long_it_took(make, capsys):
    evaluate_models(make(), progress="lines")
    lines = capsys.readouterr().err.splitlines()
    sampling = [line for line in lines if line.startswith("Sampling")]
    assert len(sampling) == 8
    assert re.fullmatch(
        r"Sampling 1/8: dfm, unconditional, cumulative_scalar, 1 step, seed 0, \d+\.\d s", sampling[0]
    ), sampling
    assert "fsdfm, unconditional, cumulative_scalar, 3 steps, seed 1" in sampling[-1]
    assert re.match(r"Scoring 18/18: \w+ of .*, \d+\.\d s", lines[-1]), lines
    evaluate_models(make(), progress="lines")
    assert capsys.readouterr().err.splitlines() == ["Sampled before: 8 of 8 files"]  # there was nothing left to do


def test_lines_of_short_work_come_now_and_then(capsys, monkeypatch):
    now = 0.0
    monkeypatch.setattr("transformers_fsdfm.evaluation.progress.time.monotonic", lambda: now)
    with Progress("Scoring", 7, "lines", seconds_between_lines=10) as progress:
        for number in range(7):
            now += 4
            progress.advance(f"file {number}")
    assert capsys.readouterr().err.splitlines() == [
        "Scoring 3/7: file 2, 4.0 s",
        "Scoring 6/7: file 5, 4.0 s",
        "Scoring 7/7: file 6, 4.0 s",
    ]


def test_there_is_progress_in_the_bounds_too(make, capsys):
    evaluate_models(make(metrics=("likelihood_bound",)), progress="lines")
    assert "Scoring 2/2: likelihood_bound of dfm, " in capsys.readouterr().err


def test_an_unknown_kind_of_progress_is_refused(make):
    with pytest.raises(ValueError, match="`progress` must be one of bars, lines or None, but got True"):
        evaluate_models(make(), progress=True)


@pytest.mark.slow
def test_a_killed_process_leaves_no_half_file(make, world, tmp_path):
    script = f"""
import os, signal
import pyarrow.parquet as parquet
from transformers_fsdfm.evaluation import EvaluationSettings, evaluate_models

write_table, files = parquet.write_table, []

def die_in_the_second_file(table, where):
    files.append(where)
    if len(files) == 2:
        where.write_bytes(b"PAR1 half of it")
        os.kill(os.getpid(), signal.SIGKILL)
    write_table(table, where)

parquet.write_table = die_in_the_second_file
evaluate_models(EvaluationSettings(
    models=[{str(world.fsdfm)!r}], reference=[{str(world.reference)!r}], scorers=[], out={str(tmp_path / "out")!r},
    steps=(1, 3), seeds=(0, 1), num_samples=20, batch_size=8, num_resamples=100, metrics={CHEAP!r}, device="cpu",
))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=os.environ)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(sample_files(tmp_path / "out")) == 1
    assert len(list((tmp_path / "out").rglob("*.unfinished"))) == 1
    evaluate_models(make(models=[str(world.fsdfm)], scorers=[]))
    assert len(sample_files(tmp_path / "out")) == 4
    assert not list((tmp_path / "out").rglob("*.unfinished"))
    assert all(len(read(file)["text"]) == 20 for file in sample_files(tmp_path / "out"))


def test_two_evaluations_do_not_share_a_folder_at_the_same_time(make, tmp_path):
    from filelock import FileLock

    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"), pytest.raises(ValueError, match="in use by another evaluation"):
        evaluate_models(make())


# ---- Many processes --------------------------------------------------------------------------------------------------


class State:
    """What `_share` asks of Accelerate."""

    def __init__(self, process_index: int, num_processes: int) -> None:
        self.process_index, self.num_processes = process_index, num_processes


@pytest.mark.parametrize("processes", [1, 2, 3, 20])
def test_processes_share_the_work_without_gap_or_overlap_and_evenly(processes):
    costs = [1024, 1024, 512, 8, 4, 2, 1, 1024, 512, 16]
    items = list(enumerate(costs))
    shares = [run_module._share(items, lambda item: item[1], State(rank, processes)) for rank in range(processes)]
    assert sorted(item for share in shares for item in share) == items
    loads = [sum(cost for _, cost in share) for share in shares]
    assert max(loads) - min(loads) <= 1024


@pytest.mark.slow
def test_two_processes_write_the_same_report_as_one(make, world, tmp_path):
    metrics = (*CHEAP, "generative_perplexity")
    evaluate_models(make(out=tmp_path / "one", metrics=metrics))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "transformers_fsdfm.evaluation"]  # Accelerate starts many on CPUs only with MPI
    command += [world.fsdfm, world.dfm, "--reference", world.reference, "--scorer", world.scorer]
    command += ["--out", tmp_path / "two", "--steps", "1,3", "--seeds", "0,1", "--num-samples", "20"]
    command += ["--batch-size", "8", "--num-resamples", "100", "--metrics", ",".join(metrics), "--device", "cpu"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Wrote") == 1
    one, two = (sample_files(tmp_path / name) for name in ("one", "two"))
    assert [file.name for file in one] == [file.name for file in two]
    assert [without_seconds(file) for file in one] == [without_seconds(file) for file in two]
    rows = [
        [json.loads(line) for line in (tmp_path / name / "scores.jsonl").read_text().splitlines()[1:]]
        for name in ("one", "two")
    ]
    measured = [[one.get("measures") or one["verdict"] for one in records] for records in rows]
    assert measured[0] == measured[1]
    assert {one["speed"]["num_processes"] for one in rows[1] if one.get("speed")} == {2}


# ---- Bad input -------------------------------------------------------------------------------------------------------


@pytest.fixture
def refused(make, tmp_path, monkeypatch):
    """Runs an evaluation that must be refused before anything is sampled -> the error's message."""

    def fail(*args, **kwargs):
        raise AssertionError("has begun to sample")

    monkeypatch.setattr(FSDFMForDiffusionLM, "generate", fail)

    def refused(kind: type[Exception] = ValueError, **changes) -> str:
        with pytest.raises(kind) as error:
            evaluate_models(make(**changes))
        assert not sample_files(tmp_path / "out")
        return str(error.value)

    return refused


def test_models_that_do_not_exist_or_fit_are_refused(refused, world, tmp_path):
    assert re.search("is no folder, and no Hub id.*; those of this package are .*fsdfm", refused(models=["nowhere"]))
    assert "is a gpt2 model, not a DFM or FS-DFM: other models are `scorers`" in refused(models=[str(world.scorer)])


def test_a_model_without_tokenizer_or_with_another_one_is_refused(refused, world, tmp_path):
    from transformers_fsdfm.trainer.tokenizer import train_tokenizer

    tiny_model().save_pretrained(tmp_path / "bare")
    assert "has no tokenizer beside its weights" in refused(models=[str(tmp_path / "bare")])
    train_tokenizer(["other words"] * 9, vocab_size=262, save_directory=tmp_path / "bare")
    assert "have different tokenizers" in refused(models=[str(world.fsdfm), str(tmp_path / "bare")])


def test_weights_that_do_not_fit_are_refused(make, world, tmp_path):
    shutil.copytree(world.fsdfm, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(ValueError, match=r"its weights do not fit its config\.json"):
        evaluate_models(make(models=[str(tmp_path / "model")]))


def test_scorers_that_cannot_be_loaded_are_refused(refused, world, tmp_path):
    metrics = ("generative_perplexity",)
    assert "`scorers`: model nowhere is no folder, and no Hub id" in refused(scorers=["nowhere"], metrics=metrics)
    assert "not a causal language model" in refused(scorers=[str(world.dfm)], metrics=metrics)
    shutil.copytree(world.scorer, tmp_path / "unknown")
    (tmp_path / "unknown" / "config.json").write_text('{"model_type": "unheard-of"}')
    assert "cannot be loaded as a causal language model" in refused(
        scorers=[str(tmp_path / "unknown")], metrics=metrics
    )


def test_a_truncated_file_of_weights_is_found_before_anything_is_sampled(refused, world, tmp_path):
    shutil.copytree(world.dfm, tmp_path / "broken")
    weights = tmp_path / "broken" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "model.safetensors is broken or incomplete" in refused(models=[str(world.fsdfm), str(tmp_path / "broken")])


def test_too_little_reference_text_is_refused(refused, world, tmp_path):
    assert "blocks of 16 tokens, fewer than `num_samples` (5000)" in refused(num_samples=5000)
    tokenizer = AutoTokenizer.from_pretrained(world.fsdfm)
    text = tokenizer.decode(tokenizer(world.reference.read_text(encoding="utf-8"))["input_ids"][: 30 * 16])
    (tmp_path / "short.txt").write_text(text, encoding="utf-8")
    assert "too few for MAUVE (best are 40, at least 20)" in refused(
        reference=[str(tmp_path / "short.txt")], metrics=("mauve",)
    )
    (tmp_path / "empty.txt").write_text("")
    assert "is empty" in refused(reference=[str(tmp_path / "empty.txt")])
    assert "`reference` 'missing.txt': no such file" in refused(FileNotFoundError, reference=["missing.txt"])
    assert "no such file" in refused(FileNotFoundError, reference=[str(tmp_path / "missing.txt")])


@pytest.mark.parametrize(("metric", "library"), [("mauve", "mauve"), ("diversity", "sacrebleu"), (None, "matplotlib")])
def test_missing_libraries_are_named_with_the_way_to_install_them(refused, monkeypatch, metric, library):
    find_spec = optional.importlib.util.find_spec
    monkeypatch.setattr(
        optional.importlib.util, "find_spec", lambda name, *args: None if name == library else find_spec(name, *args)
    )
    message = refused(ModuleNotFoundError, metrics=CHEAP if metric is None else (metric,))
    assert library in message
    assert 'pip install -c constraints.txt ".[eval]"' in message


def test_there_must_be_samples_to_score(make, monkeypatch):
    with pytest.raises(
        FileNotFoundError, match="no samples of unconditional--cumulative_scalar--1-steps--seed-0 by fsdfm"
    ):
        evaluate_models(make(), sample=False)


def test_devices_that_do_not_exist_are_refused(refused):
    assert "`device` abacus cannot be used" in refused(device="abacus")
    assert "`device` cuda:99 cannot be used" in refused(device="cuda:99")


def test_an_output_folder_that_is_a_file_is_refused(refused, tmp_path):
    (tmp_path / "file").write_text("")
    assert "is a file: give a folder" in refused(out=tmp_path / "file")


def test_samples_without_any_text_get_no_perplexity_and_no_error(make, world, tmp_path, monkeypatch):
    settings = make(models=[str(world.fsdfm)], steps=(1,), seeds=(0,), metrics=("generative_perplexity", *CHEAP))
    load = SampleStore.load

    def load_empty(self, run):
        samples = load(self, run)
        return type(samples)(**{**vars(samples), "texts": [type(one)("", ()) for one in samples.texts]})

    monkeypatch.setattr(SampleStore, "load", load_empty)
    report = evaluate_models(settings)
    assert "perplexity[scorer]" not in report.rows[1].values
    assert "perplexity[scorer]" in report.rows[0].values
