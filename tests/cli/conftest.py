# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Running commands in this process, and a tiny checkpoint to run them on."""

from pathlib import Path

import pytest

from tests.conftest import tiny_model
from transformers_fsdfm import FSDFMForDiffusionLM
from transformers_fsdfm.cli import main


STORY = "Once upon a time there was a tiny dog. He went home, and was happy. 你好, naïve café 🐶!\n"


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs `fsdfm ...` in this process -> exit code, standard output, standard error."""
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.delenv("FSDFM_TRACEBACK", raising=False)

    def run(*arguments) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_info:
            main([str(argument) for argument in arguments])
        return exit_info.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """A random FS-DFM with the byte-level tokenizer that the trainers make."""
    from transformers_fsdfm.trainer.tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = train_tokenizer([STORY] * 9, vocab_size=320, save_directory=folder)
    special = {name: getattr(tokenizer, name) for name in ("eos_token_id", "pad_token_id", "mask_token_id")}
    tiny_model(vocab_size=len(tokenizer) - 1, max_position_embeddings=64, **special).save_pretrained(folder)
    return folder


@pytest.fixture
def calls(monkeypatch):
    """The keyword arguments of all calls of the library's `generate`."""
    seen = []
    original = FSDFMForDiffusionLM.generate

    def spy(self, **kwargs):
        seen.append(kwargs)
        return original(self, **kwargs)

    monkeypatch.setattr(FSDFMForDiffusionLM, "generate", spy)
    return seen
