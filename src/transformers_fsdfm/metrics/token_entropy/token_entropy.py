# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Token entropy as a module of the `evaluate` library."""

import evaluate

from transformers_fsdfm.metrics import evaluate_module
from transformers_fsdfm.metrics.token_entropy.functional import token_entropy


class TokenEntropy(evaluate_module.CheckedMetric):
    """See [`~transformers_fsdfm.metrics.token_entropy.functional.token_entropy`]."""

    function = staticmethod(token_entropy)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Unigram entropy of each sequence, in nats and bits: low for texts of few, often used tokens.",
            citation="",
            inputs_description=token_entropy.__doc__,
            features=evaluate_module.TOKENS_OR_TEXTS,
        )
