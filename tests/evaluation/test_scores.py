# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Tokens as text, and what a scorer says of the written part of it."""

import contextlib
import json
import math
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from transformers_fsdfm.evaluation.files import remove_unfinished, written_whole
from transformers_fsdfm.evaluation.measures import RunScores
from transformers_fsdfm.evaluation.samples import Prompts, Samples, real_samples
from transformers_fsdfm.evaluation.scores import Job, ScoreStore, written_nll
from transformers_fsdfm.evaluation.settings import Mode
from transformers_fsdfm.evaluation.systems import ModelFolder
from transformers_fsdfm.evaluation.texts import MarkedText, mark_text, prompt_text, reference_blocks
from transformers_fsdfm.metrics.generative_perplexity.functional import generative_perplexity
from transformers_fsdfm.metrics.scorer import Scorer


@pytest.fixture(scope="module")
def tokenizer(world):
    return AutoTokenizer.from_pretrained(world.fsdfm)


@pytest.fixture(scope="module")
def scorer(world) -> Scorer:
    return Scorer.load(str(world.scorer), "cpu", "float32")


def encode(tokenizer, text: str) -> np.ndarray:
    return np.array(tokenizer(text, add_special_tokens=False)["input_ids"])


# ---- Texts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_a_marked_text_is_the_whole_text_and_knows_what_was_written(tokenizer, share):
    ids = encode(tokenizer, "the tiny dog went home and saw a big cat")
    editable = np.random.default_rng(0).random(len(ids)) < share
    marked = mark_text(tokenizer, ids, editable)
    assert marked.text == "the tiny dog went home and saw a big cat"
    written = "".join(marked.text[start:end] for start, end in marked.written)
    assert written == "".join(tokenizer.decode([token]) for token in ids[editable])


def test_the_end_of_a_document_is_a_blank_line_and_padding_stays_visible(tokenizer):
    ids = np.array(
        [*encode(tokenizer, "home"), tokenizer.eos_token_id, *encode(tokenizer, "cat"), tokenizer.pad_token_id]
    )
    assert mark_text(tokenizer, ids, np.ones(len(ids), bool)).text == "home\n\ncat<|pad|>"


def test_a_character_cut_by_the_border_is_damaged_on_both_sides_and_nowhere_else(tokenizer):
    ids = encode(tokenizer, "tiny 🐶 dog")  # never seen in training: four tokens of one byte
    cut = next(index for index, token in enumerate(ids) if "�" in tokenizer.decode([token])) + 2
    marked = mark_text(tokenizer, ids, np.arange(len(ids)) >= cut)
    assert marked.text.startswith("tiny ")
    assert marked.text.endswith(" dog")
    assert "🐶" not in marked.text
    assert mark_text(tokenizer, ids, np.ones(len(ids), bool)).text == "tiny 🐶 dog"


def test_decoders_that_join_words_with_spaces_keep_them():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"<eos>": 0, "a": 1, "b": 2, "c": 3}, unk_token="<eos>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")
    marked = mark_text(words, np.array([1, 2, 3]), np.array([False, True, False]))
    assert marked == MarkedText("a b c", ((1, 3),))


def test_a_prompt_shows_its_blanks(tokenizer):
    ids = encode(tokenizer, "the tiny dog went home")
    editable = np.zeros(len(ids), bool)
    assert prompt_text(tokenizer, ids, ~editable) is None
    editable[-2:] = True
    start = tokenizer.decode(ids[:-2])
    assert prompt_text(tokenizer, ids, editable) == f"{start}___2___"


def test_reference_blocks_are_real_text_and_the_first_ones_stay_when_more_are_asked_for(world, tokenizer):
    few = reference_blocks([str(world.reference)], tokenizer, 16, 5)
    many = reference_blocks([str(world.reference)], tokenizer, 16, 50)
    assert few.shape == (5, 16)
    assert (many[:5] == few).all()
    assert len({row.tobytes() for row in many}) == 50
    text = world.reference.read_text(encoding="utf-8").replace("\n<|endoftext|>\n", "<|endoftext|>").strip()
    assert tokenizer.decode(few[0]) in text


