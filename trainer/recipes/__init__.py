# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Complete trainings, from a text to checkpoints that are shipped; a folder each."""
