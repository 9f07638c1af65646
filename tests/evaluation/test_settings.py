# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Settings: what they mean, and that nonsense is refused."""

import numpy as np
import pytest

from transformers_fsdfm.evaluation.settings import Cell, EvaluationSettings, Mode


def settings(**changes) -> EvaluationSettings:
    given = {"models": ["few=a", "many=b"], "reference": ["text.txt"], "scorers": ["gpt2"], "out": "out"}
    return EvaluationSettings(**{**given, "steps": (1, 8), **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"models": []}, "`models` must not be empty"),
        ({"models": "a"}, "`models` must be a list"),
        ({"models": ["x/m", "y/m"]}, "two are called 'm'"),
        ({"models": ["a b"]}, "can't be a name"),
        ({"reference": []}, "`reference` must not be empty"),
        ({"scorers": []}, "`scorers` must not be empty"),
        ({"steps": (1, 2, 1)}, "`steps` repeat 1"),
        ({"steps": (0,)}, "`steps` must be at least 1"),
        ({"seeds": (0, 1, 0)}, "`seeds` repeat 0"),
        ({"seeds": ()}, "`seeds` must not be empty"),
        ({"seeds": (-1,)}, "`seeds` must be at least 0"),
        ({"solvers": ("heun",)}, "'heun' is unknown; known are cumulative_scalar"),
        ({"modes": ("prefix",)}, "mode 'prefix' is unknown: give unconditional, prefix-P"),
        ({"modes": ("infill-0",)}, "mode 'infill-0' is unknown"),
        ({"modes": ("infill-100",)}, "mode 'infill-100' is unknown"),
        ({"metrics": ("bleu",)}, "'bleu' is unknown; known are generative_perplexity"),
        ({"metrics": ("memorization",)}, "it has a column if there is a `training_text`"),
        ({"training_text": ["a", "a"]}, "`training_text` repeat a"),
        ({"num_samples": 0}, "`num_samples` must be at least 1"),
        ({"num_samples": 19}, "`num_samples` must be at least 20 for the bootstrap, but got 19"),
        ({"length": 1}, "`length` must be at least 2"),
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
        ({"equivalence_margin": 0.0}, "`equivalence_margin` must be a number > 0"),
        ({"confidence": 1.0}, r"`confidence` must be in \(0.5, 1\)"),
        ({"mauve_pieces": 0}, "`mauve_pieces` must be at least 1"),
        ({"num_resamples": 10}, "`num_resamples` must be at least 100"),
        ({"dtype": "int8"}, "'int8' is unknown; known are float32"),
        ({"compare": [("few@8", "many")]}, "takes MODEL@STEPS or MODEL@STEPS@SOLVER, but got 'many'"),
        ({"compare": [("few@8", "most@8")]}, "'most' is not among the `models`: few, many"),
        ({"compare": [("few@8", "many@0")]}, "`compare` must be at least 1"),
        ({"compare": [("few@8@euler", "many@8")]}, "'euler' is not among the `solvers`: cumulative_scalar"),
        ({"compare": [("few@8", "few@8")]}, "a cell against itself"),
    ],
)
def test_bad_settings_are_named(changes, words):
    with pytest.raises(ValueError, match=words):
        settings(**changes)


def test_scorers_are_needed_only_by_metrics_that_ask_one():
    assert settings(scorers=[], metrics=("token_entropy", "repetition")).scorer_paths == {}


def test_names_are_those_given_or_of_the_folder(tmp_path):
    (tmp_path / "my-model").mkdir()
    found = settings(models=[f"{tmp_path}/my-model/", "name=some/path", "org/hub-model"]).model_paths
    assert found == {"my-model": f"{tmp_path}/my-model/", "name": "some/path", "hub-model": "org/hub-model"}


def test_cells_are_the_whole_grid_in_the_order_of_the_table():
    cells = settings(solvers=("euler", "posterior"), modes=("unconditional", "prefix-25"), steps=(8, 1)).cells()
    assert len(cells) == 2 * 2 * 2 * 2
    assert cells[0] == Cell("unconditional", "few", "euler", 1)
    assert cells[-1] == Cell("prefix-25", "many", "posterior", 8)


def test_steps_that_are_only_compared_are_sampled_for_that_model_alone():
    asked = settings(models=["few", "many"], solvers=("euler", "posterior"), compare=[("few@8", "many@64@euler")])
    extra = [cell for cell in asked.cells() if cell.num_steps not in asked.steps]
    assert extra == [Cell("unconditional", "many", "euler", 64)]
    assert [cell.num_steps for cell in asked.cells() if cell.model == "many" and cell.solver == "euler"] == [1, 8, 64]
    assert {pair.second for pair in asked.pairs()} == set(extra)


def test_runs_are_cells_under_each_seed():
    assert len(settings().runs()) == len(settings().cells()) * 3


def test_by_default_two_models_meet_at_equal_steps_and_at_the_most_steps_of_the_second():
    pairs = [(pair.first.num_steps, pair.second.num_steps) for pair in settings().pairs()]
    assert pairs == [(1, 1), (1, 8), (8, 8)]
    assert settings(models=["a"]).pairs() == []


def test_pairs_that_are_asked_for_are_compared_in_every_mode():
    pairs = settings(modes=("unconditional", "infill-50"), compare=[("few@1", "few@8")]).pairs()
    assert [(pair.first.mode, pair.first.num_steps, pair.second.num_steps) for pair in pairs] == [
        ("unconditional", 1, 8),
        ("infill-50", 1, 8),
    ]
    both = settings(solvers=("euler", "posterior"), compare=[("few@8@euler", "few@8@posterior")]).pairs()
    assert [(pair.first.solver, pair.second.solver) for pair in both] == [("euler", "posterior")]


# ---- Modes -----------------------------------------------------------------------------------------------------------


def test_unconditional_writes_everything():
    assert Mode.parse("unconditional").editable_mask(3, 10).all()


def test_a_prefix_is_given_from_the_left():
    mask = Mode.parse("prefix-25").editable_mask(2, 8)
    assert mask.tolist() == [[False] * 2 + [True] * 6] * 2


def test_infilling_keeps_exactly_its_share_at_random_places():
    mask = Mode.parse("infill-25").editable_mask(200, 40)
    assert ((~mask).sum(-1) == 10).all()
    assert len({row.tobytes() for row in mask}) == 200
    assert np.abs((~mask).mean(0) - 0.25).max() < 5 * np.sqrt(0.25 * 0.75 / 200)


def test_a_row_is_masked_the_same_whatever_the_number_of_rows():
    mode = Mode.parse("infill-50")
    assert (mode.editable_mask(5, 16) == mode.editable_mask(50, 16)[:5]).all()


@pytest.mark.parametrize(("name", "length", "given"), [("prefix-1", 10, 1), ("prefix-99", 10, 9), ("infill-50", 2, 1)])
def test_something_is_given_and_something_is_left_to_write(name, length, given):
    assert Mode.parse(name).num_given(length) == given
