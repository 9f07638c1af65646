# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Infilling accuracy as a module of the `evaluate` library."""

import datasets
import evaluate

from transformers_fsdfm.metrics import evaluate_module
from transformers_fsdfm.metrics.infilling_accuracy.functional import infilling_accuracy


class InfillingAccuracy(evaluate_module.CheckedMetric):
    """See [`~transformers_fsdfm.metrics.infilling_accuracy.functional.infilling_accuracy`]."""

    function = staticmethod(infilling_accuracy)

    def _info(self) -> evaluate.MetricInfo:
        tokens = evaluate_module.TOKENS
        features = {"predictions": tokens, "references": tokens, "editable_mask": evaluate_module.FLAGS}
        return evaluate.MetricInfo(
            description="Share of the tokens that were taken out of a text and came back; not those right by chance.",
            citation="",
            inputs_description=infilling_accuracy.__doc__,
            features=datasets.Features(features),
        )
