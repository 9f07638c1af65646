# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""FS-DFM, few-step discrete flow-matching language models, as normal transformers models.

Public names are imported on first use, so that `import transformers_fsdfm` and the command line start at once.
Whichever is the first, it brings the model along, whose classes `AutoModel` then knows.
"""

import importlib
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:  # the same names once more, for type checkers and editors, which do not run `__getattr__`
    from .configuration_fsdfm import FSDFMConfig as FSDFMConfig
    from .conversion import convert_published_checkpoint as convert_published_checkpoint
    from .conversion import export_published_checkpoint as export_published_checkpoint
    from .flow_fsdfm import Schedule as Schedule
    from .generation_fsdfm import FSDFMGenerationConfig as FSDFMGenerationConfig
    from .generation_fsdfm import FSDFMGenerationMixin as FSDFMGenerationMixin
    from .generation_fsdfm import FSDFMGenerationOutput as FSDFMGenerationOutput
    from .hub_configs import available_configs as available_configs
    from .hub_configs import available_scorers as available_scorers
    from .infilling import blanks_to_ids as blanks_to_ids
    from .infilling import fill_blanks as fill_blanks
    from .modeling_fsdfm import FSDFMForDiffusionLM as FSDFMForDiffusionLM
    from .modeling_fsdfm import FSDFMModel as FSDFMModel
    from .modeling_fsdfm import FSDFMPreTrainedModel as FSDFMPreTrainedModel
    from .timeline import Timeline as Timeline

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
    "available_scorers": "hub_configs",
    "blanks_to_ids": "infilling",
    "fill_blanks": "infilling",
    "Timeline": "timeline",
}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    importlib.import_module(".modeling_fsdfm", __name__)
    return getattr(importlib.import_module(f".{_HOME_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOME_OF]
