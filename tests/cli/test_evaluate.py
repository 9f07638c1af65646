# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""`fsdfm evaluate`."""

import json
import sys

import pytest

from tests.cli.conftest import last_line
from tests.evaluation.conftest import world  # noqa: F401  (a fixture)
from transformers_fsdfm import evaluation
from transformers_fsdfm.evaluation import EvaluationSettings


SMALL = ["--steps", "1,2", "--seeds", "0", "--num-samples", "20", "--num-resamples", "100", "--device", "cpu"]


@pytest.fixture
def arguments(world, tmp_path) -> list:  # noqa: F811
    models = [world.fsdfm, world.dfm]
    return ["evaluate", *models, "--reference", world.reference, "--scorer", world.scorer, "--out", tmp_path / "out"]


@pytest.fixture
def seen(monkeypatch) -> dict:
    """What reaches the library, which does nothing."""
    seen = {}

    def evaluate_models(settings, **options):
        seen.update(settings=settings, **options)

    monkeypatch.setattr(evaluation, "evaluate_models", evaluate_models, raising=False)
    return seen


def test_says_the_verdicts_and_where_the_report_is(run, arguments, tmp_path):
    code, out, error = run(*arguments, *SMALL, "--metrics", "generative_perplexity,token_entropy")
    assert code == 0, error
    lines = out.strip().splitlines()
    assert len(lines) == 3 + 1
    assert lines[0].startswith("unconditional: fsdfm, 1 steps, cumulative_scalar / dfm, 1 steps, cumulative_scalar: ")
    assert "perplexity, scorer: ratio " in lines[0]
    assert lines[-1] == f"Wrote {tmp_path / 'out' / 'report.md'}"
    assert (tmp_path / "out" / "report.md").is_file()


def test_json_is_the_records(run, arguments, tmp_path):
    code, out, error = run(*arguments, *SMALL, "--metrics", "repetition", "--json")
    assert code == 0, error
    result = json.loads(out)
    records = [json.loads(line) for line in (tmp_path / "out" / "scores.jsonl").read_text().splitlines()]
    assert result == {"out": str(tmp_path / "out"), "records": records}


def test_without_options_everything_is_the_default_of_the_library(run, arguments, seen, world, tmp_path):  # noqa: F811
    assert run(*arguments)[0] == 0
    expected = EvaluationSettings(
        models=[str(world.fsdfm), str(world.dfm)],
        reference=[str(world.reference)],
        scorers=[str(world.scorer)],
        out=tmp_path / "out",
    )
    assert seen["settings"].runs() == expected.runs()
    for name in ("metrics", "num_samples", "length", "batch_size", "compare", "equivalence_margin", "confidence"):
        assert getattr(seen["settings"], name) == getattr(expected, name), name
    for name in (
        "num_resamples",
        "mauve_pieces",
        "temperature",
        "final_temperature",
        "top_k",
        "top_p",
        "time_shift",
        "min_step_size",
        "spread_candidates",
        "device",
        "dtype",
    ):
        assert getattr(seen["settings"], name) == getattr(expected, name), name
    assert seen["sample"] is True


def test_the_trajectory_has_a_command_of_its_own(run):
    code, _, error = run("evaluate", "--trajectory")
    assert code == 2
    assert "fsdfm trajectory" in error


def test_options_reach_the_library(run, arguments, seen):
    options = ["--steps", "8", "--steps", "1,1024", "--solvers", "euler,cumulative-scalar"]
    options += ["--modes", "prefix-25, infill-50"]
    options += ["--seeds", "3,4", "--num_samples", "30", "--length", "100", "--batch_size", "5", "--metrics", "mauve"]
    options += ["--mauve_pieces", "4"]
    options += ["--compare", "fsdfm@8:dfm@1024", "--compare", "fsdfm@1@euler:fsdfm@1@cumulative_scalar"]
    options += ["--equivalence_margin", "0.1", "--confidence", "0.9", "--num_resamples", "500", "--temperature", "0.8"]
    options += [
        "--final_temperature",
        "0",
        "--top_k",
        "9",
        "--top_p",
        "0.7",
        "--time-shift",
        "2",
        "--min-step-size",
        "0.5",
        "--no-spread",
        "--no-sample",
        "--device",
        "cpu",
    ]
    options += ["--system", "llada=some/path", "--system-options", '{"block_length": 32}', "--baseline", "gpt2"]
    code, _, error = run(*arguments, *options, "--trust-remote-code", "--dtype", "bfloat16")
    assert code == 0, error
    own = seen["settings"]
    assert list(own.steps) == [8, 1, 1024]
    assert list(own.solvers) == ["euler", "cumulative_scalar"]
    assert list(own.modes) == ["prefix-25", "infill-50"]
    assert list(own.seeds) == [3, 4]
    assert (list(own.metrics), own.mauve_pieces) == (["mauve"], 4)
    assert [tuple(pair) for pair in own.compare] == [
        ("fsdfm@8", "dfm@1024"),
        ("fsdfm@1@euler", "fsdfm@1@cumulative_scalar"),
    ]
    assert (own.system_paths, own.baseline_paths) == ({"llada": "some/path"}, {"gpt2": "gpt2"})
    assert (own.system_options, own.trust_remote_code) == ({"block_length": 32}, True)
    assert (own.num_samples, own.length, own.batch_size, own.num_resamples) == (30, 100, 5, 500)
    assert (own.equivalence_margin, own.confidence) == (0.1, 0.9)
    assert (own.temperature, own.final_temperature, own.top_k, own.top_p) == (0.8, 0, 9, 0.7)
    assert (own.time_shift, own.min_step_size) == (2, 0.5)
    assert own.spread_candidates is False
    assert (own.device, own.dtype, seen["sample"]) == ("cpu", "bfloat16", False)


