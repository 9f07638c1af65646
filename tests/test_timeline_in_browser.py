# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The timeline's page in a real browser: headless Chromium, driven by selenium (`pytest -m slow`)."""

import io
import shutil
import time

import pytest
import torch

from tests.test_timeline import contrast, encode, output_of
from transformers_fsdfm.timeline import AutoregressiveRun, Timeline, colors, race_html
from transformers_fsdfm.trainer.tokenizer import train_tokenizer


pytestmark = pytest.mark.slow
TEXT = "Once upon a time"
NASTY = "<script>document.title = 'broken'</script>"


@pytest.fixture(scope="module")
def byte_tokenizer():
    return train_tokenizer(["Once upon a time there was a tiny dog. "] * 9, vocab_size=300)


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium that keeps a log of what it asks for and of errors."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1000,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield browser
    browser.quit()


@pytest.fixture
def show(browser, tmp_path):
    """Opens a page; in the end looks whether it asked for anything or reported an error."""
    browser.get("about:blank")
    browser.get_log("performance")
    browser.get_log("browser")

    def show(html: str):
        (tmp_path / "page.html").write_text(html, encoding="utf-8")
        browser.get((tmp_path / "page.html").as_uri())
        return browser

    yield show
    requests = [entry["message"] for entry in browser.get_log("performance") if "requestWillBeSent" in entry["message"]]
    assert len(requests) == 1, requests
    assert browser.get_log("browser") == []


@pytest.fixture
def emulate(browser):
    """Pretends that the reader has set something; undone in the end."""
    yield browser.execute_cdp_cmd
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    browser.execute_cdp_cmd("Emulation.setAutoDarkModeOverride", {})


@pytest.fixture
def timeline(byte_tokenizer) -> Timeline:
    """The prompt, one token that is settled in each of 8 steps, and a script for text."""
    prompt, new = encode(TEXT, byte_tokenizer), encode(" dog" + NASTY, byte_tokenizer)
    start = [token_id + 1 for token_id in new]
    reached = [len(new) * step // 8 for step in range(9)]
    canvases = [[*prompt, *new[:count], *start[count:]] for count in reached]
    return Timeline.from_output(
        output_of(*canvases), byte_tokenizer, input_ids=torch.tensor([prompt]), title="A <b>title</b>"
    )


def by_css(browser, selector: str):
    return browser.find_elements("css selector", selector)


def text_shown(browser) -> str:
    return browser.execute_script("return document.querySelector('.fsdfm-text').textContent")


def move_slider(browser, value: int) -> None:
    browser.execute_script(
        "const slider = document.querySelector('input'); slider.value = arguments[0];"
        "slider.dispatchEvent(new Event('input', { bubbles: true }))",
        value,
    )


def test_slider_replays_the_steps(show, timeline):
    browser = show(timeline.to_html())
    assert text_shown(browser) == timeline.text
    for step in (0, 3, 8):
        move_slider(browser, step)
        assert text_shown(browser) == "".join(cell.text_at(step) for cell in timeline.cells)
        open_tokens = len(by_css(browser, ".fsdfm-t.fsdfm-open"))
        assert open_tokens == sum(cell.settled_step is not None and cell.settled_step > step for cell in timeline.cells)
        assert by_css(browser, "input")[0].get_attribute("aria-valuetext") == f"step {step} of 8"


def test_keyboard_alone_reaches_the_slider_and_every_history(show, timeline):
    from selenium.webdriver.common.keys import Keys

    browser = show(timeline.to_html())
    reached = []
    for _ in range(3):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        reached.append(browser.switch_to.active_element.tag_name)
    assert reached == ["button", "input", "span"]
    details = by_css(browser, ".fsdfm-details")[0]
    assert "given" in details.text
    browser.switch_to.active_element.send_keys(Keys.END)
    last = timeline.cells[-1]
    assert details.text.startswith(f"{last.text}, token {len(timeline.cells)}: settled in step 8 of 8")
    assert f"start: {last.history[0][1]}" in details.text
    browser.switch_to.active_element.send_keys(Keys.ARROW_LEFT)
    assert f"token {len(timeline.cells) - 1}:" in details.text
    assert details.get_attribute("aria-live") == "polite"
    browser.switch_to.active_element.send_keys(Keys.SHIFT, Keys.TAB)
    browser.switch_to.active_element.send_keys(Keys.HOME)
    assert browser.execute_script("return document.querySelector('input').value") == "0"


def test_pointing_shows_the_history(show, timeline):
    from selenium.webdriver import ActionChains

    browser = show(timeline.to_html())
    tokens = by_css(browser, ".fsdfm-t")
    number = next(index for index, cell in enumerate(timeline.cells) if cell.settled_step == 1)
    ActionChains(browser).move_to_element(tokens[number]).perform()
    details = by_css(browser, ".fsdfm-details")[0]
    assert f"token {number + 1}: settled in step 1 of 8" in details.text
    assert "␣dog" in details.text


def test_a_script_in_the_text_is_text(show, timeline):
    browser = show(timeline.to_html())
    assert NASTY in text_shown(browser)
    assert browser.title == "A <b>title</b>"
    move_slider(browser, 4)
    by_css(browser, ".fsdfm-t")[-1].click()
    assert browser.title == "A <b>title</b>"
    assert len(by_css(browser, "script")) == 1


def wait_until(condition, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_play_runs_to_the_end_and_can_be_stopped(show, timeline):
    browser = show(timeline.to_html())
    button, slider = by_css(browser, "button")[0], by_css(browser, "input")[0]
    button.click()
    assert button.text == "Pause"
    wait_until(lambda: 2 <= int(slider.get_property("value")) <= 7)
    button.click()
    stopped = slider.get_property("value")
    assert button.text == "Play"
    time.sleep(0.8)
    assert slider.get_property("value") == stopped
    button.click()
    wait_until(lambda: button.text == "Play")
    assert slider.get_property("value") == "8"
    assert text_shown(browser) == timeline.text


def test_where_motion_is_not_wanted_there_are_stills(show, emulate, byte_tokenizer):
    ids = encode(TEXT, byte_tokenizer)
    canvases = [[5] * len(ids)] * 1000 + [ids] * 25
    emulate("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-reduced-motion", "value": "reduce"}]})
    browser = show(Timeline.from_output(output_of(*canvases), byte_tokenizer).to_html())
    seen = browser.execute_async_script(
        """
        const done = arguments[0], seen = [];
        new MutationObserver(() => {
          seen.push(Number(document.querySelector("input").value));
          if (seen.length === 3) done(seen);
        }).observe(document.querySelector("output"), { childList: true, characterData: true, subtree: true });
        document.querySelector("button").click();
        """
    )
    assert seen == [0, 128, 256]


