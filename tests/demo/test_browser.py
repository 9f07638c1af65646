# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The page in a real browser, as a visitor uses it (`pytest -m slow`)."""

import re
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.demo.conftest import CallCounter, make_writer
from tests.demo.test_plot import ROWS, write
from transformers_fsdfm.demo.handlers import Handlers
from transformers_fsdfm.demo.page import build_page, serve
from transformers_fsdfm.demo.plot import quality_plot
from transformers_fsdfm.demo.sampling import Sampler


pytestmark = pytest.mark.slow
pytest.importorskip("gradio", reason="the page needs gradio")
pytest.importorskip("selenium", reason="selenium drives the browser")

from selenium.common.exceptions import WebDriverException  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

from tests.demo.visitor import WRITTEN, Visitor, chromium  # noqa: E402


PROMPT = "There was a dog"
SCRIPT = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>${window.hacked = 3}{{7*7}}"


@pytest.fixture(scope="module")
def server(byte_tokenizer, tmp_path_factory) -> Iterator[tuple[str, CallCounter]]:
    """A page with a DFM and a plot, and the counter of the FS-DFM's network."""
    evaluation = tmp_path_factory.mktemp("evaluation") / "evaluation.json"
    write(evaluation, ROWS)
    writer = make_writer(byte_tokenizer, max_position_embeddings=256)
    dfm = make_writer(byte_tokenizer, max_position_embeddings=256, step_size_conditioning=False)
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


@pytest.fixture(scope="module")
def driver():
    try:
        with chromium() as driver:
            yield driver
    except (FileNotFoundError, WebDriverException) as error:
        pytest.skip(f"no browser: {error}")


@pytest.fixture
def visitor(driver, server) -> Visitor:
    return Visitor(driver, server[0])


def test_a_visitor_types_and_sees_text_and_colours(visitor):
    visitor.write(PROMPT)
    visitor.wait_for_status("128 tokens in 8 steps")
    assert visitor.text.startswith(PROMPT)
    assert len(visitor.text) > len(PROMPT)
    with visitor.in_frame():
        colours = {token.value_of_css_property("background-color") for token in visitor.seen(WRITTEN)}
        given = {token.value_of_css_property("background-color") for token in visitor.seen("span.fsdfm-given")}
    assert len(given) == 1
    assert not given & colours


def test_the_timeline_tells_and_replays(visitor):
    visitor.write(PROMPT)
    visitor.wait_for_status("128 tokens in 8 steps")
    with visitor.in_frame():
        visitor.driver.execute_script("arguments[0].focus()", visitor.seen(WRITTEN)[0])
        visitor.until(lambda: "start:" in visitor.seen(".fsdfm-details")[0].text)
        final = visitor.seen(".fsdfm-text")[0].text
        slider = visitor.seen("input[type=range]")[0]
        slider.send_keys(Keys.HOME)
        assert visitor.seen(".fsdfm-text")[0].text != final
        slider.send_keys(Keys.END)
        assert visitor.seen(".fsdfm-text")[0].text == final


def test_drafts_are_seen_while_it_writes(visitor, counter):
    counter.seconds = 0.2
    visitor.write(PROMPT)
    drafts = set()
    while "tokens in" not in visitor.status:
        drafts.add(visitor.text)
    assert len(drafts) > 4


def test_steps_are_chosen_by_powers_and_by_number(visitor):
    visitor.choose_steps(2)
    visitor.until(lambda: visitor.steps_field.get_property("value") == "2")
    visitor.write(PROMPT)
    visitor.wait_for_status("128 tokens in 2 steps")
    visitor.type(visitor.steps_field, "5")
    visitor.until(lambda: visitor.chosen_steps == [])
    visitor.start()
    visitor.wait_for_status("128 tokens in 5 steps")
    visitor.type(visitor.steps_field, "16")
    visitor.until(lambda: visitor.chosen_steps == ["16"])