# ---- Scores ----------------------------------------------------------------------------------------------------------


def direct_nll(scorer: Scorer, text: str) -> tuple[list[float], list[tuple[int, int]]]:
    """The NLL of every token, one forward pass for all, and where each stands."""
    encoding = scorer.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = torch.tensor([[*scorer.start_ids, *encoding["input_ids"]]])
    with torch.no_grad():
        law = scorer.model(ids).logits[0, :-1].double().log_softmax(-1)
    return (-law.gather(1, ids[0, 1:, None])[:, 0]).tolist(), encoding["offset_mapping"]


def test_the_scorer_reads_what_was_given_and_counts_what_was_written(scorer):
    text = "the tiny dog went home and saw a big cat"
    marked = MarkedText(text, ((4, 8), (13, 22)))  # "tiny" and "went home"
    nll, spans = direct_nll(scorer, text)
    counted = [any(start < b and end > a for a, b in marked.written) for start, end in spans]
    assert 0 < sum(counted) < len(counted)
    found = written_nll(scorer, [marked])
    assert found["nll"][0] == pytest.approx(sum(one for one, flag in zip(nll, counted, strict=True) if flag), rel=1e-4)
    assert found["tokens"] == [sum(counted)]
    assert found["bytes"] == [13]
    assert found["full_nll"][0] == pytest.approx(sum(nll), rel=1e-4)
    assert found["full_tokens"] == [len(nll)]
    assert found["perplexity"][0] == pytest.approx(math.exp(found["nll"][0] / found["tokens"][0]))


@pytest.mark.parametrize("prefix", ["", "the tiny dog", "naïve 你"])
def test_a_text_after_a_prefix_scores_as_in_the_metric(scorer, prefix):
    texts = [" went home 好 and saw", " said oh no"]
    expected = generative_perplexity(texts, scorer, prefixes=[prefix] * 2)["per_sequence"]
    marked = [MarkedText(prefix + text, ((len(prefix), len(prefix + text)),)) for text in texts]
    found = written_nll(scorer, marked, batch_size=1)
    assert found["tokens"] == expected["tokens"]
    assert found["bytes"] == expected["bytes"]
    assert found["nll"] == pytest.approx(expected["nll"], rel=1e-4)


def test_what_is_given_changes_the_score_only_as_context(scorer):
    written = " went home"
    found = [
        written_nll(scorer, [MarkedText(start + written, ((len(start), len(start + written)),))])
        for start in ("dog", "cat")
    ]
    assert found[0]["tokens"] == found[1]["tokens"]
    assert found[0]["nll"] != found[1]["nll"]


def test_texts_without_a_written_token_count_for_nothing(scorer):
    found = written_nll(scorer, [MarkedText("", ()), MarkedText("the dog", ()), MarkedText("the dog", ((0, 7),))])
    assert found["tokens"][:2] == found["nll"][:2] == found["perplexity"][:2] == found["is_scored"][:2] == [0, 0]
    assert found["full_tokens"][1] == found["full_tokens"][2] == found["tokens"][2] > 0


def test_without_a_start_token_the_first_token_and_its_bytes_are_left_out(world):
    tokenizer = AutoTokenizer.from_pretrained(world.scorer)
    tokenizer.eos_token = None
    scorer = Scorer(AutoModelForCausalLM.from_pretrained(world.scorer), tokenizer)
    assert scorer.start_ids == []
    text = "the dog went"
    first = tokenizer(text, return_offsets_mapping=True)["offset_mapping"][0][1]
    found = written_nll(scorer, [MarkedText(text, ((0, 6), (8, 12)))])
    assert found["full_tokens"][0] == len(tokenizer(text)["input_ids"]) - 1
    assert found["bytes"][0] == 10 - first


# ---- Files -----------------------------------------------------------------------------------------------------------


