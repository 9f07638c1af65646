# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Means, errors, files and plots of the measurements."""

import json
import sys

import numpy as np
import pytest

from transformers_fsdfm.trajectory import Cell, draw_plots, summarize, write_report


LENGTH, STEPS = 64, [1, 4]
PLOTS = {
    "local_divergence_by_step_size",
    "local_divergence_by_position",
    "final_distance_by_steps",
    "final_distance_by_position",
    "final_distance_by_length",
    "differing_positions_by_position",
    "differing_positions_by_steps",
    "differing_positions_over_time",
    "differing_positions_by_length",
}


def measured(level: float, length: int = LENGTH) -> dict[str, np.ndarray]:
    """Numbers of one text: a KL divergence that grows with the position, from `level`."""
    curve = level + np.arange(length) / length
    both = np.stack([curve, curve / 2])
    return {
        "steps": np.array(STEPS),
        "floor": np.full(length, 0.9),
        "local_lower": both,
        "local_upper": both + 0.5,
        "distance": 2 * both,
        "differs": np.stack([np.full(length, level), np.full(length, level / 2)]),
        "over_time_1": np.array([[1.0, level]]),
        "over_time_4": np.array([[0.25, 0.0], [0.5, level / 4], [0.75, level / 4], [1.0, level / 2]]),
    }


RESULTS = {Cell(LENGTH, 0.0, 0): measured(0.2), Cell(LENGTH, 0.0, 1): measured(0.4)}


def test_means_are_over_texts_with_their_standard_error():
    first, second = summarize(RESULTS)["by_steps"]
    assert (first["length"], first["start_time"], first["num_steps"], first["num_texts"]) == (LENGTH, 0.0, 1, 2)
    assert first["differing_share"] == pytest.approx(0.3)
    assert first["differing_share_se"] == pytest.approx(0.1)  # (0.4 - 0.2) / 2
    assert first["differing_positions"] == pytest.approx(0.3 * LENGTH)
    assert first["local_kl_lower"] == pytest.approx(0.3 + 0.5 * (LENGTH - 1) / LENGTH)
    assert first["squared_distance"] == pytest.approx(2 * first["local_kl_lower"])
    assert second["local_kl_upper"] == pytest.approx(first["local_kl_lower"] / 2 + 0.5)
    assert first["floor_share"] == pytest.approx(0.9)


def test_a_single_text_has_no_standard_error():
    (row, _) = summarize({Cell(LENGTH, 0.0, 0): measured(0.2)})["by_steps"]
    assert row["differing_share_se"] is None


def test_stretches_of_positions_cover_the_text():
    rows = [row for row in summarize(RESULTS)["by_position"] if row["num_steps"] == 1]
    assert len(rows) == 32
    assert [row["first"] for row in rows] == list(range(0, LENGTH, 2))
    assert [row["last"] for row in rows] == list(range(1, LENGTH, 2))
    assert rows[-1]["local_kl_lower"] - rows[0]["local_kl_lower"] == pytest.approx(62 / LENGTH)


def test_differences_over_time_are_means_at_each_moment():
    rows = [row for row in summarize(RESULTS)["over_time"] if row["num_steps"] == 4]
    assert [row["time"] for row in rows] == [0.25, 0.5, 0.75, 1.0]
    assert [row["differing_share"] for row in rows] == pytest.approx([0, 0.075, 0.075, 0.15])


def test_each_length_and_start_time_stands_by_itself():
    results = RESULTS | {Cell(LENGTH, 0.5, 0): measured(0.1), Cell(128, 0.0, 0): measured(0.1, 128)}
    rows = summarize(results)["by_steps"]
    assert [(row["length"], row["start_time"], row["num_texts"]) for row in rows[::2]] == [
        (LENGTH, 0.0, 2),
        (LENGTH, 0.5, 1),
        (128, 0.0, 1),
    ]


def test_the_report_is_json_and_a_plot_of_each(tmp_path):
    pytest.importorskip("matplotlib", reason="plots need matplotlib")
    results = RESULTS | {Cell(LENGTH, 0.5, 0): measured(0.1), Cell(128, 0.0, 0): measured(0.1, 128)}
    files = write_report(results, tmp_path / "new", {"model": "mine"})
    assert sorted(tmp_path.glob("new/*")) == sorted(files)
    assert {file.stem for file in files} == {*PLOTS, "trajectory"}
    assert {file.suffix for file in files} == {".json", ".png", ".svg"}
    assert all(file.stat().st_size > 1000 for file in files)
    assert (tmp_path / "new" / "final_distance_by_steps.svg").read_text(encoding="utf-8").startswith("<?xml")
    record = json.loads(files[0].read_text(encoding="utf-8"))
    assert record["about"] == {"model": "mine"}
    assert record["by_steps"] == summarize(results)["by_steps"]


def test_plots_draw_what_the_tables_say():
    pytest.importorskip("matplotlib", reason="plots need matplotlib")
    tables = summarize(RESULTS)
    axes = {name: figure.axes[0] for name, figure in draw_plots(tables)}
    upper, lower = axes["local_divergence_by_step_size"].lines
    assert upper.get_xdata().tolist() == [1, 1 / 4]
    assert upper.get_ydata().tolist() == [row["local_kl_upper"] for row in tables["by_steps"]]
    assert lower.get_ydata().tolist() == [row["local_kl_lower"] for row in tables["by_steps"]]
    distance = axes["final_distance_by_steps"].lines[0]
    assert distance.get_xdata().tolist() == [1, 4]
    assert distance.get_ydata().tolist() == [row["squared_distance"] for row in tables["by_steps"]]
    assert len(axes["final_distance_by_position"].lines[0].get_xdata()) == 32
    assert len(axes["differing_positions_by_position"].lines[0].get_xdata()) == 32
    coupled, floor = axes["differing_positions_by_steps"].lines[:2]
    assert coupled.get_ydata().tolist() == pytest.approx([0.3, 0.15])
    assert floor.get_ydata().tolist() == pytest.approx([0.9, 0.9])
    (over_time,) = axes["differing_positions_over_time"].lines  # a single step has no course
    assert over_time.get_xdata().tolist() == [0.25, 0.5, 0.75, 1.0]


def test_without_matplotlib_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'A plot needs matplotlib: pip install .* "\.\[eval\]"'):
        write_report(RESULTS, tmp_path)
