# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Files of timelines: of the kind that the suffix names, and written whole or not at all."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..optional import require


PICTURES = (".png", ".svg", ".gif")
TIMELINE_SUFFIXES = (".html", *PICTURES, ".txt")
RACE_SUFFIXES = (".html", *PICTURES)


def check_path(path: str | os.PathLike, suffixes: Sequence[str]) -> str:
    """
    Whether such a file can be made, asked before any work is done.

    Returns:
        `str`: the suffix, in small letters.

    Raises:
        `ValueError`: for another suffix.
        `OSError`: if there is no such folder, or the path is one.
        `ImportError`: for a picture, if matplotlib is not installed.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in suffixes:
        raise ValueError(f"`path` must end in {', '.join(suffixes)}, but is {path}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"`path` {path} is in a folder that does not exist")
    if path.is_dir():
        raise IsADirectoryError(f"`path` {path} is a folder")
    if suffix in PICTURES:
        require("timeline", "matplotlib", what=f"{suffix} (but not .html)")
    return suffix


def write(path: str | os.PathLike, content: bytes) -> None:
    """Writes a file, in place of the one that may be there, that appears under its name when it is complete."""
    path = Path(path)
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(partial, 0o666 & ~umask)  # temporary files are made for the user alone
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise
