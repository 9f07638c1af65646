# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Documents in, blocks out: nothing lost, nothing stale, nothing half-built, and streams that resume exactly."""

import json
import multiprocessing
import os
import signal
from itertools import islice

import datasets
import numpy as np
import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from datasets import Dataset, DatasetDict, IterableDataset
from datasets.distributed import split_dataset_by_node
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Trainer, TrainingArguments

from transformers_fsdfm.trainer import cache, data, packing
from transformers_fsdfm.trainer.data import (
    DataCollatorForDFM,
    PackedStream,
    load_documents,
    pack_documents,
    tokenize_pairs,
)
from transformers_fsdfm.trainer.detokenizers import wikitext_detokenizer
from transformers_fsdfm.trainer.tokenizer import train_tokenizer


datasets.disable_progress_bars()

SENTENCE = "the small boat went out to sea, and a red kite flew above it; naïve café 北京 don't! 3.5"
WORDS = SENTENCE.split()
document_lists = st.lists(st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join), min_size=1, max_size=30)
fixtures_are_read_only = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def random_documents(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(0, 20))) for _ in range(count)]


@pytest.fixture(scope="module")
def tok() -> PreTrainedTokenizerFast:
    return train_tokenizer(random_documents(200), 300)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    """Batches of documents so small that packing always crosses their borders."""
    monkeypatch.setattr(packing, "DOCUMENTS_PER_BATCH", 4)


