"""Lines that tell how far long work is, every few seconds."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

_SECONDS_BETWEEN_LINES = 5.0

_Value = TypeVar("_Value")


class Progress:
    """Prints how many images are done, how fast, and how long it will still take; no total where it is not known beforehand."""

    def __init__(self, what: str, total: int | None = None) -> None:
        self._what, self._total, self._done = what, total, 0
        self._start = self._last = time.monotonic()

    def reach(self, done: int) -> None:
        """Says, when it is time, that so many are done."""
        self._done = done
        now = time.monotonic()
        if now - self._last < _SECONDS_BETWEEN_LINES or not done:
            return
        self._last = now
        rate = done / (now - self._start)
        if self._total is None:
            print(f"{self._what}: {done} images, {rate:.0f} images/s", flush=True)
        else:
            left = (self._total - done) / rate
            print(f"{self._what}: {done} of {self._total} images, {rate:.0f} images/s, {left:.0f} s left", flush=True)

    def advance(self) -> None:
        """Says, when it is time, that one more is done."""
        self.reach(self._done + 1)

    def over(self, values: Iterable[_Value]) -> Iterator[_Value]:
        """The values, one of each image, counted as they are taken."""
        for value in values:
            self.advance()
            yield value
