"""Where a step's files lie, and how its growing log is read: `<workspace>/steps/<run>/<task>[.<map index>]/<try>/`."""

from __future__ import annotations

import re
from pathlib import Path

_TAIL_LINES = 15


def as_file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)


def task_folder(workspace: Path, run_id: str, task_id: str, map_index: int | None) -> Path:
    """The folder of all tries of a task; Airflow says -1 or None for the map index of a task that is not mapped."""
    task = task_id if map_index is None or map_index < 0 else f"{task_id}.{map_index}"
    return workspace / "steps" / as_file_name(run_id) / task


def new_try(task: Path) -> Path:
    """An empty folder for one more try, numbered from 1."""
    task.mkdir(parents=True, exist_ok=True)
    folder = task / str(_latest_try(task) + 1)
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
    """Hands out the lines that a growing file gained since the last look, and remembers the last few as `tail`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._rest = b""
        self.tail: list[str] = []

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
        lines = [line.decode(errors="replace").rstrip() for line in complete]
        self.tail = (self.tail + lines)[-_TAIL_LINES:]
        return lines
