"""The Python blocks of the documentation run, in order, as one program."""

import re
from pathlib import Path

from transformers_fsdfm.metrics import available_metrics


DOCS = Path(__file__).parents[2] / "docs/metrics.md"


def test_examples_run():
    blocks = re.findall(r"^```python\n(.*?)^```", DOCS.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    namespace = {}
    for block in blocks:
        exec(compile(block, str(DOCS), "exec"), namespace)
    assert namespace["result"]["tokens"] > 0
    assert len(namespace["references"].first_half.values) == 10


def test_every_metric_is_described():
    text = DOCS.read_text(encoding="utf-8")
    assert [name for name in available_metrics() if f"| `{name}` |" not in text] == []
