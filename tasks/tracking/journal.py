"""What a run is to hold in MLflow, written down before any of it is sent: a file that only grows, and beside it how far MLflow has it.

`tracking.jsonl` has a JSON object a line: `do` names what is to be done, `at` is when it happened, in milliseconds since 1970. The numbers
of training steps stand in their own file, `metrics.jsonl`; an entry `steps` names the bytes of some of its lines.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.running.line_file import append_lines, whole_lines
from tasks.running.workspace import addressed, read_json, write_json

Entry = dict[str, Any]
_SECONDS_BETWEEN_TRIES = 0.1


class BusyError(Exception):
    """Another process is sending the same journal."""


@dataclass
class Sent:
    """How far MLflow has a journal."""

    position: int = 0
    """The byte behind the last entry that it has whole"""
    line: int = 0
    """Of the steps that come next: the byte behind the last line that it has, 0 where it has none of them"""
    last_step: int = -1
    """The last training step whose numbers it has"""
    key: str = ""
    run_id: str = ""
    held: list[int] = field(default_factory=list)
    """Where the entries begin that it did not take though it answered: they are tried again beside what follows"""


class Journal:
    """The journal in a folder; there need not be one yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "tracking.jsonl"
        self._sent = folder / "tracking_sent.json"

    def append(self, do: str, **fields: Any) -> None:
        """Adds an entry, paths in it as other machines know them; OSError, with nothing written, where the disk is full."""
        # Before there is a new entry: a thread may send it at once.
        sent = self.sent
        start, _ = append_lines(self.file, [addressed(json.dumps({"do": do, "at": int(time.time() * 1000), **fields}))])
        # A machine that lost its power may have kept the position and lost the lines before it.
        if sent.position > start:
            self.sent = dataclasses.replace(sent, position=start, line=0)

    def entries(self, start: int = 0) -> Iterator[tuple[Entry, int, int]]:
        """Each entry from byte `start`, where it begins and where it ends; what is no entry is told and left out."""
        begin = start
        for line, end in whole_lines(self.file, start):
            try:
                yield json.loads(line), begin, end
            except ValueError:
                print(f"WARNING: {self.file}: what stands at byte {begin} is no entry and is left out", file=sys.stderr, flush=True)
            begin = end

    def left(self) -> int:
        """How many entries MLflow does not have."""
        sent = self.sent
        return sum(1 for _ in whole_lines(self.file, sent.position)) + len(sent.held)

    @property
    def sent(self) -> Sent:
        return Sent(**read_json(self._sent)) if self._sent.exists() else Sent()

    @sent.setter
    def sent(self, sent: Sent) -> None:
        write_json(self._sent, dataclasses.asdict(sent))

    @contextlib.contextmanager
    def locked(self, seconds: float) -> Iterator[None]:
        """Within the block nobody else sends; BusyError where somebody does, and does not end within `seconds`."""
        deadline = time.monotonic() + seconds
        with (self.folder / ".tracking.lock").open("w") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise BusyError(f"{self.file} is being sent by another process") from None
                    time.sleep(_SECONDS_BETWEEN_TRIES)
            yield
