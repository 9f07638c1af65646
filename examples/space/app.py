# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The page of `fsdfm demo` as a Space. The variables FSDFM_MODEL and FSDFM_DFM of the Space name other models."""

import os

from transformers_fsdfm.cli import main


arguments = ["demo", "--host", "0.0.0.0", "--port", "7860"]
for name in ("model", "dfm"):
    if value := os.environ.get(f"FSDFM_{name.upper()}"):
        arguments += [f"--{name}", value]
main(arguments)
