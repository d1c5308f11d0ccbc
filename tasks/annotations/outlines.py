"""Shapes that annotation tools draw, as the polygons that stand for them: x, y, x, y, ... in pixels."""

from __future__ import annotations

import math

from tasks.records.checks import BadImageError, Check

Polygon = list[float]

_VERTICES = 256
"""Of an ellipse: the polygon is nowhere a tenth of a pixel off up to radii of 1,300 pixels, since 1 - cos(pi / 256) is 0.000075."""
_FARTHEST = 1e9
"""Pixels; not a number is not nearer either."""


def rectangle(x: float, y: float, other_x: float, other_y: float) -> Polygon:
    """The one between two opposite corners."""
    return [x, y, other_x, y, other_x, other_y, x, other_y]


def ellipse(x: float, y: float, radius_x: float, radius_y: float, angle: float = 0.0) -> Polygon:
    """The one around (x, y), turned clockwise, as seen, by an angle in radians."""
    polygon = []
    for index in range(_VERTICES):
        turn = math.tau * index / _VERTICES
        along, across = radius_x * math.cos(turn), radius_y * math.sin(turn)
        polygon += [x + along * math.cos(angle) - across * math.sin(angle), y + along * math.sin(angle) + across * math.cos(angle)]
    return polygon


def coordinates(where: str, values: object) -> list[float]:
    """The numbers of a JSON list; BadImageError, naming `where`, for any other value."""
    if not isinstance(values, list):
        raise malformed(where, f"its coordinates are {values!r}")
    found = []
    for value in values:
        if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < _FARTHEST:
            raise malformed(where, f"it has the coordinate {value!r}")
        found.append(float(value))
    return found


def malformed(where: str, what: str) -> BadImageError:
    return BadImageError(Check.ANNOTATION_MALFORMED, f"{where}: {what}", "draw the object again, or remove it")