def samples_of(world, tokenizer, mode: str = "infill-50") -> Samples:
    blocks = reference_blocks([str(world.reference)], tokenizer, 16, 4)
    return real_samples(Prompts.of(Mode.parse(mode), blocks), tokenizer)


def test_scores_belong_to_samples_metric_and_scorer(world, tokenizer, tmp_path):
    folder = ModelFolder.find("s", str(world.scorer))
    store = ScoreStore(tmp_path, {"s": folder, "t": ModelFolder.find("t", str(world.dfm))}, "settings")
    samples, others = samples_of(world, tokenizer), samples_of(world, tokenizer, "prefix-50")
    paths = {
        store.path(Job("token_entropy"), samples, "m"),
        store.path(Job("repetition"), samples, "m"),
        store.path(Job("token_entropy"), others, "m"),
        store.path(Job("mauve", "s"), samples, "m"),
        store.path(Job("mauve", "s", pieces=4), samples, "m"),
        store.path(Job("mauve", "t"), samples, "m"),
        ScoreStore(tmp_path, {}, "other settings").path(Job("token_entropy"), samples, "m"),
    }
    assert len(paths) == 7
    path = store.path(Job("token_entropy"), samples, "m")
    store.save(path, RunScores({"token_entropy.nats": [1.5]}, {"x": 2.0}, {"x": [0.5, -0.5]}))
    read = {"per_sequence": {"token_entropy.nats": [1.5]}, "values": {"x": 2.0}, "deviations": {"x": [0.5, -0.5]}}
    assert vars(store.load([path])) == read
    assert json.loads(path.read_text())["values"] == {"x": 2.0}


def test_a_file_that_was_not_finished_does_not_appear(tmp_path):
    path = tmp_path / "deep" / "file.json"
    with written_whole(path) as file:
        file.write_text("first")
    with contextlib.suppress(KeyboardInterrupt), written_whole(path) as file:
        file.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "first"
    assert [one.name for one in path.parent.iterdir()] == ["file.json"]
    (path.parent / "other.parquet.unfinished").write_text("of a process that was killed")
    remove_unfinished(tmp_path)
    assert [one.name for one in path.parent.iterdir()] == ["file.json"]


# ---- Models ----------------------------------------------------------------------------------------------------------


def test_a_model_is_known_by_its_contents(world, tmp_path):
    first = ModelFolder.find("a", str(world.fsdfm))
    shutil.copytree(world.fsdfm, tmp_path / "copy")
    copy = ModelFolder.find("b", str(tmp_path / "copy"))
    assert copy.fingerprint == first.fingerprint != ModelFolder.find("c", str(world.dfm)).fingerprint
    for left_by_training in ("trainer_state.json", "training_args.bin"):
        (tmp_path / "copy" / left_by_training).write_text("{}")
    assert ModelFolder.find("b", str(tmp_path / "copy")).fingerprint == first.fingerprint
    tokenizer = json.loads((tmp_path / "copy" / "tokenizer_config.json").read_text())
    for noted, same in (({"local_files_only": True, "is_local": False}, True), ({"padding_side": "right"}, False)):
        (tmp_path / "copy" / "tokenizer_config.json").write_text(json.dumps({**tokenizer, **noted}))
        assert (ModelFolder.find("b", str(tmp_path / "copy")).fingerprint == first.fingerprint) == same
    (tmp_path / "copy" / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    settings = json.loads((tmp_path / "copy" / "generation_config.json").read_text())
    (tmp_path / "copy" / "generation_config.json").write_text(json.dumps({**settings, "temperature": 0.7}))
    assert ModelFolder.find("b", str(tmp_path / "copy")).fingerprint != first.fingerprint


def test_models_that_are_no_models_are_named(world, tmp_path):
    with pytest.raises(ValueError, match=r"none is no folder, and no Hub id \(organization/name\)"):
        ModelFolder.find("x", str(tmp_path / "none"))
    with pytest.raises(ValueError, match=r"has no config\.json"):
        ModelFolder.find("x", str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="has no weights"):
        ModelFolder.find("x", str(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="is an adapter"):
        ModelFolder.find("x", str(tmp_path))
