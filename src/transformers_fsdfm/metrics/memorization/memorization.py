# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Memorization as a module of the `evaluate` library."""

import evaluate

from transformers_fsdfm.metrics import evaluate_module
from transformers_fsdfm.metrics.memorization.functional import memorization


class Memorization(evaluate_module.CheckedMetric):
    """See [`~transformers_fsdfm.metrics.memorization.functional.memorization`]."""

    function = staticmethod(memorization)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Share of the n-grams of generated texts that stand word for word in the training text.",
            citation="",
            inputs_description=memorization.__doc__,
            features=evaluate_module.TOKENS_OR_TEXTS,
        )
