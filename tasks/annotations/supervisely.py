"""Supervisely's project: a folder for each dataset in it, with a JSON for each image."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.annotations.folder import names, required_names
from tasks.annotations.json_file import read_json_object
from tasks.annotations.outlines import Polygon, coordinates, malformed
from tasks.annotations.source import Box, ListedImage, Listing, SourceObject
from tasks.coco.image_opening import PILLOW_ERRORS, ImageTooLargeError, opened_image
from tasks.coco.masks import MalformedSegmentationError, Mask, mask_from_rle, rle_from_segmentation
from tasks.records.checks import BadImageError, Check, DataError

_TOOL = "Supervisely"
_LARGEST_PNG = 1 << 28  # bytes, unpacked


@dataclass(frozen=True)
class SuperviselySource:
    """`meta.json` with the classes, and in each dataset's folder `img/NAME` beside `ann/NAME.json`.

    `dataset` is one of the project's datasets; without it all count. Polygons, with their holes, and bitmaps are objects; rectangles,
    points and lines have no mask.
    """

    folder: Path
    dataset: str | None = None

    def list(self) -> Listing:
        meta = self.folder / "meta.json"
        classes = read_json_object(meta, _TOOL).get("classes")
        if not isinstance(classes, list) or not all(isinstance(one, dict) and isinstance(one.get("title"), str) for one in classes):
            raise DataError(
                Check.SOURCE_MALFORMED, f"{meta}: there is no list `classes` with titles", f"export the project from {_TOOL} again"
            )
        titles = sorted({one["title"] for one in classes})
        return Listing({title: title for title in titles}, self._images())

    def objects(self, image: ListedImage, size: tuple[int, int]) -> Iterator[SourceObject]:
        for index, one in enumerate(image.payload):
            where = f"{self.folder}: {image.source_id}: objects[{index}]"
            if not isinstance(one, dict) or not isinstance(one.get("classTitle"), str):
                raise malformed(where, "it has no classTitle")
            kind = one.get("geometryType")
            box = _rectangle(where, one) if kind == "rectangle" else None
            yield SourceObject(f"{where} ({kind})", one["classTitle"], _segmentation(where, one, size), box)

    def _images(self) -> Iterator[ListedImage]:
        for dataset in self._datasets():
            folder = self.folder / dataset
            images = set(required_names(folder / "img", "folder"))
            annotated = {name.removesuffix(".json") for name in required_names(folder / "ann", "folder") if name.endswith(".json")}
            for name in sorted(images | annotated):
                content = read_json_object(folder / "ann" / f"{name}.json", _TOOL)
                objects, size = content.get("objects"), _object(content.get("size"))
                sides = (size.get("height"), size.get("width"))
                if not isinstance(objects, list) or not all(isinstance(side, int) and side > 0 for side in sides):
                    raise DataError(
                        Check.SOURCE_MALFORMED,
                        f"{folder / 'ann' / name}.json: there is no list `objects`, or no `size`",
                        f"export the project from {_TOOL} again",
                    )
                source_id = name if self.dataset is not None else f"{dataset}/{name}"
                yield ListedImage(source_id, name, folder / "img" / name, sides, objects)  # type: ignore[arg-type]

    def _datasets(self) -> Sequence[str]:
        if self.dataset is not None:
            return [self.dataset]
        found = [name for name in required_names(self.folder, "folder") if "." not in name and "ann" in names(self.folder / name)]
        if not found:
            raise DataError(
                Check.SOURCE_MISSING, f"{self.folder}: no folder in it has a folder `ann`", "name the project's folder as `folder`"
            )
        return found


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _segmentation(where: str, shape: Mapping[str, Any], size: tuple[int, int]) -> list[Polygon] | Mask | None:
    match shape.get("geometryType"):
        case "polygon":
            points = _object(shape.get("points"))
            outer, holes = _points(where, points.get("exterior")), points.get("interior") or []
            if not isinstance(holes, list):
                raise malformed(where, f"its holes are {holes!r}")
            inner = [_points(where, hole) for hole in holes]
            return np.where(_pixels(where, inner, size), np.uint8(0), _pixels(where, [outer], size)) if inner else [outer]
        case "bitmap":
            return _bitmap(where, _object(shape.get("bitmap")), size)
        case _:
            return None


def _points(where: str, pairs: Any) -> Polygon:
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise malformed(where, "its points are no list of x, y pairs")
    return coordinates(where, [value for pair in pairs for value in pair])


def _pixels(where: str, outlines: list[Polygon], size: tuple[int, int]) -> Mask:
    """The mask [height, width] of all outlines."""
    try:
        rle = rle_from_segmentation(outlines, *size)
    except MalformedSegmentationError as error:
        raise malformed(where, f"its outline {error}") from error
    return np.zeros(size, np.uint8) if rle is None else mask_from_rle(rle)


def _bitmap(where: str, bitmap: Mapping[str, Any], size: tuple[int, int]) -> Mask:
    """The mask [height, width] of a packed PNG in base 64, whose corner lies at `origin` (x, y)."""
    x, y = (int(value) for value in _pair(where, bitmap.get("origin")))
    try:
        unpacking = zlib.decompressobj()
        png = unpacking.decompress(base64.b64decode(bitmap.get("data") or "", validate=True), _LARGEST_PNG)
        with opened_image(png, ("PNG",)) as image:
            height, width = image.height, image.width
            if min(x, y) < 0 or y + height > size[0] or x + width > size[1]:
                raise BadImageError(Check.MASK_SIZE, f"{where}: its bitmap leaves the image", "draw the object again, or remove it")
            # Its pixels are those that are not transparent, or where there is no transparency those that are not black.
            pixels = np.asarray(image.convert("RGBA").getchannel("A") if image.mode in ("RGBA", "LA", "PA") else image.convert("L"))
    except ImageTooLargeError as error:
        raise BadImageError(Check.IMAGE_TOO_LARGE, f"{where}: its bitmap cannot be read: {error}", error.fix) from error
    except (*PILLOW_ERRORS, TypeError, zlib.error) as error:
        raise BadImageError(
            Check.MASK_MALFORMED, f"{where}: its bitmap is no packed PNG in base 64: {error}", "draw the object again, or remove it"
        ) from error
    mask = np.zeros(size, np.uint8)
    mask[y : y + height, x : x + width] = pixels > 0
    return mask


def _rectangle(where: str, shape: Mapping[str, Any]) -> Box:
    values = _points(where, _object(shape.get("points")).get("exterior"))
    if len(values) != 4:
        raise malformed(where, f"it is a rectangle of {len(values) // 2} points instead of 2")
    return (min(values[1::2]), min(values[::2]), max(values[1::2]), max(values[::2]))


def _pair(where: str, value: Any) -> list[float]:
    found = coordinates(where, value)
    if len(found) != 2:
        raise malformed(where, f"its origin is {value!r}")
    return found
