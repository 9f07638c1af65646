# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""What goes into a command and what comes out: standard input and output, and files written all or not at all."""

import json
import os
import re
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

import typer


# Generated text may hold any character; on a terminal, control characters could move the cursor and worse.
CONTROL_PICTURES = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\t\n"}
CONTROL_PICTURES |= {0x7F: "\u2421"} | dict.fromkeys(range(0x80, 0xA0), "\ufffd")


def printable(text: str) -> str:
    """The text with pictures in place of control characters, tabs and line ends apart."""
    return text.translate(CONTROL_PICTURES)


def to_json(record: Any) -> str:
    """Indented, readable in any language, and with no character that a terminal would obey."""
    text = json.dumps(record, ensure_ascii=False, indent=2)
    return re.sub("[\x7f-\x9f]", lambda match: f"\\u{ord(match[0]):04x}", text) + "\n"


def read_text(name: str, given: str) -> str:
    """
    A text argument: as it is, or, given as `-`, what stands on standard input, without the line end at its end.

    Raises:
        `ValueError`: it is no Unicode.
    """
    if given == "-":
        if sys.stdin is None:
            raise ValueError(f"`{name}` is - (standard input), which is closed")
        content = sys.stdin.buffer.read()
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"`{name}`: standard input is not UTF-8, see byte {error.start + 1}") from error
        return text.removesuffix("\n").removesuffix("\r")
    try:
        given.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"`{name}` is not UTF-8, see character {error.start + 1}") from error
    return given


def check_target(out: Path | None, overwrite: bool) -> None:
    """
    Whether a file can be written, asked before any work is done.

    Raises:
        `OSError`: it cannot.
    """
    if out is None:
        if overwrite:
            raise typer.BadParameter("is of no use without --out", param_hint="--overwrite")
        return
    if out.exists() and not out.is_file():
        raise OSError(f"`out` {out} is no file")
    if out.exists() and not overwrite:
        raise FileExistsError(f"`out` {out} exists; `overwrite` replaces it")
    folder = out.resolve().parent
    if not folder.is_dir():
        raise NotADirectoryError(f"`out` {out}: there is no folder {folder}")
    try:
        with tempfile.TemporaryFile(dir=folder):  # some file systems refuse what their permissions allow
            pass
    except OSError as error:
        raise PermissionError(f"`out` {out}: the folder {folder} is read-only ({error.strerror})") from error


def write_file(out: Path, text: str, overwrite: bool) -> None:
    """
    Writes a file, in UTF-8, that appears under its name when it is complete.

    Raises:
        `FileExistsError`: it exists by now.
    """
    target = out.resolve()
    staged = target.with_name(f".fsdfm-{uuid.uuid4().hex[:12]}.tmp")
    try:
        with staged.open("x", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if not overwrite and target.exists():
            raise FileExistsError(f"`out` {out} exists by now; `overwrite` replaces it")
        staged.replace(target)
    finally:
        staged.unlink(missing_ok=True)


def write_stdout(text: str) -> None:
    """Writes UTF-8, whatever the locale, and at once: a pipe that has been closed shows here."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8"))
    sys.stdout.buffer.flush()


def say(line: str) -> None:
    """A remark, which is no part of the result."""
    typer.echo(line, err=True)
