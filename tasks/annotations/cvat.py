"""CVAT's own XML for images, version 1.1: one file for all images of a task, a job or a project."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import iterparse

from tasks.annotations.folder import portable
from tasks.annotations.outlines import Polygon, coordinates, ellipse, malformed
from tasks.annotations.parts import joined
from tasks.annotations.source import Box, ListedImage, Listing, SourceObject, unopened
from tasks.coco.masks import Mask
from tasks.records.checks import BadImageError, Check, DataError
from tasks.running.pointer_file import pointer_at

_OF_THE_IMAGE = ("tag", "attribute")
_WITH_AREA = ("polygon", "ellipse", "mask")


@dataclass(frozen=True)
class CvatSource:
    """An XML and the folder that its images' names start at, or, for images of a subset, the subset's folder in that one.

    Polygons, ellipses and masks are objects; of one label and one `group_id` they are parts of one. Boxes, points and lines have no mask.
    Tags are of the image as a whole.
    """

    images: Path
    annotations: Path

    def list(self) -> Listing:
        """The file is read as a stream; DataError, where that comes to it, for what is no such XML."""
        labels: dict[str, None] = {}
        for element in self._elements("meta", "image", "track"):
            if element.tag != "meta":
                break
            for label in element.iter("label"):
                if not label.findtext("parent"):  # one of a skeleton's points, else
                    labels.setdefault(label.findtext("name", "").strip())
        if not labels:
            labels = {shape.get("label", ""): None for element in self._elements("image") for shape in element}
        return Listing({name: name for name in sorted(labels) if name}, self._images())

    def objects(self, image: ListedImage, size: tuple[int, int]) -> Iterator[SourceObject]:
        grouped: dict[object, Sequence[int]] = {}
        for index, shape in enumerate(image.payload):
            group = shape.get("group_id", "0")
            key = index if group == "0" else (shape.get("label"), group)
            grouped[key] = (*grouped.get(key, ()), index)
        for indices in grouped.values():
            shapes = [image.payload[index] for index in indices]
            kinds = ", ".join(f"{index} ({shape['shape']})" for index, shape in zip(indices, shapes, strict=True))
            where = f"{self.annotations}: {image.source_id}: shapes {kinds}"
            parts = [_part(where, shape, size) for shape in shapes if shape["shape"] in _WITH_AREA]
            boxes = [_box(where, shape) for shape in shapes if shape["shape"] == "box"]
            label = shapes[0].get("label")
            if not label:
                raise malformed(where, "it has no label")
            yield SourceObject(where, label, joined(where, parts, size) if parts else None, boxes[0] if boxes else None)

    def _images(self) -> Iterator[ListedImage]:
        subsets: dict[str, bool] = {}
        for element in self._elements("image", "track"):
            name, height, width = (element.get(key) for key in ("name", "height", "width"))
            if element.tag == "track":
                raise self._malformed("it is of a video", "export the task as `CVAT for images 1.1`")
            if not name or not _is_whole(height) or not _is_whole(width):
                raise self._malformed(
                    f"image {element.get('id')} has name {name!r}, height {height!r}, width {width!r}", "export the annotations again"
                )
            folder, subset = self.images, element.get("subset", "")
            if subset not in subsets:
                subsets[subset] = bool(subset) and (self.images / subset).is_dir()
            if subsets[subset]:
                folder = self.images / subset
            name, findings = portable(name, folder)
            shapes = [{"shape": shape.tag, **shape.attrib} for shape in element if shape.tag not in _OF_THE_IMAGE]
            source_id = f"{subset}/{name}" if subset else name
            yield ListedImage(source_id, name, folder / name, (int(height or 0), int(width or 0)), shapes, (), findings)

    def _elements(self, *tags: str) -> Iterator[Element]:
        """The elements of these tags, one at a time in memory."""
        try:
            with self.annotations.open("rb") as stream:
                root: Element | None = None
                for event, element in iterparse(stream, events=("start", "end")):
                    if root is None:
                        root = element
                        if element.tag != "annotations":
                            raise self._malformed(f"it begins with <{element.tag}>", "name an XML of `CVAT for images 1.1`")
                    elif event == "end" and element.tag in tags:
                        yield element
                        root.clear()
        except OSError as error:
            raise unopened(self.annotations, error) from error
        except (ParseError, DefusedXmlException, ValueError) as error:
            if pointer := pointer_at(self.annotations):
                raise self._malformed(pointer.problem, pointer.fix) from error
            raise self._malformed(f"it is no XML, or none to trust: {error}", "export the annotations again") from error

    def _malformed(self, what: str, fix: str) -> DataError:
        return DataError(Check.SOURCE_MALFORMED, f"{self.annotations}: {what}", fix)


def _is_whole(text: str | None) -> bool:
    return text is not None and text.isdecimal() and int(text) > 0


def _part(where: str, shape: Mapping[str, str], size: tuple[int, int]) -> Polygon | Mask:
    match shape["shape"]:
        case "polygon":
            points = [point.split(",") for point in shape.get("points", "").split(";")]
            if any(len(point) != 2 for point in points):
                raise malformed(where, "its points are no list of x,y pairs")
            return _numbers(where, [value for point in points for value in point])
        case "ellipse":
            *values, turn = _numbers(where, [shape.get(key) for key in ("cx", "cy", "rx", "ry")] + [shape.get("rotation", "0")])
            return ellipse(values[0], values[1], values[2], values[3], math.radians(turn))
        case _:
            return _placed(where, shape, size)


def _placed(where: str, shape: Mapping[str, str], size: tuple[int, int]) -> Mask:
    """The mask [height, width] of runs that fill a box row by row, the first of them background."""
    left, top, width, height = map(int, _numbers(where, [shape.get(key) for key in ("left", "top", "width", "height")]))
    runs = [int(run) for run in _numbers(where, shape.get("rle", "").split(","))]
    if min(left, top) < 0 or top + height > size[0] or left + width > size[1]:
        raise BadImageError(Check.MASK_SIZE, f"{where}: its mask's box leaves the image", "draw the object again, or remove it")
    if min(runs) < 0 or sum(runs) != height * width:
        raise BadImageError(
            Check.MASK_MALFORMED,
            f"{where}: its runs have {sum(runs)} pixels together, and its box {height * width}",
            "draw the object again, or remove it",
        )
    mask = np.zeros(size, np.uint8)
    mask[top : top + height, left : left + width] = np.repeat(np.arange(len(runs)) % 2, runs).reshape(height, width)
    return mask


def _box(where: str, shape: Mapping[str, str]) -> Box | None:
    """None where it is turned: its corners are then no box's."""
    xmin, ymin, xmax, ymax, turn = _numbers(where, [shape.get(key) for key in ("xtl", "ytl", "xbr", "ybr")] + [shape.get("rotation", "0")])
    return None if turn else (ymin, xmin, ymax, xmax)


def _numbers(where: str, texts: Sequence[str | None]) -> list[float]:
    values: list[Any] = []
    for text in texts:
        try:
            values.append(float(text or ""))
        except ValueError:
            values.append(text)
    return coordinates(where, values)
