"""One image with its instances: what every annotation format becomes, and what a record is made from."""

from __future__ import annotations

from dataclasses import dataclass

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
    is_difficult: bool = False
    weight: float = 1.0


@dataclass(frozen=True)
class AnnotatedImage:
    """An image file and its objects; sizes in pixels, of the image as training sees it."""

    source_id: str
    filename: str
    height: int
    width: int
    instances: tuple[Instance, ...]
