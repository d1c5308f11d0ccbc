"""Surfaces: what tables and objects are made of, as colour and relief over a field of pixels.

A `Field` is float32 [height, width], a `Picture` float32 [height, width, 3] in linear RGB, 0 to 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

# Float32 in practice; numpy's own types widen at every function, and the pictures are rounded to bytes in the end.
Field = npt.NDArray[Any]
Picture = npt.NDArray[Any]
Rng = np.random.Generator

_SKINS = ("paint", "plastic", "wood", "stone", "stripes")
_HUE_SPREAD = 0.1


@dataclass(frozen=True)
class Surface:
    """`albedo` is the share of light sent back; `relief` is a height in pixels; `gloss` 0 (chalk) to 1 (lacquer)."""

    albedo: Picture
    relief: Field
    gloss: float


def noise(rng: Rng, height: int, width: int, cell: tuple[float, float], octaves: int = 4) -> Field:
    """Smooth fractal noise, 0 to 1 around 0.5; `cell` is its coarsest grain (down, across) in pixels, halved each octave."""
    total = np.zeros((height, width), np.float32)
    weight = 1.0
    for octave in range(octaves):
        rows, columns = (max(2, math.ceil(size / (grain / 2**octave)) + 1) for size, grain in zip((height, width), cell, strict=True))
        if rows > height * 2 or columns > width * 2:
            break
        grid = Image.fromarray(rng.random((rows, columns), np.float32))
        total += weight * (np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC)) - 0.5)
        weight *= 0.5
    return np.clip(0.5 + 0.75 * total, 0, 1)


def blend(low: tuple[float, float, float], high: tuple[float, float, float], share: Field) -> Picture:
    """The colours between `low` (share 0) and `high` (share 1)."""
    first, second = np.asarray(low, np.float32), np.asarray(high, np.float32)
    return first + (second - first) * share[..., None]


def linear_rgb(hue: float, saturation: float, value: float) -> tuple[float, float, float]:
    """Linear RGB of a colour given as a person picks it: hue as a share of the circle, saturation and value as displayed."""
    channels = ((hue * 6 + shift) % 6 for shift in (5, 3, 1))
    displayed = (value - value * saturation * max(0.0, min(k, 4 - k, 1.0)) for k in channels)
    red, green, blue = (channel**2.2 for channel in displayed)
    return red, green, blue


def table(rng: Rng, height: int, width: int) -> Surface:
    """One of five table tops: planks, cloth, marble, concrete or sand."""
    kinds = (planks, cloth, marble, concrete, sand)
    return kinds[rng.integers(len(kinds))](rng, height, width)


def planks(rng: Rng, height: int, width: int) -> Surface:
    """Boards with grain along their length and dark gaps between them."""
    short = min(height, width)
    across, along = _turned(height, width, rng.choice((0.0, math.pi / 2)) + rng.normal(0, 0.04))
    board = short * rng.uniform(0.22, 0.5)
    number = np.floor(across / board).astype(int)
    number -= number.min()
    tint = rng.uniform(0.75, 1.1, number.max() + 1).astype(np.float32)[number]
    shift = (rng.random(number.max() + 1) * 1000).astype(np.float32)[number]
    wobble = _along_boards(rng, across, along, (short * 0.3, short * 1.5))
    rings = 0.5 + 0.5 * np.sin(across / board * rng.uniform(14, 26) + wobble * 11 + shift + np.sin(along / short * 2 + shift) * 0.8)
    fibre = _along_boards(rng, across, along, (short / 40, short / 1.5))
    grain = 0.45 * rings + 0.55 * fibre
    from_gap = np.abs((across / board) % 1 - 0.5) * 2
    gap = np.clip((from_gap - 0.97) / 0.02, 0, 1)
    hue, depth = rng.uniform(0.06, 0.1), rng.uniform(0.35, 0.8)
    colours = blend(linear_rgb(hue, 0.6, depth * 0.7), linear_rgb(hue + 0.015, 0.45, min(1.0, depth * 1.15)), grain)
    albedo = colours * tint[..., None] * (1 - 0.85 * gap[..., None])
    return Surface(albedo.astype(np.float32), 0.6 * fibre - 2.0 * gap, rng.uniform(0.05, 0.35))


def cloth(rng: Rng, height: int, width: int) -> Surface:
    """A weave of threads, plain or checked, with soft folds."""
    short = min(height, width)
    down, across = _turned(height, width, rng.uniform(0, math.pi))
    thread = max(3.0, short / rng.uniform(70, 130))
    weave = np.sin(down * math.pi / thread) * np.sin(across * math.pi / thread)
    folds = noise(rng, height, width, (short * 0.5, short * 0.5), 2)
    colours = blend(
        linear_rgb(hue := rng.random(), rng.uniform(0.05, 0.45), rng.uniform(0.45, 0.9)),
        linear_rgb(hue, rng.uniform(0.05, 0.3), 0.95),
        np.clip(0.4 + 0.25 * weave + 0.3 * (noise(rng, height, width, (thread * 3, thread * 3), 3) - 0.5), 0, 1),
    )
    if rng.random() < 0.5:
        check = short * rng.uniform(0.12, 0.25)
        bands = ((down / check) % 1 < 0.5).astype(np.float32) + ((across / check) % 1 < 0.5)
        colours *= (1 - 0.22 * bands)[..., None]
    return Surface(colours.astype(np.float32), 0.5 * weave + short * 0.03 * folds, 0.0)


def marble(rng: Rng, height: int, width: int) -> Surface:
    """Polished stone with veins."""
    short = min(height, width)
    cloud = noise(rng, height, width, (short * 0.8, short * 0.8), 5)
    ridge = noise(rng, height, width, (short * 0.5, short * 0.7), 5)
    veins = np.clip(1 - np.abs(ridge - 0.5) * 14, 0, 1) ** 2 * cloud
    dark = rng.random() < 0.35
    hue = rng.uniform(0.05, 0.65)
    ground = linear_rgb(hue, 0.12, 0.3 if dark else 0.9)
    light_ground = linear_rgb(hue, 0.06, 0.42 if dark else 0.97)
    vein = linear_rgb(hue, 0.1, 0.8 if dark else 0.5)
    albedo = blend(ground, light_ground, cloud)
    albedo += (np.asarray(vein, np.float32) - albedo) * (0.8 * veins)[..., None]
    return Surface(albedo.astype(np.float32), np.zeros((height, width), np.float32), rng.uniform(0.3, 0.6))


def concrete(rng: Rng, height: int, width: int) -> Surface:
    """Grey, blotched and pitted."""
    short = min(height, width)
    blotches = noise(rng, height, width, (short * 0.5, short * 0.5), 5)
    grit = noise(rng, height, width, (6, 6), 3)
    pits = np.clip((noise(rng, height, width, (short * 0.05, short * 0.05), 2) - 0.8) * 8, 0, 1)
    hue, value = rng.uniform(0.05, 0.6), rng.uniform(0.4, 0.75)
    albedo = blend(linear_rgb(hue, 0.08, value * 0.75), linear_rgb(hue, 0.05, value * 1.15), 0.65 * blotches + 0.35 * grit)
    albedo *= (1 - 0.45 * pits)[..., None]
    return Surface(albedo.astype(np.float32), 1.2 * grit - 2.0 * pits, 0.02)


def sand(rng: Rng, height: int, width: int) -> Surface:
    """Fine grains in drifts and ripples."""
    short = min(height, width)
    drift = noise(rng, height, width, (short * 0.6, short * 0.6), 3)
    down, _ = _turned(height, width, rng.uniform(0, math.pi))
    ripple = np.sin(down / short * rng.uniform(25, 45) + drift * 9)
    grain = noise(rng, height, width, (4, 4), 2)
    hue = rng.uniform(0.07, 0.12)
    albedo = blend(linear_rgb(hue, 0.4, 0.62), linear_rgb(hue, 0.25, 0.95), np.clip(0.15 * ripple + 0.9 * grain + 0.05, 0, 1))
    return Surface(albedo.astype(np.float32), 0.9 * ripple + 2.2 * grain + short * 0.02 * drift, 0.0)


def skin(rng: Rng, height: int, width: int, own_hue: float | None = None) -> Surface:
    """What one object is covered with: paint, plastic, wood, stone or stripes in any colour; or, but for wood, vividly in its own hue."""
    short = min(height, width)
    hue, value = rng.random(), rng.uniform(0.5, 0.95)
    saturation = rng.uniform(0.35, 0.8)
    if own_hue is not None:
        hue, saturation = own_hue + _HUE_SPREAD * (hue - 0.5), 0.45 + 0.5 * saturation
    base = linear_rgb(hue, saturation, value)
    wear = noise(rng, height, width, (short * 0.5, short * 0.5), 5)
    albedo = np.asarray(base, np.float32) * (0.88 + 0.24 * wear)[..., None]
    relief: Field = np.zeros((height, width), np.float32)
    kind = rng.choice(_SKINS if own_hue is None else tuple(kind for kind in _SKINS if kind != "wood"))
    gloss = {"paint": 0.25, "plastic": 0.8, "wood": 0.2, "stone": 0.3, "stripes": 0.55}[kind]
    if kind == "wood":
        down, across = _turned(height, width, rng.uniform(0, math.pi))
        fibre = 0.5 + 0.5 * np.sin(down / short * rng.uniform(25, 45) + wear * 9 + np.sin(across / short * 4))
        hue = rng.uniform(0.05, 0.1)
        albedo = blend(linear_rgb(hue, 0.65, value * 0.6), linear_rgb(hue + 0.01, 0.5, value), 0.6 * fibre + 0.4 * wear)
    elif kind == "stone":
        speck = noise(rng, height, width, (5, 5), 3)
        albedo *= (0.55 + 0.9 * speck)[..., None]
        relief = 0.5 * speck
    elif kind == "stripes":
        down, _ = _turned(height, width, rng.uniform(0, math.pi))
        other_hue = rng.uniform(0.3, 0.7) * (own_hue is None)
        other = linear_rgb(hue + other_hue, rng.uniform(0.1, 0.8), rng.uniform(0.6, 0.98))
        band = np.clip(np.sin(down / short * math.pi * 2 * rng.uniform(1.5, 4) + rng.uniform(0, 6)) * short / 12 + 0.5, 0, 1)
        albedo += (np.asarray(other, np.float32) - albedo) * band[..., None]
    return Surface(np.clip(albedo, 0, 1).astype(np.float32), relief.astype(np.float32), gloss * rng.uniform(0.7, 1.2))


def _turned(height: int, width: int, angle: float) -> tuple[Field, Field]:
    """Pixel coordinates (down, across) in a frame turned by `angle` radians."""
    down, across = np.mgrid[:height, :width].astype(np.float32)
    sine, cosine = math.sin(angle), math.cos(angle)
    return (cosine * down - sine * across).astype(np.float32), (sine * down + cosine * across).astype(np.float32)


def _along_boards(rng: Rng, across: Field, along: Field, cell: tuple[float, float]) -> Field:
    """Noise with its `cell` (across, along) laid in a turned frame of pixel coordinates."""
    rows, columns = (int(np.ptp(coordinate)) + 2 for coordinate in (across, along))
    drawn = noise(rng, rows, columns, cell, 3)
    found: Field = drawn[(across - across.min()).astype(int), (along - along.min()).astype(int)]
    return found
