# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Checkpoints of other programs to and from model folders; one file for each foreign format."""

from .published import ConversionResult, convert_published_checkpoint, export_published_checkpoint


__all__ = ["ConversionResult", "convert_published_checkpoint", "export_published_checkpoint"]
