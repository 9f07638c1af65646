# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""
The report: samples of several models, steps, solvers and modes; metrics and their uncertainty; tests; tables; plots.

```python
from transformers_fsdfm.evaluation import EvaluationSettings, evaluate_models

settings = EvaluationSettings(models=["fsdfm", "dfm"], reference=["valid.txt"], scorers=["gpt2"], out="report")
report = evaluate_models(settings)
```

On the command line `fsdfm evaluate`; in many processes `accelerate launch -m transformers_fsdfm.evaluation`, with the
same arguments. Needs the extra `eval`.

Data flow: `settings` -> `workbench` (`systems`, `texts`) -> `samples` -> `scores` (`measures`) -> `report`
(`statistics`) -> `markdown`, `plots`; `run` calls them in this order.
"""

import importlib
from typing import Any


_HOME_OF = {
    "EvaluationSettings": "settings",
    "evaluate_models": "run",
    "Report": "report",
    "compare_ratios": "statistics",
    "ratio_interval": "statistics",
    "RatioData": "statistics",
}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME_OF[name]}", __name__), name)
