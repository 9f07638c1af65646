# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""What the buttons do, without a server and without a browser."""

import re
import time

import pytest

from tests.conftest import generator
from tests.demo.conftest import CallCounter
from tests.demo.test_fragments import Reader
from transformers_fsdfm.demo.fragments import PENDING
from transformers_fsdfm.demo.handlers import Handlers
from transformers_fsdfm.demo.inputs import Writer
from transformers_fsdfm.timeline import Timeline


SHARED = ("Once upon a time", 20, "cumulative_scalar", 1.0, 0)  # text, new tokens, solver, temperature, seed


def shown(html: str) -> str:
    return Reader(html).text


def test_writes_what_generate_writes(handlers, writer):
    *_, (status, text, _) = handlers.write(*SHARED, 4)
    prompt = writer.tokenizer("Once upon a time", return_tensors="pt")["input_ids"]
    ids = writer.model.generate(prompt, max_new_tokens=20, num_steps=4, pad_after_eos=True, generator=generator(0))
    assert shown(text) == writer.tokenizer.decode(ids[0], skip_special_tokens=True)
    assert re.fullmatch(r"20 tokens in 4 steps and \d+\.\d\d s · [\d,]+ tokens/s · 4 network calls", shown(status))


def test_drafts_come_first_and_the_timeline_at_the_end(handlers, writer):
    CallCounter(writer, seconds=0.02)
    *drafts, (_, text, timeline) = handlers.write(*SHARED, 16)
    assert len({text for _, text, _ in drafts}) > 3
    assert {timeline for _, _, timeline in drafts} == {PENDING}
    assert re.fullmatch(r"Step \d+ of 16 · \d+\.\d s", shown(drafts[-1][0]))
    page = Reader(timeline).attributes["srcdoc"]
    assert "<html" in page
    assert "FS-DFM, 16 steps" in page
    assert shown(text).startswith("Once upon a time")


def test_steps_solver_temperature_and_seed_change_the_text(handlers):
    text, length, solver, temperature, seed = SHARED
    choices = [
        (text, length, solver, temperature, seed, 4),
        (text, length, solver, temperature, seed, 5),
        (text, length, "euler", temperature, seed, 4),
        (text, length, solver, 0.1, seed, 4),
        (text, length, solver, temperature, 1, 4),
    ]
    texts = [list(handlers.write(*choice))[-1][1] for choice in choices]
    assert len(set(texts)) == len(choices)
    assert list(handlers.write(*choices[0]))[-1][1] == texts[0]


def test_blanks_are_filled_and_the_timeline_knows_what_was_given(handlers, monkeypatch):
    made = []
    from_output = Timeline.from_output
    monkeypatch.setattr(Timeline, "from_output", lambda *a, **k: made.append(from_output(*a, **k)) or made[0])
    *_, (status, text, _) = handlers.write("Once ___6___ went home.", *SHARED[1:], 4)
    assert re.fullmatch(r"Once .* went home\.", shown(text), re.DOTALL)
    assert shown(status).startswith("6 tokens in 4 steps")
    assert sum(made[0].counts) == 6
    assert made[0].num_given > 0
    assert len(made[0].seconds) == 4


def test_a_script_is_text(handlers):
    script = "<script>alert(1)</script>${alert(1)}"
    *_, (_, text, timeline) = handlers.write(script, *SHARED[1:], 2)
    assert Reader(text).tags == ["div"]
    assert shown(text).startswith(script)
    assert "<script>alert" not in Reader(timeline).attributes["srcdoc"]


def test_bad_values_are_refused_before_any_work(handlers, writer):
    counter = CallCounter(writer)
    for values in (("", 0, *SHARED[2:]), ("___x___", *SHARED[1:])):
        with pytest.raises(ValueError, match=r"New tokens must be|bad blank"):
            next(handlers.write(*values, 4))
        with pytest.raises(ValueError, match=r"New tokens must be|bad blank"):
            next(handlers.race(*values))
    assert counter.calls == 0


def test_stopping_ends_the_work(handlers, writer):
    counter = CallCounter(writer, seconds=0.02)
    run = handlers.write(*SHARED, 1024)
    next(run)
    run.close()
    assert counter.has_stopped(within=2)
    assert counter.calls < 50


def test_race_runs_one_after_the_other_and_ends_with_the_dfm(writer, dfm, sampler):
    CallCounter(writer, seconds=0.01), CallCounter(dfm, seconds=0.01)
    *progress, (status, table, replay) = Handlers(writer, dfm, sampler).race(*SHARED)
    rows = re.findall(r"<tr><th scope=\"row\">(.*?)</th><td[^>]*>(.*?)</td><td>(.*?)</td><td[^>]*>(.*?)</td>", table)
    assert [(name, steps) for name, steps, _, _ in rows] == [
        ("FS-DFM", "1"),
        ("FS-DFM", "2"),
        ("FS-DFM", "4"),
        ("FS-DFM", "8"),
        ("FS-DFM", "16"),
        ("DFM", "32"),
    ]
    assert all(re.match(r"done, \d+ network calls?", progress) for _, _, progress, _ in rows)
    seconds = [float(number) for *_, number in rows]
    assert seconds[0] < seconds[3] < seconds[5]
    assert shown(status) == "All 6 have finished"
    runners = [shown(status) for status, _, _ in progress]
    assert sorted(set(runners)) == [*(f"Runner {number} of 6" for number in range(1, 7)), "Warms up"]
    assert {replay for _, _, replay in progress} == {""}
    page = Reader(replay).attributes["srcdoc"]
    assert all(title in page for title in ("FS-DFM, 1 step", "FS-DFM, 16 steps", "DFM, 32 steps"))


def test_the_time_of_a_runner_is_that_of_its_own_steps(writer, sampler):
    counter = CallCounter(writer, seconds=0.02)
    cold = writer.model.model.register_forward_pre_hook(lambda *_: time.sleep(2) if counter.calls == 1 else None)
    *_, (_, table, _) = Handlers(writer, sampler=sampler).race(*SHARED)
    cold.remove()
    seconds = [float(cell) for cell in re.findall(r">(\d+\.\d\d)</td>", table)]
    assert all(number >= 0.02 * num_steps for number, num_steps in zip(seconds, (1, 2, 4, 8, 16), strict=True))
    assert seconds[0] < 2  # the first call of all is not part of the race


def test_without_a_dfm_the_race_is_among_steps(handlers):
    *_, (status, table, _) = handlers.race(*SHARED)
    assert shown(status) == "All 5 have finished"
    assert "FS-DFM16done" in shown(table)


def test_a_dfm_that_cannot_take_the_text_is_found_out_before_any_work(writer, dfm, sampler):
    counter = CallCounter(writer)
    dfm.model.config.max_position_embeddings = 10
    with pytest.raises(ValueError, match="trained on 10"):
        next(Handlers(writer, dfm, sampler).race(*SHARED))
    assert counter.calls == 0


def test_a_dfm_on_its_own_is_called_one(dfm, sampler):
    *_, (_, _, timeline) = Handlers(Writer(dfm.model, dfm.tokenizer), sampler=sampler).write(*SHARED, 4)
    assert "DFM, 4 steps" in timeline
    assert "FS-DFM" not in timeline
