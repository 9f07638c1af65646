# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""The stages of the recipe: each a folder with a finished model, made from the one before."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml


KINDS = ("pretrain", "distill", "scorer", "publish")
FINISHED = ".finished"  # the file that says so in the folder of a stage


def read_settings(path: Path) -> dict[str, dict[str, Any]]:
    """
    The settings of a recipe: name of a stage -> its settings.

    `kind` says what the stage does and `start_from` names the stage whose model (for `scorer`: whose tokenizer) it
    starts from; the rest are arguments of `pretrain`, `distill`, [`train_scorer`], or of
    [`publish_flow`] and [`publish_scorer`]. The settings under
    `common` belong to every `pretrain` and `distill`.

    Raises:
        `ValueError`: a stage of an unknown kind, one that starts from a stage that does not come before it, or one that
            needs a stage to start from and names none.
    """
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    common = settings.pop("common", {})
    done: list[str] = []
    for name, stage in settings.items():
        if stage.get("kind") not in KINDS:
            raise ValueError(f"{path}: the stage {name} must have a `kind` out of {KINDS}, but has {stage.get('kind')}")
        if stage.get("start_from") not in (None, *done):
            raise ValueError(f"{path}: the stage {name} starts from {stage['start_from']}, which is not before it")
        if stage["kind"] in ("scorer", "publish") and stage.get("start_from") is None:
            raise ValueError(f"{path}: the stage {name} must name, in `start_from`, the stage that it starts from")
        done.append(name)
        if stage["kind"] in ("pretrain", "distill"):
            settings[name] = {**common, **stage}
    return settings


def run_recipe(
    settings: dict[str, dict[str, Any]], train_data: list[str], validation_data: list[str] | None, output_dir: Path
) -> None:
    """
    Runs all stages that are not finished yet; one that was stopped goes on from its last checkpoint.

    Args:
        settings (`dict`): from [`read_settings`].
        train_data, validation_data (`list[str]`): as of `fsdfm pretrain`.
        output_dir (`Path`): gets a folder for each stage.

    Raises:
        `ValueError`: if a finished training had other settings.
    """
    from .publish import publish_flow, publish_scorer
    from .scorer import train_scorer

    for name, stage in settings.items():
        folder = output_dir / name
        stage = dict(stage)
        kind, start = stage.pop("kind"), stage.pop("start_from", None)
        data = {"train_data": train_data, "validation_data": validation_data}
        start_folder = None if start is None else output_dir / start
        if is_finished(folder):
            if kind in ("pretrain", "distill"):
                places = ("output_dir", *data, *(("model_name_or_path",) if start else ()))
                _check_unchanged(folder, _arguments(folder, start_folder, {**data, **stage}), places)
            print(f"{name}: done before")
            continue
        if kind == "scorer":
            train_scorer(folder, str(output_dir / str(start)), train_data, validation_data, **stage)
        elif kind == "publish" and settings[str(start)]["kind"] == "scorer":
            publish_scorer(output_dir / str(start), folder, **stage)
        elif kind == "publish":
            publish_flow([output_dir / one for one in _lineage(settings, str(start))], folder, **stage)
        else:
            _run_script(kind, folder, _arguments(folder, start_folder, {**data, **stage}))
        (folder / FINISHED).touch()


def _lineage(settings: dict[str, dict[str, Any]], name: str) -> list[str]:
    """A stage and those that it was made from, first to last."""
    start = settings[name].get("start_from")
    return [*([] if start is None else _lineage(settings, start)), name]


def is_finished(folder: Path) -> bool:
    """Whether a stage has been completed."""
    return (folder / FINISHED).is_file()


def _arguments(folder: Path, start_folder: Path | None, arguments: dict[str, Any]) -> dict[str, Any]:
    """All arguments of `fsdfm pretrain` or `fsdfm distill` for a stage."""
    arguments = {**arguments, "output_dir": str(folder), "resume_from_checkpoint": "auto"}
    if start_folder is not None:
        arguments["model_name_or_path"] = str(start_folder)
    return {key: value for key, value in arguments.items() if value is not None}


def _check_unchanged(folder: Path, arguments: dict[str, Any], places: Sequence[str]) -> None:
    """A finished training must be the one that is asked for; where files and folders are does not matter."""
    file = _config_file(folder)
    known = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else arguments
    changed = [name for name in known.keys() | arguments.keys() if known.get(name) != arguments.get(name)]
    changed = sorted(set(changed).difference(places))
    if changed:
        raise ValueError(
            f"{folder} was trained with other settings ({', '.join(changed)}); take those, or another output folder"
        )


def _config_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.yaml")


def _run_script(kind: str, folder: Path, arguments: dict[str, Any]) -> None:
    """`fsdfm pretrain` or `fsdfm distill`, with its arguments in a YAML file."""
    from transformers_fsdfm.trainer import distill, pretrain

    folder.parent.mkdir(parents=True, exist_ok=True)
    config = _config_file(folder)
    config.write_text(yaml.safe_dump(arguments, allow_unicode=True), encoding="utf-8")
    {"pretrain": pretrain, "distill": distill}[kind].main(["--config", str(config)])


__all__ = ["is_finished", "read_settings", "run_recipe"]
