"""The script that shows which metric catches which cheat runs, and judges as it says."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from .scorers import byte_tokenizer, tiny_gpt2


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SENTENCES = ["the dog ran over the hill", "a cat sat on the mat", "we saw the sea and sang", "rain fell on red roofs"]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return runpy.run_path(str(BENCHMARKS / "metric_failures.py"))


def write_documents(path: Path, count: int, step: int) -> None:
    documents = [" and ".join(SENTENCES[(index * step + place) % 4] for place in range(3)) for index in range(count)]
    numbered = [f"{index} {document}" for index, document in enumerate(documents)]
    path.write_text("\n<|endoftext|>\n".join(numbered), encoding="utf-8")


def test_every_cheat_has_its_row(script, tmp_path, monkeypatch, capsys):
    write_documents(tmp_path / "valid.txt", 30, step=1)
    write_documents(tmp_path / "train.txt", 20, step=3)
    tiny_gpt2(257, 64).save_pretrained(tmp_path / "scorer")
    byte_tokenizer(bos_token="<s>").save_pretrained(tmp_path / "scorer")
    files = ["--text", tmp_path / "valid.txt", "--train-text", tmp_path / "train.txt", "--json", tmp_path / "out.json"]
    sizes = ["--num-texts", 5, "--max-tokens", 60, "--real-sets", 2]
    options = ["metric_failures.py", "--scorer", tmp_path / "scorer", *files, *sizes]
    monkeypatch.setattr(sys, "argv", [str(option) for option in options])
    script["main"]()
    output = capsys.readouterr().out
    rows = {row["texts"]: row for row in json.loads((tmp_path / "out.json").read_text())["rows"] if "texts" in row}
    assert list(rows) == ["set 1", "set 2", "periodic", "shuffled", "one text", "training set"]
    assert rows["one text"]["self-BLEU"] == pytest.approx(1)
    assert rows["periodic"]["longest repeat (tokens)"] == 60 - 8
    assert rows["training set"]["memorized 13-grams"] == 1
    assert all(f"| {name} |" in output for name in ("real, set 1", "periodic", "changes nothing"))


def test_too_few_documents_are_named(script, tmp_path, monkeypatch):
    write_documents(tmp_path / "valid.txt", 3, step=1)
    tiny_gpt2(257, 64).save_pretrained(tmp_path / "scorer")
    byte_tokenizer(bos_token="<s>").save_pretrained(tmp_path / "scorer")
    files = ["--text", tmp_path / "valid.txt", "--train-text", tmp_path / "valid.txt"]
    monkeypatch.setattr(sys, "argv", ["metric_failures.py", "--scorer", str(tmp_path / "scorer"), *map(str, files)])
    with pytest.raises(SystemExit, match=r"valid\.txt has 3 documents of 64 tokens or more, but 500 are needed"):
        script["main"]()


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("perplexity", 10.0, "better"),
        ("perplexity", 19.5, ""),
        ("perplexity", 30.0, "caught"),
        ("entropy (nats)", 10.0, "caught"),
        ("entropy (nats)", 23.1, "better"),
        ("entropy (nats)", 21.5, ""),
    ],
)
def test_a_value_is_judged_by_the_range_of_real_sets(script, column, value, expected):
    assert script["verdict"](column, value, [20.0, 21.0, 20.5]) == expected
