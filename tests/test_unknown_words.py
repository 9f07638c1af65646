"""The script that counts words which the training text does not have, on a report with known words."""

import runpy
import sys
from pathlib import Path

import pytest
from datasets import Dataset

from tests.benchmark_script import BENCHMARKS, table_of


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    (tmp_path / "train.txt").write_text("The dog ran.\n<|endoftext|>\nIt didn't see a cat\n<|endoftext|>\n")
    (tmp_path / "valid.txt").write_text("the cat RAN home\n<|endoftext|>\n")

    def run_on(report: Path) -> str:
        files = ["--train-text", str(tmp_path / "train.txt"), "--text", str(tmp_path / "valid.txt")]
        monkeypatch.syspath_prepend(str(BENCHMARKS))
        monkeypatch.setattr(sys, "argv", ["unknown_words.py", str(report), *files])
        runpy.run_path(str(BENCHMARKS / "unknown_words.py"), run_name="__main__")
        return capsys.readouterr().out

    return run_on


def test_all_seeds_of_a_cell_are_counted_together(run, tmp_path):
    folder = tmp_path / "report" / "samples" / "few"
    folder.mkdir(parents=True)
    for seed, texts in enumerate((["xx The dawg didn't yy"], ["xx dog, dawg catt yy", "cut"])):
        Dataset.from_dict({"text": texts}).to_parquet(
            folder / f"unconditional--euler--8-steps--seed-{seed}--0a.parquet"
        )
    held_out, sampled = table_of(run(tmp_path / "report"))
    assert (held_out["words"], held_out["unknown"], held_out["such as"]) == ("4", "25.00 %", "home")
    assert sampled["texts"] == "few unconditional euler 8-steps"
    assert (sampled["words"], sampled["unknown"], sampled["such as"]) == ("6", "50.00 %", "dawg, catt")


def test_a_folder_without_samples_is_refused(run, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(tmp_path)
    assert "no samples in" in capsys.readouterr().err
