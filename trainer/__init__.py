# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Data and trainers for DFM pre-training and FS-DFM distillation; needs the extra `train`."""

from transformers_fsdfm.optional import require


require("train", "accelerate", "datasets", "peft", what="transformers_fsdfm.trainer")
