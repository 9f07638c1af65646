# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The JSON has the keys that docs/cli.md lists. (Its commands run in tests/test_docs.py.)"""

import json
import re
from pathlib import Path


DOCS = Path(__file__).parents[2] / "docs" / "cli.md"


def test_documented_keys_are_those_of_the_json(run, checkpoint):
    rows = re.findall(r"^\| (`.*?) \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    documented = {name for row in rows for name in re.findall(r"`(\w+)`", row)} - {"generate", "infill"}
    found = set()
    for command in (("generate", "Once"), ("infill", "Once ___2___")):
        code, out, error = run(*command, "--json", "--model", checkpoint)
        assert code == 0, error
        record = json.loads(out)
        found |= set(record) | set(record["samples"][0])
    assert documented == found
