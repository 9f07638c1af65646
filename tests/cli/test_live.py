# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Drafts on an emulated terminal, in this process."""

import io
import os
from types import SimpleNamespace

import pyte
import pytest
import torch
from transformers import AutoTokenizer

from tests.cli.conftest import STORY
from transformers_fsdfm.cli import _live
from transformers_fsdfm.cli._live import LiveDrafts
from transformers_fsdfm.cli._output import printable


class FakeTerminal(io.StringIO):
    """Standard output that shows on an emulated screen, whose size may change."""

    def __init__(self, monkeypatch, columns: int, lines: int) -> None:
        super().__init__()
        self.screen = pyte.HistoryScreen(columns, lines, history=1000)
        self.stream = pyte.Stream(self.screen)
        self.size = os.terminal_size((columns, lines))
        monkeypatch.setattr("os.get_terminal_size", lambda *descriptor: self.size)
        monkeypatch.setattr(_live, "sys", SimpleNamespace(stdout=self))  # pytest has plans of its own for `sys.stdout`
        monkeypatch.setenv("TERM", "xterm-256color")
        for name in ("NO_COLOR", "COLUMNS", "LINES"):
            monkeypatch.delenv(name, raising=False)

    def resize(self, columns: int, lines: int) -> None:
        self.screen.resize(lines, columns)
        self.size = os.terminal_size((columns, lines))

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.stream.feed(text.replace("\n", "\r\n"))
        return len(text)

    @property
    def lines(self) -> list[str]:
        """The screen, without empty lines at its end."""
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip("\n").split("\n")

    @property
    def num_lines_above(self) -> int:
        """Lines that have been scrolled off the screen."""
        return len(self.screen.history.top)


@pytest.fixture
def terminal(monkeypatch):
    return FakeTerminal(monkeypatch, columns=20, lines=6)


@pytest.fixture(autouse=True)
def _show_every_draft(monkeypatch):
    monkeypatch.setattr(_live, "SECONDS_BETWEEN_DRAFTS", 0)
    monkeypatch.setattr(_live, "MAX_SHARE_OF_TIME", 1e9)


@pytest.fixture(scope="module")
def bpe(checkpoint):
    return AutoTokenizer.from_pretrained(checkpoint)


def canvas(ids) -> dict[str, torch.Tensor]:
    return {"sequences": torch.tensor([ids])}


def test_drafts_replace_each_other_and_vanish(terminal, bpe):
    print("$ fsdfm", file=terminal)
    with LiveDrafts(wanted=True) as live:
        live.note("Loading ...")
        assert terminal.lines == ["$ fsdfm", "Loading ..."]
        given = bpe("Once upon")["input_ids"]
        show = live.callback(bpe, [True] * len(given), num_steps=2, mask_id=None)
        show(None, 0, 0.5, canvas(given + bpe(" dog dog")["input_ids"]))
        assert terminal.lines[:2] == ["$ fsdfm", "Once upon dog dog"]
        assert terminal.lines[2].startswith("step 1/2 · 0.")
        show(None, 1, 1.0, canvas(given + bpe(" time")["input_ids"]))
        assert terminal.lines[:2] == ["$ fsdfm", "Once upon time"]
        assert terminal.lines[2].startswith("step 2/2 · 0.")
        assert len(terminal.lines) == 3
    assert terminal.lines == ["$ fsdfm"]
    assert not terminal.screen.cursor.hidden


def test_given_text_is_bold_and_what_changed_is_coloured(terminal, bpe):
    given = bpe("Once")["input_ids"]
    with LiveDrafts(wanted=True) as live:
        show = live.callback(bpe, [True] * len(given), num_steps=None, mask_id=None)
        show(None, 0, 0.25, canvas(given + bpe(" dog. He")["input_ids"]))
        show(None, 1, 0.5, canvas(given + bpe(" dog, he")["input_ids"]))
        assert terminal.lines[0] == "Once dog, he"
        assert terminal.lines[1].startswith("step 2 (t = 0.500)")
        row = terminal.screen.buffer[0]
        assert [row[column].bold for column in (0, 3, 5)] == [True, True, False]
        assert [row[column].fg for column in (0, 5, 8)] == ["default", "default", "brown"]  # pyte's word for yellow


def test_unwritten_positions_of_a_mask_source_are_shown(terminal, bpe):
    with LiveDrafts(wanted=True) as live:
        show = live.callback(bpe, [], num_steps=2, mask_id=bpe.mask_token_id)
        show(None, 0, 0.5, canvas([bpe.mask_token_id] * 3 + bpe(" dog")["input_ids"]))
        assert terminal.lines[0] == "░░░ dog"


