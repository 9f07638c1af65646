# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Sampling that is watched and stopped from another thread."""

import itertools
import time
from contextlib import closing

import pytest
import torch

from tests.conftest import generator
from tests.demo.conftest import CallCounter
from transformers_fsdfm.demo.sampling import Draft, Sample, Sampler, SamplingStopped


SLOW = {"max_new_tokens": 60, "num_steps": 1024}  # some 400 calls of the network


def test_sample_is_what_generate_gives_for_the_seed(writer, sampler):
    *_, sample = sampler.run(writer.model, seed=3, max_new_tokens=20, num_steps=5)
    expected = writer.model.generate(max_new_tokens=20, num_steps=5, generator=generator(3))
    assert isinstance(sample, Sample)
    assert torch.equal(sample.output.sequences, expected)
    assert len(sample.output.history) == 6
    assert len(sample.step_seconds) == 5
    assert 0 < sample.step_seconds[0] <= sample.step_seconds[-1] <= sample.seconds


def test_drafts_are_the_canvas_after_their_step(writer, sampler):
    CallCounter(writer, seconds=0.02)
    *drafts, sample = sampler.run(writer.model, seed=0, max_new_tokens=20, num_steps=16)
    seen = [draft for draft in drafts if draft.ids is not None]
    assert all(isinstance(draft, Draft) for draft in drafts)
    assert len({draft.step for draft in seen}) > 4
    assert [draft.step for draft in drafts] == sorted(draft.step for draft in drafts)
    assert [draft.seconds for draft in drafts] == sorted(draft.seconds for draft in drafts)
    for draft in seen:
        assert draft.ids == sample.output.history[draft.step][0].tolist()


def test_time_goes_on_while_a_step_lasts(writer, sampler):
    CallCounter(writer, seconds=0.2)
    *drafts, _ = sampler.run(writer.model, seed=0, max_new_tokens=4, num_steps=1)
    before_first_draft = list(itertools.takewhile(lambda draft: draft.ids is None, drafts))
    assert len({draft.seconds for draft in before_first_draft}) > 5
    assert len(drafts) - len(before_first_draft) <= 1  # the only step's own, if it was seen before the end


def test_closing_the_iterator_ends_the_sampling_after_the_step_under_way(writer, sampler):
    counter = CallCounter(writer, seconds=0.02)
    with closing(sampler.run(writer.model, seed=0, **SLOW)) as stream:
        while next(stream).step < 3:
            pass
    calls = counter.calls
    time.sleep(0.3)  # 15 calls, if it went on
    assert counter.calls <= calls + 1


def test_a_forgotten_iterator_ends_the_sampling_too(writer, sampler):
    counter = CallCounter(writer, seconds=0.02)
    stream = sampler.run(writer.model, seed=0, **SLOW)
    next(stream)
    del stream
    assert counter.has_stopped(within=2)
    assert counter.calls < 100


def test_the_next_one_waits_for_the_step_under_way_only(writer, sampler):
    CallCounter(writer, seconds=0.02)
    first = sampler.run(writer.model, seed=0, **SLOW)
    next(first)
    first.close()
    started = time.monotonic()
    *_, sample = sampler.run(writer.model, seed=0, max_new_tokens=4, num_steps=2)
    assert time.monotonic() - started < 2
    assert sample.output.sequences.shape == (1, 4)


def test_only_one_samples_at_a_time(writer, sampler):
    counter = CallCounter(writer, seconds=0.02)
    first = sampler.run(writer.model, seed=0, **SLOW)
    second = sampler.run(writer.model, seed=1, max_new_tokens=4, num_steps=1)
    while next(first).step == 0:
        pass
    waits = [next(second) for _ in range(20)]
    assert all(draft == Draft(0, 0.0) for draft in waits)
    assert counter.calls > 3
    first.close()
    *_, sample = second
    assert isinstance(sample, Sample)


def test_one_that_was_given_up_while_it_waited_never_runs(writer, sampler):
    counter = CallCounter(writer, seconds=0.02)
    first = sampler.run(writer.model, seed=0, max_new_tokens=60, num_steps=8)
    second = sampler.run(writer.model, seed=1, **SLOW)
    next(first), next(second)
    second.close()
    list(first)
    assert counter.has_stopped(within=2)
    assert counter.calls <= 8


def test_an_error_reaches_the_watcher_and_the_next_sample_works(writer, sampler):
    with pytest.raises(ValueError, match="`num_steps` must be an integer >= 1"):
        list(sampler.run(writer.model, seed=0, max_new_tokens=4, num_steps=0))
    *_, sample = sampler.run(writer.model, seed=0, max_new_tokens=4, num_steps=1)
    assert isinstance(sample, Sample)


def test_closing_the_sampler_stops_what_runs_and_refuses_more(writer):
    sampler, counter = Sampler(interval=0.005), CallCounter(writer, seconds=0.02)
    running, waiting = (sampler.run(writer.model, seed=0, **SLOW) for _ in range(2))
    next(running), next(waiting)
    sampler.close()
    for stream in (running, waiting, sampler.run(writer.model, seed=0, **SLOW)):
        with pytest.raises(SamplingStopped):
            list(stream)
    assert counter.calls < 20
