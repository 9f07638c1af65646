# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Data and trainers for DFM pre-training and FS-DFM distillation; needs `pip install "transformers-fsdfm[train]"`."""

import importlib.util


missing = [name for name in ("accelerate", "datasets", "peft") if importlib.util.find_spec(name) is None]
if missing:
    raise ModuleNotFoundError(
        f'transformers_fsdfm.trainer needs {", ".join(missing)}: pip install "transformers-fsdfm[train]"'
    )
