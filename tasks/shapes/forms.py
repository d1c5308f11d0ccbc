"""The four forms as height fields: an outline, how far inside it a pixel lies, and how high the object rises there."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tasks.shapes.surfaces import Field, Rng

CLASSES = ("ball", "block", "ring", "star")

_Depth = Callable[[Field, Field], Field]
"""Depth inside the outline, in radii, below 0 outside, at coordinates (down, across) in radii from the centre."""

_TUBE = 0.3
_STAR_TIPS = 5


class Form:
    """One object's form, drawn from `rng`; everything in units of its radius, the greatest reach from its centre."""

    def __init__(self, name: str, rng: Rng) -> None:
        self._depth: _Depth
        self.wall = 0.0
        if name == "ball":
            self._depth = lambda down, across: 1 - np.hypot(down, across)
            self.edge = 1.0
        elif name == "ring":
            self._depth = lambda down, across: _TUBE - np.abs(np.hypot(down, across) - (1 - _TUBE))
            self.edge = _TUBE
        elif name == "block":
            self._depth = _block(rng.uniform(0.5, 1.0))
            self.edge, self.wall = rng.uniform(0.1, 0.2), rng.uniform(0.25, 0.6)
        elif name == "star":
            self._depth = _star(rng.uniform(0.45, 0.52))
            self.edge, self.wall = rng.uniform(0.25, 0.4), 0.08
        else:
            raise ValueError(f"no form is called {name!r}")

    def depth(self, down: Field, across: Field) -> Field:
        return self._depth(down, across)

    def height(self, depth: Field) -> Field:
        """Height over the table for a depth inside the outline: a wall, then a quarter circle of radius `edge`; 0 outside."""
        inward = np.clip(depth / self.edge, 0, 1)
        rise = self.wall + self.edge * np.sqrt(1 - (1 - inward) ** 2)
        return np.where(depth > 0, rise, 0).astype(np.float32)


def _block(ratio: float) -> _Depth:
    """A rectangle of the aspect ratio whose corners, a little rounded, lie at distance 1."""
    rounding = 0.08
    long = 1 / math.hypot(1, ratio)
    inner_long, inner_short = long - rounding * 0.6, long * ratio - rounding * 0.6

    def depth(down: Field, across: Field) -> Field:
        beyond_down, beyond_across = np.abs(down) - inner_short, np.abs(across) - inner_long
        outside = np.hypot(np.maximum(beyond_down, 0), np.maximum(beyond_across, 0))
        inside = np.minimum(np.maximum(beyond_down, beyond_across), 0)
        return rounding - outside - inside

    return depth


def _star(valley: float) -> _Depth:
    """A five-pointed star, its tips at distance 1 and its valleys at `valley`."""
    half_sector = math.pi / _STAR_TIPS
    tip = np.array([1.0, 0.0])
    low = valley * np.array([math.cos(half_sector), math.sin(half_sector)])
    along = low - tip
    length = float(np.hypot(*along))

    def depth(down: Field, across: Field) -> Field:
        # All ten edges are one edge, seen in the sector between a tip and the valley beside it.
        angle = np.arctan2(down, across)
        folded = np.abs((angle + half_sector) % (2 * half_sector) - half_sector)
        radius = np.hypot(down, across)
        x, y = radius * np.cos(folded) - tip[0], radius * np.sin(folded)
        share = np.clip((x * along[0] + y * along[1]) / length**2, 0, 1)
        distance = np.hypot(x - share * along[0], y - share * along[1])
        inside = along[0] * y - along[1] * x > 0
        return np.where(inside, distance, -distance).astype(np.float32)

    return depth
