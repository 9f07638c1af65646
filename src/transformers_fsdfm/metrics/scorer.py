# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""A causal language model that reads texts: how likely each token was, and the hidden state at the end of a text."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from .. import modeling_fsdfm  # noqa: F401  (registers the auto classes, so that a flow is known for one)
from ..hub_configs import MODEL_TYPE, find_scorer


# The float32 logits of one chunk of positions fill about this much memory; their loss needs as much again.
LOGITS_CHUNK_BYTES = 2**27


class EncodedText(NamedTuple):
    """
    Attributes:
        ids (`list[int]`): the tokens of prefix and text; the start token is not among them.
        first_scored (`int`): the first token whose likelihood counts.
        num_bytes (`int`): of UTF-8, that the counted tokens spell.
    """

    ids: list[int]
    first_scored: int
    num_bytes: int


class Scorer:
    """
    A causal language model with its tokenizer.

    Each text begins with the tokenizer's BOS token; where it has none with EOS, which is what starts a text for GPT-2;
    where it has neither, with nothing, and then the first token of a text cannot be scored.

    Args:
        model ([`~transformers.PreTrainedModel`]): with causal attention; is put into eval mode.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): its own. A padding token is not needed.
        name (`str`, *optional*): for reports; by default where the model was loaded from.

    Attributes:
        start_token (`str`): `"bos"`, `"eos"` or `"none"`.
        start_ids (`list[int]`): the one token that begins every text, or nothing.
        context (`int`, *optional*): the most tokens that the model reads at a time; `None` if its config has no limit.

    Raises:
        `TypeError`: if the model is no causal language model.
        `ValueError`: if its predictions depend on later tokens, or the tokenizer is one of another model.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str | None = None) -> None:
        if not isinstance(model, PreTrainedModel) or not isinstance(tokenizer, PreTrainedTokenizerBase):
            kinds = f"{type(model).__name__} and {type(tokenizer).__name__}"
            raise TypeError(f"`scorer` must be a path, or a pair of a model and its tokenizer, but got {kinds}")
        self.model, self.tokenizer = model.eval(), tokenizer
        self.name = name or getattr(model, "name_or_path", "") or type(model).__name__
        self.context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.start_token, self.start_ids = _start_of_text(tokenizer)
        self._backbone = model.base_model if model.base_model is not model else None
        self._has_plain_head = self._probe()

    @classmethod
    def load(
        cls, scorer: "ScorerLike", device: str | torch.device | None = None, dtype: str | torch.dtype | None = None
    ) -> "Scorer":
        """
        Args:
            scorer (`str`, `os.PathLike`, pair of model and tokenizer, or [`Scorer`]):
                A path, a Hub id, or the name of a scorer of this package is loaded; of the others, the model is taken
                as it is.
            device (*optional*): where to put a model that is loaded; an accelerator if there is one.
            dtype (*optional*): of the weights that are loaded; the one they were saved in if not given.

        Raises:
            `ValueError`: if `device` or `dtype` is given for a model that is loaded already, or loading fails.
            `TypeError`: if it is no causal language model.
        """
        if not isinstance(scorer, (str, os.PathLike)):
            if device is not None or dtype is not None:
                raise ValueError("`device` and `dtype` are for a `scorer` given by its path; move the model yourself")
            if isinstance(scorer, Scorer):
                return scorer
            if not isinstance(scorer, Sequence) or len(scorer) != 2:
                raise TypeError(
                    f"`scorer` must be a path, or a pair of a model and its tokenizer, but got {scorer!r:.80}"
                )
            return cls(*scorer)
        name = os.fspath(scorer)
        source = find_scorer(name)
        try:
            tokenizer = AutoTokenizer.from_pretrained(source)
            model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype or "auto")
        except (OSError, ValueError) as error:
            raise ValueError(f"`scorer` {name!r} cannot be loaded as a causal language model: {error}") from error
        if device is None and torch.accelerator.is_available():
            device = torch.accelerator.current_accelerator()
        # The decorator that transformers puts around `to` loses its `self` for type checkers.
        return cls(model.to(device or "cpu"), tokenizer, name)  # type: ignore[arg-type]

    @property
    def settings(self) -> dict[str, Any]:
        """What a result must say about its scorer."""
        return {"scorer": self.name, "start_token": self.start_token, "dtype": str(self.model.dtype)}

    def encode(self, texts: Sequence[str], prefixes: Sequence[str] | None = None) -> list[EncodedText]:
        """
        Tokens of texts, after prefixes that are read and not scored. A token that begins in the prefix and ends in the
        text counts as one of the text.

        Raises:
            `ValueError`: if a token is unknown to the model, or the tokenizer can't say which part of a text a token
                is, which is needed if there are prefixes or no start token.
        """
        if not texts:
            return []
        prefixes = [""] * len(texts) if prefixes is None else prefixes
        needs_offsets = any(prefixes) or not self.start_ids
        if needs_offsets and not self.tokenizer.is_fast:
            raise ValueError(
                "`scorer` needs a fast tokenizer to score a part of a text only: prefixes, or no BOS and EOS"
            )
        joined = [prefix + text for prefix, text in zip(prefixes, texts, strict=True)]
        encoding = self.tokenizer(joined, add_special_tokens=False, return_offsets_mapping=needs_offsets, verbose=False)
        vocab_size = self.model.get_input_embeddings().num_embeddings
        if max((token for ids in encoding["input_ids"] for token in ids), default=0) >= vocab_size:
            raise ValueError(
                f"`scorer`: the tokenizer has tokens beyond the {vocab_size} of the model; is it another's?"
            )
        offsets = encoding["offset_mapping"] if needs_offsets else [None] * len(texts)
        return [
            self._encoded(ids, text, len(prefix), spans)
            for ids, text, prefix, spans in zip(encoding["input_ids"], joined, prefixes, offsets, strict=True)
        ]

    def _encoded(
        self, ids: list[int], text: str, prefix_length: int, spans: list[tuple[int, int]] | None
    ) -> EncodedText:
        if spans is None:
            return EncodedText(ids, 0, len(text.encode()))
        first = sum(end <= prefix_length for _, end in spans) if prefix_length else 0
        first_scored = min(max(first, 0 if self.start_ids else 1), len(ids))
        begin = max(prefix_length, spans[first_scored - 1][1]) if first_scored else 0
        return EncodedText(ids, first_scored, len(text[begin:].encode()))

    @torch.inference_mode()
    def token_nll(self, inputs: list[list[int]], targets: list[list[int]]) -> list[Tensor]:
        """
        Negative log-likelihoods of the last tokens of each row.

        Args:
            inputs: the tokens that the model reads, a row for each text, of any lengths.
            targets: the tokens that follow on the last `len(targets[row])` of them.

        Returns:
            `list[torch.FloatTensor]`: for each row, a tensor on the CPU of shape `(len(targets[row]),)`, in nats.
        """
        batch = self._pad(inputs)
        row = torch.cat([torch.full((len(ids),), index) for index, ids in enumerate(targets)])
        position = torch.cat(
            [torch.arange(len(read) - len(ids), len(read)) for read, ids in zip(inputs, targets, strict=True)]
        )
        target = torch.tensor([token for ids in targets for token in ids])
        row, position, target = (values.to(self.model.device) for values in (row, position, target))
        if self._has_plain_head and self._backbone is not None:
            states, head = (
                self._backbone(**batch, use_cache=False).last_hidden_state,
                self.model.get_output_embeddings(),
            )
        else:
            states, head = self.model(**batch, use_cache=False).logits, nn.Identity()
        nll = _cross_entropy(states[row, position], head, target, self.model.config.get_text_config().vocab_size)
        if nll.isnan().any():
            raise ValueError(f"`scorer` gives NaN in {self.model.dtype}: load it in another `dtype`, such as float32")
        return list(nll.cpu().split([len(ids) for ids in targets]))

    @torch.inference_mode()
    def last_hidden_states(self, rows: list[list[int]]) -> Tensor:
        """The final hidden states at the last token of each row: float32, on the CPU, `(rows, hidden_size)`."""
        if self._backbone is None:
            raise ValueError(f"`scorer` {self.name} has no backbone apart from its head, so it gives no hidden states")
        states = self._backbone(**self._pad(rows), use_cache=False).last_hidden_state
        last = torch.tensor([len(ids) - 1 for ids in rows], device=states.device)
        return states[torch.arange(len(rows), device=states.device), last].float().cpu()

    def _pad(self, rows: list[list[int]]) -> dict[str, Tensor]:
        """On the right, where causal attention never looks, so that any token will do."""
        ids = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
        lengths = torch.tensor([len(row) for row in rows])
        mask = torch.arange(ids.shape[1]) < lengths[:, None]
        return {"input_ids": ids.to(self.model.device), "attention_mask": mask.long().to(self.model.device)}

    @torch.inference_mode()
    def _probe(self) -> bool:
        """
        Whether the logits are the head of the last hidden states and nothing else. Some models scale or cap them; of
        those, the head cannot be applied to the needed positions alone.
        """
        if self.model.config.model_type == MODEL_TYPE:
            raise TypeError("`scorer` is a flow, not a causal language model; its own measure is `likelihood_bound`")
        batch = self._pad([[0, 0, 0], [0, 0, 1]])
        logits = self.model(**batch, use_cache=False).logits
        tolerance = {"rtol": 1e-3, "atol": 1e-3 * logits.abs().max().item()}
        if not torch.allclose(logits[0, :2], logits[1, :2], **tolerance):
            raise ValueError(f"`scorer` {self.name} is not causal: what it predicts depends on tokens that come later")
        head = self.model.get_output_embeddings()
        if head is None or self._backbone is None:
            return False
        states = getattr(self._backbone(**batch, use_cache=False), "last_hidden_state", None)
        return states is not None and torch.allclose(head(states), logits, **tolerance)


ScorerLike = str | os.PathLike | tuple[PreTrainedModel, PreTrainedTokenizerBase] | Scorer


def _start_of_text(tokenizer: PreTrainedTokenizerBase) -> tuple[str, list[int]]:
    for kind in ("bos", "eos"):
        token_id = getattr(tokenizer, f"{kind}_token_id")
        if token_id is not None:
            return kind, [token_id]
    return "none", []


def _cross_entropy(states: Tensor, head: nn.Module, target: Tensor, vocab_size: int) -> Tensor:
    """-log softmax(head(states))[target] in float32, with the logits of one chunk of positions at a time."""
    chunk = max(1, LOGITS_CHUNK_BYTES // (4 * vocab_size))
    losses = [
        nn.functional.cross_entropy(head(part).float(), ids, reduction="none")
        for part, ids in zip(states.split(chunk), target.split(chunk), strict=True)
    ]
    return torch.cat(losses)
