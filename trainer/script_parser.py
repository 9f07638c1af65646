# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The command line of the scripts: dataclasses, a YAML file below the arguments, and a help that can be read."""

import argparse
import contextlib
import dataclasses
import difflib
import json
import sys
import textwrap
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import yaml
from transformers import HfArgumentParser, TrainingArguments


if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Arguments = TypeVar("Arguments", bound="DataclassInstance")

# Of the hundred arguments of `TrainingArguments`, those that `--help` shows; `--help_all` shows the others too.
COMMON_TRAINING_ARGUMENTS = (
    "output_dir",
    "resume_from_checkpoint",
    "max_steps",
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "seed",
    "bf16",
    "activation_checkpointing",
    "torch_compile",
    "use_cpu",
    "dataloader_num_workers",
    "eval_strategy",
    "eval_steps",
    "per_device_eval_batch_size",
    "logging_steps",
    "report_to",
    "run_name",
    "disable_tqdm",
    "save_strategy",
    "save_steps",
    "save_total_limit",
    "load_best_model_at_end",
)
OF_THE_PARSER = frozenset(("config", "help", "help_all"))  # its own arguments, which no dataclass has
LAST_CHECKPOINT, NEWEST_IF_ANY = "last", "auto"
CHANGED_HELP = {
    "output_dir": "The run folder: model, tokenizer, checkpoints, settings and logs. Required.",
    "resume_from_checkpoint": (
        f"Go on exactly where a checkpoint was written: its folder; `{LAST_CHECKPOINT}` (also without a value), the "
        f"last one of the run folder; or `{NEWEST_IF_ANY}`, the last one if there is any."
    ),
    "eval_strategy": "When to evaluate during training; at the end it is always done.",
    "report_to": "Where metrics go beside the run folder: tensorboard, trackio, ... or none.",
}


