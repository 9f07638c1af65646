# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Diversity as a module of the `evaluate` library."""

import evaluate

from transformers_fsdfm.metrics import evaluate_module
from transformers_fsdfm.metrics.diversity.functional import diversity


_CITATION = """\
@inproceedings{li2016diversity, title={A Diversity-Promoting Objective Function for Neural Conversation Models},
  author={Li, Jiwei and Galley, Michel and Brockett, Chris and Gao, Jianfeng and Dolan, Bill}, booktitle={NAACL},
  year={2016}}
@inproceedings{zhu2018texygen, title={Texygen: A Benchmarking Platform for Text Generation Models}, author={Zhu, Yaoming
  and Lu, Sidi and Zheng, Lei and Guo, Jiaxian and Zhang, Weinan and Wang, Jun and Yu, Yong}, booktitle={SIGIR},
  year={2018}}
"""


class Diversity(evaluate_module.CheckedMetric):
    """See [`~transformers_fsdfm.metrics.diversity.functional.diversity`]."""

    function = staticmethod(diversity)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Distinct n-grams of a set of texts, and self-BLEU: how much the texts differ from each other.",
            citation=_CITATION,
            inputs_description=diversity.__doc__,
            features=evaluate_module.TOKENS_OR_TEXTS,
        )
