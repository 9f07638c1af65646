# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""What the metrics have in common as modules of the `evaluate` library."""

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import evaluate
from datasets import Features, Sequence, Value

from .inputs import check_lengths, check_sequences, check_texts


TEXTS = Value("string")
TOKENS = Sequence(Value("int64"))
FLAGS = Sequence(Value("bool"))
TOKENS_OR_TEXTS = [Features({"predictions": TOKENS}), Features({"predictions": TEXTS})]


class CheckedMetric(evaluate.Metric):
    """
    A metric that refuses bad input, with a message that names the argument, before anything is stored or computed.

    Modules must import this file and not the class: `evaluate` takes the first class that it finds for the metric.

    Attributes:
        function (`Callable`): the metric itself; its parameters are the inputs and options of [`compute`].
    """

    function: ClassVar[Callable[..., dict[str, Any]]]

    def compute(self, *, predictions: Any = None, references: Any = None, **options: Any) -> dict[str, Any] | None:
        """
        Computes the metric.

        """
        if predictions is None and self.writer is None:
            raise ValueError(f"{self.name} needs `predictions`")
        known = inspect.signature(self.function).parameters
        if references is not None and "references" not in known:
            raise TypeError(f"{self.name} takes no `references`; give the real texts as `predictions` of another call")
        if unknown := options.keys() - known.keys():
            raise TypeError(f"{self.name} takes no {sorted(unknown)}; what it takes is {sorted(known)}")
        # `evaluate` hands over only references that belong to one prediction each.
        is_unpaired = references is not None and "references" not in self._feature_names()
        self._unpaired = {"references": references} if is_unpaired else {}
        return super().compute(predictions=predictions, references=references, **options)

    def add_batch(self, *, predictions: Any = None, references: Any = None, **inputs: Any) -> None:
        """
        Adds predictions, and what belongs to them, to those that the next `compute` measures.

        """
        given = {"predictions": predictions, "references": references, **inputs}
        checked = {name: self._check(name, given.get(name)) for name in self._feature_names()}
        for name, values in checked.items():
            check_lengths(name, values, "predictions", checked["predictions"])
        super().add_batch(**checked)

    def add(self, *, prediction: Any = None, reference: Any = None, **inputs: Any) -> None:
        """
        As [`add_batch`], for a single prediction.

        """
        batch = {name: [value] for name, value in inputs.items()}
        self.add_batch(predictions=[prediction], references=[reference], **batch)

    def _compute(self, **inputs: Any) -> dict[str, Any]:
        return self.function(**inputs, **self._unpaired)

    def _check(self, name: str, values: Any) -> list[Any]:
        if values is None:
            raise ValueError(f"{self.name} needs `{name}`, one for each prediction")
        kind = self.features[name] if isinstance(self.features, Features) else TOKENS_OR_TEXTS
        if kind == TEXTS:
            return check_texts(values, name)
        if kind == FLAGS:
            return [mask.tolist() if hasattr(mask, "tolist") else list(mask) for mask in values]
        sequences = check_sequences(values, name)
        if kind == TOKENS and isinstance(sequences[0], str):
            raise TypeError(f"`{name}` must be lists of token ids, but are texts")
        return sequences
