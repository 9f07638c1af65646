# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""
A visitor with a real browser: Chromium, driven by playwright.

Also takes the picture in docs/demo.md, of a page that is running:

    fsdfm demo --port 7860 & python -m tests.demo.visitor http://127.0.0.1:7860 docs/images/demo.png
"""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit


TIMEOUT = 60_000  # milliseconds
WRITTEN = ".fsdfm-t[data-settled]"  # in a timeline: what the model wrote


class Visitor:
    """
    Opens a page and keeps in mind what it asked for.

    Attributes:
        page: playwright's `Page`.
        hosts (`set[str]`): that the page sent requests to, or tried to.
        complaints (`list[str]`): errors in the browser's console.
    """

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.hosts: set[str] = set()
        self.complaints: list[str] = []
        self.context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(TIMEOUT)
        self.page.on("request", lambda request: self._note(request.url))
        self.page.on("console", lambda message: message.type == "error" and self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(address)
        self.button("Write").wait_for()

    def _note(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("data", "blob"):
            self.hosts.add(parts.netloc)

    def button(self, name: str) -> Any:
        """That of the open tab."""
        return self.page.get_by_role("button", name=name, exact=True).locator("visible=true")

    def write(self, text: str) -> None:
        """Types a text and presses the button."""
        self.page.get_by_role("textbox", name="Text").fill(text)
        self.button("Write").click()

    def status(self, text: str) -> None:
        """Waits until the page says that it is done, with these words."""
        self.page.locator(".fsdfm-status[role=status]", has_text=text).locator("visible=true").wait_for()

    @property
    def text(self) -> str:
        """What was written."""
        return self.page.locator(".fsdfm-text").first.inner_text()

    @property
    def timeline(self) -> Any:
        """The frame with the timeline, or with the race."""
        return self.page.frame_locator("iframe.fsdfm-frame >> visible=true")


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless browser: that of the system, or playwright's own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def main(address: str, picture: str) -> None:
    """Takes a picture of a text with its timeline."""
    with chromium() as browser:
        visitor = Visitor(browser, address, color_scheme="light")
        visitor.write("Once upon a time")
        visitor.status("tokens/s")
        visitor.timeline.locator(WRITTEN).first.wait_for()
        visitor.page.screenshot(path=picture)


if __name__ == "__main__":
    main(*sys.argv[1:])
