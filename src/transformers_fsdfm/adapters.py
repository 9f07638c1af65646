# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""
Other systems behind one interface, so that the same prompts, metrics and report serve all of them.

[`load_adapter`] opens a model folder or Hub id; [`SystemAdapter.generate`] takes prompts (texts or token ids) and
returns the continuations as ids and texts, with the seconds and the number of times the network ran. One small class
for each system says how its model is called; all else (tokenising, padding, seeds, counting, decoding) is in
[`SystemAdapter`].
"""

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from .hub_configs import find_scorer
from .modeling_fsdfm import FSDFMForDiffusionLM  # noqa: F401  (registers the auto classes)


@dataclass(frozen=True)
class AdapterOutput:
    """
    What [`SystemAdapter.generate`] returns.

    Attributes:
        ids (`list[list[int]]`): the new tokens of each prompt, the prompt itself not included.
        texts (`list[str]`): the same as text, without special tokens.
        num_function_evaluations (`int`):
            How often the network ran for a prompt (the most, if the prompts took unequally many runs). A run on a
            batch counts once, a run with a cache of earlier positions as much as one without.
        seconds (`float`): wall time from token ids to token ids; tokenising and decoding not included.
    """

    ids: list[list[int]]
    texts: list[str]
    num_function_evaluations: int
    seconds: float


class SystemAdapter(ABC):
    """
    One way to generate text, with the same call for all systems.

    Args:
        model ([`PreTrainedModel`]): the model; it is put into eval mode.
        tokenizer ([`PreTrainedTokenizerBase`]): its tokenizer.
        stop_at_eos (`bool`, *optional*): whether a continuation ends before its first end-of-sequence token.
        options: settings of the system's own generate method (see each class), the same for all calls.
    """

    takes_num_steps = True  # whether the system has a number of steps to choose
    pads_prompts = False  # whether prompts of unequal length can share a batch; if not, each length is a batch

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stop_at_eos: bool = True, **options: Any
    ) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.stop_at_eos, self.options = stop_at_eos, options

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[str] | Sequence[Sequence[int]],
        *,
        num_steps: int | None = None,
        max_new_tokens: int,
        seed: int = 0,
    ) -> AdapterOutput:
        """
        Continues a batch of prompts.

        Args:
            prompts (`list[str]` or `list[list[int]]`):
                Texts or token ids. An empty one asks for text from nothing; systems that need a first token start from
                BOS, or else EOS.
            num_steps (`int`, *optional*):
                Denoising steps, for systems with `takes_num_steps`; the system's own default if not set.
            max_new_tokens (`int`): tokens to add to each prompt.
            seed (`int`, *optional*, defaults to 0): of all randomness. The global random state is left as it was.

        Raises:
            `ValueError`, `TypeError`: if an argument does not fit, before anything is generated.
        """
        if max_new_tokens < 1:
            raise ValueError(f"`max_new_tokens` must be at least 1, but got {max_new_tokens}")
        self._check_num_steps(num_steps, max_new_tokens)
        prompt_ids = self._encode(prompts)
        new_ids: list[list[int]] = [[]] * len(prompt_ids)
        num_function_evaluations = 0
        with _seeded(seed, self.model.device):
            started = time.perf_counter()
            for rows in self._batches(prompt_ids):
                input_ids, attention_mask = self._pad([prompt_ids[row] for row in rows])
                with _count_calls(*self._networks()) as calls:
                    added = self._continue(input_ids, attention_mask, num_steps, max_new_tokens)
                for row, ids in zip(rows, added.tolist(), strict=True):
                    new_ids[row] = self._cut(ids)
                num_function_evaluations = max(num_function_evaluations, calls[0])
            seconds = time.perf_counter() - started
        texts = [self._decode(*pair) for pair in zip(prompt_ids, new_ids, strict=True)]
        return AdapterOutput(new_ids, texts, num_function_evaluations, seconds)

    @abstractmethod
    def _continue(
        self, input_ids: Tensor, attention_mask: Tensor, num_steps: int | None, max_new_tokens: int
    ) -> Tensor:
        """
        The new tokens, `(rows, at most max_new_tokens)`, of a batch of prompts, `(rows, length)`, on the device.

        The global generator is seeded. `attention_mask`, `(rows, length)`, is 0 at padding, which is on the left and
        occurs only with `pads_prompts`.
        """

    def _networks(self) -> tuple[nn.Module, ...]:
        """The modules whose calls are counted."""
        return (self.model,)

    def _check_num_steps(self, num_steps: int | None, max_new_tokens: int) -> None:
        if num_steps is None:
            return
        if not self.takes_num_steps:
            raise ValueError(f"`num_steps` means nothing to {type(self).__name__}: leave it out, but got {num_steps}")
        if num_steps < 1:
            raise ValueError(f"`num_steps` must be at least 1, but got {num_steps}")

    def _encode(self, prompts: Sequence[str] | Sequence[Sequence[int]]) -> list[list[int]]:
        if isinstance(prompts, str) or not len(prompts):
            raise ValueError(f"`prompts` must be a list of at least one prompt, but got {prompts!r}")
        if all(isinstance(prompt, str) for prompt in prompts):
            encoded = [self.tokenizer(prompt)["input_ids"] if prompt else [] for prompt in prompts]
        elif any(isinstance(prompt, str) for prompt in prompts):
            raise TypeError("`prompts` must be all texts or all token ids, but both are among them")
        else:
            encoded = [[int(token) for token in prompt] for prompt in prompts]
        return [ids or self._start_ids() for ids in encoded]

    def _start_ids(self) -> list[int]:
        """What stands for an empty prompt in systems that need a token to start from."""
        for token_id in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if token_id is not None:
                return [token_id]
        raise ValueError("`prompts` has an empty one, and the tokenizer has neither BOS nor EOS to start from")

    def _batches(self, prompt_ids: list[list[int]]) -> list[list[int]]:
        """The numbers of the prompts that run together."""
        if self.pads_prompts:
            return [list(range(len(prompt_ids)))]
        by_length: dict[int, list[int]] = {}
        for row, ids in enumerate(prompt_ids):
            by_length.setdefault(len(ids), []).append(row)
        return list(by_length.values())

    def _pad(self, prompt_ids: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask, `(rows, longest prompt)`, padded on the left."""
        width, pad = max(map(len, prompt_ids)), self._pad_token_id()
        shape = (len(prompt_ids), width)
        ids = [[pad] * (width - len(row)) + row for row in prompt_ids]
        mask = [[0] * (width - len(row)) + [1] * len(row) for row in prompt_ids]
        make = {"dtype": torch.long, "device": self.model.device}
        return torch.tensor(ids, **make).view(shape), torch.tensor(mask, **make).view(shape)

    def _pad_token_id(self) -> int:
        """Any token does where a mask hides it."""
        return self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0

    def _eos_token_ids(self) -> set[int]:
        config = getattr(self.model, "generation_config", None)
        eos = getattr(config, "eos_token_id", None)
        eos = self.tokenizer.eos_token_id if eos is None else eos
        return set() if eos is None else set(eos) if isinstance(eos, Sequence) else {eos}

    def _cut(self, ids: list[int]) -> list[int]:
        if not self.stop_at_eos:
            return ids
        eos = self._eos_token_ids()
        return ids[: next((place for place, token in enumerate(ids) if token in eos), len(ids))]

    def _decode(self, prompt_ids: list[int], new_ids: list[int]) -> str:
        """The new part of the whole text: decoded alone, many tokenizers would lose a space in front of it."""

        def decode(ids: list[int]) -> str:
            return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

        prompt, whole = decode(prompt_ids), decode([*prompt_ids, *new_ids])
        return whole[len(prompt) :] if whole.startswith(prompt) else decode(new_ids)


