# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""
The model `fsdfm` of the LM Evaluation Harness (`lm_eval`), for DFM and FS-DFM models.

    python -m transformers_fsdfm.lm_eval_model run --model fsdfm --model_args pretrained=my-fsdfm --tasks TASK

is `lm_eval` with this model registered. Needs the extra `lm-eval`.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from .modeling_fsdfm import FSDFMForDiffusionLM
from .optional import require
from .trainer.losses import IGNORE_INDEX, path_loss, path_weight, positions_per_chunk
from .trainer.noise import CleanBatch, draw_noisy_ids, seeded_generator
from .trainer.step_sizes import draw_times


try:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
except ImportError:
    require("lm-eval", "lm_eval", what="This model")  # says how to install it
    raise


@register_model("fsdfm")
class FSDFMHarnessModel(LM):
    r"""
    A discrete flow under the harness.

    `loglikelihood` is a lower bound on log p(continuation | context), not the number itself: minus the path loss, which
    is averaged over `num_samples` times, one in each of as many equal parts of [0, 1 - time_epsilon], and over the
    noise of x_t. The context is kept clean at all times. All requests share the times and the seeds of the noise, so
    the choices of a question are compared under the same random numbers, and nothing depends on the order of requests.

    What is longer than the trained length goes through windows, each token scored once; a window after the first starts
    with at least half its width of what was scored before, or of the context.

    Args:
        pretrained (`str` or [`FSDFMForDiffusionLM`]): model folder or Hub id, or the model itself.
        tokenizer (`str` or [`PreTrainedTokenizerBase`], *optional*): by default the one beside the model.
        num_samples (`int`, *optional*, defaults to 128): times at which the bound is sampled.
        seed (`int`, *optional*, defaults to 0): of all random numbers.
        num_steps (`int`, *optional*): sampling steps of `generate_until`; the model's own default if not set.
        greedy_steps (`int`, *optional*, defaults to 8):
            Steps of the generation that says whether a continuation is the greedy one: its last steps take the most
            likely tokens. 0: not tried, `is_greedy` is always False. Multiple-choice accuracy does not look at it.
        max_gen_toks (`int`, *optional*, defaults to 256): new tokens where a task does not say.
        batch_size (`int`, *optional*, defaults to 16): rows in a forward pass; changes no result.
        device (`str`, *optional*): by default a GPU if there is one.
        dtype (`str`, *optional*, defaults to `"auto"`): of the weights.
        step_size (`float`, *optional*, defaults to 2^-10): h at which an FS-DFM's bound is measured: its finest.
        time_epsilon (`float`, *optional*, defaults to 1e-3): the path loss is singular at t = 1.
    """

    def __init__(
        self,
        pretrained: str | FSDFMForDiffusionLM,
        tokenizer: str | PreTrainedTokenizerBase | None = None,
        num_samples: int = 128,
        seed: int = 0,
        num_steps: int | None = None,
        greedy_steps: int = 8,
        max_gen_toks: int = 256,
        batch_size: int | str = 16,
        device: str | None = None,
        dtype: str = "auto",
        step_size: float = 2.0**-10,
        time_epsilon: float = 1e-3,
    ) -> None:
        super().__init__()
        for name, value, lowest in (
            ("num_samples", num_samples, 1),
            ("greedy_steps", greedy_steps, 0),
            ("max_gen_toks", max_gen_toks, 1),
            ("batch_size", batch_size, 1),
        ):
            if not str(value).isdecimal() or int(value) < lowest:
                raise ValueError(f"`{name}` must be an integer >= {lowest}, but got {value!r}")
        if isinstance(pretrained, str):
            tokenizer = tokenizer or pretrained
            pretrained = FSDFMForDiffusionLM.from_pretrained(pretrained, dtype=dtype)
        if tokenizer is None:
            raise ValueError("`tokenizer` is needed where `pretrained` is a model and no folder")
        self.tokenizer = AutoTokenizer.from_pretrained(tokenizer) if isinstance(tokenizer, str) else tokenizer
        place = device or ("cuda" if torch.cuda.is_available() else "cpu")
        # The decorator that transformers puts around `to` loses its `self` for type checkers.
        self.model = pretrained.to(place).eval()  # type: ignore[arg-type]
        self.num_samples, self.seed, self.batch_size = num_samples, seed, int(batch_size)
        self.num_steps, self.greedy_steps, self.max_gen_toks = num_steps, greedy_steps, max_gen_toks
        self.step_size = step_size
        draws = seeded_generator(seed, "lm_eval times")
        self._times = draw_times(num_samples, draws, time_epsilon, low_discrepancy=True)

    # ---- Requests ----------------------------------------------------------------------------------------------------

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """The bound on log p(continuation | context), in nats, and whether the continuation is the greedy one."""
        results = []
        for request in tqdm(requests, desc="loglikelihood", disable=disable_tqdm):
            context_ids, continuation_ids = self._encode_pair(*request.args)
            result = (
                -self._bound(context_ids + continuation_ids, len(context_ids)),
                self._is_greedy(context_ids, continuation_ids),
            )
            self.cache_hook.add_partial("loglikelihood", request.args, result)
            results.append(result)
        return results

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """The bound on log p(text), in nats; BOS (or else EOS) stands before the text and is not scored."""
        results = []
        for request in tqdm(requests, desc="loglikelihood_rolling", disable=disable_tqdm):
            start = self._start_ids()
            result = -self._bound(start + self._encode(request.args[0]), len(start))
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, result)
            results.append(result)
        return results

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """
        Text after each context, up to the first of the strings `until`, or EOS.

        Of the generation arguments `until`, `max_gen_toks`, `do_sample`, `temperature`, `top_k` and `top_p` are known.
        A flow starts from random tokens; without `do_sample`, or at temperature 0, its last steps are greedy.
        """
        settings = [_GenerationSettings(request.args[1], self.max_gen_toks) for request in requests]
        occurrences: dict[str, int] = {}
        results: list[str] = [""] * len(requests)
        with tqdm(total=len(requests), desc="generate_until", disable=disable_tqdm) as bar:
            for rows in self._batches([setting.key for setting in settings]):
                contexts = [requests[row].args[0] for row in rows]
                generators = []
                for context in contexts:  # a context that is asked for again gets another text
                    occurrences[context] = occurrences.get(context, 0) + 1
                    generators.append(seeded_generator(self.seed, "lm_eval text", context, occurrences[context]))
                for row, text in zip(rows, self._generate(contexts, settings[rows[0]], generators), strict=True):
                    results[row] = text
                    self.cache_hook.add_partial("generate_until", requests[row].args, text)
                bar.update(len(rows))
        return results

    # ---- The bound ---------------------------------------------------------------------------------------------------

    def _bound(self, ids: list[int], num_given: int) -> float:
        """Nats that the tokens after the given ones cost at most."""
        width = self.model.config.max_position_embeddings
        return sum(
            self._window_bound(ids[start:end], first - start)
            for start, end, first in scoring_windows(num_given, len(ids), width)
        )

    @torch.no_grad()
    def _window_bound(self, ids: list[int], num_given: int) -> float:
        clean_ids = torch.tensor([ids], device=self.model.device)
        labels = clean_ids.clone()
        labels[:, :num_given] = IGNORE_INDEX
        total = 0.0
        for samples in torch.arange(self.num_samples).split(self.batch_size):
            shape = (len(samples), len(ids))
            total += self._path_loss(CleanBatch(clean_ids.expand(shape), labels.expand(shape), None), samples)
        return total / self.num_samples

    def _path_loss(self, batch: CleanBatch, samples: Tensor) -> float:
        """The path loss in nats, summed over positions and over samples, each with its own time and noise."""
        config, time = self.model.config, self._times[samples]
        generators = [seeded_generator(self.seed, "lm_eval noise", int(sample)) for sample in samples]
        noisy_ids = draw_noisy_ids(batch, time, config, generators)
        weight = path_weight(config.flow_schedule, time).to(noisy_ids.device)
        time = time.to(noisy_ids.device)
        step_size = torch.full_like(time, self.step_size) if config.step_size_conditioning else None
        hidden_states = self.model.model(input_ids=noisy_ids, time=time, step_size=step_size).last_hidden_state
        scored = [
            values[batch.editable]
            for values in (hidden_states, batch.clean_ids, noisy_ids, weight[:, None].expand_as(noisy_ids))
        ]
        size = positions_per_chunk(config.vocab_size, noisy_ids.device)
        chunks = zip(*(values.split(size) for values in scored), strict=True)
        return sum(float(path_loss(self.model.lm_head(hidden), *rest).sum()) for hidden, *rest in chunks)

    # ---- Generation --------------------------------------------------------------------------------------------------

    def _is_greedy(self, context_ids: list[int], continuation_ids: list[int]) -> bool:
        if not self.greedy_steps or not continuation_ids:
            return not continuation_ids
        sequences = self.model.generate(
            torch.tensor([context_ids], dtype=torch.long, device=self.model.device).view(1, -1),
            max_new_tokens=len(continuation_ids),
            num_steps=self.greedy_steps,
            final_temperature=0,
            attention_mask=torch.ones(1, len(context_ids)),  # else a pad token in the context would count as padding
            generator=seeded_generator(self.seed, "lm_eval greedy"),
        )
        return sequences[0, len(context_ids) :].tolist() == continuation_ids

    def _generate(
        self, contexts: list[str], settings: "_GenerationSettings", generators: list[torch.Generator]
    ) -> list[str]:
        prompts = [self._encode(context) if context else self._start_ids() for context in contexts]
        width = max(map(len, prompts))
        shape = (len(prompts), width)
        pad = self.tokenizer.pad_token_id or 0  # hidden by the mask
        padded = torch.tensor([[pad] * (width - len(ids)) + ids for ids in prompts], dtype=torch.long).view(shape)
        mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts]).view(shape)
        steps = {} if self.num_steps is None else {"num_steps": self.num_steps}
        sequences = self.model.generate(
            padded.to(self.model.device),
            attention_mask=mask.to(self.model.device),
            max_new_tokens=settings.max_new_tokens,
            generator=generators,
            **steps,
            **settings.options,
        )
        return [
            settings.cut(self._decode_new(prompt, new_ids))
            for prompt, new_ids in zip(prompts, sequences[:, width:].tolist(), strict=True)
        ]

    def _decode_new(self, prompt: list[int], new_ids: list[int]) -> str:
        """The text of the new tokens up to the first EOS, with the space in front of it if there is one."""
        eos = self.tokenizer.eos_token_id
        new_ids = new_ids[: new_ids.index(eos)] if eos in new_ids else new_ids

        def decode(ids: list[int]) -> str:
            return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

        before, whole = decode(prompt), decode(prompt + new_ids)
        return whole[len(before) :] if whole.startswith(before) else decode(new_ids)

    def _batches(self, keys: list[str]) -> Iterator[list[int]]:
        """The numbers of requests with equal settings, at most `batch_size` at a time."""
        by_key: dict[str, list[int]] = {}
        for row, key in enumerate(keys):
            by_key.setdefault(key, []).append(row)
        for rows in by_key.values():
            for start in range(0, len(rows), self.batch_size):
                yield rows[start : start + self.batch_size]

    # ---- Tokens ------------------------------------------------------------------------------------------------------

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _start_ids(self) -> list[int]:
        """What stands before a text without context: in training, EOS ends the document before."""
        candidates = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
        return [token_id for token_id in candidates if token_id is not None][:1]

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Tokens of context and continuation; spaces between the two belong to the latter, as everywhere in lm_eval."""
        num_spaces = len(context) - len(context.rstrip())
        if num_spaces:
            context, continuation = context[:-num_spaces], context[-num_spaces:] + continuation
        if not context:
            return self._start_ids(), self._encode(continuation)
        context_ids = self._encode(context)
        return context_ids, self._encode(context + continuation)[len(context_ids) :]

    @property
    def tokenizer_name(self) -> str:
        """Tells apart the cached requests of models with different chat templates."""
        return self.tokenizer.name_or_path.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The template by name, or the tokenizer's only one; it is written to the results."""
        if chat_template is False:
            return ""
        return self.tokenizer.get_chat_template(None if chat_template is True else chat_template)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as one text."""
        text = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return str(text)  # tokens are made with `tokenize=True` alone


class _GenerationSettings:
    """The generation arguments of a request, in the words of `generate`."""

    _known = frozenset(("until", "max_gen_toks", "do_sample", "temperature", "top_k", "top_p"))

    def __init__(self, arguments: dict[str, Any], max_gen_toks: int) -> None:
        if unknown := arguments.keys() - self._known:
            raise ValueError(
                f"The generation arguments {sorted(unknown)} mean nothing to a discrete flow; known are "
                f"{sorted(self._known)}"
            )
        until = arguments.get("until") or []
        self.until: Sequence[str] = [until] if isinstance(until, str) else until
        self.max_new_tokens = int(arguments.get("max_gen_toks", max_gen_toks))
        self.options = {name: arguments[name] for name in ("top_k", "top_p") if arguments.get(name) is not None}
        temperature = arguments.get("temperature")
        if arguments.get("do_sample") and temperature != 0:
            self.options["temperature"] = 1.0 if temperature is None else temperature
        else:
            self.options["final_temperature"] = 0
        self.key = json.dumps(arguments, sort_keys=True)

    def cut(self, text: str) -> str:
        """The text before the first of the strings `until`."""
        ends = [text.find(end) for end in self.until if end]
        return text[: min((end for end in ends if end >= 0), default=len(text))]


def scoring_windows(num_given: int, length: int, width: int) -> Iterator[tuple[int, int, int]]:
    """
    Windows of at most `width` tokens in which every token after the given ones is scored exactly once.

    Yields:
        `tuple[int, int, int]`: start and end of the window, and its first token that is scored.
    """
    settled = num_given
    while settled < length:
        start = max(0, min(settled - width // 2, length - width))
        end = min(start + width, length)
        yield start, end, settled
        settled = end


__all__ = ["FSDFMHarnessModel", "scoring_windows"]


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
