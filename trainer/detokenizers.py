# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Undo the tokenisation of evaluation corpora, so that a model trained on natural text is judged on natural text."""

import re
from collections.abc import Callable


# Applied to each line in this order. A rule asks for the spaces that WikiText puts around every token, so natural text
# passes unchanged.
_WIKITEXT_RULES: list[tuple[re.Pattern[str], str]] = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r" @([-,.])@ ", r"\1"),  # well @-@ known, 1 @,@ 000, 3 @.@ 5
        (r"(?<==) (?==)", ""),  # the markers of headings: = = Career = =
        (r"([(\[{]) ", r"\1"),
        (r" ([)\]}])", r"\1"),
        (r'(?<![^\s(\[])" ([^"]+?) "', r'"\1"'),  # quotation marks pair up within a line
        (r" '(s|t|re|ve|m|ll|d|S|T|RE|VE|M|LL|D)\b", r"'\1"),  # don 't, Sega 's
        (r"(?<=\w\w\ws) '(?=\s|$)", "'"),  # the players ' union, but not: was ' good '
        (r"(?<!\S)' (?=\d0s\b)", "'"),  # the ' 90s
        (r"(?<!\S)' ([^']+?) '(?!\S)", r"'\1'"),
        (r"(?<=\d) : (?=\d\d\b)", ":"),
        (r" ([.,;:!?]+)(?=[\s\"')\]}]|$)", r"\1"),
        (r"([$£€]) (?=\d)", r"\1"),
        (r"(?<=\d) ([%°])", r"\1"),
        (r"(?<=\d°) (?=[CF]\b)", ""),
    ]
]


def wikitext_detokenizer(text: str) -> str:
    r"""
    Turns the tokenised text of WikiText-2 and WikiText-103 back into natural text.

    Joins `@-@`, `@,@` and `@.@`, contractions, possessives, quotation marks, brackets, punctuation, times, currency,
    per cent and degree signs, and the markers of headings (` = = Career = = ` becomes `== Career ==`), and strips each
    line. Where WikiText is ambiguous (a lone `'` after a longer word ending in s) the more frequent reading is taken.

    Args:
        text (`str`):
            One line, or several lines, of WikiText.

    Returns:
        `str`: the natural text, with as many lines. Text that is natural already comes back as it was.

    Example:

    ```python
    >>> wikitext_detokenizer(" It 's a well @-@ known game , \" Sonic \" ( 1991 ) . ")
    'It\'s a well-known game, "Sonic" (1991).'
    ```
    """
    return "\n".join(_detokenize_line(line) for line in text.split("\n"))


def _detokenize_line(line: str) -> str:
    for pattern, replacement in _WIKITEXT_RULES:
        line = pattern.sub(replacement, line)
    return line.strip()


DETOKENIZERS: dict[str, Callable[[str], str]] = {"wikitext": wikitext_detokenizer}


__all__ = ["DETOKENIZERS", "wikitext_detokenizer"]
