# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The likelihood bound as a module of the `evaluate` library."""

import datasets
import evaluate

from transformers_fsdfm.metrics import evaluate_module
from transformers_fsdfm.metrics.likelihood_bound.functional import likelihood_bound


class LikelihoodBound(evaluate_module.CheckedMetric):
    """See [`~transformers_fsdfm.metrics.likelihood_bound.functional.likelihood_bound`]."""

    function = staticmethod(likelihood_bound)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Upper bound on the negative log-likelihood of real texts under a discrete flow (its ELBO).",
            citation="",
            inputs_description=likelihood_bound.__doc__,
            features=datasets.Features({"predictions": evaluate_module.TOKENS}),
        )
