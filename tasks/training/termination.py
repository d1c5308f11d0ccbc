"""SIGTERM: a training that is told to stop saves what it has within the time that it is given."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

TERMINATED = 128 + signal.SIGTERM
"""The code of a process that SIGTERM ended, which orchestrators start again"""

# Of the time that is left beside the checkpoint a loop of steps may take so much: one can last longer than the one before.
_SHARE_FOR_STEPS = 0.5


class Termination:
    """Whether SIGTERM has come, and how long a loop of steps may be, so that a checkpoint is written in time."""

    def __init__(self, grace_seconds: float) -> None:
        self._grace_seconds = grace_seconds
        self._interruptible = False
        self.told = False

    def loop_seconds(self, save_seconds: float) -> float:
        """How long a loop of steps may last where writing a checkpoint takes `save_seconds`; no less than zero."""
        return max(0.0, self._grace_seconds - save_seconds) * _SHARE_FOR_STEPS

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Within the block, SIGTERM is remembered."""

        def stop(_signal: int, _frame: FrameType | None) -> None:
            self.told = True
            if self._interruptible:
                raise SystemExit(TERMINATED)

        previous = signal.signal(signal.SIGTERM, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Within the block, where nothing is left to save, SIGTERM ends the process by SystemExit; at once, if it has come before."""
        if self.told:
            raise SystemExit(TERMINATED)
        self._interruptible = True
        try:
            yield
        finally:
            self._interruptible = False