def test_blanks_are_filled(visitor):
    visitor.write("Once ___6___ went home.")
    visitor.wait_for_status("6 tokens in 8 steps")
    assert re.fullmatch(r"Once .* went home\.", visitor.text, re.DOTALL)
    with visitor.in_frame():
        given = "".join(token.get_property("textContent") for token in visitor.seen(".fsdfm-text .fsdfm-given"))
    assert given == "Once went home."


def test_a_script_is_text(visitor):
    visitor.write(SCRIPT)
    visitor.wait_for_status("128 tokens in 8 steps")
    assert visitor.text.startswith(SCRIPT)
    with visitor.in_frame():
        assert visitor.driver.execute_script("return window.hacked") is None
    assert visitor.driver.execute_script("return window.hacked") is None
    assert [message for message in visitor.complaints() if "/x" in message] == []  # no picture was asked for


def test_a_bad_blank_is_explained(visitor):
    visitor.write("Once ___many___ went home.")
    visitor.until(lambda: "`text` has a bad blank '___many___'" in visitor.driver.find_element("tag name", "body").text)
    visitor.wait_for_status("could not be done")
    visitor.write(PROMPT)
    visitor.wait_for_status("128 tokens in 8 steps")


def test_stop_ends_the_sampling_and_the_next_text_can_be_written(visitor, counter):
    counter.seconds = 0.1
    visitor.choose_steps(1024)
    visitor.write(PROMPT)
    visitor.until(lambda: counter.calls >= 3)
    visitor.stop()
    visitor.wait_for_status("Stopped")
    assert counter.has_stopped()
    assert counter.calls < 100  # of some 600
    counter.seconds = 0.0
    visitor.choose_steps(4)
    visitor.start()
    visitor.wait_for_status("128 tokens in 4 steps")


def test_who_waits_is_told_so_and_comes_next(visitor, server, counter):
    counter.seconds = 0.1
    with chromium() as other_driver:
        other = Visitor(other_driver, server[0])
        other.choose_steps(1024)
        other.write(PROMPT)
        other.wait_for_status("of 1,024")
        visitor.write(PROMPT)
        visitor.wait_for_status("Waits for its turn")
        other.stop()
    visitor.wait_for_status("128 tokens in 8 steps")


def test_leaving_the_page_ends_the_sampling(visitor, counter):
    counter.seconds = 0.1
    visitor.choose_steps(1024)
    visitor.write(PROMPT)
    visitor.until(lambda: counter.calls >= 3)
    visitor.driver.get("about:blank")
    assert counter.has_stopped()
    assert counter.calls < 100  # of some 600


def test_race(visitor):
    visitor.open_tab("Race")
    visitor.start()
    visitor.wait_for_status("All 6 have finished")
    rows = visitor.seen(".fsdfm-table tbody tr")
    assert len(rows) == 6
    assert re.match(r"DFM\s+32\s+done, \d+ network calls\s+\d+\.\d\d", rows[-1].text)
    with visitor.in_frame():
        assert "DFM, 32 steps" in visitor.driver.find_element("tag name", "body").text


def test_plot(visitor):
    visitor.open_tab("Quality")
    picture = visitor.until(lambda: visitor.seen("figure img"))[0]
    visitor.until(lambda: picture.get_property("naturalWidth") > 300)
    assert "9,000.0" in visitor.seen(".fsdfm-table")[0].text


def test_the_page_asks_nothing_from_other_hosts(visitor, server):
    visitor.write(PROMPT)
    visitor.wait_for_status("tokens/s")
    for name in ("Race", "Quality"):
        visitor.open_tab(name)
        time.sleep(1)
    assert visitor.asked_hosts() == {urlsplit(server[0]).netloc}
    assert visitor.complaints() == []


def test_the_browser_would_not_ask_them(visitor):
    visitor.driver.execute_script("new Image().src = 'http://127.0.0.2:9/x.png'")
    complaints = visitor.until(visitor.complaints)
    assert "Content Security Policy" in complaints[0]
    assert "127.0.0.2" in complaints[0]
