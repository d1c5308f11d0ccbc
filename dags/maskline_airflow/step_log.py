"""Where a step's files lie, and how its growing log is read: `<workspace>/steps/<run>/<task>[.<map index>]/<try>/`."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path


def as_file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)


def task_folder(workspace: Path, run_id: str, task_id: str, map_index: int | None) -> Path:
    """The folder of all tries of a task; Airflow says -1 or None for the map index of a task that is not mapped."""
    task = task_id if map_index is None or map_index < 0 else f"{task_id}.{map_index}"
    return workspace / "steps" / as_file_name(run_id) / task


def new_try(task: Path, number: int) -> Path:
    """An empty folder for a try, with Airflow's `number` of it, or a higher one where that is there.

    Of a workspace in an object store a machine may have no folder of the tries that ran elsewhere; no two get the same all the same.
    """
    task.mkdir(parents=True, exist_ok=True)
    folder = task / str(max(number, _latest_try(task) + 1))
    folder.mkdir()
    return folder


def latest_log(workspace: Path, run_id: str, task_id: str, map_index: int | None) -> Path | None:
    """The log of a task's newest try, or None before its step has started."""
    task = task_folder(workspace, run_id, task_id, map_index)
    log = task / str(_latest_try(task)) / "log.txt"
    return log if log.exists() else None


def _latest_try(task: Path) -> int:
    return max((int(path.name) for path in task.glob("*")), default=0)


class LogReader:
    """Hands out the lines that a growing file gained since the last look."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._rest = b""

    def new_lines(self, *, whole: bool = False) -> list[str]:
        """Complete lines only; with `whole`, also what stands after the last line break."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            new = stream.read()
        self._offset += len(new)
        *complete, self._rest = (self._rest + new).split(b"\n")
        if whole and self._rest:
            complete.append(self._rest)
            self._rest = b""
        return [line.decode(errors="replace").rstrip() for line in complete]


class StampedLog:
    """Hands out once each line of a log that an engine tells with their times, however often it tells one; keeps them in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._newest = ""

    @property
    def last(self) -> float | None:
        """When the newest line was printed, in seconds of the epoch, rounded down; None before there is one."""
        return datetime.fromisoformat(self._newest[:19] + "+00:00").timestamp() if self._newest else None

    def new_lines(self, told: bytes) -> list[str]:
        """Those of the lines `2026-11-26T08:00:00.000000000Z WORDS` that are newer than all before."""
        pairs = [line.partition(" ")[::2] for line in told.decode(errors="replace").split("\n") if line]
        new = [(moment, words.rstrip()) for moment, words in pairs if moment > self._newest]
        if new:
            with self._path.open("a" if self._newest else "w") as stream:
                stream.writelines(f"{words}\n" for _, words in new)
            self._newest = max(moment for moment, _ in new)
        return [words for _, words in new]
