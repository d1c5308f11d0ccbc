"""What a drill is: faults done to real processes, the promise that they try, and what came of it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Found:
    """What came of a drill, in words for the table."""

    happened: str
    kept: bool | None
    """Whether the promise was kept; None where the drill could not be performed here, and `happened` says why"""
    times: int = 1
    """How often the fault was done"""
    moments: tuple[str, ...] = ()
    """When each was done, and how the process ended, where that was drawn by chance"""


@dataclass(frozen=True)
class Drill:
    """One row of the table."""

    name: str
    done: str
    """What is done to the processes"""
    promised: str
    perform: Callable[[Bench], Found]


@dataclass(frozen=True)
class Bench:
    """What a drill works with."""

    folder: Path
    """Its own, empty"""
    shared: Path
    """Of all drills: what one has made here, such as an undisturbed training, the next ones find"""
    draw: random.Random
    told: list[str] = field(default_factory=list)

    def say(self, line: str) -> None:
        """Tells whoever watches what is being done."""
        self.told.append(line)
        print(f"  {line}", flush=True)


def verdict(*problems: str | None) -> tuple[str, bool]:
    """What is not as promised, in words, or that nothing is, and whether that is so; None is no problem."""
    told = [problem for problem in problems if problem]
    return "; ".join(told), not told