class FSDFMAdapter(SystemAdapter):
    """
    The models of this package. `options` are settings of [`FSDFMGenerationConfig`].

    Texts do not stop at EOS by default: the models are trained on blocks in which documents follow each other.
    """

    pads_prompts = True

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stop_at_eos: bool = False, **options: Any
    ) -> None:
        super().__init__(model, tokenizer, stop_at_eos, **options)

    def _continue(
        self, input_ids: Tensor, attention_mask: Tensor, num_steps: int | None, max_new_tokens: int
    ) -> Tensor:
        steps = {} if num_steps is None else {"num_steps": num_steps}
        generator = torch.Generator().manual_seed(torch.initial_seed())
        sequences = self.model.generate(
            input_ids,
            attention_mask=attention_mask,
            max_new_tokens=max_new_tokens,
            generator=generator,
            return_dict_in_generate=False,
            **steps,
            **self.options,
        )
        return sequences[:, input_ids.shape[1] :]

    def _networks(self) -> tuple[nn.Module, ...]:
        return (self.model.model,)

    def _start_ids(self) -> list[int]:
        return []


class CausalLMAdapter(SystemAdapter):
    """
    Any autoregressive model of transformers. `options` are settings of `generate`.

    Unless `options` say otherwise, tokens are drawn from the model's distribution as it is (`do_sample=True, top_k=0`),
    as the samplers of the other systems do.
    """

    takes_num_steps = False
    pads_prompts = True

    def _continue(
        self, input_ids: Tensor, attention_mask: Tensor, num_steps: int | None, max_new_tokens: int
    ) -> Tensor:
        options = {"do_sample": True, "top_k": 0, **self.options}
        if not self.stop_at_eos:
            # An id that no token has: None would be replaced by the model's own.
            options["eos_token_id"] = self.model.config.get_text_config().vocab_size
        sequences = self.model.generate(
            input_ids,
            attention_mask=attention_mask,
            max_new_tokens=max_new_tokens,
            pad_token_id=self._pad_token_id(),
            return_dict_in_generate=False,
            **options,
        )
        return sequences[:, input_ids.shape[1] :]


