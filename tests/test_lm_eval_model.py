# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The model `fsdfm` of the LM Evaluation Harness: bounds, generation, and whole tasks from local files."""

import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests.conftest import tiny_config, tiny_model


lm_eval = pytest.importorskip("lm_eval", reason="needs lm-eval")

from lm_eval.api.instance import Instance  # noqa: E402

from transformers_fsdfm.lm_eval_model import FSDFMHarnessModel, scoring_windows  # noqa: E402


TASKS = Path(__file__).parent / "data" / "lm_eval"


def requests(kind: str, *arguments: tuple) -> list[Instance]:
    return [Instance(kind, {}, arguments=one, idx=index) for index, one in enumerate(arguments)]


def harness(tokenizer, model=None, **options) -> FSDFMHarnessModel:
    settings = {"num_samples": 16, "greedy_steps": 0, "max_gen_toks": 8, "device": "cpu"}
    return FSDFMHarnessModel(model or tiny_model(), tokenizer, **{**settings, **options})


def loglikelihood(lm, *pairs: tuple[str, str]) -> list[float]:
    return [result[0] for result in lm.loglikelihood(requests("loglikelihood", *pairs), disable_tqdm=True)]


class IgnorantModel(nn.Module):
    """A mask source: sees what is unmasked, and takes all of its 60 tokens for equally likely at every mask."""

    def __init__(self) -> None:
        super().__init__()
        self.config = tiny_config(source_distribution="mask", mask_token_id=60, step_size_conditioning=False)
        self.device, self.lm_head = torch.device("cpu"), nn.Identity()

    def model(self, input_ids, time, step_size) -> SimpleNamespace:
        certain = 200.0 * nn.functional.one_hot(input_ids, 61)[..., :60]
        return SimpleNamespace(last_hidden_state=certain)


def test_the_bound_of_a_model_that_knows_nothing_is_the_logarithm_of_the_vocabulary(tokenizer):
    lm = harness(tokenizer, IgnorantModel(), num_samples=4096, batch_size=512)
    (value,) = loglikelihood(lm, ("w2 w3", " w4 w5 w6"))
    assert value == pytest.approx(-3 * math.log(60), rel=0.06)
    rolling = lm.loglikelihood_rolling(requests("loglikelihood_rolling", ("w4 w5 w6",)), disable_tqdm=True)
    assert rolling[0] == pytest.approx(-3 * math.log(60), rel=0.06)


def test_the_context_is_kept_clean(tokenizer, monkeypatch):
    lm, seen = harness(tokenizer), []
    forward = lm.model.model.forward
    monkeypatch.setattr(
        lm.model.model, "forward", lambda input_ids, **kw: seen.append(input_ids) or forward(input_ids, **kw)
    )
    loglikelihood(lm, ("w2 w3 w4", " w5 w6"))
    noisy = torch.cat(seen)
    assert noisy.shape == (16, 5)
    assert (noisy[:, :3] == torch.tensor([2, 3, 4])).all()
    assert (noisy[:, 3:] != torch.tensor([5, 6])).any()


def test_the_context_matters(tokenizer):
    one, other = loglikelihood(harness(tokenizer), ("w2 w3 w4", " w5 w6"), ("w40 w41", " w5 w6"))
    assert one != other


def test_neither_batch_size_nor_order_changes_a_bound(tokenizer):
    pairs = [("w2 w3", " w4"), ("w5", " w6 w7 w8"), ("", "w9 w10")]
    forwards = loglikelihood(harness(tokenizer), *pairs)
    backwards = loglikelihood(harness(tokenizer, batch_size=5), *reversed(pairs))
    assert forwards == pytest.approx(backwards[::-1], rel=1e-5)


def test_seed_and_number_of_samples_are_options(tokenizer):
    pair = ("w2 w3", " w4 w5")
    base = loglikelihood(harness(tokenizer), pair)
    assert base == loglikelihood(harness(tokenizer), pair)
    assert base != loglikelihood(harness(tokenizer, seed=1), pair)
    assert base != loglikelihood(harness(tokenizer, num_samples=32), pair)


