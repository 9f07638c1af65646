# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The HTML of the page: whatever the text is, it is shown and nothing else."""

from html.parser import HTMLParser

import pytest

from transformers_fsdfm.demo.fragments import Lane, escape, frame, race_table, status_line, text_box


NASTY = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</textarea></iframe></div><b>",
    "&lt;b&gt; &amp;",
    "${alert(1)} {{7*7}} `x`",
    "a\n  b\tc",
    "שלום עולם",
]


class Reader(HTMLParser):
    """Keeps tags, attributes and text, as a browser reads them."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.text = [], {}, ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.update(attrs)

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("text", NASTY)
def test_text_is_shown_as_it_is(text):
    for html in (text_box(text), status_line(text)):
        reader = Reader(html)
        assert reader.tags == ["div"]
        assert reader.text == text


@pytest.mark.parametrize("text", NASTY)
def test_nothing_is_left_that_a_template_would_read(text):
    assert not set("<>\"'{}$`") & set(escape(text))


@pytest.mark.parametrize("text", NASTY)
def test_a_page_in_a_frame_arrives_whole_and_is_kept_apart(text):
    page = f"<!doctype html><title>x</title><p>{escape(text)}</p><script>const a = `${{1}}`</script>"
    reader = Reader(frame(page, text))
    assert reader.tags == ["iframe"]
    assert reader.attributes["srcdoc"] == page
    assert reader.attributes["title"] == text
    assert reader.attributes["sandbox"] == "allow-scripts"


def test_text_keeps_its_own_direction():
    assert Reader(text_box("שלום")).attributes["dir"] == "auto"


def test_only_the_final_status_is_read_aloud():
    assert Reader(status_line("Step 1")).attributes.get("role") is None
    assert Reader(status_line("Done", is_final=True)).attributes["role"] == "status"


def test_race_has_a_row_for_each_runner():
    lanes = [Lane("FS-DFM", 1, "<b>", "done", 0.5), Lane("DFM", 1024)]
    reader = Reader(race_table(lanes))
    assert reader.tags.count("tr") == 3
    assert "b" not in reader.tags
    assert "FS-DFM1done0.50<b>" in reader.text
    assert "DFM1,024waits" in reader.text
