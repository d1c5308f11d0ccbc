"""What a training tells a tracker, kept for a test to look at."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path


class Told:
    """Keeps what it is told; after the loop with step `when` it acts."""

    def __init__(self, when: int = 0, act: Callable[[], None] = lambda: None) -> None:
        self.steps: list[int] = []
        self.metrics: list[tuple[dict[str, float], int]] = []
        self._when, self._act = when, act

    def log_steps(self, file: Path, start: int, end: int) -> None:
        told = [json.loads(line)["step"] for line in file.read_bytes()[start:end].splitlines()]
        self.steps += told
        if self._when in told:
            self._act()

    def log_metrics(self, metrics: Mapping[str, float], step: int, **_: object) -> None:
        self.metrics.append((dict(metrics), step))
