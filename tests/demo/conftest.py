# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""A tiny model with a byte-level tokenizer, whose network can be slowed down and counted."""

import time

import pytest

from tests.conftest import tiny_model
from transformers_fsdfm.demo.handlers import Handlers
from transformers_fsdfm.demo.inputs import Writer
from transformers_fsdfm.demo.sampling import Sampler
from transformers_fsdfm.trainer.tokenizer import train_tokenizer


MAX_LENGTH = 64


@pytest.fixture(scope="session")
def byte_tokenizer():
    return train_tokenizer(["Once upon a time there was a tiny dog. It went home."] * 9, vocab_size=280)


def make_writer(tokenizer, **changes) -> Writer:
    vocab_size = len(tokenizer) - 1
    special = {name: getattr(tokenizer, name) for name in ("eos_token_id", "pad_token_id", "mask_token_id")}
    sizes = {"vocab_size": vocab_size, "max_position_embeddings": MAX_LENGTH}
    return Writer(tiny_model(**{**sizes, **special, **changes}), tokenizer)


@pytest.fixture
def writer(byte_tokenizer) -> Writer:
    return make_writer(byte_tokenizer)


@pytest.fixture
def dfm(byte_tokenizer) -> Writer:
    dfm = make_writer(byte_tokenizer, step_size_conditioning=False)
    dfm.model.generation_config.num_steps = 32
    return dfm


@pytest.fixture
def sampler():
    sampler = Sampler(interval=0.005)
    yield sampler
    sampler.close()


@pytest.fixture
def handlers(writer, sampler) -> Handlers:
    return Handlers(writer, sampler=sampler)


class CallCounter:
    """Counts how often a network runs, and lets it take its time."""

    def __init__(self, writer: Writer, seconds: float = 0.0) -> None:
        self.calls, self.seconds = 0, seconds
        writer.model.model.register_forward_pre_hook(self._count)

    def _count(self, *_) -> None:
        self.calls += 1
        time.sleep(self.seconds)

    def has_stopped(self, within: float = 10.0) -> bool:
        """Whether there comes a time, soon, from which on the network does not run any more."""
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            before = self.calls
            time.sleep(10 * self.seconds + 0.8)
            if self.calls == before:
                return True
        return False