def colors_of(element) -> list[tuple[int, int, int]]:
    """Of a picture of the element, the most frequent first."""
    image = pytest.importorskip("PIL.Image").open(io.BytesIO(element.screenshot_as_png)).convert("RGB")
    return [color for _, color in sorted(image.getcolors(image.width * image.height), reverse=True)]


@pytest.mark.parametrize(("feature", "value"), [("prefers-color-scheme", "dark"), ("forced-colors", "active")])
def test_colours_hold_where_readers_want_others(show, emulate, timeline, feature, value):
    emulate("Emulation.setEmulatedMedia", {"features": [{"name": feature, "value": value}]})
    browser = show(timeline.to_html())
    assert browser.execute_script("return matchMedia(`(${arguments[0]}: ${arguments[1]})`).matches", feature, value)
    swatches = by_css(browser, "td .fsdfm-swatch")
    shown = [colors_of(swatch)[0] for swatch in swatches[:8]]
    assert shown == [colors.to_rgb(color) for color in colors.COLORS]


def test_text_can_be_read_where_the_browser_darkens_every_page(show, emulate, timeline):
    emulate("Emulation.setAutoDarkModeOverride", {"enabled": True})
    browser = show(timeline.to_html())
    swatches = [[to_hex(color) for color in colors_of(swatch)] for swatch in by_css(browser, "td .fsdfm-swatch")[:8]]
    assert [shown[0] for shown in swatches] == list(colors.DARKENED_COLORS)
    for background, *others in swatches:
        assert max(contrast(background, other) for other in others) >= 7


def to_hex(color: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def test_right_to_left_text_and_line_breaks_stand_as_they_should(show, byte_tokenizer):
    text = "שלום עולם\nOne two"
    ids = encode(text, byte_tokenizer)
    browser = show(Timeline.from_output(output_of([5] * len(ids), ids), byte_tokenizer).to_html())
    boxes = browser.execute_script(
        "return [...document.querySelectorAll('.fsdfm-t')].map((span) => {"
        "const box = span.getClientRects()[0]; return [span.textContent, box.x, box.y]; })"
    )
    hebrew = [box for box in boxes if "\u0590" < box[0].strip()[:1] < "\u0600"]
    latin = [box for box in boxes if box[0].strip()[:1].isascii() and box[0].strip() and box[0] != "↵\n"]
    assert [x for _, x, _ in hebrew] == sorted((x for _, x, _ in hebrew), reverse=True)
    assert [x for _, x, _ in latin] == sorted(x for _, x, _ in latin)
    assert min(y for *_, y in latin) > max(y for *_, y in hebrew)


def test_race_runs_against_the_clock(show, byte_tokenizer):
    ids = encode(TEXT, byte_tokenizer)
    lanes = [
        Timeline.from_autoregressive(AutoregressiveRun(ids, 0.5), byte_tokenizer, title="AR"),
        Timeline.from_output(output_of([5] * len(ids), ids), byte_tokenizer, seconds=[1.0], title="FS-DFM"),
    ]
    browser = show(race_html(lanes))
    texts = "return [...document.querySelectorAll('.fsdfm-text')].map((element) => element.textContent)"
    move_slider(browser, 999)
    assert browser.execute_script(texts)[0] == lanes[0].cells[0].text
    assert browser.execute_script(texts)[1] != TEXT
    move_slider(browser, 1000)
    assert browser.execute_script(texts) == ["".join(cell.text for cell in lanes[0].cells[:2]), TEXT]
    browser.execute_script("document.querySelector('select').value = '4'")
    started = time.monotonic()
    by_css(browser, "button")[0].click()
    wait_until(lambda: by_css(browser, "button")[0].text == "Play")
    assert browser.execute_script(texts) == [TEXT, TEXT]
    real = (lanes[0].seconds[-1] - 1.0) / 4
    assert real * 0.8 < time.monotonic() - started < real + 2


def test_a_fragment_works_inside_another_page_beside_a_second_one(show, timeline, byte_tokenizer):
    fragment = timeline.to_html(full_page=False)
    dark = "<style>* { color: white; } body { background: black; }</style>"
    browser = show(f"<!DOCTYPE html><html><head>{dark}</head><body>{fragment}{fragment}</body></html>")
    move_slider(browser, 0)
    texts = browser.execute_script(
        "return [...document.querySelectorAll('.fsdfm-text')].map((element) => element.textContent)"
    )
    assert texts[0] != timeline.text
    assert texts[1] == timeline.text
    foreground = browser.execute_script(
        "return getComputedStyle(document.querySelectorAll('.fsdfm-text')[1].lastElementChild).color"
    )
    assert foreground == "rgb({}, {}, {})".format(*colors.to_rgb(colors.TEXT_COLOR))