class ScriptParser(HfArgumentParser):
    r"""
    The arguments of a script.

    `read` gives all values, of which `make` makes the dataclasses. On the way from a value to its argument the command
    line stands above the file of `--config`, and that above the defaults. What is wrong ends the process with exit code
    2 and one line that says what.

    Args:
        prog (`str`): what the user has typed, for usage and errors.
        summary (`str`): what `--help` begins with: a sentence, and a command that runs.
        sections (`dict[str, type]`): a dataclass, and the title that its arguments have in `--help`.
        training_class (`type`): the [`~transformers.TrainingArguments`] of the script.
        defaults (`dict[str, Any]`, *optional*): defaults that this script changes.
    """

    def __init__(
        self,
        prog: str,
        summary: str,
        sections: dict[str, type],
        training_class: type[TrainingArguments],
        defaults: dict[str, Any] | None = None,
    ) -> None:
        usage = f"{prog} [--config FILE] --argument value ..."
        classes: list[Any] = [*sections.values(), training_class]
        super().__init__(classes, prog=prog, usage=usage, allow_abbrev=False, add_help=False)
        self._summary, self._sections, self._training_class = summary, sections, training_class
        self.set_defaults(**(defaults or {}))
        self.add_argument("-h", "--help", nargs=0, action=_PrintHelp, help="Show this and exit.")
        self.add_argument("--help_all", "--help-all", nargs=0, action=_PrintHelp, help="Show every argument and exit.")
        self.add_argument("--config", help="YAML file with any of these arguments; the command line overrides it.")
        for action in self._actions:
            action.help = CHANGED_HELP.get(action.dest, action.help)
            if action.dest == "resume_from_checkpoint":
                action.nargs, action.const = "?", LAST_CHECKPOINT

    def read(self, arguments: Sequence[str] | None = None) -> dict[str, Any]:
        """All values, from the command line (or `arguments`), the file of `--config` and the defaults."""
        arguments = list(sys.argv[1:] if arguments is None else arguments)
        config = self._find_config(arguments)
        namespace, unknown = self.parse_known_args([*self._arguments_in_file(config), *arguments])
        if unknown:
            self._refuse(unknown)
        values = {name: value for name, value in vars(namespace).items() if name not in OF_THE_PARSER}
        if not values["output_dir"]:
            self.error("give the run folder: --output_dir")
        return values

    def make(self, cls: type[Arguments], values: dict[str, Any]) -> Arguments:
        """An instance of a dataclass, of the values that are its own."""
        names = {field.name for field in dataclasses.fields(cls) if field.init}
        with self.mistakes_named():
            return cls(**{name: value for name, value in values.items() if name in names})

    @contextlib.contextmanager
    def mistakes_named(self) -> Iterator[None]:
        """Inside the `with` block, what is found to be wrong ends the process as a mistyped argument does."""
        try:
            yield
        except (ValueError, ImportError, OSError) as error:
            self.error(str(error))

    def error(self, message: str) -> NoReturn:
        """As in argparse, on one line."""
        super().error(" ".join(message.split()))

    def _find_config(self, arguments: list[str]) -> Path | None:
        finder = argparse.ArgumentParser(prog=self.prog, add_help=False, allow_abbrev=False)
        finder.add_argument("--config", type=Path)
        return finder.parse_known_args(arguments)[0].config

    def _arguments_in_file(self, config: Path | None) -> list[str]:
        if config is None:
            return []
        try:
            values = yaml.safe_load(config.read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            self.error(f"--config {config} can't be read: {error}")
        if not isinstance(values, dict):
            self.error(f"--config {config} must have lines `argument: value`")
        if misplaced := OF_THE_PARSER.intersection(values):
            self.error(f"--config {config}: {', '.join(sorted(misplaced))} can't stand in the file")
        return [argument for name, value in values.items() for argument in _as_arguments(str(name), value)]

    def _refuse(self, unknown: list[str]) -> None:
        word = unknown[0]
        name = word.split("=")[0]
        if not name.startswith("-"):
            self.error(f"{word!r} belongs to no argument")
        known = {option.replace("-", "_"): option for option in reversed(self._option_string_actions)}
        similar = difflib.get_close_matches(name.replace("-", "_"), known, n=1, cutoff=0.5)
        self.error(f"unknown argument {name}" + (f"; did you mean {known[similar[0]]}?" if similar else ""))

    # ---- Help --------------------------------------------------------------------------------------------------------

    def format_help(self, with_all: bool = False) -> str:
        """The summary and the sections, see [`COMMON_TRAINING_ARGUMENTS`]."""
        blocks = [f"usage: {self.usage}", self._summary.strip()]
        base = {field.name for field in dataclasses.fields(TrainingArguments)}
        own = [field.name for field in dataclasses.fields(self._training_class) if field.name not in base]
        for title, cls in self._sections.items():
            blocks.append(self._format_section(title, [field.name for field in dataclasses.fields(cls)]))
        blocks.append(self._format_section("Flow matching", own))
        blocks.append(self._format_section("Training", COMMON_TRAINING_ARGUMENTS))
        if with_all:
            rest = sorted(base.difference(COMMON_TRAINING_ARGUMENTS))
            blocks.append(self._format_section("All other arguments of transformers.TrainingArguments", rest))
        blocks.append(self._format_section("Help", ["config", "help", "help_all"]))
        return "\n\n".join(blocks) + "\n"

    def _format_section(self, title: str, names: Sequence[str]) -> str:
        actions = {action.dest: action for action in reversed(self._actions)}  # the first of --x and --no_x
        return "\n".join([f"{title}:", *(_describe(actions[name]) for name in names if name in actions)])


class _PrintHelp(argparse.Action):
    def __call__(
        self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string: str | None = None
    ) -> None:
        assert isinstance(parser, ScriptParser)  # the only one with this action
        print(parser.format_help(with_all=self.dest == "help_all"), end="")
        parser.exit()


def _describe(action: argparse.Action, indent: int = 8, width: int = 110) -> str:
    """The name of an argument and what kind of value it takes; below it what it does, and its default."""
    help_text = " ".join((action.help or "").replace("%%", "%").split())
    default = plain_value(action.default)
    if default not in (None, "", []) and action.dest not in ("help", "help_all"):
        default = str(default).lower() if isinstance(default, bool) else default
        help_text += f" [{' '.join(map(str, default)) if isinstance(default, list) else default}]"
    margin = " " * indent
    head = f"  --{action.dest} {_describe_value(action)}".rstrip()
    return "\n".join([head, *textwrap.wrap(help_text, width, initial_indent=margin, subsequent_indent=margin)])


def _describe_value(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    if action.choices:
        return "|".join(str(plain_value(choice)) for choice in action.choices)
    if isinstance(action.default, bool):
        return "[true|false]"
    kind = "N" if action.type is int else "X" if action.type is float else "VALUE"
    return f"{kind} ..." if action.nargs == "+" else f"[{kind}]" if action.nargs == "?" else kind


def _as_arguments(name: str, value: Any) -> list[str]:
    """A line of a YAML file as it would be typed."""
    if value is None or value == []:
        return []
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)]
    if isinstance(value, dict):
        value = json.dumps(value)
    return [f"--{name}={str(value).lower() if isinstance(value, bool) else value}"]


def plain_value(value: Any) -> Any:
    """A value as YAML can hold it."""
    return value.value if isinstance(value, Enum) else value


__all__ = ["LAST_CHECKPOINT", "NEWEST_IF_ANY", "ScriptParser", "plain_value"]
