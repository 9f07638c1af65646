# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Trainers for DFM pre-training and FS-DFM distillation."""