def test_more_samples_scatter_less(tokenizer):
    def spread(num_samples: int) -> float:
        values = [
            loglikelihood(harness(tokenizer, num_samples=num_samples, seed=seed, batch_size=256), ("w2", " w3 w4"))[0]
            for seed in range(12)
        ]
        return float(torch.tensor(values).std())

    assert spread(256) < spread(8) / 2


def test_spaces_between_context_and_continuation_belong_to_the_continuation(tokenizer):
    assert harness(tokenizer)._encode_pair("w2 w3 ", "w4") == ([2, 3], [4])
    assert harness(tokenizer)._encode_pair("", "w4") == ([0], [4])  # EOS stands before a text


def test_an_empty_continuation_costs_nothing(tokenizer):
    results = harness(tokenizer).loglikelihood(requests("loglikelihood", ("w2", "")), disable_tqdm=True)
    assert results == [(0.0, True)]


@pytest.mark.parametrize(("num_given", "length"), [(0, 5), (1, 100), (40, 100), (99, 100), (0, 33), (70, 71), (0, 32)])
def test_windows_score_every_token_once_with_context_before_it(num_given, length):
    scored = []
    for number, (start, end, first) in enumerate(scoring_windows(num_given, length, 32)):
        assert 0 <= start <= first < end <= length
        assert end - start == min(32, length)
        assert first - start >= 16 or first == num_given
        assert number == 0 or first - start >= 16
        scored += range(first, end)
    assert scored == list(range(num_given, length))


def test_texts_longer_than_the_model_are_scored_whole(tokenizer):
    lm = harness(tokenizer, IgnorantModel(), num_samples=512, batch_size=512)
    text = " ".join(f"w{2 + index % 50}" for index in range(70))  # the model's length is 32
    rolling = lm.loglikelihood_rolling(requests("loglikelihood_rolling", (text,)), disable_tqdm=True)
    assert rolling[0] == pytest.approx(-70 * math.log(60), rel=0.06)


def test_the_greedy_continuation_is_recognised(tokenizer):
    lm = harness(tokenizer, greedy_steps=3)
    from transformers_fsdfm.trainer.noise import seeded_generator

    written = lm.model.generate(
        torch.tensor([[2, 3]]),
        max_new_tokens=3,
        num_steps=3,
        final_temperature=0,
        generator=seeded_generator(0, "lm_eval greedy"),
    )[0, 2:].tolist()
    greedy = "".join(f" w{token}" for token in written)
    other = "".join(f" w{2 + (token + 5) % 50}" for token in written)
    results = lm.loglikelihood(requests("loglikelihood", ("w2 w3", greedy), ("w2 w3", other)), disable_tqdm=True)
    assert [is_greedy for _, is_greedy in results] == [True, False]
    unchecked = harness(tokenizer).loglikelihood(requests("loglikelihood", ("w2 w3", greedy)), disable_tqdm=True)
    assert unchecked[0][1] is False


def texts(lm, *contexts: str, **arguments) -> list[str]:
    settings = {"max_gen_toks": 20, "do_sample": True, **arguments}
    pairs = [(context, settings) for context in contexts]
    return lm.generate_until(requests("generate_until", *pairs), disable_tqdm=True)


def test_generation_depends_on_the_context_and_not_on_the_batch(tokenizer):
    contexts = ["w2 w3", "w4 w5 w6 w7", "", "w2 w3"]
    together = texts(harness(tokenizer), *contexts)
    apart = texts(harness(tokenizer, batch_size=1), *contexts)
    assert together == apart
    assert together[0] != together[3]  # the same context again: another sample
    assert together != texts(harness(tokenizer, seed=1), *contexts)


def test_text_stops_before_the_strings_given_and_before_eos(tokenizer):
    lm = harness(tokenizer)
    (whole,) = texts(lm, "w2 w3")
    words = whole.split()
    (cut,) = texts(lm, "w2 w3", until=[words[4], "never"])
    assert cut.split() == words[: words.index(words[4])]
    (cut,) = texts(lm, "w2 w3", until=words[4])  # one string in place of a list
    assert cut.split() == words[: words.index(words[4])]
    assert lm._decode_new([2, 3], [4, 5, 0, 6]).split() == ["w4", "w5"]


