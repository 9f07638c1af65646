# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Repetition as a module of the `evaluate` library."""

import evaluate

from transformers_fsdfm.metrics import evaluate_module
from transformers_fsdfm.metrics.repetition.functional import repetition


_CITATION = """\
@inproceedings{welleck2020neural, title={Neural Text Generation With Unlikelihood Training}, author={Welleck, Sean and
  Kulikov, Ilia and Roller, Stephen and Dinan, Emily and Cho, Kyunghyun and Weston, Jason}, booktitle={ICLR},
  year={2020}}
@inproceedings{su2022contrastive, title={A Contrastive Framework for Neural Text Generation}, author={Su, Yixuan and
  Lan, Tian and Wang, Yan and Yogatama, Dani and Kong, Lingpeng and Collier, Nigel}, booktitle={NeurIPS}, year={2022}}
"""


class Repetition(evaluate_module.CheckedMetric):
    """See [`~transformers_fsdfm.metrics.repetition.functional.repetition`]."""

    function = staticmethod(repetition)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Share of n-grams that repeat an earlier one of the same sequence, and the longest repeat.",
            citation=_CITATION,
            inputs_description=repetition.__doc__,
            features=evaluate_module.TOKENS_OR_TEXTS,
        )
