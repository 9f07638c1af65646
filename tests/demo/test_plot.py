# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The plot of quality against steps."""

import base64
import json
import re
import xml.etree.ElementTree as ElementTree

import pytest

from tests.demo.test_fragments import Reader
from transformers_fsdfm.demo.plot import quality_plot


pytest.importorskip("matplotlib", reason="the plot needs matplotlib")

KEY = "perplexity[judge]"


def row(model, num_steps, value, low=None, high=None, mode="unconditional", solver="euler") -> dict:
    measures = {
        KEY: {"value": value, "low": low, "high": high},
        "distinct_1": {"value": 0.5, "low": None, "high": None},
    }
    return {"kind": "row", "mode": mode, "model": model, "solver": solver, "num_steps": num_steps, "measures": measures}


ROWS = [
    {"kind": "about", "confidence": 0.95},
    row("real text", None, 12.5, 12.0, 13.0, solver=None),
    row("DFM", 8, 200.0, 190.0, 210.0),
    row("DFM", 1, 9000.0, 8000.0, 9500.0),
    row("FS-DFM", 8, 30.0),
    row("FS-DFM", 1, 1234.5, 1200.0, 1230.0),  # an interval that does not hold the value
    row("FS-DFM", 4, 1.0, mode="prefix-25"),
    {"kind": "comparison", "mode": "unconditional"},
]


def write(path, content) -> None:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "evaluation.json"


def test_picture_has_a_line_for_each_model_and_says_what_is_on_its_axes(path):
    write(path, ROWS)
    reader = Reader(quality_plot(path))
    kind, data = reader.attributes["src"].split(",", 1)
    assert kind == "data:image/svg+xml;base64"
    svg = ElementTree.fromstring(base64.b64decode(data))
    texts = {element.text for element in svg.iter("{http://www.w3.org/2000/svg}text")}
    assert {"steps", "perplexity, judge", "DFM, euler", "FS-DFM, euler", "real text"} <= texts
    assert "judge" in reader.attributes["alt"]


def test_table_has_the_numbers_of_unconditional_samples(path):
    write(path, ROWS)
    text = Reader(quality_plot(path)).text
    assert "DFM, euler19,000.08,000.0 to 9,500.0" in text
    assert "FS-DFM, euler830.0real text" in text  # no interval
    assert "real text12.512.0 to 13.0" in text
    assert "prefix" not in text


def test_every_scorer_has_a_picture(path):
    rows = json.loads(json.dumps(ROWS))
    rows[2]["measures"]["perplexity[other]"] = {"value": 3.0, "low": None, "high": None}
    write(path, rows)
    assert Reader(quality_plot(path)).tags.count("img") == 2


def test_names_are_escaped(path):
    write(path, [row("<script>", 1, 2.0)])
    reader = Reader(quality_plot(path))
    assert "script" not in reader.tags
    assert "<script>, euler" in reader.text


def test_an_infinite_perplexity_is_in_the_table_alone(path):
    write(path, [row("DFM", 1, float("inf")), row("DFM", 2, 5.0)])
    html = quality_plot(path)
    assert re.search(r"DFM, euler1inf", Reader(html).text)


@pytest.mark.parametrize("content", ["", "{", "3", '{"a": 1}', '["a"]', '[{"kind": "row"}]', [row("a", 1, "x")]])
def test_another_file_is_refused(path, content):
    write(path, content)
    with pytest.raises(
        ValueError, match=r"evaluation.json is no evaluation: a JSON list of the records in scores.jsonl"
    ):
        quality_plot(path)


def test_an_evaluation_without_perplexity_is_refused(path):
    write(path, [row("a", 1, 2.0, mode="infill-50")])
    with pytest.raises(ValueError, match="has no perplexity of unconditional samples"):
        quality_plot(path)
