# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""
Metrics of generated text. Each folder holds two files:

- `functional.py`: the metric as a plain function;
- `NAME.py`, after the folder: the same as a module of the `evaluate` library, `evaluate.load(folder)`.

A result is a flat dict of numbers, and beside them `"per_sequence"`, lists with one value for each prediction, from
which intervals are made, and `"settings"` where the numbers depend on any. A ratio is a ratio of sums over all
predictions, unless its name says otherwise. Needs the extra `eval`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..optional import require


if TYPE_CHECKING:
    from evaluate import EvaluationModule


def available_metrics() -> dict[str, Path]:
    """The folder of each metric, by name."""
    folders = sorted(path for path in Path(__file__).parent.iterdir() if (path / f"{path.name}.py").is_file())
    return {folder.name: folder for folder in folders}


def load_metric(name: str, **kwargs: Any) -> "EvaluationModule":
    """
    A metric as a module of the `evaluate` library; no network is needed.

    Args:
        name (`str`): one of [`available_metrics`].
        kwargs: of `evaluate.load`, as `cache_dir` or `experiment_id`. Unlike there, inputs are kept in memory and not
            on disk, unless `keep_in_memory=False` or `num_process` > 1.

    Raises:
        `ValueError`: if there is no such metric.
        `ModuleNotFoundError`: if `evaluate` is not installed.
    """
    folders = available_metrics()
    if name not in folders:
        raise ValueError(f"`name` must be one of {', '.join(folders)}, but got {name!r}")
    require("eval", "evaluate", "datasets", what="load_metric")
    import evaluate

    kwargs.setdefault("keep_in_memory", kwargs.get("num_process", 1) == 1)
    return evaluate.load(str(folders[name]), **kwargs)


__all__ = ["available_metrics", "load_metric"]
