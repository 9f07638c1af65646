# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The configurations that come with the package, one folder each, as they would stand on the Hub."""

from pathlib import Path


def available_configs() -> dict[str, Path]:
    """
    The configurations that come with the package: name -> folder.

    Example:

    ```python
    >>> from transformers_fsdfm import FSDFMConfig, available_configs

    >>> config = FSDFMConfig.from_pretrained(available_configs()["fsdfm-170m"])
    ```
    """
    return {folder.parent.name: folder.parent for folder in sorted(Path(__file__).parent.glob("*/config.json"))}
