"""Makes a tiny FS-DFM with random weights, saves it, loads it as any Hub model, and lets it write 64 bytes in 8 steps.

The weights are random, so the text is noise: this shows the route that every checkpoint takes.
"""

import tempfile

import torch
from transformers import AutoModel

from transformers_fsdfm import FSDFMConfig, FSDFMForDiffusionLM


def main() -> None:
    torch.manual_seed(0)
    config = FSDFMConfig(vocab_size=256, hidden_size=64, num_hidden_layers=2, num_attention_heads=4)
    model = FSDFMForDiffusionLM(config)
    print(f"FS-DFM with {model.num_parameters():,} parameters")

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        model = AutoModel.from_pretrained(folder, trust_remote_code=True)

    prompt = torch.tensor([list(b"Once upon a time")])
    output = model.generate(prompt, num_steps=8, max_new_tokens=64, return_dict_in_generate=True)
    print(bytes(output.sequences[0].tolist()).decode("latin-1").encode("unicode_escape").decode())
    print(f"{output.num_function_evaluations} network evaluations for 64 tokens")


if __name__ == "__main__":
    main()
