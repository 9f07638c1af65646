# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""`accelerate launch -m transformers_fsdfm.evaluation ...`: the same as `fsdfm evaluate ...`, in many processes."""

import sys

from ..cli import main


if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