def test_numbers_may_stand_apart(run, arguments, seen):
    assert run(*arguments, "--steps", "1", "2", "4", "--seeds", "3", "4")[0] == 0
    assert (list(seen["settings"].steps), list(seen["settings"].seeds)) == ([1, 2, 4], [3, 4])
    assert len(seen["settings"].models) == 2


@pytest.mark.parametrize(
    ("options", "is_terminal", "style"),
    [([], True, "bars"), ([], False, "lines"), (["--json"], True, None), (["--json"], False, None)],
)
def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(
    run, arguments, seen, monkeypatch, options, is_terminal, style
):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    assert run(*arguments, *options)[0] == 0
    assert seen["progress"] == style


def test_help_says_when_a_scorer_is_required(run):
    help_text = " ".join(run("evaluate", "--help")[1].split())
    words = help_text[help_text.index("--scorer") : help_text.index("--system ")]
    assert "Required, unless --metrics leaves out generative_perplexity and mauve." in words


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.txt", None, "'none.txt': no such file"),
        ("empty.txt", "", "'empty.txt' is empty"),
        ("blank.txt", " \n", "'blank.txt' holds no text"),
        ("short.txt", "dog", "tokens, fewer than one block"),
        ("texts/none", None, "'texts/none' is no file or folder, and not taken for a Hub id"),
        ("some/texts", None, "'some/texts' is no file or folder, and no dataset id that can be reached"),
    ],
)
def test_real_text_that_is_none_is_called_by_its_option(
    run,
    world,  # noqa: F811
    tmp_path,
    monkeypatch,
    name,
    content,
    words,
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "texts").mkdir()
    if content is not None:
        (tmp_path / name).write_text(content)
    code, _, error = run("evaluate", world.fsdfm, "--reference", name, "--scorer", world.scorer, "--out", "out")
    assert (code, "--reference " in last_line(error), words in last_line(error)) == (1, True, True), error
    assert "source" not in last_line(error)


def test_a_mistyped_model_is_not_looked_for_on_the_hub(run, world, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("the Hub was asked"))
    monkeypatch.chdir(world.fsdfm.parent)
    options = ["--reference", world.reference, "--scorer", world.scorer, "--out", tmp_path]
    (tmp_path / "models").mkdir()
    for name in ("./fsdmf", "a/b/c", f"{tmp_path}/models/fsdmf"):
        code, _, error = run("evaluate", name, *options)
        assert (code, "is no folder, and no Hub id (organization/name)" in error) == (1, True), error


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        (["--steps", "1,two"], 2, "takes integers, as in 1,2,4, but got 1,two"),
        (["--system-options", "hot"], 2, "takes a JSON object, but got hot"),
        (["--seeds", "0,0"], 1, "--seeds repeat 0"),
        (["--modes", "suffix-25"], 1, "mode 'suffix-25' is unknown"),
        (["--solvers", "heun"], 1, "--solvers: 'heun' is unknown"),
        (["--metrics", "bleu"], 1, "--metrics: 'bleu' is unknown"),
        (["--num-samples", "3"], 1, "--num-samples must be at least 20 for the bootstrap, but got 3"),
        (["--equivalence-margin", "0"], 1, "--equivalence-margin must be a number > 0"),
        (["--compare", "fsdfm@1"], 2, "takes A:B, as in few@8:many@1024, but got fsdfm@1"),
        (["--compare", "fsdfm@1:other@1"], 1, "'other' is not among the MODEL"),
        (["--no-sample"], 1, "no samples of unconditional"),
    ],
)
def test_errors_speak_of_what_was_typed(run, arguments, changes, code, words):
    found, _, error = run(*arguments, "--metrics", "repetition", *changes)
    assert (found, words in last_line(error)) == (code, True), error


def test_a_scorer_is_asked_for_by_its_option(run, world, tmp_path):  # noqa: F811
    code, _, error = run("evaluate", world.fsdfm, "--reference", world.reference, "--out", tmp_path)
    assert (code, "--scorer must not be empty" in last_line(error)) == (1, True)
    assert "leave both out of --metrics" in last_line(error)
