# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""docs/metrics.md names every metric. (Its examples run in tests/test_docs.py.)"""

from pathlib import Path

from transformers_fsdfm.metrics import available_metrics


DOCS = Path(__file__).parents[2] / "docs/metrics.md"


def test_every_metric_is_described():
    text = DOCS.read_text(encoding="utf-8")
    assert [name for name in available_metrics() if f"| `{name}` |" not in text] == []
