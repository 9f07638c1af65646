# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Libraries that only some metrics need."""

import importlib.util


def require(*libraries: str) -> None:
    """
    Checks that libraries are installed, before any work is done.

    Raises:
        `ModuleNotFoundError`: names those that are missing and says how to install them.
    """
    missing = [name for name in libraries if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(f'This needs {", ".join(missing)}: pip install "transformers-fsdfm[eval]"')
