# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The command line of the recipe."""

import argparse
from pathlib import Path

from .stages import read_settings, run_recipe


def main() -> None:
    """Runs the recipe with the arguments of the command line."""
    module = "transformers_fsdfm.trainer.recipes.tinystories"
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}", description="Trains tokenizer, scorer, DFM and FS-DFM on TinyStories."
    )
    parser.add_argument(
        "--train_data", required=True, nargs="+", help="files, or the dataset id roneneldan/TinyStories"
    )
    parser.add_argument("--validation_data", nargs="+", help="by default the validation split of the dataset id")
    parser.add_argument("--output_dir", required=True, type=Path, help="a folder for each stage is made in it")
    parser.add_argument("--settings", type=Path, default=Path(__file__).with_name("recipe.yaml"), help="a YAML file")
    args = parser.parse_args()
    try:
        settings = read_settings(args.settings)
        run_recipe(settings, args.train_data, args.validation_data, args.output_dir)
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
