# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""A real process on a pseudo-terminal, whose output an emulator shows."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Sequence

import pyte


FSDFM = [sys.executable, "-c", "from transformers_fsdfm.cli import main; main()"]


def heed_ctrl_c() -> None:
    """For `preexec_fn`: tests that run in the background may have been started with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """
    Runs `fsdfm ARGUMENTS` as a shell would on a terminal of its own; a context, at whose end it is stopped.

    Args:
        arguments (`Sequence`): of the command.
        columns, lines (`int`): size of the terminal.
        environment (`str`): variables, in addition to those of this process.
    """

    def __init__(self, arguments: Sequence, columns: int = 60, lines: int = 12, **environment: str) -> None:
        self.screen = pyte.HistoryScreen(columns, lines, history=10_000, ratio=0.5)
        self.raw = b""
        self._stream = pyte.ByteStream(self.screen)
        self._master, slave = pty.openpty()
        self._set_size(columns, lines)
        settings = termios.tcgetattr(slave)
        settings[3] |= termios.NOFLSH  # or a Ctrl-C throws away what this reader, slower than a screen, has not read
        termios.tcsetattr(slave, termios.TCSANOW, settings)
        kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [*FSDFM, *map(str, arguments)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=kept | {"TERM": "xterm-256color", "HF_HUB_OFFLINE": "1"} | environment,
            start_new_session=True,
            preexec_fn=self._before_start,
        )
        os.close(slave)

    @staticmethod
    def _before_start() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        heed_ctrl_c()

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    def _set_size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def resize(self, columns: int, lines: int) -> None:
        """Changes the size of the window; the kernel tells the process."""
        self._set_size(columns, lines)
        self.screen.resize(lines, columns)

    def press_ctrl_c(self) -> None:
        os.write(self._master, b"\x03")

    def wait_until(self, condition: Callable[[], bool], timeout: float = 150) -> None:
        """Reads what the process writes until the condition holds."""
        end = time.monotonic() + timeout
        while not condition():
            assert self._read(end - time.monotonic()), f"not seen; the screen shows {self.display!r}"

    def finish(self, timeout: float = 150) -> int:
        """Reads to the end -> exit code."""
        end = time.monotonic() + timeout
        while self._read(end - time.monotonic()):
            pass
        return self.process.wait(max(0.1, end - time.monotonic()))

    def _read(self, seconds: float) -> bool:
        """Feeds the emulator; False when there is nothing more."""
        if seconds <= 0 or not select.select([self._master], [], [], seconds)[0]:
            return False
        try:
            received = os.read(self._master, 65536)
        except OSError:  # the other end was closed
            return False
        self.raw += received
        self._stream.feed(received)
        return bool(received)

    @property
    def display(self) -> str:
        """The screen, without blanks at the ends."""
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip()

    @property
    def everything(self) -> str:
        """The screen, and all lines that have been scrolled off it."""
        above = ["".join(row[column].data for column in sorted(row)).rstrip() for row in self.screen.history.top]
        return "\n".join([*above, self.display])
