"""What of a workspace can go: runs and data sets that nothing refers to, checkpoints that nobody chooses, logs, and leftovers."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.checkpoints.own_checkpoint import best_checkpoint, written_checkpoints
from tasks.housekeeping.references import Clock, References, models_of, newest
from tasks.running.workspace import DatasetDir

# As `workspace.staged_directory`, `write_bytes` and `remove` name what is not there yet, or not any more.
_TEMPORARY = re.compile(r"\..+\.\w{8}")
_LOGS = ("steps", "tracebacks", "record_indexes")
"""Folders whose entries are of one moment each"""


@dataclass(frozen=True)
class Garbage:
    """A thing that can go."""

    kind: str
    paths: tuple[Path, ...]
    why: str
    size: int
    """Bytes"""
    written: float
    """When something of it was last written, seconds since 1970"""

    @property
    def name(self) -> Path:
        return self.paths[0]


def runs_of(workspace: Path) -> list[Path]:
    return _folders(workspace / "runs")


def datasets_of(workspace: Path) -> list[Path]:
    return [folder for folder in _folders(workspace / "datasets") if DatasetDir(folder).manifest.is_file()]


def garbage(workspace: Path, runs: Sequence[Path], datasets: Sequence[Path], kept: References, clock: Clock) -> list[Garbage]:
    """All that can go, by kind; of what stays nothing but checkpoints, which are neither the best nor the last of an ended training."""
    found = [_whole("run", run, "nothing refers to it") for run in runs if run not in kept.kept]
    found += [_whole("data set", dataset, "no run that stays was made of it") for dataset in datasets if dataset not in kept.kept]
    for run in runs:
        if run in kept.kept:
            found += _checkpoints(run, clock)
    for name in _LOGS:
        entries = sorted((workspace / name).iterdir()) if (workspace / name).is_dir() else []
        found += [_whole("log", entry, "old") for entry in entries if not clock.is_young(newest(entry))]
    gone = [path for one in found for path in one.paths]
    for place in (workspace, workspace / "runs", workspace / "datasets", *runs, *datasets):
        entries = sorted(place.iterdir()) if place.is_dir() and place not in gone else []
        found += [
            _whole("leftover", entry, "a step that was killed has left it")
            for entry in entries
            if _TEMPORARY.fullmatch(entry.name) and not clock.is_young(newest(entry))
        ]
    return found


def remove(one: Garbage) -> bool:
    """Removes it, unless somebody has written to it meanwhile. Killed in the middle, it leaves what is found as a leftover."""
    if max(newest(path) for path in one.paths) > one.written:
        return False
    for path in one.paths:
        if path.is_dir():
            aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
            path.rename(aside)
            shutil.rmtree(aside)
        else:
            path.unlink()
    return True


def _folders(parent: Path) -> list[Path]:
    entries = sorted(parent.iterdir()) if parent.is_dir() else []
    return [entry for entry in entries if entry.is_dir() and not entry.is_symlink() and not _TEMPORARY.fullmatch(entry.name)]


def _whole(kind: str, path: Path, why: str) -> Garbage:
    return Garbage(kind, (path,), why, _size(path), newest(path))


def _checkpoints(run: Path, clock: Clock) -> Iterator[Garbage]:
    for model in models_of(run):
        written = written_checkpoints(model.train)
        if len(written) < 2 or not (model.train / "result.json").is_file():
            continue
        for prefix in written:
            files = tuple(sorted(model.train.glob(f"{prefix.name}.*")))
            moment = max(map(newest, files))
            if prefix not in (written[-1], best_checkpoint(model.train)) and not clock.is_young(moment):
                # The index, which says that it is there, goes first.
                files = tuple(sorted(files, key=lambda file: file.suffix != ".index"))
                yield Garbage("checkpoint", files, "neither the best nor the last of its training", sum(map(_size, files)), moment)


def _size(path: Path) -> int:
    """Bytes of a file, or of all in a folder."""
    if not path.is_dir() or path.is_symlink():
        return path.lstat().st_size
    return sum(Path(parent, name).lstat().st_size for parent, _, files in os.walk(path) for name in files)