def expected_blocks(documents: list[str], tok: PreTrainedTokenizerFast, block_size: int) -> np.ndarray:
    """Packing as it is defined: every token of every document and its EOS in one row, then cut."""
    ids = [i for text in documents if text.strip() for i in [*tok(text)["input_ids"], tok.eos_token_id]]
    return np.array(ids[: len(ids) // block_size * block_size]).reshape(-1, block_size)


def blocks_of(rows) -> np.ndarray:
    return np.stack([row["input_ids"] for row in rows])


def stream_of(documents: list[str], num_shards: int = 1) -> IterableDataset:
    return Dataset.from_dict({"text": documents}).to_iterable_dataset(num_shards=num_shards)


# Packing


@given(documents=document_lists, block_size=st.integers(1, 40))
@fixtures_are_read_only
def test_blocks_are_all_tokens_in_order_but_for_the_last_remainder(documents, block_size, tok, tmp_path_factory):
    expected = expected_blocks(documents, tok, block_size)
    dataset, cache_dir = Dataset.from_dict({"text": documents}), tmp_path_factory.mktemp("cache")
    if len(expected) == 0:
        with pytest.raises(ValueError, match=r"no text|fewer than one block"):
            pack_documents(dataset, tok, block_size, cache_dir=cache_dir)
        return
    blocks = pack_documents(dataset, tok, block_size, cache_dir=cache_dir)
    np.testing.assert_array_equal(blocks_of(blocks), expected)
    np.testing.assert_array_equal(blocks_of(pack_documents(stream_of(documents), tok, block_size)), expected)


@pytest.mark.parametrize("num_proc", [1, 3])
def test_number_of_processes_does_not_change_the_blocks(num_proc, tok, tmp_path):
    documents = random_documents(101)
    blocks = pack_documents(Dataset.from_dict({"text": documents}), tok, 7, num_proc=num_proc, cache_dir=tmp_path)
    np.testing.assert_array_equal(blocks_of(blocks), expected_blocks(documents, tok, 7))


def test_blocks_are_int32_on_disk_in_memory_mapped_files(tok, tmp_path):
    blocks = pack_documents(Dataset.from_dict({"text": random_documents(20)}), tok, 8, cache_dir=tmp_path)
    assert blocks.features["input_ids"] == datasets.List(datasets.Value("int32"), length=8)
    assert [str(tmp_path) in file["filename"] for file in blocks.cache_files] == [True]
    assert blocks.column_names == ["input_ids"]


def test_shuffled_and_selected_rows_are_packed_in_their_own_order(tok, tmp_path):
    dataset = Dataset.from_dict({"id": range(40), "text": random_documents(40)}).shuffle(seed=1).select(range(5, 30))
    blocks = pack_documents(dataset, tok, 5, cache_dir=tmp_path)
    np.testing.assert_array_equal(blocks_of(blocks), expected_blocks(dataset["text"], tok, 5))


def test_special_tokens_spelled_out_in_a_document_are_only_text(tok, tmp_path):
    text = "a <|mask|> and <|pad|> and <|endoftext|> in a text " * 3
    blocks = blocks_of(pack_documents(Dataset.from_dict({"text": [text]}), tok, 1, cache_dir=tmp_path))
    assert not np.isin([tok.mask_token_id, tok.pad_token_id], blocks).any()
    assert (blocks == tok.eos_token_id).sum() == 1
    assert tok.decode(blocks.ravel()[:-1]) == text


def test_detokenizer_and_max_documents_apply_before_packing(tok, tmp_path):
    dataset = Dataset.from_dict({"text": [" the boat , and the sea . ", " a red @-@ hot kite ! ", "left out"]})
    blocks = pack_documents(dataset, tok, 1, detokenizer="wikitext", max_documents=2, cache_dir=tmp_path)
    expected = expected_blocks(["the boat, and the sea.", "a red-hot kite!"], tok, 1)
    np.testing.assert_array_equal(blocks_of(blocks), expected)


# The cache


def test_unchanged_settings_hit_the_cache_and_any_other_setting_misses_it(tok, tmp_path, monkeypatch):
    other_tok = train_tokenizer(random_documents(200), 290)
    other_eos = AutoTokenizer.from_pretrained(save(tok, tmp_path / "tok"), eos_token="<|pad|>")
    documents = random_documents(30)
    dataset = Dataset.from_dict({"text": documents, "other": documents})
    default = {"documents": dataset, "tokenizer": tok, "block_size": 8}
    changes = [
        {},
        {"block_size": 9},
        {"tokenizer": other_tok},
        {"tokenizer": other_eos},
        {"text_column": "other"},
        {"detokenizer": "wikitext"},
        {"max_documents": 20},
        {"documents": Dataset.from_dict({"text": [*documents[:-1], "changed"], "other": documents})},
    ]
    entries = set()
    for change in changes:
        blocks = pack_documents(**{**default, **change}, cache_dir=tmp_path / "cache")
        entries.add(blocks.cache_files[0]["filename"])
    assert len(entries) == len(changes)

    monkeypatch.setattr(packing, "_encode_documents", lambda *args, **kwargs: pytest.fail("built again"))
    tok(["truncated and padded", "before"], truncation=True, max_length=2, padding="max_length")  # leaves its marks
    same = {"documents": Dataset.from_dict({"text": documents, "other": documents}), "tokenizer": tok, "block_size": 8}
    assert pack_documents(**same, cache_dir=tmp_path / "cache").cache_files[0]["filename"] in entries


def save(tok: PreTrainedTokenizerFast, folder) -> str:
    tok.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("suffix", ["txt", "jsonl"])
def test_an_edited_file_is_read_again_even_at_the_same_path_and_time(suffix, tmp_path):
    file = tmp_path / f"data.{suffix}"
    for text in ("one", "three"):
        file.write_text(text if suffix == "txt" else json.dumps({"text": text}))
        os.utime(file, (1_000_000_000, 1_000_000_000))
        assert load_documents(file, cache_dir=tmp_path / "cache")["text"] == [text]


def test_a_build_that_fails_leaves_no_cache_entry(tok, tmp_path, monkeypatch):
    dataset = Dataset.from_dict({"text": random_documents(30)})
    tables = packing._pack_tables

    def fail_in_the_middle(*args):
        yield next(tables(*args))
        raise OSError("No space left on device")

    monkeypatch.setattr(packing, "_pack_tables", fail_in_the_middle)
    with pytest.raises(OSError, match="No space left"):
        pack_documents(dataset, tok, 8, cache_dir=tmp_path)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


def test_a_build_killed_in_the_middle_is_not_taken_for_a_cache_entry(tok, tmp_path, monkeypatch):
    documents = random_documents(30)
    dataset = Dataset.from_dict({"text": documents})

    def write_and_die(path, features, tables):
        path.write_bytes(b"half of a file")
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(cache, "_write_arrow", write_and_die)
        arguments = {"documents": dataset, "tokenizer": tok, "block_size": 8, "cache_dir": tmp_path}
        process = multiprocessing.get_context("fork").Process(target=pack_documents, kwargs=arguments)
        process.start()
        process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert len(list(tmp_path.glob("*.unfinished"))) == 1
    blocks = pack_documents(dataset, tok, 8, cache_dir=tmp_path)
    np.testing.assert_array_equal(blocks_of(blocks), expected_blocks(documents, tok, 8))
    assert list(tmp_path.glob("*.unfinished")) == []


# Sources


@pytest.mark.parametrize("streaming", [False, True])
def test_separator_lines_divide_a_text_file_into_documents(streaming, tmp_path):
    (tmp_path / "a.txt").write_bytes(
        b"\xef\xbb\xbfone\n\n two\r\n<|endoftext|>\r\n\n<|endoftext|>\nthree <|endoftext|> x"
    )
    (tmp_path / "b.txt").write_text("a file without\na separator\n", encoding="utf-8")
    documents = load_documents(tmp_path, streaming=streaming, cache_dir=tmp_path / "cache")
    assert [row["text"] for row in documents] == ["one\n\n two", "three <|endoftext|> x", "a file without\na separator"]


def test_a_streamed_file_is_not_read_beyond_what_is_asked_for(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"first\n<|endoftext|>\n" + b"line\n<|endoftext|>\n" * 10_000 + b"\xff")
    documents = iter(load_documents(tmp_path / "a.txt", streaming=True))
    assert next(documents) == {"text": "first"}
    with pytest.raises(ValueError, match=r"a\.txt is not UTF-8"):
        list(documents)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_structured_files_and_globs_give_their_columns(suffix, streaming, tmp_path):
    for name, texts in (("b", ["three"]), ("a", ["one", "two"])):
        dataset = Dataset.from_dict({"body": texts, "id": list(range(len(texts)))})
        getattr(dataset, f"to_{suffix.removesuffix('l')}")(tmp_path / f"{name}.{suffix}")
    documents = load_documents(str(tmp_path / f"*.{suffix}"), streaming=streaming, cache_dir=tmp_path / "cache")
    assert [row["body"] for row in documents] == ["one", "two", "three"]


def test_a_list_of_files_is_read_in_its_order(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(name)
    files = [str(tmp_path / f"{name}.txt") for name in "cab"]
    assert load_documents(files, cache_dir=tmp_path)["text"] == ["c", "a", "b"]


def test_a_dataset_id_goes_to_the_hub_with_its_settings(monkeypatch):
    calls = []
    monkeypatch.setattr(data, "load_dataset", lambda *args, **kwargs: calls.append((args, kwargs)))
    load_documents("someone/stories", name="small", split="test", revision="v2", streaming=True)
    load_documents("stories")
    assert calls[0] == (
        ("someone/stories", "small"),
        {"split": "test", "revision": "v2", "streaming": True, "cache_dir": None},
    )
    assert calls[1][1]["split"] == "train"


def test_a_mistyped_folder_is_not_looked_for_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "load_dataset", lambda *_, **__: pytest.fail("the Hub was asked"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    with pytest.raises(FileNotFoundError, match="`source` 'texts/tran' is no file or folder, and not taken for a Hub"):
        load_documents("texts/tran")
    with pytest.raises(FileNotFoundError, match="`source` 'my/own/texts' is no file or folder, and no Hub id"):
        load_documents("my/own/texts")


def test_a_dataset_id_that_cannot_be_reached_is_named():
    with pytest.raises(FileNotFoundError, match="`source` 'someone/stories' is no file or folder, and no dataset id"):
        load_documents("someone/stories")


# Streams


def sources(tmp_path) -> dict[str, IterableDataset]:
    documents = random_documents(45)
    (tmp_path / "a.txt").write_text("\n<|endoftext|>\n".join(documents[:30]), encoding="utf-8")
    (tmp_path / "b.txt").write_text("\n<|endoftext|>\n".join(documents[30:]), encoding="utf-8")
    Dataset.from_dict({"text": documents}).to_json(tmp_path / "c.jsonl")
    Dataset.from_dict({"text": documents}).to_parquet(tmp_path / "d.parquet")
    shards = stream_of(documents, num_shards=3)
    return {
        "text": load_documents([str(tmp_path / "a.txt"), str(tmp_path / "b.txt")], streaming=True),
        "json": load_documents(tmp_path / "c.jsonl", streaming=True),
        "parquet": load_documents(tmp_path / "d.parquet", streaming=True),
        "shards": shards,
        "repeat": shards.repeat(2),
        "map": shards.map(lambda rows: {"text": [text.upper() for text in rows["text"]]}, batched=True, batch_size=7),
        "filter": shards.filter(lambda row: len(row["text"]) > 20),
        "node": split_dataset_by_node(shards, rank=1, world_size=2),
    }


@pytest.mark.parametrize("kind", ["text", "json", "parquet", "shards", "repeat", "map", "filter", "node"])
def test_a_resumed_stream_goes_on_with_the_very_next_block(kind, tok, tmp_path):
    def new_stream() -> PackedStream:
        return pack_documents(sources(tmp_path)[kind], tok, 9, max_documents=40)

    stream, expected, states = new_stream(), [], [new_stream().state_dict()]
    for row in stream:
        expected.append(row["input_ids"])
        states.append(json.loads(json.dumps(stream.state_dict())))  # plain values, so any checkpoint can hold them
    for taken in {0, 1, 2, 3, 10, len(expected) // 2, len(expected) - 1}:
        resumed = new_stream()
        resumed.load_state_dict(states[taken])
        assert resumed.state_dict() == states[taken]
        np.testing.assert_array_equal(blocks_of(resumed), expected[taken:])
        np.testing.assert_array_equal(blocks_of(resumed), expected)  # the pass after it starts at the beginning
    resumed.load_state_dict(states[-1])
    assert list(resumed) == []


def test_a_state_can_be_saved_again_right_after_resuming(tok):
    stream = pack_documents(stream_of(random_documents(40)), tok, 9)
    expected, state = blocks_of(stream), pack_documents(stream_of(random_documents(40)), tok, 9).state_dict()
    for block in expected:
        stream.load_state_dict(state)
        np.testing.assert_array_equal(next(iter(stream))["input_ids"], block)
        state = stream.state_dict()


def test_a_state_counts_in_its_own_epoch_only(tok):
    stream = pack_documents(stream_of(random_documents(40)), tok, 9)
    expected, _ = blocks_of(stream), list(islice(stream, 5))
    state = stream.state_dict()
    stream.load_state_dict(state)
    stream.set_epoch(1)
    np.testing.assert_array_equal(blocks_of(stream), expected)


def test_a_state_of_other_settings_is_refused(tok):
    state = pack_documents(stream_of(["a boat"] * 9), tok, 4).state_dict()
    with pytest.raises(ValueError, match="another tokenizer, block_size"):
        pack_documents(stream_of(["a boat"] * 9), tok, 5).load_state_dict(state)


def test_data_loader_workers_share_the_shards(tok):
    documents = random_documents(60)
    stream = pack_documents(stream_of(documents, num_shards=2), tok, 6)
    loader = DataLoader(stream, batch_size=4, num_workers=2, collate_fn=DataCollatorForDFM(tok))
    blocks = sorted(tuple(block.tolist()) for batch in loader for block in batch["input_ids"])
    halves = [expected_blocks(documents[start : start + 30], tok, 6) for start in (0, 30)]
    assert blocks == sorted(tuple(block.tolist()) for half in halves for block in half)


def test_accelerate_gives_each_process_its_part_of_a_stream(tok):
    documents, parts = random_documents(60), []
    for rank in range(2):
        loader = DataLoader(pack_documents(stream_of(documents), tok, 6), 2, collate_fn=DataCollatorForDFM(tok))
        shard = prepare_data_loader(loader, num_processes=2, process_index=rank, dispatch_batches=False)
        parts.append([batch["input_ids"] for batch in shard])
    together = torch.cat([batch for pair in zip(*parts, strict=True) for batch in pair]).numpy()
    expected = expected_blocks(documents, tok, 6)
    np.testing.assert_array_equal(together[: len(expected)], expected)


class RecordingModel(torch.nn.Module):
    """Remembers the batches it was trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.seen = torch.nn.Parameter(torch.zeros(1)), []

    def forward(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        self.seen.append(input_ids.tolist())
        return {"loss": (self.weight * input_ids.float().mean()).sum()}


@pytest.mark.parametrize("streaming", [False, True])
def test_trainer_sees_the_same_batches_after_resuming(streaming, tok, tmp_path):
    documents = random_documents(60)

    def train(folder: str, checkpoint: str | None = None, **options) -> list:
        source = stream_of(documents).repeat(None) if streaming else Dataset.from_dict({"text": documents})
        arguments = TrainingArguments(
            tmp_path / folder, max_steps=8, per_device_train_batch_size=2, use_cpu=True, disable_tqdm=True, **options
        )
        trainer = Trainer(
            RecordingModel(),
            arguments,
            train_dataset=pack_documents(source, tok, 8, cache_dir=tmp_path / "cache"),
            data_collator=DataCollatorForDFM(tok),
        )
        trainer.train(resume_from_checkpoint=checkpoint)
        return trainer.model.seen

    seen = train("whole", save_steps=5)
    assert len(seen) == 8
    assert train("resumed", str(tmp_path / "whole" / "checkpoint-5"), save_strategy="no") == seen[5:]


# Prompts and completions


PAIRS = {
    "prompt": ["the small boat", "", "a red kite", None, "the sea"],
    "completion": ["went out to sea", "above it", "flew<|endoftext|>", "and a boat", " "],
}


@pytest.mark.parametrize("streaming", [False, True])
def test_pairs_learn_the_completion_and_its_eos_only(streaming, tok, tmp_path):
    pairs = Dataset.from_dict(PAIRS)
    rows = list(tokenize_pairs(pairs.to_iterable_dataset() if streaming else pairs, tok, 64, cache_dir=tmp_path))
    for row, prompt, completion in zip(rows, PAIRS["prompt"], PAIRS["completion"][:-1], strict=False):
        prompt_ids = tok(prompt or "")["input_ids"]
        completion_ids = tok(completion.removesuffix("<|endoftext|>"))["input_ids"] + [tok.eos_token_id]
        assert list(row["input_ids"]) == prompt_ids + completion_ids
        assert list(row["labels"]) == [-100] * len(prompt_ids) + completion_ids
        assert list(row["attention_mask"]) == [1] * len(row["input_ids"])
    assert len(rows) == 4  # a blank completion has nothing to learn


def test_long_pairs_are_cut_and_those_with_nothing_to_learn_left_out(tok, tmp_path, caplog):
    pairs = Dataset.from_dict({"prompt": ["the", "the small boat " * 9], "completion": ["kite " * 30, "x"]})
    with caplog.at_level("WARNING", logger="transformers_fsdfm"):
        rows = tokenize_pairs(pairs, tok, 16, num_proc=2, cache_dir=tmp_path)
    assert [len(row["input_ids"]) for row in rows] == [16]
    assert tok.eos_token_id not in rows[0]["input_ids"]
    assert "Left out 1 of 2 pairs" in caplog.text


def test_collator_pads_pairs_on_the_right_and_draws_nothing_at_random(tok, tmp_path):
    rows = list(tokenize_pairs(Dataset.from_dict(PAIRS), tok, 64, cache_dir=tmp_path))
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    batch = DataCollatorForDFM(tok, pad_to_multiple_of=64)(rows)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert {name: (value.shape, value.dtype) for name, value in batch.items()} == dict.fromkeys(
        ("input_ids", "labels", "attention_mask"), ((4, 64), torch.int64)
    )
    for index, row in enumerate(rows):
        length = len(row["input_ids"])
        assert batch["input_ids"][index].tolist() == list(row["input_ids"]) + [tok.pad_token_id] * (64 - length)
        assert batch["labels"][index].tolist() == list(row["labels"]) + [-100] * (64 - length)
        assert batch["attention_mask"][index].tolist() == [1] * length + [0] * (64 - length)


def test_collator_pads_to_the_longest_row_and_makes_labels_for_rows_without(tok):
    batch = DataCollatorForDFM(tok)([{"input_ids": [5, 6, 7]}, {"input_ids": [8]}])
    assert batch["labels"].tolist() == [[5, 6, 7], [8, -100, -100]]
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, tok.pad_token_id, tok.pad_token_id]]


def test_collator_only_stacks_blocks(tok, tmp_path):
    blocks = pack_documents(Dataset.from_dict({"text": random_documents(20)}), tok, 8, cache_dir=tmp_path)
    for rows in ([blocks[0], blocks[1]], [blocks.with_format(None)[0], blocks.with_format("torch")[1]]):
        batch = DataCollatorForDFM(tok)(rows)
        assert batch.keys() == {"input_ids"}
        assert batch["input_ids"].dtype == torch.int64
        np.testing.assert_array_equal(batch["input_ids"], blocks_of(blocks)[:2])


# Text to tokens and back


@pytest.mark.parametrize(
    ("tokenised", "natural"),
    [
        (" A well @-@ known boat sold 1 @,@ 000 @.@ 5 times . ", "A well-known boat sold 1,000.5 times."),
        (" = Kite = ", "= Kite ="),
        (" = = = Later years = = = \n", "=== Later years ===\n"),
        (' He said , " Stop ! " and " Go . " Then he left ; why ? ', 'He said, "Stop!" and "Go." Then he left; why?'),
        (" The kite ( red , 1991 ) flew [ sic ] . ", "The kite (red, 1991) flew [sic]."),
        (
            " It isn 't Mary 's , I 'm sure they 'll say we 've won . ",
            "It isn't Mary's, I'm sure they'll say we've won.",
        ),
        (" The sailors ' boats of the ' 90s . ", "The sailors' boats of the '90s."),
        (" It was ' very good ' at 3 : 15 . ", "It was 'very good' at 3:15."),
        (" It cost $ 5 , or 10 % less at 20 ° C . ", "It cost $5, or 10% less at 20°C."),
        (' ( " Kites " ) : a song ', '("Kites"): a song'),
        ("", ""),
    ],
)
def test_wikitext_becomes_natural_text(tokenised, natural):
    assert wikitext_detokenizer(tokenised) == natural
    assert wikitext_detokenizer(natural) == natural


def test_natural_text_is_left_alone():
    text = (
        'He said "yes" and "no" (twice).\n\nThe \'90s: don\'t ask, it\'s 3:15 ... e.g. $5 - a = b; "quoted," he said.'
    )
    assert wikitext_detokenizer(text.replace(" ...", "...")) == text.replace(" ...", "...")


@given(text=st.text())
@fixtures_are_read_only
def test_any_text_comes_back_from_a_trained_tokenizer(text, tok):
    assert tok.decode(tok(text)["input_ids"]) == text


@pytest.mark.parametrize("kind", ["list", "dataset", "stream"])
def test_auto_tokenizer_loads_a_trained_tokenizer(kind, tmp_path):
    texts = random_documents(100)
    source = {"list": texts, "dataset": Dataset.from_dict({"body": texts}), "stream": stream_of(texts)}[kind]
    text_column = "body" if kind == "dataset" else "text"
    train_tokenizer(source, 280, text_column=text_column, model_max_length=64, save_directory=tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.is_fast
    assert (loaded.eos_token, loaded.pad_token, loaded.mask_token) == ("<|endoftext|>", "<|pad|>", "<|mask|>")
    assert (len(loaded), loaded.mask_token_id) == (281, 280)
    assert max(loaded.eos_token_id, loaded.pad_token_id) < 280
    assert (loaded.padding_side, loaded.model_max_length) == ("left", 64)
    assert loaded("a boat")["input_ids"] == train_tokenizer(texts, 280)("a boat")["input_ids"]
    assert loaded.decode(loaded("the <|mask|> café")["input_ids"]) == "the <|mask|> café"


def test_a_corpus_with_few_merges_gives_a_smaller_tokenizer_and_a_warning(caplog):
    with caplog.at_level("WARNING", logger="transformers_fsdfm"):
        tok = train_tokenizer(["ab ab"], 1000)
    assert tok.mask_token_id == len(tok) - 1 < 1000
    assert "not for vocab_size=1000" in caplog.text


# Bad input


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_column": "body"}, r"`text_column` 'body' is not in `documents`, .* \['text', 'id'\]"),
        ({"text_column": "id"}, "`text_column` 'id' must hold text"),
        ({"block_size": 0}, "`block_size` must be at least 1"),
        ({"detokenizer": "ptb"}, "`detokenizer` must be one of wikitext"),
        ({"max_documents": 0}, "`max_documents` must be at least 1"),
        ({"tokenizer": PreTrainedTokenizerFast}, "`tokenizer` has no EOS"),
        ({"texts": []}, "`documents` is empty"),
        ({"texts": ["", " \n"]}, "every document is blank"),
        ({"texts": ["a"], "block_size": 100}, r"holds 2 tokens, fewer than one block \(`block_size` is 100\)"),
    ],
)
def test_packing_refuses_what_cannot_work(change, message, streaming, tok, tmp_path):
    change = {"tokenizer": tok, "block_size": 4, **change}
    texts = change.pop("texts", ["a boat", "a kite"])
    if change["tokenizer"] is not tok:
        change["tokenizer"] = PreTrainedTokenizerFast(tokenizer_object=tok.backend_tokenizer)
    dataset = Dataset.from_dict({"text": texts, "id": list(range(len(texts)))})
    if streaming:  # not `to_iterable_dataset`, which refuses a dataset without rows itself
        dataset = IterableDataset.from_generator(dataset.to_list().__iter__)
    with pytest.raises(ValueError, match=message):
        list(pack_documents(dataset, cache_dir=tmp_path, **change))


@pytest.mark.parametrize("streaming", [False, True])
def test_a_file_of_blank_documents_is_refused(streaming, tmp_path):
    (tmp_path / "a.txt").write_text("\n<|endoftext|>\n \n")
    with pytest.raises(ValueError, match=r"`source` .* holds no text"):
        load_documents(tmp_path / "a.txt", streaming=streaming, cache_dir=tmp_path / "cache")
    (tmp_path / "b.jsonl").touch()
    with pytest.raises(ValueError, match=r"`source` .* is empty"):
        load_documents(tmp_path / "b.jsonl", streaming=streaming, cache_dir=tmp_path / "cache")


def test_a_dataset_of_several_splits_is_refused(tok):
    with pytest.raises(TypeError, match=r"`documents` must be a datasets\.Dataset .*, but got DatasetDict"):
        pack_documents(DatasetDict({"train": Dataset.from_dict({"text": ["a"]})}), tok, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"prompt_column": "question"},
            r"`prompt_column` 'question' is not in `examples`, .*\['prompt', 'completion'\]",
        ),
        ({"completion_column": "answer"}, "`completion_column` 'answer' is not in `examples`"),
        ({"block_size": 0}, "`block_size`"),
        ({"completion": [" "]}, "no completion"),
        ({"completion": ["a <|mask|>"]}, "mask token"),
        ({"prompt": [], "completion": []}, "`examples` is empty"),
    ],
)
def test_pairs_refuse_what_cannot_work(arguments, message, tok, tmp_path):
    columns = {name: arguments.pop(name, ["a boat"]) for name in ("prompt", "completion")}
    with pytest.raises(ValueError, match=message):
        tokenize_pairs(Dataset.from_dict(columns), tok, **{"block_size": 8, "cache_dir": tmp_path, **arguments})


@pytest.mark.parametrize("source", ["missing.txt", "./missing", "missing/*.json", ["missing.csv"], "empty_folder"])
def test_a_missing_file_is_named(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty_folder").mkdir()
    name = source[0] if isinstance(source, list) else source.removeprefix("./")
    with pytest.raises(FileNotFoundError, match=rf"`source` .*{name.replace('*', '.')}"):
        load_documents(source)


def test_files_that_cannot_be_read_are_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    (tmp_path / "b.csv").write_bytes(b"text\ncaf\xe9\n")
    (tmp_path / "c.pdf").write_bytes(b"%PDF")
    (tmp_path / "b.json").write_bytes(b'{"text": "caf\xe9"}')
    for name in ("a.txt", "b.csv", "b.json"):
        with pytest.raises(ValueError, match=rf"`source` file .*{name} is not UTF-8"):
            load_documents(tmp_path / name, cache_dir=tmp_path / "cache")
    (tmp_path / "d.jsonl").write_bytes(b'{"text": \n')
    with pytest.raises(ValueError, match=r"`source` .*d\.jsonl' cannot be read as json: JSON parse error"):
        load_documents(tmp_path / "d.jsonl", cache_dir=tmp_path / "cache")
    with pytest.raises(ValueError, match="mixes file types"):
        load_documents(tmp_path, cache_dir=tmp_path / "cache")
    with pytest.raises(ValueError, match=r"c\.pdf has an unknown file type"):
        load_documents(tmp_path / "c.pdf")
    with pytest.raises(ValueError, match="`split` belongs to a dataset id"):
        load_documents(tmp_path / "a.txt", split="test")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocab_size": 257}, "`vocab_size` must be at least 258"),
        ({"texts": ["", None]}, "`texts` holds no text"),
        ({"texts": "stories.txt"}, "`texts` must be documents, not one string"),
        ({"texts": Dataset.from_dict({"body": ["a"]})}, r"`text_column` 'text' is not in `texts`, .*\['body'\]"),
    ],
)
def test_training_a_tokenizer_refuses_what_cannot_work(arguments, message):
    with pytest.raises(ValueError, match=message):
        train_tokenizer(**{"texts": ["a"], "vocab_size": 300, **arguments})


def test_the_collator_refuses_a_tokenizer_without_eos_and_a_bad_multiple(tok):
    with pytest.raises(ValueError, match="no EOS"):
        DataCollatorForDFM(PreTrainedTokenizerFast(tokenizer_object=tok.backend_tokenizer))
    with pytest.raises(ValueError, match="`pad_to_multiple_of`"):
        DataCollatorForDFM(tok, pad_to_multiple_of=0)
