# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""A Markov chain whose posterior is computed in place of learned, and the exact law of its sampling process."""

import itertools
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from tests.trainer.toy import MarkovChain
from transformers_fsdfm.flow_fsdfm import Schedule


CHAIN = MarkovChain(vocab_size=3, length=3, stay=0.8)


class TableModel(nn.Module):
    """
    p(x_1 | x_t) of every position of a short chain, by Bayes' rule over all of its texts.

    It has what the sampler needs of a model: `model`, `lm_head` and `config`; the posterior's logarithm is the hidden
    state. `sharpness` other than 1 makes it wrong: the posterior to that power, renormalised.
    """

    def __init__(self, source_distribution: str = "uniform", sharpness: float = 1.0) -> None:
        super().__init__()
        self.config = SimpleNamespace(
            vocab_size=CHAIN.vocab_size,
            max_position_embeddings=CHAIN.length,
            source_distribution=source_distribution,
            step_size_conditioning=False,
            flow_schedule=Schedule(),
        )
        self.texts = torch.tensor(list(itertools.product(range(CHAIN.vocab_size), repeat=CHAIN.length)))
        self.sharpness = nn.Parameter(torch.tensor(sharpness))
        self.lm_head = nn.Identity()
        self.num_calls = 0

    def model(self, input_ids: Tensor, time: Tensor, step_size: Tensor | None = None) -> SimpleNamespace:
        self.num_calls += 1
        kappa, vocab_size = time.double(), CHAIN.vocab_size
        shown = (input_ids[:, None] == self.texts).double()
        if self.config.source_distribution == "mask":
            likelihood = torch.where(input_ids[:, None] == vocab_size, 1 - kappa, kappa * shown)
        else:
            likelihood = kappa * shown + (1 - kappa) / vocab_size
        weight = likelihood.prod(-1) * CHAIN.law().double()
        one_hot = nn.functional.one_hot(self.texts, vocab_size).double()
        probs = torch.einsum("rs,slv->rlv", weight / weight.sum(-1, keepdim=True), one_hot)
        logits = probs.clamp_min(1e-30).log() * self.sharpness.detach()
        return SimpleNamespace(last_hidden_state=logits.float())


def exact_law(model: TableModel, start_ids: Tensor, times: Tensor) -> Tensor:
    """P(x at `times[-1]`) of every text, `(texts,)`, from the product of all transition matrices of the solver."""
    law = (model.texts == start_ids).all(-1).double()
    for start, end in itertools.pairwise(times.tolist()):
        probs = model.model(model.texts, torch.tensor([start])).last_hidden_state.double().softmax(-1)
        law = law @ _kernel(model, _next_token_law(probs, model.texts, start, end))
    return law


def _next_token_law(probs: Tensor, ids: Tensor, start: float, end: float) -> Tensor:
    """The law of each position's next token, `(texts, length, vocab_size)`, as FS-DFM App. B.1 writes it."""
    if end == 1:
        return probs
    current = probs.gather(-1, ids[..., None])
    stays = ((1 - end) / (1 - start)) ** (1 - current)  # exp(-G (1 - p)) with G = ln[(1 - t) / (1 - t - h)]
    law = (1 - stays) * probs / (1 - current)
    return law.scatter(-1, ids[..., None], stays)


def _kernel(model: TableModel, law: Tensor) -> Tensor:
    """(from, to): positions move independently, given where all of them are."""
    columns = [law[:, place, model.texts[:, place]] for place in range(CHAIN.length)]
    return torch.stack(columns).prod(0)


def marginals(model: TableModel, law: Tensor) -> Tensor:
    """The law of each position's token, `(length, vocab_size)`, of a law of whole texts."""
    return torch.einsum("s,slv->lv", law, nn.functional.one_hot(model.texts, CHAIN.vocab_size).double())


def kl_divergence(law: Tensor, other: Tensor) -> Tensor:
    """KL(law || other) over the last dimension, in nats."""
    return torch.where(law > 0, law * (law / other).log(), 0.0).sum(-1)
