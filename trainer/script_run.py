# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""A run of a script: its folder, its logs, and what happens around `trainer.train()`."""

import datetime
import importlib.metadata
import importlib.util
import json
import logging
import os
import platform
import subprocess
import sys
import time
import warnings
import weakref
from pathlib import Path
from typing import Any

import datasets
import transformers
import yaml
from transformers import Trainer, TrainerCallback, set_seed
from transformers.integrations import get_reporting_integration_callbacks
from transformers.trainer_utils import get_last_checkpoint

from .arguments import DFMTrainingArguments
from .script_arguments import DataArguments
from .script_data import check_sources
from .script_parser import LAST_CHECKPOINT, NEWEST_IF_ANY, plain_value


logger = logging.getLogger(__name__)

SETTINGS_FILE, ENVIRONMENT_FILE, LOG_FILE, METRICS_FILE = "run.yaml", "environment.jsonl", "train.log", "metrics.jsonl"
PACKAGES = (
    "transformers-fsdfm",
    "torch",
    "transformers",
    "tokenizers",
    "accelerate",
    "datasets",
    "peft",
    "safetensors",
    "numpy",
    "deepspeed",
)
MAX_OLD_SHARE = 0.1
HANDLERS_OF_RUN: weakref.WeakSet[logging.Handler] = weakref.WeakSet()  # where the latest run of this process logs to
REPORT_PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "trackio": ("trackio",), "wandb": ("wandb",)}


def check_run(args: DFMTrainingArguments, data_args: DataArguments) -> str | None:
    """
    Checks what concerns more than one group of arguments, before anything is read or written.

    Returns:
        `str` or None: the folder of the checkpoint to go on from.

    Raises:
        `ValueError`: if a setting is out of range, settings contradict each other, something that they need is not
            installed, or the run folder is one of an earlier run.
        `FileNotFoundError`: if a file of the data is not there.
    """
    _check_ranges(args)
    if data_args.streaming and args.max_steps <= 0:
        raise ValueError("--streaming needs --max_steps: a stream does not say how long it is")
    has_validation = data_args.has_validation_source or data_args.validation_share
    if args.eval_strategy != "no" and not has_validation:
        raise ValueError("--eval_strategy needs a text to evaluate on: --validation_data or --validation_share")
    for backend in _report_backends(args):
        packages = REPORT_PACKAGES.get(backend, ())
        if packages and not any(importlib.util.find_spec(package) for package in packages):
            raise ValueError(f"--report_to {backend}: the package is not installed (pip install {packages[0]})")
    check_sources(data_args)
    return _checkpoint_to_resume(args)


def _check_ranges(args: DFMTrainingArguments) -> None:
    """What `TrainingArguments` lets pass, and `Trainer` would stumble over when the data is there."""
    for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} must be at least 1, but got {getattr(args, name)}")
    if args.max_steps == 0 or args.max_steps < -1:
        raise ValueError(f"--max_steps must be at least 1, but got {args.max_steps}")
    if args.max_steps == -1 and args.num_train_epochs <= 0:
        raise ValueError(f"--num_train_epochs must be > 0, but got {args.num_train_epochs}")
    if args.learning_rate < 0:
        raise ValueError(f"--learning_rate must be >= 0, but got {args.learning_rate}")
    try:
        get_reporting_integration_callbacks(args.report_to)
    except ValueError as error:
        raise ValueError(f"--report_to {' '.join(_report_backends(args))}: {error}") from error


def _report_backends(args: DFMTrainingArguments) -> list[str]:
    assert isinstance(args.report_to, list)  # `TrainingArguments` makes one of whatever was given
    return args.report_to


def _checkpoint_to_resume(args: DFMTrainingArguments) -> str | None:
    last = get_last_checkpoint(args.output_dir) if os.path.isdir(args.output_dir) else None
    wanted = args.resume_from_checkpoint
    if wanted is None and last is not None:
        raise ValueError(
            f"--output_dir {args.output_dir} has checkpoints of an earlier run: go on with --resume_from_checkpoint, "
            "or choose another folder"
        )
    if wanted is None or wanted == NEWEST_IF_ANY:
        return last
    if wanted.lower() in (LAST_CHECKPOINT, "true"):
        if last is None:
            raise ValueError(f"--resume_from_checkpoint: there is no checkpoint in --output_dir {args.output_dir}")
        return last
    if not os.path.isfile(os.path.join(wanted, "trainer_state.json")):
        raise ValueError(f"--resume_from_checkpoint {wanted} is no folder of a checkpoint")
    return wanted


