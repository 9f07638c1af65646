# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""
How the checkpoints `dfm-tinystories` and `fsdfm-tinystories` were trained; see the README in this folder.

- `recipe.yaml`: all settings, stage by stage; `toy.yaml`: the same in seconds, to try the recipe.
- `stages.py`: runs the stages one after the other, and goes on where it was stopped.
- `scorer.py`: the autoregressive model that scores samples, trained on the same text.
- `publish.py`: from a trained model to the folder that is shipped.
"""
