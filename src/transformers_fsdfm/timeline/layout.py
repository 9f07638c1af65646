# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Breaks a text into lines of columns, as in a terminal."""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import regex
from rich.cells import cell_len

from .cells import NEWLINE


@dataclass(frozen=True)
class Piece:
    """What one cell puts on one line."""

    cell: int  # index
    text: str
    width: int  # columns


def wrap(texts: Sequence[str], columns: int) -> list[list[Piece]]:
    """
    Lines of at most `columns` columns: broken after line breaks, between words where that is possible, and inside a
    cell where one is longer than a line.
    """
    lines: list[list[Piece]] = [[]]
    room = columns
    for word in _words(texts, columns):
        width = sum(piece.width for piece in word)
        if width > room and width <= columns and lines[-1]:
            lines.append([])
            room = columns
        for piece in word:
            if piece.width > room and lines[-1]:
                lines.append([])
                room = columns
            lines[-1].append(piece)
            room -= piece.width
            if piece.text.endswith(NEWLINE):
                lines.append([])
                room = columns
    return lines if lines[-1] or len(lines) == 1 else lines[:-1]


def _words(texts: Sequence[str], columns: int) -> Iterator[list[Piece]]:
    """Pieces that belong on one line: a word begins at a space, and ends with a line break."""
    word: list[Piece] = []
    for piece in _pieces(texts, columns):
        if word and piece.text.startswith(" "):
            yield word
            word = []
        word.append(piece)
        if piece.text.endswith(NEWLINE):
            yield word
            word = []
    if word:
        yield word


def _pieces(texts: Sequence[str], columns: int) -> Iterator[Piece]:
    for index, text in enumerate(texts):
        for line in text.replace(NEWLINE, f"{NEWLINE}\n").splitlines():
            for part in _split(line, columns):
                yield Piece(index, part, cell_len(part))


def _split(line: str, columns: int) -> Iterator[str]:
    """Parts of at most `columns` columns, each of whole characters."""
    if cell_len(line) <= columns:
        yield line
        return
    part = ""
    for character in regex.findall(r"\X", line):
        if part and cell_len(part + character) > columns:
            yield part
            part = ""
        part += character
    yield part


def visual_order(line: Sequence[Piece]) -> list[Piece]:
    """
    The pieces of a line from left to right on the screen.

    The Unicode bidirectional algorithm (UAX 9) for whole pieces: each goes by its first strong character; one without
    goes with its neighbours if these agree, else with the line; numbers keep their order. The line goes by its first
    strong piece. Spaces in front of a word are pieces of their own here. What is inside a piece is left to the text
    engine.
    """
    pieces = [part for piece in line for part in _split_spaces(piece)]
    levels = _levels([_direction(piece.text) for piece in pieces], "R" if is_right_to_left(line) else "L")
    order = list(range(len(pieces)))
    for level in range(max(levels, default=0), 0, -1):

        def is_inside(index: int, level: int = level) -> bool:
            return levels[index] >= level

        order = [
            index
            for is_reversed, run in groupby(order, key=is_inside)
            for index in (reversed(list(run)) if is_reversed else run)
        ]
    return [pieces[index] for index in order]


def _split_spaces(piece: Piece) -> list[Piece]:
    word = piece.text.lstrip(" ")
    num_spaces = len(piece.text) - len(word)
    if not word or not num_spaces:
        return [piece]
    return [Piece(piece.cell, " " * num_spaces, num_spaces), Piece(piece.cell, word, piece.width - num_spaces)]


def is_right_to_left(line: Sequence[Piece]) -> bool:
    """Whether a line goes from right to left: by its first strong piece."""
    directions = (_direction(piece.text) for piece in line)
    return next((direction for direction in directions if direction in "LR"), "L") == "R"


def _direction(text: str) -> str:
    """L or R by the first strong character, N for a number, O for other."""
    classes = [unicodedata.bidirectional(character) for character in text]
    strong = next((kind for kind in classes if kind in ("L", "R", "AL")), None)
    if strong:
        return "L" if strong == "L" else "R"
    return "N" if {"EN", "AN"} & set(classes) else "O"


def _levels(directions: Sequence[str], base: str) -> list[int]:
    """Depth of each piece: odd runs from right to left."""
    base_level = 1 if base == "R" else 0
    strong: list[str] = []  # a number counts as what stands before it, seen from its neighbours
    for direction in directions:
        before = next((kind for kind in reversed(strong) if kind != "O"), base)
        strong.append(before if direction == "N" else direction)
    for start, stop in _neutral_runs(strong):
        left = strong[start - 1] if start else base
        right = strong[stop] if stop < len(strong) else base
        strong[start:stop] = [left if left == right else base] * (stop - start)
    levels = []
    for direction, side in zip(directions, strong, strict=True):
        if side == "R":
            levels.append(2 if direction == "N" else 1)
        else:
            levels.append(base_level * 2)
    return levels


def _neutral_runs(directions: Sequence[str]) -> list[tuple[int, int]]:
    runs = []
    for neutral, run in groupby(range(len(directions)), key=lambda index: directions[index] == "O"):
        indices = list(run)
        if neutral:
            runs.append((indices[0], indices[-1] + 1))
    return runs
