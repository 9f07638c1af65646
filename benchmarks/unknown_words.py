# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
r"""How many words of sampled texts never occur in the training text: those that were put together wrongly, or are new.

```
python benchmarks/unknown_words.py report --train-text train.txt --text valid.txt
```

`report` is a folder of `fsdfm evaluate`: one row for each model, mode, solver and number of steps, over all seeds. The
first row is held-out text. A word is a run of letters, with an apostrophe or without; case does not count. The first
and the last word of a sample may be cut, so they don't count.
"""

import argparse
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from datasets import Dataset
from reporting import markdown

from transformers_fsdfm.trainer.data import load_documents


WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)?")


def words_of(text: str) -> list[str]:
    """The words of a text, in small letters."""
    return [word.lower() for word in WORD.findall(text)]


def row(name: str, words: list[str], known: set[str]) -> dict[str, Any]:
    """Of some words, how many are not known, and which of those are the most frequent."""
    unknown = Counter(word for word in words if word not in known)
    examples = sorted(unknown, key=lambda word: (-unknown[word], word))[:5]
    share = f"{100 * unknown.total() / len(words):.2f} %" if words else "no words"
    return {"texts": name, "words": len(words), "unknown": share, "such as": ", ".join(examples)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", type=Path, help="folders of `fsdfm evaluate`")
    parser.add_argument("--train-text", required=True, help="file of the text that the models were trained on")
    parser.add_argument("--text", required=True, help="file of held-out text")
    args = parser.parse_args()
    groups: dict[str, list[str]] = defaultdict(list)
    for report in args.reports:
        for file in sorted(report.glob("samples/*/*.parquet")):
            name = " ".join([file.parent.name, *file.stem.split("--seed-")[0].split("--")])
            name = f"{report.name}: {name}" if len(args.reports) > 1 else name
            for text in Dataset.from_parquet(str(file))["text"]:
                groups[name] += words_of(text)[1:-1]
    if not groups:
        parser.error(f"no samples in {', '.join(map(str, args.reports))}")
    known = {word for text in load_documents(args.train_text)["text"] for word in words_of(text)}
    held_out = [word for text in load_documents(args.text)["text"] for word in words_of(text)]
    print(
        markdown([row("held-out text", held_out, known), *(row(name, words, known) for name, words in groups.items())])
    )


if __name__ == "__main__":
    main()
