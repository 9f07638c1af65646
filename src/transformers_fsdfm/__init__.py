# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""FS-DFM, few-step discrete flow-matching language models, as normal transformers models.

Public names are imported on first use, so that `import transformers_fsdfm` and the command line start at once.
"""

import importlib
from typing import Any


__version__ = "0.1.0"

_HOME_OF = {
    "FSDFMConfig": "configuration_fsdfm",
    "FSDFMModel": "modeling_fsdfm",
    "FSDFMForDiffusionLM": "modeling_fsdfm",
    "FSDFMPreTrainedModel": "modeling_fsdfm",
    "FSDFMGenerationConfig": "generation_fsdfm",
    "FSDFMGenerationMixin": "generation_fsdfm",
    "FSDFMGenerationOutput": "generation_fsdfm",
    "Schedule": "flow_fsdfm",
    "convert_published_checkpoint": "conversion",
    "export_published_checkpoint": "conversion",
    "available_configs": "hub_configs",
    "blanks_to_ids": "infilling",
    "fill_blanks": "infilling",
    "Timeline": "timeline",
}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOME_OF]
