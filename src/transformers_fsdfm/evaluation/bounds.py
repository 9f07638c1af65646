# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The likelihood bound of the real text under each model: a measure of the model alone, whatever it samples."""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from .. import __version__
from .files import written_whole
from .systems import ModelFolder, load_flow


class BoundStore:
    """
    The files with the bounds of each model.

    Args:
        folder (`Path`): where they are.
        blocks (`np.ndarray` of shape `(num_samples, length)`): the real text, in tokens.
        dtype (`str`): of the models' weights.
    """

    def __init__(self, folder: Path, blocks: np.ndarray, dtype: str) -> None:
        self.folder, self._blocks, self._dtype = folder, blocks, dtype

    def path(self, model: ModelFolder) -> Path:
        """The file of a model."""
        text = hashlib.blake2b(np.ascontiguousarray(self._blocks).tobytes(), digest_size=16).hexdigest()
        content = json.dumps([__version__, model.fingerprint, text, self._dtype])
        return self.folder / f"likelihood_bound--{hashlib.blake2b(content.encode(), digest_size=10).hexdigest()}.json"

    def compute(
        self,
        folder: ModelFolder,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int,
        device: torch.device,
    ) -> None:
        """Computes and stores the bounds of a model."""
        from ..metrics.likelihood_bound.functional import likelihood_bound

        model = load_flow(folder, self._dtype, device)
        result = likelihood_bound(self._blocks, model, tokenizer=tokenizer, batch_size=batch_size)
        with written_whole(self.path(folder)) as file:
            file.write_text(json.dumps(result), encoding="utf-8")

    def load(self, model: ModelFolder) -> dict[str, list[float]]:
        """`nll`, `tokens` and `bytes` of each sequence."""
        return json.loads(self.path(model).read_text(encoding="utf-8"))["per_sequence"]


__all__ = ["BoundStore"]
