"""Which processes have trained, watched from outside."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.cluster.service import MARK

_SECONDS_BETWEEN_LOOKS = 0.5


@dataclass
class Trainer:
    """One process that has trained a model."""

    pid: int
    model: str
    """The name of its folder"""
    began: float
    seen: float
    """When it was there for the last time; both in seconds since 1970"""


class Trainers:
    """Every process that runs `-m tasks train` while this watches, in the order of their beginnings."""

    def __init__(self, logs: Path) -> None:
        """Only those of the cluster whose logs lie in `logs`: others may train on this machine."""
        self._logs = logs
        self._seen: dict[tuple[int, float], Trainer] = {}
        self._ended = threading.Event()

    @contextmanager
    def watched(self) -> Iterator[None]:
        watcher = threading.Thread(target=self._watch, name="trainers", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            self._ended.set()
            watcher.join()

    def of(self, model: str | None = None) -> list[Trainer]:
        """Of one model, or of all."""
        found = [trainer for trainer in list(self._seen.values()) if model in (None, trainer.model)]
        return sorted(found, key=lambda trainer: trainer.began)

    def _watch(self) -> None:
        while not self._ended.wait(_SECONDS_BETWEEN_LOOKS):
            for process in psutil.process_iter():
                with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    self._look_at(process)

    def _look_at(self, process: psutil.Process) -> None:
        words = process.cmdline()
        # Not the keeper, whose command line holds that of the step.
        if words[1:4] != ["-m", "tasks", "train"] or Path(process.environ().get(MARK, "")).parent != self._logs:
            return
        key = (process.pid, process.create_time())
        model = words[4].rstrip("/").rpartition("/")[2]
        self._seen.setdefault(key, Trainer(process.pid, model, process.create_time(), 0.0)).seen = time.time()


def overlapping(trainers: list[Trainer]) -> list[tuple[Trainer, Trainer]]:
    """Pairs of which the later began before the earlier was gone; `trainers` are in the order of their beginnings."""
    return [(one, other) for number, one in enumerate(trainers) for other in trainers[number + 1 :] if other.began < one.seen]