def test_a_text_longer_than_the_screen_shows_where_it_changes(terminal, bpe):
    numbers = [bpe(f"line {number}\n")["input_ids"] for number in range(30)]
    other = bpe("x")["input_ids"]
    ids = [token for number in numbers for token in number]
    position = sum(map(len, numbers[:17]))
    with LiveDrafts(wanted=True) as live:
        show = live.callback(bpe, [], num_steps=None, mask_id=None)
        show(None, 0, 0.1, canvas(ids))
        assert terminal.lines[:4] == ["line 0", "line 1", "line 2", "line 3"]
        show(None, 1, 0.2, canvas(ids[:position] + other + ids[position + 1 :]))
        assert terminal.lines[0].startswith("x")
        assert terminal.lines[1:4] == ["line 18", "line 19", "line 20"]
        show(None, 2, 0.3, canvas(ids[:position] + other + ids[position + 1 :]))
        assert terminal.lines[1:4] == ["line 18", "line 19", "line 20"]
        assert terminal.lines[4].startswith("step 3")
    assert terminal.lines == [""]
    assert terminal.num_lines_above == 0


def test_wide_characters_stay_within_the_lines(terminal, bpe):
    text = "你好你好你好你好你好你好 🐶🐶👩\u200d👩\u200d👧 é\u0301" * 2
    ids = bpe(text)["input_ids"]
    with LiveDrafts(wanted=True) as live:
        show = live.callback(bpe, [], num_steps=3, mask_id=None)
        for step in range(3):
            show(None, step, 0.3, canvas(ids))
        assert terminal.lines[0] == "你 好 你 好 你 好 你 好 你 好".replace(" ", "") or terminal.lines[0].startswith(
            "你"
        )
        assert sum("step" in line for line in terminal.lines) == 1
    assert terminal.lines == [""]
    assert terminal.num_lines_above == 0


def test_random_bytes_are_shown_without_harm(terminal, bpe):
    generator = torch.Generator().manual_seed(0)
    with LiveDrafts(wanted=True) as live:
        show = live.callback(bpe, [], num_steps=20, mask_id=None)
        for step in range(20):
            show(None, step, 0.5, {"sequences": torch.randint(len(bpe), (1, 80), generator=generator)})
            assert sum("step" in line for line in terminal.lines) == 1
    assert terminal.lines == [""]
    assert terminal.num_lines_above == 0


@pytest.mark.parametrize("size", [(60, 6), (20, 12), (9, 4), (1, 1)])
def test_the_window_may_change_its_size(terminal, bpe, size):
    ids = bpe(STORY)["input_ids"]
    with LiveDrafts(wanted=True) as live:
        show = live.callback(bpe, [], num_steps=3, mask_id=None)
        show(None, 0, 0.3, canvas(ids))
        terminal.resize(*size)
        show(None, 1, 0.6, canvas(ids))
        show(None, 2, 1.0, canvas(ids))
        columns, lines = size
        assert len(terminal.lines) <= lines
        if columns > 20:
            assert terminal.lines[0].startswith("Once upon a time there was a tiny dog.")


def test_of_several_texts_the_first_is_shown(terminal, bpe):
    terminal.resize(60, 6)
    with LiveDrafts(wanted=True) as live:
        show = live.callback(bpe, [], num_steps=1, mask_id=None)
        rows = torch.tensor([bpe("dog")["input_ids"], bpe("was")["input_ids"][:1] * len(bpe("dog")["input_ids"])])
        show(None, 0, 1.0, {"sequences": rows})
        assert terminal.lines[0] == "dog"
        assert terminal.lines[1].endswith("the first of 2 texts")


def test_drafts_take_a_small_share_of_the_time(terminal, bpe, monkeypatch):
    monkeypatch.setattr(_live, "MAX_SHARE_OF_TIME", 0.1)
    now = 0.0
    monkeypatch.setattr(_live.clock, "monotonic", lambda: now)
    shown = []

    def render(self, ids, status, console):
        nonlocal now
        now += 1.0
        shown.append(status)
        return []

    monkeypatch.setattr(_live._Draft, "render", render)
    with LiveDrafts(wanted=True) as live:
        show = live.callback(bpe, [], num_steps=100, mask_id=None)
        for step in range(100):
            now += 1.0
            show(None, step, 0.5, canvas([5]))
    assert len(shown) == 12  # of 112 seconds
    assert now == 112


@pytest.mark.parametrize("reason", ["not wanted", "no terminal", "dumb terminal"])
def test_nothing_is_shown_where_it_would_do_harm(terminal, bpe, monkeypatch, reason):
    if reason == "no terminal":
        monkeypatch.setattr(FakeTerminal, "isatty", lambda self: False)
        monkeypatch.setenv("FORCE_COLOR", "1")
    if reason == "dumb terminal":
        monkeypatch.setenv("TERM", "dumb")
    with LiveDrafts(wanted=reason != "not wanted") as live:
        live.note("Loading ...")
        assert live.callback(bpe, [], num_steps=1, mask_id=None) is None
    assert terminal.lines == [""]


def test_control_characters_become_pictures():
    assert printable("a\x1b[31m\r\x07\x7f\x9b2J\tb\n") == "a␛[31m␍␇␡\ufffd2J\tb\n"
