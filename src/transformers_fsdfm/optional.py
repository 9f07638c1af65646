# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Libraries that only a part of the package needs: asked for before any work, and how to install what is missing."""

import importlib.util
import re
from importlib import metadata


PROJECT = "transformers-fsdfm"
OTHER_NAMES = {"lm_eval": "lm-eval", "mauve": "mauve-text"}  # a module -> what is installed for it


def require(extra: str, *modules: str, what: str = "This") -> None:
    """
    Checks that libraries are installed.

    Args:
        extra (`str`): the extra of this project that has them all, as in `pip install ".[eval]"`.
        modules (`str`): the names to import.
        what (`str`, *optional*, defaults to `"This"`): needs them; the error begins with it.

    Raises:
        `ModuleNotFoundError`: names those that are missing and says how to install them.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        wanted = " ".join(f'"{_requirement(name, extra)}"' for name in missing)
        raise ModuleNotFoundError(
            f"{what} needs {', '.join(missing)}: pip install {wanted}; or everything of its kind, in a checkout of "
            f'{PROJECT}: pip install -c constraints.txt ".[{extra}]"'
        )


def _requirement(module: str, extra: str) -> str:
    """What pip is to install for a module: of the versions that the extra asks for, where that is known."""
    name = OTHER_NAMES.get(module, module)
    try:
        stated = metadata.requires(PROJECT) or []
    except metadata.PackageNotFoundError:  # the package is on the path, but not installed
        stated = []
    for line in stated:
        requirement, _, condition = line.partition(";")
        is_it = re.fullmatch(rf"{re.escape(name)}\s*([<>=!~(].*)?", requirement.strip(), re.IGNORECASE)
        if is_it and re.search(rf"extra == ['\"]{re.escape(extra)}['\"]", condition):
            return requirement.strip()
    return name


__all__ = ["require"]
