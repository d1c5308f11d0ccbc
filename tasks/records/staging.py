"""Shards on their way: written aside, each with its report, and moved into the data set's folder when all are there.

A shard counts as written when its report is, which comes after it. What a killed run has written stays for the next one of the same plan.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from upath import UPath

from tasks.errors import UserError
from tasks.workspace import DatasetDir, read_json, write_json


class Staging:
    """The folder beside the shards of `dataset`; `plan` is JSON that decides their bytes, and what another plan left there is removed."""

    def __init__(self, dataset: DatasetDir, plan: Mapping[str, Any]) -> None:
        self._dataset = dataset
        self._folder = dataset.root / ".incoming"
        file = self._folder / "plan.json"
        if self._read(file) not in (None, plan):
            self.remove()
        self._folder.mkdir(parents=True, exist_ok=True)
        write_json(file, plan)

    def shard(self, name: str) -> Path:
        return self._folder / name

    def report(self, name: str) -> Any | None:
        """The report of a shard that is written, or None."""
        return self._read(self._folder / f"{name}.json") if self.shard(name).is_file() else None

    def finish(self, name: str, report: Mapping[str, Any]) -> None:
        """Says that a shard is whole."""
        write_json(self._folder / f"{name}.json", report)

    def install(self, shards: Iterable[str]) -> None:
        """Puts the shards in place of the folder's own; until a manifest is written again, the folder is no data set."""
        self._dataset.manifest.unlink(missing_ok=True)
        for old in list(self._dataset.root.glob("*.record-*-of-*")):
            old.unlink()
        for name in shards:
            self.shard(name).rename(self._dataset.root / name)

    def remove(self) -> None:
        """Removes the folder, and the data set's own where that holds nothing else."""
        if isinstance(self._folder, UPath) and self._folder.protocol:
            self._folder.fs.rm(self._folder.path, recursive=True)
        else:
            shutil.rmtree(self._folder)
            if not any(self._dataset.root.iterdir()):
                self._dataset.root.rmdir()

    def _read(self, file: Path) -> Any | None:
        try:
            return read_json(file)
        except UserError:
            return None
