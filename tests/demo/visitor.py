# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""
A visitor of the page with a real browser: headless Chromium, driven by selenium.

Also takes the picture in docs/demo.md, of a page that is running:

    fsdfm demo --port 7860 & python -m tests.demo.visitor http://127.0.0.1:7860 docs/images/demo.png
"""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait


SECONDS = 60  # that anything may take on a busy machine
WRITTEN = ".fsdfm-t[data-settled]"  # in a timeline: what the model wrote


@contextmanager
def chromium(width: int = 1280, height: int = 1000) -> Iterator[webdriver.Chrome]:
    """
    A headless browser that keeps a log of what it asks for and of errors.

    Raises:
        `FileNotFoundError`: if it is not installed.
    """
    browser, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not browser or not driver:
        raise FileNotFoundError("chromium and chromedriver are needed")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--window-size={width},{height}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield driver
    finally:
        driver.quit()


class Visitor:
    """
    Opens the page and uses it.

    Attributes:
        driver: selenium's `WebDriver`.
    """

    def __init__(self, driver: webdriver.Chrome, address: str) -> None:
        self.driver = driver
        driver.get("about:blank")
        driver.get_log("browser"), driver.get_log("performance")  # what was before
        driver.get(address)
        self.until(lambda: self.seen("button.primary"))

    def until(self, condition: Callable[[], Any]) -> Any:
        """Waits for something that is true, and returns it."""
        ignored = (NoSuchElementException, StaleElementReferenceException)
        wait = WebDriverWait(self.driver, SECONDS, poll_frequency=0.05, ignored_exceptions=ignored)
        return wait.until(lambda _: condition())

    def seen(self, selector: str) -> list[Any]:
        """The elements that can be seen."""
        return [element for element in self.driver.find_elements("css selector", selector) if element.is_displayed()]

    def press(self, selector: str) -> None:
        """Presses a button."""
        (button,) = self.until(lambda: self.seen(selector))
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
        button.click()

    def start(self) -> None:
        """Presses the button that starts what the open tab does."""
        self.press("button.primary")

    def stop(self) -> None:
        """Presses the button beside it."""
        self.press("button.stop")

    def open_tab(self, name: str) -> None:
        """Opens a tab."""
        (tab,) = [tab for tab in self.seen("button[role=tab]") if tab.text == name]
        tab.click()

    def choose_steps(self, number: int) -> None:
        """Presses one of the powers of two."""
        self.press(f"label[data-testid='{number}-radio-label']")

    @property
    def chosen_steps(self) -> list[str]:
        """The power of two that is chosen, if one is."""
        return [radio.get_attribute("value") for radio in self.seen("input[type=radio]:checked")]

    @property
    def steps_field(self) -> Any:
        """The number beside the slider."""
        return self.driver.find_element("css selector", "input[aria-label='number input for Steps']")

    def type(self, field: Any, text: str) -> None:
        """Types in place of what is there, and goes on to the next field."""
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(Keys.DELETE)
        field.send_keys(text, Keys.TAB)

    def write(self, text: str) -> None:
        """Types a text and presses the button."""
        self.type(self.seen("textarea")[0], text)
        self.start()

    @property
    def status(self) -> str:
        """What the open tab says about its work."""
        return "".join(line.text for line in self.seen(".fsdfm-status"))

    def wait_for_status(self, words: str) -> None:
        """Until the open tab says something with these words."""
        self.until(lambda: words in self.status)

    @property
    def text(self) -> str:
        """What was written."""
        return self.driver.find_element("css selector", ".fsdfm-panel .fsdfm-text").get_property("textContent")

    @contextmanager
    def in_frame(self) -> Iterator[None]:
        """Inside the frame with the timeline, or with the race."""
        self.driver.switch_to.frame(self.until(lambda: self.seen("iframe.fsdfm-frame"))[0])
        try:
            self.until(lambda: self.seen(WRITTEN))
            yield
        finally:
            self.driver.switch_to.default_content()

    def asked_hosts(self) -> set[str]:
        """The hosts that the page wanted something from, whether it got it or not."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        urls = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
        return {urlsplit(url).netloc for url in urls if not url.startswith(("data:", "blob:", "about:"))}

    def complaints(self) -> list[str]:
        """Errors and warnings in the browser's console."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


def main(address: str, picture: str, text: str = "Once upon a time") -> None:
    """Takes a picture of a text that is written in 8 steps, with its timeline."""
    with chromium(height=1300) as driver:
        visitor = Visitor(driver, address)
        visitor.choose_steps(8)
        visitor.write(text)
        visitor.wait_for_status("in 8 steps")
        with visitor.in_frame():
            pass  # the timeline is there
        driver.execute_script("document.activeElement.blur(); window.scrollTo(0, 0)")
        driver.save_screenshot(picture)


if __name__ == "__main__":
    main(*sys.argv[1:])
