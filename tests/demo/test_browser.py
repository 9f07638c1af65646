# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The page in a real browser, as a visitor uses it."""

import re
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.demo.conftest import CallCounter, make_writer
from tests.demo.test_plot import ROWS, write
from tests.demo.visitor import WRITTEN, Visitor, chromium
from transformers_fsdfm.demo.handlers import Handlers
from transformers_fsdfm.demo.page import build_page, serve
from transformers_fsdfm.demo.plot import quality_plot
from transformers_fsdfm.demo.sampling import Sampler


pytestmark = pytest.mark.slow
pytest.importorskip("gradio", reason="the page needs gradio")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")

SCRIPT = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>${window.hacked = 3}{{7*7}}"
NO_COLOUR = "rgba(0, 0, 0, 0)"


@pytest.fixture(scope="module")
def browser() -> Iterator["playwright.Browser"]:
    try:
        with chromium() as browser:
            yield browser
    except playwright.Error as error:
        pytest.skip(f"no Chromium: {str(error).splitlines()[0]}")


@pytest.fixture(scope="module")
def server(byte_tokenizer, tmp_path_factory) -> Iterator[tuple[str, CallCounter]]:
    """A page with a DFM and a plot, and the counter of the FS-DFM's network."""
    evaluation = tmp_path_factory.mktemp("evaluation") / "evaluation.json"
    write(evaluation, ROWS)
    writer, dfm = make_writer(byte_tokenizer), make_writer(byte_tokenizer, step_size_conditioning=False)
    dfm.model.generation_config.num_steps = 32
    counter = CallCounter(writer)
    handlers = Handlers(writer, dfm, Sampler(interval=0.05))
    page = build_page(handlers, quality_plot(evaluation))
    yield serve(page), counter
    handlers.close()
    page.close()


@pytest.fixture
def counter(server) -> Iterator[CallCounter]:
    counter = server[1]
    counter.calls = 0
    yield counter
    counter.seconds = 0.0


@pytest.fixture
def visitor(browser, server) -> Iterator[Visitor]:
    visitor = Visitor(browser, server[0])
    yield visitor
    visitor.context.close()


def colour(token) -> str:
    return token.evaluate("element => getComputedStyle(element).backgroundColor")


def test_a_visitor_types_and_sees_text_and_colours(visitor):
    visitor.write("There was a dog")
    visitor.status("32 tokens in 8 steps")
    assert visitor.text.startswith("There was a dog")
    tokens = visitor.timeline.locator(WRITTEN)
    tokens.first.wait_for()
    colours = {colour(token) for token in tokens.all()}
    assert len(colours) > 2
    assert NO_COLOUR not in colours


def test_the_timeline_tells_and_replays(visitor):
    visitor.write("There was a dog")
    visitor.status("32 tokens in 8 steps")
    token = visitor.timeline.locator(WRITTEN).last
    token.hover()
    visitor.timeline.locator(".fsdfm-details li", has_text="start:").wait_for()
    final = visitor.timeline.locator(".fsdfm-text").inner_text()
    slider = visitor.timeline.get_by_role("slider")
    slider.focus()
    slider.press("Home")
    assert visitor.timeline.locator(".fsdfm-text").inner_text() != final
    slider.press("End")
    assert visitor.timeline.locator(".fsdfm-text").inner_text() == final


def test_drafts_are_seen_while_it_writes(visitor, counter):
    counter.seconds = 0.1
    visitor.write("There was a dog")
    drafts = set()
    while not visitor.page.locator(".fsdfm-status[role=status]").count():
        drafts.add(visitor.text)
    assert len(drafts) > 4


def test_steps_are_chosen_by_powers_and_by_number(visitor):
    visitor.page.get_by_role("radio", name="2", exact=True).click()
    visitor.write("There was a dog")
    visitor.status("32 tokens in 2 steps")
    steps = visitor.page.get_by_role("spinbutton", name="Steps")
    assert steps.input_value() == "2"
    steps.fill("5")
    steps.press("Enter")
    visitor.page.wait_for_function("() => !document.querySelector('input[type=radio]:checked')")
    visitor.button("Write").click()
    visitor.status("32 tokens in 5 steps")
    steps.fill("16")
    steps.press("Enter")
    visitor.page.get_by_role("radio", name="16", exact=True, checked=True).wait_for()


def test_blanks_are_filled(visitor):
    visitor.write("Once ___6___ went home.")
    visitor.status("6 tokens in 8 steps")
    assert re.fullmatch(r"Once .* went home\.", visitor.text, re.DOTALL)
    assert visitor.timeline.locator(".fsdfm-given").count() > 3


def test_a_script_is_text(visitor):
    visitor.write(SCRIPT)
    visitor.status("32 tokens in 8 steps")
    assert visitor.text.startswith(SCRIPT)
    visitor.timeline.locator(WRITTEN).first.wait_for()
    for frame in visitor.page.frames:
        assert frame.evaluate("() => window.hacked") is None
    visitor.write("___<img src=x onerror='window.hacked = 4'>___")
    visitor.page.get_by_text("bad blank").first.wait_for()
    assert visitor.page.evaluate("() => window.hacked") is None


def test_stop_ends_the_sampling_and_the_next_text_can_be_written(visitor, counter):
    counter.seconds = 0.05
    visitor.page.get_by_role("radio", name="1024").click()
    visitor.write("There was a dog")
    while counter.calls < 5:
        time.sleep(0.05)
    visitor.button("Stop").click()
    visitor.status("Stopped")
    assert counter.has_stopped()
    assert counter.calls < 60  # of some 200
    counter.seconds = 0.0
    visitor.page.get_by_role("radio", name="4", exact=True).click()
    visitor.button("Write").click()
    visitor.status("32 tokens in 4 steps")


def test_leaving_the_page_ends_the_sampling(visitor, counter):
    counter.seconds = 0.05
    visitor.page.get_by_role("radio", name="1024").click()
    visitor.write("There was a dog")
    while counter.calls < 5:
        time.sleep(0.05)
    visitor.page.close()
    assert counter.has_stopped()
    assert counter.calls < 60  # of some 200


def test_race(visitor):
    visitor.page.get_by_role("tab", name="Race").click()
    visitor.button("Race").click()
    visitor.status("All 6 have finished")
    rows = visitor.page.locator(".fsdfm-table tbody tr >> visible=true")
    assert rows.count() == 6
    assert re.match(r"DFM\s+32\s+done, \d+ network calls\s+\d+\.\d\d", rows.last.inner_text())
    visitor.timeline.locator(WRITTEN).first.wait_for()
    visitor.timeline.get_by_role("heading", name="DFM, 32 steps").wait_for()


def test_plot(visitor):
    visitor.page.get_by_role("tab", name="Quality").click()
    picture = visitor.page.get_by_alt_text("judge")
    picture.wait_for()
    assert picture.evaluate("image => image.naturalWidth") > 300


def test_the_page_asks_nothing_from_other_hosts(visitor, server):
    visitor.write("There was a dog")
    visitor.status("tokens/s")
    visitor.page.get_by_role("tab", name="Race").click()
    visitor.page.get_by_role("tab", name="Quality").click()
    visitor.page.wait_for_load_state("networkidle")
    assert visitor.hosts == {urlsplit(server[0]).netloc}
    assert visitor.complaints == []
