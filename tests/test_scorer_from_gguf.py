"""The script that makes a scorer of a GGUF file overwrites nothing and says which file it wants."""

import runpy
import sys

import pytest

from tests.benchmark_script import BENCHMARKS


@pytest.mark.parametrize(
    ("files", "out", "message"),
    [
        ((), "new", "must be a GGUF file or a folder with one, but there are 0"),
        (("a.gguf", "b.gguf"), "new", "but there are 2"),
        (("a.gguf",), "there", "is there already"),
    ],
)
def test_what_cannot_be_converted_is_refused(monkeypatch, capsys, tmp_path, files, out, message):
    (tmp_path / "there").mkdir()
    for file in files:
        (tmp_path / file).touch()
    monkeypatch.setattr(sys, "argv", ["scorer_from_gguf.py", str(tmp_path), str(tmp_path / out)])
    with pytest.raises(SystemExit):
        runpy.run_path(str(BENCHMARKS / "scorer_from_gguf.py"), run_name="__main__")
    assert message in capsys.readouterr().err
    assert not any((tmp_path / "there").iterdir())
