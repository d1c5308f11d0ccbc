"""LabelMe: one JSON file for each image."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from tasks.annotations.folder import files_at_any_depth, portable, required_names
from tasks.annotations.json_file import read_json_object
from tasks.annotations.mask_file import mask_from_png
from tasks.annotations.numbers import as_numbers
from tasks.annotations.outlines import Polygon, coordinates, ellipse, malformed, rectangle
from tasks.annotations.parts import joined
from tasks.annotations.source import ListedImage, Listing, SourceObject
from tasks.coco.masks import Mask
from tasks.records.checks import BadImageError, Check, DataError
from tasks.records.image_file import read_image_bytes

_JSON = ".json"
_OF_CORNERS = ("rectangle", "rotation", "quadrilateral", "oriented_rectangle")
_CORNERS = 4


@dataclass(frozen=True)
class LabelMeSource:
    """A folder of JSON files; each says by `imagePath` where its image is, or the image of that name lies in `images`.

    Shapes of one label and one `group_id` are parts of one object. Where an image's file is not there, the copy in its JSON stands in.
    """

    annotations: Path
    images: Path | None = None

    def list(self) -> Listing:
        files = 0
        labels: set[str] = set()
        for _, content in self._files():
            files += 1
            labels.update(shape["label"] for shape in content["shapes"] if _has_label(shape))
        if not files:
            found = required_names(self.annotations, "annotations")
            raise DataError(
                Check.SOURCE_MALFORMED,
                f"{self.annotations}: there is no JSON of LabelMe in it"
                + (f", but {', '.join(found[:3])}{' and others' * (len(found) > 3)}" if found else "; it is empty"),
                "name the folder that LabelMe wrote its JSON files to as `annotations`; files of other tools have a `format` of their own",
            )
        return Listing({label: label for label in sorted(labels)}, self._images())

    def objects(self, image: ListedImage, size: tuple[int, int]) -> Iterator[SourceObject]:
        file = f"{self.annotations / image.source_id}.json"
        grouped: dict[object, Sequence[int]] = {}
        for index, shape in enumerate(image.payload):
            where = f"{file}: shapes[{index}]"
            if not _has_label(shape):
                raise malformed(where, "it has no label")
            group = shape.get("group_id")
            if not isinstance(group, int | str | None):
                raise malformed(where, f"its group_id is {group!r}")
            key = index if group is None else (shape["label"], group)
            grouped[key] = (*grouped.get(key, ()), index)
        for indices in grouped.values():
            where = f"{file}: shapes[{', '.join(str(index) for index in indices)}]"
            shapes = [image.payload[index] for index in indices]
            points = [as_numbers(shape.get("points")) for shape in shapes]
            parts = [_part(where, shape, own, size) for shape, (own, _) in zip(shapes, points, strict=True)]
            yield SourceObject(
                where,
                shapes[0]["label"],
                joined(where, parts, size),
                is_difficult=any(shape.get("difficult") is True for shape in shapes),
                findings=(Check.NUMBER_AS_TEXT,) * any(had_text for _, had_text in points),
            )

    def image_bytes(self, image: ListedImage) -> bytes:
        """The image's file, or what LabelMe put into the JSON; BadImageError where that is no image in base 64."""
        if image.path.suffix != _JSON:
            return read_image_bytes(image.path)
        encoded: Any = read_json_object(image.path, "LabelMe").get("imageData")
        try:
            return base64.b64decode(encoded, validate=True)
        except (TypeError, ValueError) as error:
            raise BadImageError(
                Check.IMAGE_UNREADABLE, f"{image.path}: its imageData is not in base 64: {error}", "bring the image's file there"
            ) from error

    def _files(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Each JSON's path in the folder, less its suffix, and content; other files, such as the images, may lie beside."""
        for name in files_at_any_depth(self.annotations, "annotations"):
            if name.endswith(_JSON):
                path = self.annotations / name
                content = read_json_object(path, "LabelMe")
                if not isinstance(content.get("shapes"), list) or not all(isinstance(shape, dict) for shape in content["shapes"]):
                    raise DataError(
                        Check.SOURCE_MALFORMED, f"{path}: there is no list `shapes`", "move what LabelMe did not write out of the folder"
                    )
                yield name.removesuffix(_JSON), content

    def _images(self) -> Iterator[ListedImage]:
        for stem, content in self._files():
            path, findings = self._image_path(stem, content.get("imagePath"))
            name = path.name
            if content.get("imageData") and not path.is_file():
                path = self.annotations / f"{stem}{_JSON}"
            (height, width), had_text = as_numbers([content.get("imageHeight"), content.get("imageWidth")])
            size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
            findings += (Check.NUMBER_AS_TEXT,) * (had_text and size is not None)
            yield ListedImage(stem, name, path, size, content["shapes"], (), findings)

    def _image_path(self, stem: str, text: object) -> tuple[Path, tuple[Check, ...]]:
        """Where the image is, and what was mended in its path."""
        if not isinstance(text, str) or not text:
            raise DataError(
                Check.SOURCE_MALFORMED,
                f"{self.annotations / stem}.json: imagePath is {text!r}",
                "write the image's path from the JSON's folder",
            )
        folder = (self.annotations / stem).parent
        text, findings = portable(text, self.images or folder)
        if self.images is not None:
            return self.images / PurePosixPath(text).name, findings
        path = folder / text
        return (path.resolve() if ".." in path.parts else path), findings


def _has_label(shape: Mapping[str, Any]) -> bool:
    return isinstance(shape.get("label"), str) and bool(shape["label"])


def _part(where: str, shape: Mapping[str, Any], points: Any, size: tuple[int, int]) -> Polygon | Mask:
    """The pixels [height, width] of a shape with these points where it is a mask, else its outline."""
    kind = shape.get("shape_type") or "polygon"
    if not isinstance(points, list) or not all(isinstance(point, list) and len(point) == 2 for point in points):
        raise malformed(where, "its points are no list of x, y pairs")
    outline = coordinates(where, [value for point in points for value in point])
    # X-AnyLabeling writes all four corners of a rectangle, turned ones as `rotation`.
    if kind == "polygon" or (kind in _OF_CORNERS and len(points) == _CORNERS):
        return outline
    if kind in _OF_CORNERS and kind != "rectangle":
        raise malformed(where, f"it is a {kind} of {len(points)} points instead of {_CORNERS}")
    if kind not in ("rectangle", "circle", "mask"):
        raise malformed(where, f"it is a {kind}, which is no shape with an area")
    if len(points) != 2:
        raise malformed(where, f"it is a {kind} of {len(points)} points instead of 2")
    x, y, other_x, other_y = outline
    if kind == "rectangle":
        return rectangle(x, y, other_x, other_y)
    if kind == "circle":
        radius = math.hypot(other_x - x, other_y - y)
        return ellipse(x, y, radius, radius)
    return _placed(where, shape.get("mask"), (int(y), int(x), int(other_y), int(other_x)), size)


def _placed(where: str, encoded: Any, box: tuple[int, int, int, int], size: tuple[int, int]) -> Mask:
    """The mask [height, width] of a PNG in base 64 that fills the pixels from (ymin, xmin) to (ymax, xmax), these included."""
    ymin, xmin, ymax, xmax = box
    if not (0 <= ymin <= ymax < size[0] and 0 <= xmin <= xmax < size[1]):
        raise BadImageError(Check.MASK_SIZE, f"{where}: its mask's box leaves the image", "draw the object again, or remove it")
    try:
        png = base64.b64decode(encoded, validate=True)
    except (TypeError, ValueError) as error:
        raise BadImageError(
            Check.MASK_MALFORMED, f"{where}: its mask is not in base 64: {error}", "draw the object again, or remove it"
        ) from error
    mask = np.zeros(size, np.uint8)
    mask[ymin : ymax + 1, xmin : xmax + 1] = mask_from_png(png, where, (ymax - ymin + 1, xmax - xmin + 1))
    return mask
