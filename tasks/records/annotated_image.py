"""One image with its instances: what every annotation format becomes, and what a record is made from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Self

from tasks.coco.masks import Rle


@dataclass(frozen=True, order=True)
class Category:
    """A label-map entry; ids start at 1 and may leave gaps."""

    id: int
    name: str


@dataclass(frozen=True)
class Instance:
    """One object. The box is (ymin, xmin, ymax, xmax) in pixels, inside the image; `area` is the source's, in pixels."""

    category_id: int
    box_yxyx: tuple[float, float, float, float]
    mask: Rle
    area: float
    is_crowd: bool


@dataclass(frozen=True)
class AnnotatedImage:
    """An image file and its objects; sizes in pixels, of the image as training sees it."""

    source_id: str
    filename: str
    path: Path
    height: int
    width: int
    instances: tuple[Instance, ...]


class Finding(StrEnum):
    """What the data had that training must not see as it was: each is mended or left out, counted and reported, never silent.

    The value is a stable code; `meaning` says what was found and what became of it.
    """

    meaning: str

    def __new__(cls, code: str, meaning: str) -> Self:
        member = str.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    DEGENERATE_POLYGON = "degenerate-polygon", "no part of the polygon has three points; the object is left out"
    EMPTY_MASK = "empty-mask", "the mask covers no pixel; the object is left out"
    BOX_CLIPPED = "box-clipped", "the box left the image; it is clipped"
    BOX_FROM_MASK = "box-from-mask", "there is no box, or it is outside the image; the mask's extent stands in"
    AREA_FROM_MASK = "area-from-mask", "there is no area; the mask's pixels stand in"
    IMAGE_REENCODED = "image-reencoded", "the file is no 8-bit grey or RGB JPEG or PNG; the record holds it as an RGB PNG"
    IMAGE_TURNED = "image-turned", "EXIF asks to turn the image, and the annotations are of the turned one; the record holds that"
