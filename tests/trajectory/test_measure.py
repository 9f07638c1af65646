# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The measurement against exact values on a chain of known law, and its files."""

import numpy as np
import pytest
import torch

from tests.conftest import generator, tiny_model
from transformers_fsdfm.trajectory import Cell, TrajectorySettings, measure_cell, measure_error_growth
from transformers_fsdfm.trajectory import measure as measure_module
from transformers_fsdfm.trajectory.measure import _draw_noisy_ids, times_from

from .toy import TableModel, exact_law, kl_divergence, marginals


CLEAN = torch.tensor([0, 0, 1])
SETTINGS = TrajectorySettings(steps=(1, 2, 4, 64), num_fine_steps=64, start_times=(0.0,), num_rollouts=500)
SMALL = TrajectorySettings(steps=(1, 2, 8), num_fine_steps=8, start_times=(0.0, 0.5), num_rollouts=4)


def exact_numbers(model, reference, cell, settings) -> tuple[torch.Tensor, torch.Tensor]:
    """Per position, `(steps, length)` each: KL over one step, and squared distance at the end."""
    start = _draw_noisy_ids(CLEAN, cell, settings, model.config)
    fine = times_from(cell.start_time, settings.num_fine_steps)
    at_end = marginals(reference, exact_law(reference, start, fine))
    divergence, distance = [], []
    for steps in settings.steps_from(cell.start_time):
        times = times_from(cell.start_time, steps)
        many = marginals(reference, exact_law(reference, start, fine[: settings.num_fine_steps // steps + 1]))
        divergence.append(kl_divergence(many, marginals(model, exact_law(model, start, times[:2]))))
        distance.append((at_end - marginals(model, exact_law(model, start, times))).square().sum(-1))
    return torch.stack(divergence), torch.stack(distance)


@pytest.mark.parametrize("sharpness", [1.0, 2.0])
@pytest.mark.parametrize("start_time", [0.0, 0.5])
def test_the_estimates_agree_with_the_exact_values_of_a_known_chain(start_time, sharpness):
    model, reference, cell = TableModel(sharpness=sharpness), TableModel(), Cell(3, start_time, 0)
    result = measure_cell(model, reference, CLEAN, cell, SETTINGS)
    assert result["steps"].tolist() == SETTINGS.steps_from(start_time)
    divergence, distance = exact_numbers(model, reference, cell, SETTINGS)
    lower, upper = torch.tensor(result["local_lower"]), torch.tensor(result["local_upper"])
    assert (lower < divergence + 0.035).all()
    assert (upper > divergence - 0.035).all()
    assert (upper - lower).max() < 0.06
    assert (torch.tensor(result["distance"]) - distance).abs().max() < 0.06
    if sharpness == 2:  # a wrong model is found out however many steps it takes
        assert distance.mean() > 0.02
        assert result["distance"].mean() > 0.015


@pytest.fixture(scope="module")
def result() -> dict[str, np.ndarray]:
    """The chain's own few steps against its many."""
    return measure_cell(TableModel(), TableModel(), CLEAN, Cell(3, 0.0, 0), SETTINGS)


def test_a_process_does_not_diverge_from_itself(result):
    assert result["steps"][-1] == SETTINGS.num_fine_steps
    assert (result["differs"][-1] == 0).all()
    assert abs(result["distance"][-1]).max() < 1e-12
    assert (result["over_time_64"][:, 1] == 0).all()
    assert abs(result["local_lower"][-1]).max() < 0.02
    assert (result["differs"][0] > 0).all()


def test_the_floor_is_that_of_independent_runs(result):
    model = TableModel()
    start = _draw_noisy_ids(CLEAN, Cell(3, 0.0, 0), SETTINGS, model.config)
    law = marginals(model, exact_law(model, start, times_from(0.0, 64)))
    assert result["floor"] == pytest.approx((1 - (law**2).sum(-1)).numpy(), abs=0.03)
    assert (result["differs"][1:] < result["floor"]).all()


def test_differences_over_time_end_with_those_of_the_final_tokens(result):
    for index, steps in enumerate(SETTINGS.steps):
        over_time = result[f"over_time_{steps}"]
        assert over_time[:, 0].tolist() == [step / steps for step in range(1, steps + 1)]
        assert over_time[-1, 1] == pytest.approx(result["differs"][index].mean())


def test_the_moments_of_long_runs_are_thinned_out():
    settings = TrajectorySettings(steps=(128,), num_fine_steps=256, start_times=(0.0,), num_rollouts=2)
    result = measure_cell(TableModel(), TableModel(), CLEAN, Cell(3, 0.0, 0), settings)
    assert len(result["over_time_128"]) == 64
    assert result["over_time_128"][-1, 0] == 1


def test_batches_change_no_number():
    whole, split = (
        measure_cell(
            TableModel(), TableModel(), CLEAN, Cell(3, 0.0, 0), TrajectorySettings(**SMALL_AS_DICT, batch_size=size)
        )
        for size in (64, 3)
    )
    for name in whole:
        np.testing.assert_allclose(whole[name], split[name], rtol=1e-6, err_msg=name)


SMALL_AS_DICT = {"steps": (1, 2, 8), "num_fine_steps": 8, "start_times": (0.0, 0.5), "num_rollouts": 4}


@pytest.mark.parametrize("source", ["uniform", "mask"])
def test_real_models_are_measured(source):
    options = {"source_distribution": source, "mask_token_id": 60}
    model = tiny_model(**options)
    reference = tiny_model(seed=1, step_size_conditioning=False, **options)
    clean = torch.randint(60, (16,), generator=generator(0))
    for start_time in (0.0, 0.5):
        result = measure_cell(model, reference, clean, Cell(16, start_time, 0), SMALL)
        for name, values in result.items():
            assert np.isfinite(values).all(), name
        assert result["local_upper"].shape == (len(result["steps"]), 16)
        assert (result["local_upper"] + 1e-9 >= 0).mean() > 0.5


def texts(count: int = 2) -> dict[int, torch.Tensor]:
    return {8: torch.randint(60, (count, 8), generator=generator(0))}


def measure(out, model=None, settings=SMALL, **options):
    return measure_error_growth(
        model or tiny_model(), options.pop("texts", texts()), out, settings, progress_bar=False, **options
    )


def test_a_stopped_run_goes_on_where_it_was(tmp_path, monkeypatch):
    whole = measure(tmp_path / "whole")
    honest, calls = measure_module.measure_cell, []

    def killed_in_the_third(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return honest(*arguments)

    monkeypatch.setattr(measure_module, "measure_cell", killed_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        measure(tmp_path / "stopped")
    assert len(list((tmp_path / "stopped" / "cells").glob("*.npz"))) == 2
    (tmp_path / "stopped" / "cells" / "rest.unfinished").write_bytes(b"half")
    resumed = measure(tmp_path / "stopped")
    assert len(calls) == 3 + 2
    assert list(resumed) == list(whole)
    for cell, arrays in whole.items():
        for name, values in arrays.items():
            np.testing.assert_array_equal(values, resumed[cell][name])


def test_more_texts_and_start_times_use_what_is_there(tmp_path, monkeypatch):
    few = measure(
        tmp_path, settings=TrajectorySettings(**{**SMALL_AS_DICT, "start_times": (0.0,)}), texts={8: texts()[8][:1]}
    )
    calls = []
    honest = measure_module.measure_cell
    monkeypatch.setattr(measure_module, "measure_cell", lambda *args: calls.append(1) or honest(*args))
    more = measure(tmp_path)
    assert len(calls) == len(more) - len(few) == 3


def test_another_text_in_the_same_place_is_measured_anew(tmp_path):
    first = measure(tmp_path)
    other = measure(tmp_path, texts={8: texts()[8].flip(0)})
    from_noise, from_text = Cell(8, 0.0, 0), Cell(8, 0.5, 0)
    assert (first[from_noise]["local_upper"] == other[from_noise]["local_upper"]).all()  # t = 0 knows no text
    assert (first[from_text]["local_upper"] != other[from_text]["local_upper"]).any()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"settings": TrajectorySettings(**{**SMALL_AS_DICT, "seed": 1})}, "seed"),
        ({"settings": TrajectorySettings(**{**SMALL_AS_DICT, "num_rollouts": 5})}, "num_rollouts"),
        ({"model": tiny_model(seed=3)}, "model, reference"),
        ({"reference": tiny_model(seed=4)}, "reference"),
    ],
)
def test_measurements_of_other_settings_are_never_mixed_in(tmp_path, change, named):
    measure(tmp_path, texts={8: texts()[8][:1]})
    with pytest.raises(ValueError, match=f"holds measurements with another {named}: give another folder"):
        measure(tmp_path, **change)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": (3,)}, r"`steps` must divide `num_fine_steps` \(8\), but got 3"),
        ({"steps": (0,)}, "`steps` must divide"),
        ({"steps": ()}, "`steps` must be at least one number"),
        ({"steps": (2, 2)}, "`steps` must be at least one number, each given once"),
        ({"start_times": (1.0,)}, "`start_times` must be multiples of 1/8"),
        ({"start_times": (0.3,)}, "`start_times` must be multiples of 1/8"),
        ({"start_times": (0.125,), "steps": (1, 2)}, "makes 0.125 S an integer"),
        ({"num_rollouts": 1}, "`num_rollouts` must be at least 2"),
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
        ({"solver": "heun"}, "`solver` must be one of"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        TrajectorySettings(**{**SMALL_AS_DICT, **settings})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": {}}, "`texts` must have at least one length"),
        ({"texts": {33: torch.zeros(1, 33, dtype=torch.long)}}, r"length 33 must be in \[1, 32\]"),
        ({"texts": {8: torch.zeros(1, 9, dtype=torch.long)}}, r"must have the shape \(texts, 8\)"),
        ({"texts": {8: torch.zeros(0, 8, dtype=torch.long)}}, r"must have the shape \(texts, 8\)"),
        ({"texts": {8: torch.full((1, 8), 60)}}, r"must be tokens of the model, in \[0, 60\)"),
        (
            {"reference": tiny_model(vocab_size=50, mask_token_id=50)},
            "must have the same `vocab_size`, but have 60 and 50",
        ),
    ],
)
def test_texts_and_models_that_do_not_fit_are_named(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        measure(tmp_path, **arguments)
    assert not (tmp_path / "cells").exists()
