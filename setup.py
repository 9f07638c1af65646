"""Builds the `transformers-fsdfm` distribution; the outer folders `trainer` and `hub_configs` become subpackages."""

import re
from pathlib import Path

from setuptools import find_packages, setup


OUTER_PACKAGES = {"transformers_fsdfm.trainer": "trainer", "transformers_fsdfm.hub_configs": "hub_configs"}

TRAIN = ["accelerate>=1.15", "datasets>=5", "evaluate>=0.4.6", "filelock>=3.16", "peft>=0.21"]
DEEPSPEED = ["deepspeed>=0.19", "ninja>=1.11"]
REPORTS = ["tensorboard>=2.18", "trackio>=0.20"]
EVAL = [*TRAIN, "mauve-text>=0.4", "sacrebleu>=2.5", "matplotlib>=3.9", "scipy>=1.15"]
LM_EVAL = [*TRAIN, "lm-eval>=0.4.13"]
DEMO = ["gradio>=6.31,<7", "matplotlib>=3.9"]
TIMELINE = ["matplotlib>=3.11"]  # the first that draws scripts from right to left
DOCS = ["pdoc>=16"]
DEV = [  # without lm-eval and deepspeed, whose tests are skipped where they are missing
    *EVAL,
    *DEMO,
    *TIMELINE,
    *DOCS,
    "pytest>=9",
    "hypothesis>=6.100",
    "ruff>=0.17",
    "mypy>=2.4",
    "setuptools>=77",
    "scipy>=1.15",
    "torchao>=0.18",
    "psutil>=7",
    "selenium>=4.40",
    "pyte>=0.8.2",
]


def version() -> str:
    """The one in the package, which cannot be imported before its dependencies are installed."""
    source = Path("src/transformers_fsdfm/__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE)[1]


setup(
    name="transformers-fsdfm",
    version=version(),
    description="Few-step discrete flow-matching language models (FS-DFM) as normal Hugging Face transformers models",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",  # tested with 3.11 and 3.12
    package_dir={"": "src", **OUTER_PACKAGES},
    packages=[
        *find_packages("src"),
        *OUTER_PACKAGES,
        *(f"transformers_fsdfm.trainer.{name}" for name in find_packages("trainer")),
    ],
    package_data={
        "transformers_fsdfm": ["py.typed"],
        "transformers_fsdfm.timeline": ["*.css", "*.js"],
        "transformers_fsdfm.trainer": ["launch/*"],
        "transformers_fsdfm.trainer.recipes.tinystories": ["*.yaml", "*.md"],
        "transformers_fsdfm.hub_configs": ["*/*"],
    },
    install_requires=["torch>=2.6", "transformers>=5.20,<6", "typer>=0.16", "rich>=13.7"],
    extras_require={
        "train": TRAIN,
        "eval": EVAL,
        "lm-eval": LM_EVAL,
        "demo": DEMO,
        "timeline": TIMELINE,
        "deepspeed": [*TRAIN, *DEEPSPEED],
        "reports": [*TRAIN, *REPORTS],
        "docs": DOCS,
        "dev": DEV,
    },
    entry_points={"console_scripts": ["fsdfm = transformers_fsdfm.cli:main"]},
    classifiers=[
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