def test_lengths_come_from_the_task_or_else_from_the_model(tokenizer):
    lm = harness(tokenizer, max_gen_toks=3)
    assert len(lm._generate(["w2"], settings(lm), [torch.Generator()])[0].split()) <= 3
    assert settings(lm).max_new_tokens == 3
    assert settings(lm, max_gen_toks=5).max_new_tokens == 5


def settings(lm, **arguments):
    from transformers_fsdfm.lm_eval_model import _GenerationSettings

    return _GenerationSettings(arguments, lm.max_gen_toks)


def test_sampling_arguments_are_translated(tokenizer):
    lm = harness(tokenizer)
    assert settings(lm).options == {"final_temperature": 0}
    assert settings(lm, temperature=0.0, do_sample=True).options == {"final_temperature": 0}
    assert settings(lm, temperature=0.7, do_sample=True, top_p=0.9).options == {"temperature": 0.7, "top_p": 0.9}
    with pytest.raises(ValueError, match="'num_beams'"):
        settings(lm, num_beams=4)


def test_number_of_steps_is_an_option(tokenizer):
    assert texts(harness(tokenizer, num_steps=1), "w2 w3") != texts(harness(tokenizer, num_steps=16), "w2 w3")


@pytest.mark.parametrize("name", ["num_samples", "max_gen_toks", "batch_size"])
def test_bad_numbers_are_named(name, tokenizer):
    with pytest.raises(ValueError, match=f"`{name}` must be an integer >= 1, but got 0"):
        harness(tokenizer, **{name: 0})


def test_a_batch_size_that_is_no_number_is_refused(tokenizer):
    with pytest.raises(ValueError, match="`batch_size` must be an integer >= 1, but got 'auto'"):
        harness(tokenizer, batch_size="auto")


def test_a_model_object_needs_its_tokenizer(tokenizer):
    with pytest.raises(ValueError, match="`tokenizer` is needed"):
        harness(None)


@pytest.fixture(scope="module")
def folders(tokenizer, tmp_path_factory) -> tuple[Path, Path]:
    """A saved model, and the task files with the paths of their data."""
    model_folder, task_folder = tmp_path_factory.mktemp("model"), tmp_path_factory.mktemp("tasks")
    tiny_model().save_pretrained(model_folder)
    tokenizer.save_pretrained(model_folder)
    for file in TASKS.glob("*.yaml"):
        text = file.read_text(encoding="utf-8")
        text = text.replace("CHOICE_FILE", str(TASKS / "choice.jsonl")).replace("TEXT_FILE", str(TASKS / "text.jsonl"))
        (task_folder / file.name).write_text(text, encoding="utf-8")
    return model_folder, task_folder


def test_local_tasks_run_without_network(folders):
    from lm_eval.tasks import TaskManager

    model_folder, task_folder = folders
    results = lm_eval.simple_evaluate(
        model="fsdfm",
        model_args={"pretrained": str(model_folder), "num_samples": 8, "greedy_steps": 2},
        tasks=["tiny_choice", "tiny_generation", "tiny_perplexity"],
        task_manager=TaskManager(include_path=str(task_folder), include_defaults=False),
        batch_size=4,
        device="cpu",
    )["results"]
    assert results["tiny_choice"]["acc,none"] in (0, 1 / 3, 2 / 3, 1)
    assert results["tiny_generation"]["exact_match,none"] == 0
    assert 0 < results["tiny_perplexity"]["bits_per_byte,none"] < 100


@pytest.mark.slow
def test_the_command_line_of_the_harness_knows_the_model(folders, tmp_path):
    model_folder, task_folder = folders
    command = [
        *(sys.executable, "-m", "transformers_fsdfm.lm_eval_model", "run", "--model", "fsdfm"),
        *("--model_args", f"pretrained={model_folder},num_samples=4,greedy_steps=0", "--tasks", "tiny_choice"),
        *("--include_path", str(task_folder), "--device", "cpu", "--batch_size", "4"),
    ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "tiny_choice" in done.stdout
