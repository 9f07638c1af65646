"""The README's Python blocks run, in order, as one program."""

import re
import runpy
from pathlib import Path


ROOT = Path(__file__).parents[1]


def test_readme_examples_run(tmp_path, monkeypatch):
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert blocks
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)
    assert namespace["output"].sequences.shape == (1, 128)
    assert len(namespace["output"].history) == 9


def test_quickstart_runs(capsys):
    runpy.run_path(str(ROOT / "examples/quickstart.py"), run_name="__main__")
    assert "Once upon a time" in capsys.readouterr().out
