"""Shards on their way: written aside, each with its index and report, and moved into the data set's folder when all are there.

A shard counts as written when its report is, which comes after it. What a killed run has written stays for the next one of the same plan.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from tasks.records.tfrecord import INDEX_FOLDER, index_path
from tasks.running.errors import UserError
from tasks.running.workspace import DatasetDir, read_json, write_json


class Staging:
    """The folder in that of `dataset` where all runs of one `plan` put their shards; `plan` is JSON that decides the shards' bytes.

    Each plan has a folder of its own, so that runs at the same time, on several machines too, take nothing from each other.
    """

    def __init__(self, dataset: DatasetDir, plan: Mapping[str, Any]) -> None:
        self._dataset = dataset
        self._plans = dataset.root / ".incoming"
        self._folder = self._plans / hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()[:16]
        # Not by patterns: a store's client takes the folder `set [1]` for one itself.
        others = [folder.name for folder in _entries(self._plans) if (folder / "plan.json").is_file()]
        self._is_new = self._folder.name not in others
        if len(others) > 1 - self._is_new:
            print(f"{self._plans}: shards of other inputs, options or numbers of shards are left aside", flush=True)
        # Before the work, so that a folder that cannot be written to is found out at once.
        write_json(self._folder / "plan.json", plan)

    def shard(self, name: str) -> Path:
        return self._folder / name

    def report(self, name: str) -> Any | None:
        """The report of a shard that is written, or None."""
        try:
            is_there = self.shard(name).is_file() and index_path(self.shard(name)).is_file()
            return read_json(self._report(name)) if is_there else None
        except UserError:
            return None

    def finish(self, name: str, report: Mapping[str, Any]) -> None:
        """Says that a shard is whole."""
        write_json(self._report(name), report)

    def install(self, shards: Iterable[str]) -> None:
        """Puts the shards in place of the folder's own; until a manifest is written again, the folder is no data set."""
        if self._dataset.manifest.is_file():
            _unlink(self._dataset.manifest)
        for old in (*_entries(self._dataset.root), *_entries(self._dataset.root / INDEX_FOLDER)):
            if fnmatch.fnmatchcase(old.name, "*.record-*-of-*"):
                _unlink(old)
        for name in shards:
            there = self._dataset.root / name
            _move(index_path(self.shard(name)), index_path(there))
            _move(self.shard(name), there)

    def remove(self) -> None:
        """Removes what all plans have left."""
        _remove(self._plans)

    def give_up(self) -> None:
        """Removes what this run has written, unless others may have a part in it: then it stays for the next run."""
        if self._is_new:
            _remove(self._folder)

    def _report(self, name: str) -> Path:
        return self._folder / f"{name}.json"


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _unlink(file: Path) -> None:
    if isinstance(file, Path):
        file.unlink()
    else:
        remote = cast(Any, file)
        remote.fs.rm_file(remote.path)


def _move(file: Path, target: Path) -> None:
    if isinstance(file, Path):
        target.parent.mkdir(exist_ok=True)
        file.rename(target)
    else:
        remote = cast(Any, file)
        remote.fs.cp_file(remote.path, cast(Any, target).path)
        remote.fs.rm_file(remote.path)


def _remove(folder: Path) -> None:
    """Removes a folder and, on a disk, the two above it where they hold nothing else."""
    if isinstance(folder, Path):
        shutil.rmtree(folder)
        for above in list(folder.parents)[:2]:
            if any(above.iterdir()):
                break
            above.rmdir()
    else:
        remote = cast(Any, folder)
        # One by one: all at once are asked for by a pattern.
        for file in remote.fs.find(remote.path):
            remote.fs.rm_file(file)
