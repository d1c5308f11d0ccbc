"""One scene: a table, objects laid on it one after the other, a lamp, a camera; the picture and every object's visible mask."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from tasks.coco.masks import Mask
from tasks.shapes.forms import CLASSES, Form
from tasks.shapes.surfaces import Field, Picture, Rng, Surface, skin, table

_SUPERSAMPLING = 2
_EMPTY_SHARE = 0.06
_FEWEST_VISIBLE_PIXELS = 20
_FEWEST_VISIBLE_SHARE = 0.3
_PLACEMENT_ATTEMPTS = 12
_SHADOW_SLICES = 10


@dataclass(frozen=True)
class Contents:
    """What may lie in a scene: up to so many objects, of radii from the smallest to the largest, as shares of the image's shorter side."""

    most_objects: int = 7
    smallest_radius: float = 0.055
    largest_radius: float = 0.3
    coloured_classes: bool = False
    """Whether each class has a hue of its own, as fruits have; otherwise the form alone tells it"""

    def hue_of(self, name: str) -> float | None:
        return CLASSES.index(name) / len(CLASSES) if self.coloured_classes else None


@dataclass(frozen=True)
class Scene:
    """`pixels` uint8 [height, width, 3], sRGB; `masks` uint8 [height, width] in the order of `class_names`: no pixel is on two objects."""

    pixels: np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]
    class_names: tuple[str, ...]
    masks: tuple[Mask, ...]


@dataclass(frozen=True)
class _Lamp:
    """A lamp far away: the unit vector towards it (down, across, up) and its colour; `ambient` comes from everywhere."""

    towards: tuple[float, float, float]
    colour: tuple[float, float, float]
    ambient: tuple[float, float, float]
    softness: float

    @property
    def shadow_share(self) -> Picture:
        """What is left of the light of a level surface in full shadow, per channel."""
        ambient, direct = np.asarray(self.ambient, np.float32), np.asarray(self.colour, np.float32) * self.towards[2]
        return ambient / (ambient + direct)


@dataclass(frozen=True)
class _Placed:
    """An object on the fine canvas: `window` is its part of it; depth and height in pixels, float32 of the window's size."""

    name: str
    window: tuple[slice, slice]
    depth: Field
    height: Field
    mask: Mask
    """uint8 of the finished image's size: pixels that it covers for at least half."""


def render_scene(rng: Rng, height: int, width: int, contents: Contents | None = None) -> Scene:
    """The scene that `rng` draws, `height` x `width` pixels; a few have no objects."""
    fine = (height * _SUPERSAMPLING, width * _SUPERSAMPLING)
    lamp = _draw_lamp(rng)
    contents = contents or Contents()
    objects = [] if rng.random() < _EMPTY_SHARE else _place_objects(rng, height, width, contents)
    ground = table(rng, *fine)
    picture = _shade(ground, _slopes(ground.relief), lamp)
    for placed in objects:
        _lay(rng, picture, placed, lamp, contents.hue_of(placed.name))
    masks = _visible([placed.mask for placed in objects])
    return Scene(_photograph(rng, picture), tuple(placed.name for placed in objects), tuple(masks))


def _draw_lamp(rng: Rng) -> _Lamp:
    azimuth, elevation = rng.uniform(0, 2 * math.pi), math.radians(rng.uniform(35, 65))
    towards = (math.cos(elevation) * math.sin(azimuth), math.cos(elevation) * math.cos(azimuth), math.sin(elevation))
    warmth = rng.uniform(-1, 1)
    strength, fill = rng.uniform(0.85, 1.25), rng.uniform(0.25, 0.45)
    colour = (strength * (1 + 0.12 * warmth), strength, strength * (1 - 0.16 * warmth))
    ambient = (fill * (1 - 0.1 * warmth), fill, fill * (1 + 0.14 * warmth))
    return _Lamp(towards, colour, ambient, rng.uniform(0.5, 1.6))


def _place_objects(rng: Rng, height: int, width: int, contents: Contents) -> list[_Placed]:
    """Objects in the order in which they are laid down; each still shows enough of itself in the end."""
    objects: list[_Placed] = []
    for _ in range(rng.integers(1, contents.most_objects + 1)):
        for _ in range(_PLACEMENT_ATTEMPTS):
            candidate = _draw_object(rng, height, width, contents)
            if _all_show([*objects, candidate]):
                objects.append(candidate)
                break
    return objects