class DiffusionGemmaAdapter(SystemAdapter):
    """
    transformers' DiffusionGemma. `options` are settings of its `generate` (`t_min`, `t_max`, `sampler_config`, ...).

    `num_steps` is `max_denoising_steps`, the most for each canvas: a canvas that is settled early takes fewer, and a
    long text takes several canvases. Runs of the encoder count, too.
    """

    def _continue(
        self, input_ids: Tensor, attention_mask: Tensor, num_steps: int | None, max_new_tokens: int
    ) -> Tensor:
        steps = {} if num_steps is None else {"max_denoising_steps": num_steps}
        length = input_ids.shape[1]
        # Both lengths: which of the two a model's own generation config overrules depends on their values.
        sequences = self.model.generate(
            input_ids,
            attention_mask=attention_mask,
            max_new_tokens=max_new_tokens,
            max_length=length + max_new_tokens,
            return_dict_in_generate=False,
            **steps,
            **self.options,
        )
        return sequences[:, length : length + max_new_tokens]  # canvases are written whole

    def _networks(self) -> tuple[nn.Module, ...]:
        return (self.model.model.encoder, self.model.model.decoder)


class LLaDAAdapter(SystemAdapter):
    """
    LLaDA ("Large Language Diffusion Models", arXiv 2502.09992), whose remote code has a forward and no sampler.

    The sampler is the paper's low-confidence remasking: after step k of N, a block of L tokens shows floor(L k / N) of
    them, those that the model was most certain of when they were predicted; the others are masked again. With several
    blocks (semi-autoregressive remasking) each is finished before the next one begins. Steps that would show nothing
    new, because there are more steps than tokens, do not run the network.

    Args:
        model ([`PreTrainedModel`]): `model(input_ids).logits` of shape `(rows, length, vocabulary)`, bidirectional.
        tokenizer, stop_at_eos: as in [`SystemAdapter`].
        block_length (`int`, *optional*): tokens in a block; all new ones if not set.
        temperature (`float`, *optional*, defaults to 0.0): 0 takes the most likely token of each position.
        mask_token_id (`int`, *optional*): by default `mask_token_id` of the model's config (126336 in LLaDA 8B).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        stop_at_eos: bool = True,
        block_length: int | None = None,
        temperature: float = 0.0,
        mask_token_id: int | None = None,
    ) -> None:
        super().__init__(model, tokenizer, stop_at_eos)
        if mask_token_id is None:
            mask_token_id = getattr(model.config, "mask_token_id", None)
        if mask_token_id is None:
            raise ValueError("`mask_token_id` is missing: the model's config has none, so pass it (LLaDA 8B: 126336)")
        if block_length is not None and block_length < 1:
            raise ValueError(f"`block_length` must be at least 1, but got {block_length}")
        if not temperature >= 0:
            raise ValueError(f"`temperature` must be >= 0, but got {temperature}")
        self.block_length, self.temperature, self.mask_token_id = block_length, temperature, mask_token_id

    def _start_ids(self) -> list[int]:
        return []

    def _check_num_steps(self, num_steps: int | None, max_new_tokens: int) -> None:
        super()._check_num_steps(num_steps, max_new_tokens)
        num_blocks = len(self._blocks(max_new_tokens))
        if num_steps is not None and num_steps < num_blocks:
            raise ValueError(
                f"`num_steps` ({num_steps}) must be at least 1 for each of the {num_blocks} blocks that "
                f"`block_length`={self.block_length} makes of {max_new_tokens} tokens"
            )

    def _blocks(self, max_new_tokens: int) -> list[int]:
        """The lengths of the blocks."""
        size = min(self.block_length or max_new_tokens, max_new_tokens)
        return [min(size, max_new_tokens - start) for start in range(0, max_new_tokens, size)]

    def _continue(
        self, input_ids: Tensor, attention_mask: Tensor, num_steps: int | None, max_new_tokens: int
    ) -> Tensor:
        num_steps = max_new_tokens if num_steps is None else num_steps  # one token a step: the paper's default
        blocks = self._blocks(max_new_tokens)
        canvas = nn.functional.pad(input_ids, (0, max_new_tokens), value=self.mask_token_id)
        start = input_ids.shape[1]
        for number, length in enumerate(blocks):
            steps = num_steps * (number + 1) // len(blocks) - num_steps * number // len(blocks)
            for step in range(steps):
                num_new = length * (step + 1) // steps - length * step // steps
                if num_new:
                    self._show(canvas, slice(start, start + length), num_new)
            start += length
        return canvas[:, input_ids.shape[1] :]

    def _show(self, canvas: Tensor, block: slice, num_new: int) -> None:
        """Writes the `num_new` predictions that the model is most certain of, among the masks of a block."""
        logits = self.model(canvas).logits[:, block].float()
        logits[..., self.mask_token_id] = -torch.inf
        predicted = self._predict(logits)
        confidence = logits.softmax(-1).gather(-1, predicted[..., None])[..., 0]
        is_open = canvas[:, block] == self.mask_token_id
        places = confidence.masked_fill(~is_open, -1).topk(num_new, dim=-1).indices
        canvas[:, block].scatter_(1, places, predicted.gather(1, places))

    def _predict(self, logits: Tensor) -> Tensor:
        if self.temperature == 0:
            return logits.argmax(-1)
        gumbel = -torch.empty_like(logits, dtype=torch.float64).exponential_().log()
        return (logits / self.temperature + gumbel).argmax(-1)


class DreamAdapter(SystemAdapter):
    """
    Dream ("Dream 7B", arXiv 2508.15487). `options` are settings of `diffusion_generate` of its remote code: `alg`
    (`"origin"`, `"maskgit_plus"`, `"topk_margin"`, `"entropy"`), `alg_temp`, `temperature`, `top_p`, `top_k`.
    """

    def _continue(
        self, input_ids: Tensor, attention_mask: Tensor, num_steps: int | None, max_new_tokens: int
    ) -> Tensor:
        output = self.model.diffusion_generate(
            input_ids,
            attention_mask=attention_mask,
            max_new_tokens=max_new_tokens,
            steps=max_new_tokens if num_steps is None else num_steps,
            return_dict_in_generate=True,
            **self.options,
        )
        return output.sequences[:, input_ids.shape[1] :]


# By `model_type` of the config; everything else is taken for an autoregressive model.
ADAPTERS: dict[str, type[SystemAdapter]] = {
    "fsdfm": FSDFMAdapter,
    "diffusion_gemma": DiffusionGemmaAdapter,
    "llada": LLaDAAdapter,
    "Dream": DreamAdapter,
}


def load_adapter(
    path: str,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "auto",
    trust_remote_code: bool = False,
    **options: Any,
) -> SystemAdapter:
    """
    Opens a model with its tokenizer and picks the adapter that its `model_type` calls for.

    Args:
        path (`str`): model folder, name of a model that comes with the package, or Hub id.
        device (`str` or `torch.device`, *optional*, defaults to `"cpu"`): where it runs.
        dtype (`str` or `torch.dtype`, *optional*, defaults to `"auto"`): of the weights; as stored by default.
        trust_remote_code (`bool`, *optional*, defaults to `False`): LLaDA and Dream need it: their code is on the Hub.
        options: `stop_at_eos` and the options of the adapter.

    Returns:
        [`SystemAdapter`]
    """
    source = find_scorer(path)
    config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
    adapter = ADAPTERS.get(config.model_type, CausalLMAdapter)
    model = _auto_class(adapter).from_pretrained(source, dtype=dtype, trust_remote_code=trust_remote_code)
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
    return adapter(model.to(device), tokenizer, **options)


def _auto_class(adapter: type[SystemAdapter]) -> Any:
    if adapter is DiffusionGemmaAdapter:
        from transformers import DiffusionGemmaForBlockDiffusion

        return DiffusionGemmaForBlockDiffusion
    return AutoModelForCausalLM if adapter is CausalLMAdapter else AutoModel


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Global generators start from `seed` inside, and are outside as if nothing had been drawn."""
    devices = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def _count_calls(*modules: nn.Module) -> Iterator[list[int]]:
    """A list whose one entry is the number of calls of the modules so far."""
    calls = [0]

    def count(*_: Any) -> None:
        calls[0] += 1

    hooks = [module.register_forward_pre_hook(count) for module in modules]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


__all__ = [
    "ADAPTERS",
    "AdapterOutput",
    "CausalLMAdapter",
    "DiffusionGemmaAdapter",
    "DreamAdapter",
    "FSDFMAdapter",
    "LLaDAAdapter",
    "SystemAdapter",
    "load_adapter",
]
