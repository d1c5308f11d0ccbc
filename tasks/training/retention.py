"""A training's checkpoints on its disk: which are kept, which are whole, and whether there is room for the next.

What counts are the files: a checkpoint is there when its index is, which is written last. TensorFlow's file `checkpoint`, which tells its
own readers which is the latest, is written and never read.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from pathlib import Path

import tensorflow as tf

from tasks.checkpoints.own_checkpoint import checkpoint_at, step_of, written_checkpoints
from tasks.checkpoints.own_network import damage
from tasks.running.errors import UserError
from tasks.running.scratch import without_pattern
from tasks.running.workspace import write_text

_LEFTOVERS = ("ckpt-*_temp*", "*.tempstate*", ".checkpoint.*")
# What a first writing is taken to last, until one has been timed.
_BYTES_PER_SECOND = 100e6


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint in `folder` that is whole, None where there is none at all; a line tells of each newer one that is damaged.

    UserError where all are damaged: to begin anew is for a person to decide.
    """
    written = written_checkpoints(folder)
    problems: list[str] = []
    for prefix in reversed(written):
        problem = damage(prefix)
        if problem is None:
            if problems:
                print(f"{'; '.join(problems)}: training goes on from {prefix.name}", flush=True)
            return prefix
        problems.append(f"{prefix.name} is damaged ({problem})")
    if problems:
        raise UserError(
            f"{folder} holds no checkpoint that is whole: {'; '.join(problems)}", "bring one back from a copy, or remove the folder"
        )
    return None


class Checkpoints:
    """Writes checkpoints of `checkpoint` into `folder` and keeps the newest ones, and those that are told to stay."""

    def __init__(self, checkpoint: tf.train.Checkpoint, variables: Iterable[tf.Variable], folder: Path, keep: int) -> None:
        """`variables` are those of the checkpoint, for their size; `keep` is how many of the newest stay."""
        self._checkpoint = checkpoint
        self._folder = folder
        self._keep = keep
        self._bytes = sum(variable.shape.num_elements() * variable.dtype.size for variable in variables)
        self._staying: Path | None = None
        self.save_seconds = self._bytes / _BYTES_PER_SECOND
        """How long a writing lasts, as the last one did"""
        self.last: Path | None = None
        """The newest one that is whole"""

    def restore(self, prefix: Path) -> None:
        """Sets all variables to what a checkpoint holds, which has to hold them all."""
        try:
            with without_pattern(prefix.parent) as folder:
                self._checkpoint.read(str(folder / prefix.name)).assert_existing_objects_matched()
        except (AssertionError, ValueError) as error:
            raise UserError(f"checkpoint {prefix} is not one of this training: {error}", "train into another run folder") from error
        self.last = prefix

    def stay(self, prefix: Path) -> None:
        """Lets one stay, whatever its age, in place of the one before."""
        self._staying = prefix
        if self.last:
            self._remove(set(self._elders(self.last)) - set(self._kept(self.last)))

    def confirm_room(self, one_stays: bool) -> None:
        """UserError where the disk has no room for all that will lie there at once, with the one that is being written."""
        there = sum(file.stat().st_size for file in self._folder.glob("ckpt-*") if file.is_file())
        count = self._keep + one_stays
        most = self._bytes * (count + 1)
        free = shutil.disk_usage(self._folder).free
        if most - there > free:
            raise UserError(
                f"{self._folder}: checkpoints will take {_size(most)} ({count} of {_size(self._bytes)} each, and one that is being "
                f"written), and the disk has {_size(free + there)} for them",
                "make room, or keep fewer with --keep, or train into a run folder on another disk",
            )

    def save(self, step: int) -> Path:
        """Writes the checkpoint of a step, unless it is there, and then removes the oldest; UserError, the others kept, where it cannot."""
        prefix = checkpoint_at(self._folder, step)
        if prefix == self.last:
            return prefix
        began = time.monotonic()
        try:
            free = shutil.disk_usage(self._folder).free
            if free < self._bytes:
                raise OSError(f"the disk has {_size(free)} left, and it takes {_size(self._bytes)}")
            with without_pattern(self._folder) as folder:
                self._checkpoint.write(str(folder / prefix.name))
            kept = self._kept(prefix)
            state = [f'model_checkpoint_path: "{prefix.name}"', *(f'all_model_checkpoint_paths: "{one.name}"' for one in kept)]
            write_text(self._folder / "checkpoint", "\n".join([*state, ""]))
        except (tf.errors.OpError, OSError) as error:
            for file in self._folder.glob(f"{prefix.name}.*"):
                file.unlink()
            self.remove_leftovers()
            told = error.message if isinstance(error, tf.errors.OpError) else str(error)
            before = f"{self.last.name} is kept" if self.last else "there is none yet"
            raise UserError(
                f"{prefix}: the checkpoint cannot be written: {told}; {before}",
                "make room on the disk, then run the same command: it goes on from the last checkpoint",
            ) from error
        self.last = prefix
        self._remove(set(written_checkpoints(self._folder)) - set(kept))
        self.save_seconds = time.monotonic() - began
        return prefix

    def remove_leftovers(self) -> None:
        """Removes what a writing left that was cut off, data without their index among it."""
        whole = {prefix.name for prefix in written_checkpoints(self._folder)}
        for leftover in [file for pattern in _LEFTOVERS for file in self._folder.glob(pattern)]:
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
        for data in self._folder.glob("ckpt-*.data-*"):
            if data.name.partition(".")[0] not in whole:
                data.unlink(missing_ok=True)

    def _kept(self, last: Path) -> list[Path]:
        """Those that stay, the last among them, oldest first."""
        elders = self._elders(last)
        return [prefix for prefix in elders if prefix in elders[-self._keep :] or prefix == self._staying]

    def _elders(self, last: Path) -> list[Path]:
        """Those of steps up to the last's. One of a later step was damaged, or training would have gone on from it."""
        return [prefix for prefix in written_checkpoints(self._folder) if step_of(prefix) <= step_of(last)]

    def _remove(self, prefixes: Iterable[Path]) -> None:
        for prefix in prefixes:
            # The index first: without it the rest is a leftover.
            Path(f"{prefix}.index").unlink(missing_ok=True)
            for data in self._folder.glob(f"{prefix.name}.data-*"):
                data.unlink(missing_ok=True)


class CheckpointsOfOthers(Checkpoints):
    """Those of a worker that is not the chief, who keeps them: it takes part in each writing, since variables of which every replica has
    its own value are averaged when they are read, and removes what it has written."""

    def confirm_room(self, one_stays: bool) -> None:  # noqa: ARG002
        """UserError where the disk has no room for one."""
        free = shutil.disk_usage(self._folder).free
        if free < self._bytes:
            raise UserError(
                f"{self._folder}: a checkpoint takes {_size(self._bytes)} for a moment, and the disk has {_size(free)}",
                "make room, or set TMPDIR to a folder on another disk",
            )

    def save(self, step: int) -> Path:
        """Writes the checkpoint of a step, unless training goes on from it, and removes it."""
        if self.last is None or step_of(self.last) != step:
            self.last = checkpoint_at(self._folder, step)
            self._checkpoint.write(str(self.last))
            for file in self._folder.glob(f"{self.last.name}.*"):
                file.unlink()
        return self.last


def _size(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
