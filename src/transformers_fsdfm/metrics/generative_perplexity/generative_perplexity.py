# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Generative perplexity as a module of the `evaluate` library."""

import datasets
import evaluate

from transformers_fsdfm.metrics import evaluate_module
from transformers_fsdfm.metrics.generative_perplexity.functional import generative_perplexity


class GenerativePerplexity(evaluate_module.CheckedMetric):
    """See [`~transformers_fsdfm.metrics.generative_perplexity.functional.generative_perplexity`]."""

    function = staticmethod(generative_perplexity)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Perplexity and bits per byte of texts under a causal language model, the scorer.",
            citation="",
            inputs_description=generative_perplexity.__doc__,
            features=datasets.Features({"predictions": evaluate_module.TEXTS}),
        )
