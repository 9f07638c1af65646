# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""MAUVE as a module of the `evaluate` library."""

import datasets
import evaluate

from transformers_fsdfm.metrics import evaluate_module
from transformers_fsdfm.metrics.mauve.functional import mauve


_CITATION = """\
@inproceedings{pillutla2021mauve, title={MAUVE: Measuring the Gap Between Neural Text and Human Text using Divergence
  Frontiers}, author={Pillutla, Krishna and Swayamdipta, Swabha and Zellers, Rowan and Thickstun, John and Welleck, Sean
  and Choi, Yejin and Harchaoui, Zaid}, booktitle={NeurIPS}, year={2021}}
"""


class Mauve(evaluate_module.CheckedMetric):
    """See [`~transformers_fsdfm.metrics.mauve.functional.mauve`]. `references` may be more than `predictions`."""

    function = staticmethod(mauve)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="MAUVE between generated and real texts, beside human-human and human-shuffled values.",
            citation=_CITATION,
            inputs_description=mauve.__doc__,
            features=datasets.Features({"predictions": evaluate_module.TEXTS}),
        )
