# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Reads the pages of the documentation: their code blocks, headings and links."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


ROOT = Path(__file__).parents[1]
INDEX = ROOT / "docs" / "README.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_CODE = ("text", "json")  # what is shown and not typed

# A comment that a reader does not see, in the line before the block, says why it cannot run in a test.
BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?```(?P<language>[^\n]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A block of code, the line of the page on which it begins, and why it is not run, if it is not."""

    language: str
    code: str
    line: int
    reason: str | None


def blocks(page: Path) -> list[Block]:
    """The code blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(match["language"], match["code"], text.count("\n", 0, match.start("code")), match["reason"])
        for match in BLOCK.finditer(text)
    ]


def prose(page: Path) -> str:
    """The page without its code."""
    return re.sub(r"`[^`\n]+`", "", BLOCK.sub("", page.read_text(encoding="utf-8")))


def commands(code: str) -> Iterator[list[str]]:
    """The commands of a shell block as lists of words. Quotes and backslashes may lead over line ends."""
    text = ""
    for line in code.splitlines():
        text += f"{line}\n"
        try:
            words = shlex.split(text.replace("\\\n", " "), comments=True)
        except ValueError:  # an open quote
            continue
        if line.endswith("\\"):
            continue
        text = ""
        if words:
            yield words
    if text:
        raise ValueError(f"a command without an end: {text}")


def anchors(page: Path) -> set[str]:
    """What a link to a heading of the page may name, by GitHub's rule."""
    found: dict[str, int] = {}
    for heading in re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text(encoding="utf-8")), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found[slug] = found.get(slug, -1) + 1
    return {f"{slug}-{number}" if number else slug for slug, count in found.items() for number in range(count + 1)}


def links(page: Path) -> list[str]:
    """The targets of all links and pictures that lead to no other host."""
    targets = [match["target"] for match in LINK.finditer(prose(page))]
    return [target for target in targets if not re.match(r"[a-z]+:", target)]
