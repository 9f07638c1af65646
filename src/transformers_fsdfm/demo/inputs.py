# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""From what a visitor chose to arguments of `generate`, within the limits of the page."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..flow_fsdfm import SOLVERS
from ..infilling import blanks_to_ids, decode_after, fill_blanks, split_blanks
from ..modeling_fsdfm import FSDFMForDiffusionLM


MAX_STEPS = 1024
MAX_SEED = 2**31 - 1
MAX_TEMPERATURE = 10.0
# A text with more characters than this for each position of the model is refused before it is read.
MAX_CHARACTERS_PER_POSITION = 16


@dataclass(frozen=True)
class Writer:
    """A model with its tokenizer."""

    model: FSDFMForDiffusionLM
    tokenizer: PreTrainedTokenizerBase

    @property
    def name(self) -> str:
        """What kind of model it is."""
        return "FS-DFM" if self.model.config.step_size_conditioning else "DFM"

    @property
    def max_length(self) -> int:
        """The length that the model was trained on, in tokens."""
        return self.model.config.max_position_embeddings

    @property
    def num_steps(self) -> int:
        """The steps that it takes if nobody says otherwise, up to `MAX_STEPS`."""
        config = self.model.generation_config
        usual = len(config.time_grid) - 1 if config.time_grid else config.num_steps
        return min(usual or MAX_STEPS, MAX_STEPS)


@dataclass(frozen=True)
class Settings:
    """
    What a visitor can choose. It is checked here, for a request need not come from the page.

    Args:
        text (`str`): a prompt, or a text with blanks such as `___12___`; empty for an unconditional sample.
        num_new_tokens (`int`): tokens to add to a prompt; a text with blanks gets none.
        solver (`str`): one of `SOLVERS`.
        temperature (`float`): above 0, up to `MAX_TEMPERATURE`.
        seed (`int`): from 0 to `MAX_SEED`.
        num_steps (`int`): from 1 to `MAX_STEPS`.

    Raises:
        `ValueError`: names the field that is wrong, what it may be and what it was.
    """

    text: str
    num_new_tokens: int
    solver: str
    temperature: float
    seed: int
    num_steps: int

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise ValueError(f"The text must be a string, but got {self.text!r}")
        if any("\ud800" <= character <= "\udfff" for character in self.text):
            raise ValueError("The text holds half of a character (a lone surrogate), which no tokenizer can read")
        if self.solver not in SOLVERS:
            raise ValueError(f"Solver must be one of {', '.join(SOLVERS)}, but got {self.solver!r}")
        if not (_is_number(self.temperature) and 0 < self.temperature <= MAX_TEMPERATURE):
            raise ValueError(f"Temperature must be above 0 and up to {MAX_TEMPERATURE:g}, but got {self.temperature!r}")
        _check_integer("New tokens", self.num_new_tokens, 1, None)  # `Run` knows the length of the model
        _check_integer("Seed", self.seed, 0, MAX_SEED)
        _check_integer("Steps", self.num_steps, 1, MAX_STEPS)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check_integer(title: str, value: Any, lowest: int, highest: int | None) -> None:
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if not is_integer or value < lowest or (highest is not None and value > highest):
        limits = f"from {lowest:,} on" if highest is None else f"from {lowest:,} to {highest:,}"
        raise ValueError(f"{title} must be a whole number {limits}, but got {value!r}")


@dataclass(frozen=True)
class Run:
    """
    What a writer is to do. Make one with [`Run.plan`].

    Args:
        writer ([`Writer`]): who does it.
        settings ([`Settings`]): what was chosen.
        arguments (`dict`): of `generate`, all but the random numbers.
        given_ids (`torch.LongTensor` of shape `(1, length)`): the tokens of the text, with -1 in its blanks.
        num_written (`int`): tokens that will be written.
    """

    writer: Writer
    settings: Settings
    arguments: dict[str, Any]
    given_ids: Tensor
    num_written: int

    @classmethod
    def plan(cls, writer: Writer, settings: Settings) -> "Run":
        """
        Raises:
            `ValueError`: if the text has a bad blank, or the result would be longer than the model was trained for.
        """
        longest = writer.max_length
        if len(settings.text) > MAX_CHARACTERS_PER_POSITION * longest:
            raise ValueError(f"The text has {len(settings.text):,} characters, too many for {longest:,} tokens")
        pieces, blanks = split_blanks(settings.text)
        num_written = sum(blanks) if blanks else settings.num_new_tokens
        if num_written > longest:  # before it takes memory
            raise ValueError(f"{num_written:,} tokens are to be written, but the model was trained on {longest:,}")
        if blanks:
            inputs = blanks_to_ids(settings.text, writer.tokenizer)
            given_ids = inputs["input_ids"].masked_fill(inputs["editable_mask"], -1)
        else:
            given_ids = _encode_prompt(pieces[0], writer.tokenizer)
            inputs = {"input_ids": given_ids} if given_ids.numel() else {}
        length = given_ids.shape[1] + (0 if blanks else num_written)
        if length > longest:
            raise ValueError(f"The text would have {length:,} tokens, but the model was trained on {longest:,}")
        arguments = {
            **inputs,
            "max_new_tokens": 0 if blanks else num_written,
            "num_steps": settings.num_steps,
            "solver": settings.solver,
            "temperature": settings.temperature,
            # What continues a text ends where the text ends; a block written from nothing may hold several.
            "pad_after_eos": not blanks and bool(inputs) and writer.model.generation_config.eos_token_id is not None,
        }
        return cls(writer, settings, arguments, given_ids, num_written)

    def text_of(self, ids: list[int]) -> str:
        """The text of a canvas: what was given as it was typed, what was written from its tokens."""
        pieces, blanks = split_blanks(self.settings.text)
        if blanks:
            return fill_blanks(self.settings.text, ids, self.writer.tokenizer)
        start = self.given_ids.shape[1]
        if self.writer.model.config.source_distribution == "mask":  # a draft has no text yet where the mask stands
            ids = [token_id for token_id in ids if token_id != self.writer.model.config.mask_token_id]
        written = decode_after(ids[:start], ids[start:], self.writer.tokenizer, skip_special_tokens=start > 0)
        return pieces[0] + (written.removeprefix(" ") if pieces[0].endswith(" ") else written)


def _encode_prompt(prompt: str, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    if not prompt:
        return torch.empty((1, 0), dtype=torch.long)
    return tokenizer(prompt, add_special_tokens=False, split_special_tokens=True, return_tensors="pt", verbose=False)[
        "input_ids"
    ]