def start_run(args: DFMTrainingArguments, values: dict[str, Any], script: str) -> None:
    """
    Sets up logs and seeds, and writes down in the run folder what is about to be run.

    Args:
        values (`dict[str, Any]`): all arguments, as [`ScriptParser.read`] gives them; they become `run.yaml`, a file
            for `--config` that repeats the run from its beginning. Access tokens are left out.
        script (`str`): the name of the script.
    """
    set_seed(args.seed)
    transformers.utils.logging.set_verbosity(args.get_process_log_level())
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # peft asks by that name
    if args.device.type == "cpu":
        args.dataloader_pin_memory = False  # torch would warn that there is nothing to pin memory for
    if args.disable_tqdm or args.process_index:
        datasets.disable_progress_bars()
    if not args.should_save:
        return
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    _log_to(folder / LOG_FILE, args.get_process_log_level())
    kept = {name: value for name, value in values.items() if value is not None and not name.endswith("_token")}
    kept.pop("resume_from_checkpoint", None)
    settings = {name: plain_value(value) for name, value in sorted(kept.items())}
    (folder / SETTINGS_FILE).write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")
    with open(folder / ENVIRONMENT_FILE, "a", encoding="utf-8") as file:
        file.write(json.dumps({"script": script, "processes": args.world_size, **environment()}) + "\n")


def _log_to(file: Path, level: int) -> None:
    """What this package and transformers log goes to the file, what this package logs to the terminal too."""
    to_file = logging.FileHandler(file, encoding="utf-8")
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    to_terminal = logging.StreamHandler(sys.stderr)
    to_terminal.setFormatter(logging.Formatter("%(message)s"))
    ours, theirs = logging.getLogger("transformers_fsdfm"), logging.getLogger("transformers")
    for target, handlers in ((ours, (to_file, to_terminal)), (theirs, (to_file,))):
        for handler in [handler for handler in target.handlers if handler in HANDLERS_OF_RUN]:
            target.removeHandler(handler)  # of an earlier run in this process
            handler.close()
        for handler in handlers:
            HANDLERS_OF_RUN.add(handler)
            target.addHandler(handler)
    ours.setLevel(min(level, logging.INFO))


def environment() -> dict[str, Any]:
    """Versions of what a run depends on, as JSON."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": _without_access_tokens(sys.argv),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions,
        "git": git_revision(Path(__file__).parent),
    }


def _without_access_tokens(command: list[str]) -> list[str]:
    """The command line with `...` in the place of the value of `--hub_token`."""
    shown, is_secret = [], False
    for word in command:
        name, equals, _ = word.partition("=")
        is_token = name.startswith("--") and name.endswith("token")
        shown.append("..." if is_secret else f"{name}=..." if is_token and equals else word)
        is_secret = is_token and not equals
    return shown


def git_revision(folder: Path) -> dict[str, Any] | None:
    """Commit of the sources, and whether they differ from it; None if they are not a working copy."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        if not git("ls-files", "."):
            return None
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "--", "."))}
    except (OSError, subprocess.SubprocessError):
        return None


class MetricsFileCallback(TrainerCallback):
    """Appends everything that is logged to `metrics.jsonl` at once, so that it is there if the run is killed."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if state.is_world_process_zero and logs:
            entry = {"global_step": state.global_step, "time": round(time.time(), 3), **logs}
            with open(Path(args.output_dir, METRICS_FILE), "a", encoding="utf-8") as file:
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")


class SlowAverageCallback(TrainerCallback):
    """Warns if the averaged weights, which are saved, will not have come far from where they started."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if getattr(args, "saved_weights", "raw") != "ema" or not state.is_world_process_zero:
            return
        old_share = args.ema_decay**state.max_steps
        if old_share > MAX_OLD_SHARE:
            logger.warning(
                f"After {state.max_steps} steps the averaged weights, which are saved, will still be {old_share:.0%} "
                f"what they were at the start: --ema_decay {args.ema_decay} is for longer runs; lower it, or save the "
                "trained weights (--saved_weights raw)"
            )


def train_and_save(trainer: Trainer, checkpoint: str | None) -> dict[str, float]:
    """
    Trains, saves model and tokenizer in the run folder, evaluates.

    Returns:
        `dict[str, float]`: the metrics of evaluation; empty without evaluation data.
    """
    trainer.add_callback(MetricsFileCallback())
    trainer.add_callback(SlowAverageCallback())
    result = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    trainer.save_metrics("train", result.metrics)
    trainer.save_state()
    metrics: dict[str, float] = {}
    if trainer.eval_dataset is not None:
        metrics = trainer.evaluate()
        trainer.save_metrics("eval", metrics)
    trainer.accelerator.wait_for_everyone()
    shown = {name: metrics[name] for name in ("eval_loss", "eval_bits_per_byte") if name in metrics}
    summary = ", ".join(f"{name} {value:.4f}" for name, value in shown.items())
    logger.info(f"Wrote {trainer.args.output_dir}" + (f": {summary}" if summary else ""))
    return metrics


__all__ = ["check_run", "environment", "git_revision", "start_run", "train_and_save"]
