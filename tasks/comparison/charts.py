"""Charts for a page of HTML: where their lines, dots and labels lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

WIDTH, HEIGHT = 480, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 12, 40
_MOST_TICKS = 6

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """What is drawn in one colour. `color` counts from 0; `spans` are, for each point, how far its interval reaches up and down."""

    name: str
    color: int
    points: Sequence[Point]
    spans: Sequence[tuple[float, float] | None] = ()


@dataclass(frozen=True)
class Axis:
    """From `low` to `high`, by powers of ten where `by_powers`."""

    title: str
    low: float
    high: float
    by_powers: bool = False

    @property
    def ticks(self) -> list[float]:
        if self.by_powers:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            for steps in ((1, 2, 5), (1, 3), (1,)):
                ticks = [step * 10.0**power for power in range(first, last + 1) for step in steps]
                inside = [tick for tick in ticks if self.low <= tick <= self.high]
                if len(inside) <= _MOST_TICKS:
                    return inside
            return inside[:: math.ceil(len(inside) / _MOST_TICKS)]
        step = _round_step((self.high - self.low) / (_MOST_TICKS - 1))
        return [round(step * place, 10) for place in range(math.ceil(self.low / step), math.floor(self.high / step + 1e-9) + 1)]

    def share(self, value: float) -> float:
        """Where a value lies between the ends, from 0 to 1; beyond them, at the end."""
        if self.by_powers:
            low, high, at = math.log10(self.low), math.log10(self.high), math.log10(max(value, self.low))
        else:
            low, high, at = self.low, self.high, value
        return min(max((at - low) / (high - low), 0.0), 1.0) if high > low else 0.5


@dataclass(frozen=True)
class Chart:
    """Lines, or dots with their names and intervals. The template draws it in a box of `WIDTH` x `HEIGHT`."""

    title: str
    across: Axis
    up: Axis
    series: Sequence[Series]
    is_lines: bool = True
    note: str = ""
    width: int = field(default=WIDTH, init=False)
    height: int = field(default=HEIGHT, init=False)
    left: int = field(default=_LEFT, init=False)
    bottom: int = field(default=HEIGHT - _BOTTOM, init=False)
    right: int = field(default=WIDTH - _RIGHT, init=False)
    top: int = field(default=_TOP, init=False)

    def x(self, value: float) -> float:
        return round(self.left + self.across.share(value) * (self.right - self.left), 1)

    def y(self, value: float) -> float:
        return round(self.bottom - self.up.share(value) * (self.bottom - self.top), 1)

    def path(self, series: Series) -> str:
        return " ".join(f"{self.x(across)},{self.y(up)}" for across, up in series.points)


def axis(title: str, values: Sequence[float], from_zero: bool = True, by_powers: bool = False) -> Axis:
    """An axis that holds all values with a little room; one of powers of ten only where all are above zero and far apart."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    if by_powers and low > 0 and high / low > 30:
        return Axis(title, low / 1.1, high * 1.1, by_powers=True)
    if from_zero:
        low = min(low, 0.0)
    room = 0.05 * (high - low) or 0.5
    return Axis(title, low if from_zero and low == 0 else low - room, high + room)


def _round_step(least: float) -> float:
    """The next of 1, 2, 5, 10, ... that is as large."""
    power = 10.0 ** math.floor(math.log10(least)) if least > 0 else 1.0
    return next(step * power for step in (1, 2, 5, 10) if step * power >= least * (1 - 1e-9))