def _all_show(objects: Sequence[_Placed]) -> bool:
    visible = _visible([placed.mask for placed in objects])
    for placed, mask in zip(objects, visible, strict=True):
        full, shown = int(placed.mask.sum()), int(mask.sum())
        if shown < max(_FEWEST_VISIBLE_PIXELS, _FEWEST_VISIBLE_SHARE * full):
            return False
    return True


def _visible(masks: Sequence[Mask]) -> list[Mask]:
    """Each mask less what was laid on it later."""
    shown: list[Mask] = []
    for index, mask in enumerate(masks):
        covered = np.zeros_like(mask, dtype=bool)
        for later in masks[index + 1 :]:
            covered |= later > 0
        shown.append((mask & ~covered).astype(np.uint8))
    return shown


def _draw_object(rng: Rng, height: int, width: int, contents: Contents) -> _Placed:
    name = CLASSES[rng.integers(len(CLASSES))]
    form = Form(name, rng)
    low, high = (math.log(share * min(height, width)) for share in (contents.smallest_radius, contents.largest_radius))
    radius = math.exp(rng.uniform(low, high))
    # Up to half a radius beyond the border, so that some objects are cut by it.
    row, column = (rng.uniform(-0.4 * radius, size + 0.4 * radius) for size in (height, width))
    angle = rng.uniform(0, 2 * math.pi)

    fine_radius, fine_row, fine_column = (value * _SUPERSAMPLING for value in (radius, row, column))
    window = tuple(
        slice(_even(max(0, centre - fine_radius - 2)), _even(min(size * _SUPERSAMPLING, centre + fine_radius + 4)))
        for centre, size in ((fine_row, height), (fine_column, width))
    )
    down, across = np.meshgrid(
        (np.arange(window[0].start, window[0].stop) + 0.5 - fine_row) / fine_radius,
        (np.arange(window[1].start, window[1].stop) + 0.5 - fine_column) / fine_radius,
        indexing="ij",
    )
    sine, cosine = math.sin(angle), math.cos(angle)
    depth = form.depth((cosine * down - sine * across).astype(np.float32), (sine * down + cosine * across).astype(np.float32))
    mask = np.zeros((height, width), np.uint8)
    coarse = tuple(slice(part.start // _SUPERSAMPLING, part.stop // _SUPERSAMPLING) for part in window)
    mask[coarse] = _averaged((depth > 0).astype(np.float32)) >= 0.5
    return _Placed(name, (window[0], window[1]), depth * fine_radius, form.height(depth) * fine_radius, mask)


def _even(value: float) -> int:
    return int(value) // _SUPERSAMPLING * _SUPERSAMPLING


def _averaged(field: Field) -> Field:
    """Means over the fine pixels of each finished pixel; any trailing channels stay."""
    height, width = field.shape[0] // _SUPERSAMPLING, field.shape[1] // _SUPERSAMPLING
    blocks = field.reshape(height, _SUPERSAMPLING, width, _SUPERSAMPLING, *field.shape[2:])
    means: Field = blocks.mean(axis=(1, 3), dtype=np.float32)
    return means


def _lay(rng: Rng, picture: Picture, placed: _Placed, lamp: _Lamp, own_hue: float | None) -> None:
    """Lays one object into the picture: first its shadow over what is there, then itself."""
    around, shadow = _shadow(placed, picture.shape[:2], lamp)
    picture[around] *= 1 - (1 - lamp.shadow_share) * shadow[..., None]
    height, width = placed.depth.shape
    cover = skin(rng, height, width, own_hue)
    inside = np.clip(placed.depth + 0.5, 0, 1)[..., None]
    shaded = _shade(cover, _slopes(placed.height + cover.relief * (placed.depth > 2)), lamp)
    part = picture[placed.window]
    part += (shaded - part) * inside


def _shadow(placed: _Placed, shape: tuple[int, ...], lamp: _Lamp) -> tuple[tuple[slice, slice], Field]:
    """Share of the lamp's light that the object takes, sharp at its foot and soft far from it, and the window of the canvas it is for."""
    top = float(placed.height.max())
    reach = top / lamp.towards[2]
    contact_blur = 2 + top * 0.15
    margin = math.ceil(reach + 3 * max(contact_blur, 1 + reach * 0.12 * lamp.softness))
    rows, columns = placed.height.shape
    wide = (rows + 2 * margin, columns + 2 * margin)
    total = np.zeros(wide, np.float32)
    for step in range(_SHADOW_SLICES):
        level = (step + 0.5) / _SHADOW_SLICES
        row, column = (margin - round(level * reach * part) for part in lamp.towards[:2])
        slice_shadow = np.zeros(wide, np.float32)
        slice_shadow[row : row + rows, column : column + columns] = placed.height > level * top
        np.maximum(total, 0.95 * _blurred(slice_shadow, 1 + level * reach * 0.12 * lamp.softness), out=total)
    contact = np.zeros(wide, np.float32)
    contact[margin : margin + rows, margin : margin + columns] = placed.depth > 0
    np.maximum(total, 0.75 * _blurred(contact, contact_blur), out=total)
    on_canvas, kept = zip(
        *(_overlap(part.start - margin, size, limit) for part, size, limit in zip(placed.window, wide, shape, strict=True)),
        strict=True,
    )
    return on_canvas, total[kept]


def _overlap(start: int, size: int, limit: int) -> tuple[slice, slice]:
    """Where `size` pixels from `start` on lie in 0..limit, and which of them those are."""
    low, high = max(0, start), min(limit, start + size)
    return slice(low, high), slice(low - start, high - start)


def _blurred(field: Field, radius: float) -> Field:
    image = Image.fromarray((field * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(image, np.float32) / 255


def _slopes(height: Field) -> tuple[Field, Field, Field]:
    """The unit normal (down, across, up) of a height field in pixels."""
    down, across = np.gradient(height)
    # A wall would be all slope: from above, its rounded edge is what shows.
    limit = 2.5
    down, across = np.clip(-down, -limit, limit), np.clip(-across, -limit, limit)
    length = np.sqrt(down**2 + across**2 + 1)
    return down / length, across / length, 1 / length


def _shade(surface: Surface, normal: tuple[Field, Field, Field], lamp: _Lamp) -> Picture:
    """Light that reaches the camera, straight above, from a surface: diffuse, ambient from above, a highlight, a window's reflection."""
    down, across, up = normal
    direct = np.maximum(sum(n * t for n, t in zip(normal, lamp.towards, strict=True)), 0)
    colour, ambient = np.asarray(lamp.colour, np.float32), np.asarray(lamp.ambient, np.float32)
    light = direct[..., None] * colour + (0.35 + 0.65 * up)[..., None] * ambient
    # The view mirrored at the surface: what the camera sees in a glossy one.
    mirrored = (2 * up * down, 2 * up * across, 2 * up * up - 1)
    towards_lamp = np.maximum(sum(m * t for m, t in zip(mirrored, lamp.towards, strict=True)), 0)
    fresnel = 0.04 + 0.5 * (1 - up) ** 3
    gloss = surface.gloss
    highlight = gloss * (0.8 * towards_lamp ** (20 + 180 * gloss) + 0.25 * towards_lamp**8 * gloss)
    sky = gloss * fresnel * np.clip(mirrored[2] * 0.6 + 0.5, 0, 1)
    return (surface.albedo * light + highlight[..., None] * colour + sky[..., None] * ambient).astype(np.float32)


def _photograph(rng: Rng, picture: Picture) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    """What a camera makes of the light: uneven lighting, averaged pixels, exposure, a film curve, grain; sRGB uint8."""
    height, width = picture.shape[:2]
    down, across = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    tilt = rng.uniform(-0.16, 0.16, 2)
    falloff = (1 + tilt[0] * down + tilt[1] * across) * (1 - rng.uniform(0.05, 0.16) * (down**2 + across**2))
    exposed = _averaged((picture * falloff[..., None]).astype(np.float32)) * rng.uniform(0.75, 1.1)
    # Bright parts are compressed towards white rather than cut.
    curved = np.clip(exposed * (2.51 * exposed + 0.03) / (exposed * (2.43 * exposed + 0.59) + 0.14), 0, 1)
    displayed = curved ** (1 / 2.2)
    grain = rng.normal(0, rng.uniform(0.006, 0.02), displayed.shape[:2])[..., None] + rng.normal(0, 0.004, displayed.shape)
    return (np.clip(displayed + grain, 0, 1) * 255 + 0.5).astype(np.uint8)
