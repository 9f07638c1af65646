# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Files that are there in one piece or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


UNFINISHED = ".unfinished"


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """
    Gives a name to write to, beside `path`, and moves that file to `path` when the block ends well.

    A process that is killed inside leaves at most a `*.unfinished` file, see [`remove_unfinished`]; what stood at
    `path` before stays until the new file is complete.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        yield unfinished
        with open(unfinished, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Removes what killed processes left."""
    for file in folder.rglob(f"*{UNFINISHED}"):
        file.unlink(missing_ok=True)


__all__ = ["remove_unfinished", "written_whole"]
