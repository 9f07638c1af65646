# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""Checkpoints that are either complete or not there."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, sort_checkpoints

from .arguments import DFMTrainingArguments


# Where a checkpoint is written before it gets its name, and deleted when it has lost it. Nobody looks for one there.
STAGING_FOLDER = ".incomplete"


class AtomicCheckpointTrainer(Trainer):
    """
    A [`~transformers.Trainer`]: what it saves is written in a folder of another name, flushed to disk and renamed.

    So a run that is killed, or finds the disk full, leaves the earlier checkpoints as they were and nothing under the
    name of the new one. The model of [`save_model`] gets the same care, file by file.
    """

    args: DFMTrainingArguments
    _is_staging = False

    def _get_output_dir(self, trial: Any) -> str:
        run_dir = super()._get_output_dir(trial)
        return os.path.join(run_dir, STAGING_FOLDER) if self._is_staging else run_dir

    @contextlib.contextmanager
    def _staging(self, run_dir: str, what: str) -> Iterator[None]:
        """`Trainer` asks for the output folder, and gets the staging folder, while it writes `what`."""
        self._clear_staging(run_dir)
        self._is_staging = True
        try:
            yield
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(Path(run_dir, STAGING_FOLDER), ignore_errors=True)
            if not _is_write_error(error):
                raise
            raise OSError(f"{what} could not be written; what was saved before is untouched: {error}") from error
        finally:
            self._is_staging = False

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        run_dir = self._get_output_dir(trial)
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        staged, final = Path(run_dir, STAGING_FOLDER, name), Path(run_dir, name)
        with self._staging(run_dir, f"Checkpoint {final}"):
            super()._save_checkpoint(model, trial)
            self._complete_checkpoint(str(staged))
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                self._correct_best_checkpoint(staged, final)
                _publish(staged, final)
            self.accelerator.wait_for_everyone()
            if self.args.local_process_index == 0 and staged.exists():  # another node, with a disk of its own
                _publish(staged, final)
            self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(final))
        limit = self.args.save_total_limit or 0
        if self.args.should_save and limit > 0:
            _delete_old_checkpoints(run_dir, limit, self.state.best_model_checkpoint)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As in Trainer; every file appears under its name when it is complete."""
        if self._is_staging:
            super().save_model(output_dir, _internal_call=True)
            return
        output_dir = self.args.output_dir if output_dir is None else output_dir
        staged = Path(output_dir, STAGING_FOLDER)
        with self._staging(output_dir, f"The model in {output_dir}"):
            super().save_model(str(staged), _internal_call=True)
            self.accelerator.wait_for_everyone()
            if self.args.should_save and staged.exists():
                _move_files(staged, Path(output_dir))
            self.accelerator.wait_for_everyone()
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _complete_checkpoint(self, folder: str) -> None:
        """Called, on all processes, when `Trainer` has written its part of a checkpoint; for more of it."""

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self._is_staging:  # an upload in the background would lose the folder to the renaming
            super()._push_from_checkpoint(checkpoint_folder)

    def _correct_best_checkpoint(self, staged: Path, final: Path) -> None:
        """If this checkpoint is the best one, the state must know it by its final name."""
        if self.state.best_model_checkpoint == str(staged):
            self.state.best_model_checkpoint = str(final)
            self.state.save_to_json(str(staged / "trainer_state.json"))

    def _clear_staging(self, run_dir: str) -> None:
        """Removes what a killed run has left behind."""
        if self.args.local_process_index == 0:
            shutil.rmtree(Path(run_dir, STAGING_FOLDER), ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def _check_output_dir(self) -> None:
        """Finds out before the first step, not at the first checkpoint, that nothing can be written."""
        if self.args.save_strategy == "no" or not self.args.should_save:
            return
        try:
            os.makedirs(self.args.output_dir, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.args.output_dir):
                pass
        except OSError as error:
            raise OSError(f"`output_dir` {self.args.output_dir!r} can't be written to: {error}") from error


def _publish(staged: Path, final: Path) -> None:
    """Gives the complete checkpoint its name."""
    _flush_to_disk(staged)
    if final.exists():  # from an earlier run in the same folder
        os.rename(final, staged.with_name(f"replaced-{final.name}"))
    os.rename(staged, final)
    _flush(final.parent)
    shutil.rmtree(staged.parent, ignore_errors=True)


def _delete_old_checkpoints(run_dir: str, limit: int, best: str | None) -> None:
    """As `Trainer` does it, but each loses its name first, so that none is ever half of a checkpoint."""
    checkpoints = sort_checkpoints(run_dir, use_mtime=True)
    kept = {checkpoints[-1], *([] if best is None else [str(Path(best))])}
    num_deleted = len(checkpoints) - max(limit, len(kept))
    deleted = [checkpoint for checkpoint in checkpoints if checkpoint not in kept][: max(num_deleted, 0)]
    trash = Path(run_dir, STAGING_FOLDER)
    for checkpoint in deleted:
        trash.mkdir(exist_ok=True)
        os.rename(checkpoint, trash / f"deleted-{Path(checkpoint).name}")
    if deleted:
        shutil.rmtree(trash, ignore_errors=True)


def _move_files(staged: Path, folder: Path) -> None:
    """Moves complete files into a folder, over those of the same name; an index after the files that it lists."""
    _flush_to_disk(staged)
    files = [path for path in staged.rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda path: path.name.endswith(".index.json")):
        target = folder / path.relative_to(staged)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
    _flush(folder)
    shutil.rmtree(staged, ignore_errors=True)


def _flush_to_disk(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        _flush(path)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_write_error(error: Exception) -> bool:
    """torch reports a full disk as a `RuntimeError` of its file writer."""
    if isinstance(error, RuntimeError):
        return any(sign in str(error) for sign in ("PytorchStreamWriter", "unexpected pos", "iostream error"))
    return True
