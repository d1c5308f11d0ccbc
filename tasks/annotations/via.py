"""VGG Image Annotator, versions 1 and 2: one file for all images, exported as JSON or CSV, or the project as it is saved."""

from __future__ import annotations

import csv
import difflib
import io
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.annotations.folder import portable
from tasks.annotations.json_file import read_json_object
from tasks.annotations.numbers import as_numbers
from tasks.annotations.outlines import Polygon, coordinates, ellipse, malformed, rectangle
from tasks.annotations.source import ListedImage, Listing, SourceObject, unopened
from tasks.records.checks import Check, DataError
from tasks.running.errors import UserError
from tasks.running.pointer_file import pointer_in
from tasks.running.workspace import decoded

_NUMERIC = ("x", "y", "width", "height", "cx", "cy", "r", "rx", "ry", "theta", "all_points_x", "all_points_y")
_TOOL = "VGG Image Annotator"
_Region = tuple[Mapping[str, Any], Mapping[str, Any]]
"""Attributes and shape."""


@dataclass(frozen=True)
class ViaSource:
    """A JSON or CSV file and the folder that its `filename`s lie in.

    `category_attribute` names the regions' attribute that says what they show; it need not be given where they have one attribute only.
    `category` says it of all regions instead, whatever attributes they have.
    """

    images: Path
    annotations: Path
    category_attribute: str | None = None
    category: str | None = None

    def __post_init__(self) -> None:
        if self.category is not None and self.category_attribute is not None:
            raise UserError("via: both category and category_attribute are given", "leave one of the two out")

    def list(self) -> Listing:
        regions = self._regions()
        # With a category for all, no attribute is looked at.
        attribute = self.category_attribute or (self._only_attribute(regions.values()) if self.category is None else "")
        shown = {name: [(self.category or attributes.get(attribute), shape) for attributes, shape in one] for name, one in regions.items()}
        if self.category_attribute is not None:
            self._confirm_attribute(self.category_attribute, regions.values())
        categories = {category for one in shown.values() for category, _ in one if isinstance(category, str) and category}
        return Listing({category: category for category in sorted(categories)}, map(self._image, shown.items()))

    def objects(self, image: ListedImage, size: tuple[int, int]) -> Iterator[SourceObject]:
        for index, (category, shape) in enumerate(image.payload):
            where = f"{self.annotations}: {image.file_name}: regions[{index}]"
            if not isinstance(category, str) or not category:
                raise malformed(where, f"its category is {category!r}, not one text")
            read = {key: as_numbers(value) if key in _NUMERIC else (value, False) for key, value in shape.items()}
            outline = _outline(where, {key: value for key, (value, _) in read.items()})
            had_text = any(was_text for _, was_text in read.values())
            yield SourceObject(where, category, [outline], findings=(Check.NUMBER_AS_TEXT,) * had_text)

    def _image(self, shown: tuple[str, Any]) -> ListedImage:
        name, findings = portable(shown[0], self.images)
        return ListedImage(name, name, self.images / name, None, shown[1], (), findings)

    def _confirm_attribute(self, attribute: str, regions: Collection[Sequence[_Region]]) -> None:
        """DataError where there are regions, and none has the attribute."""
        found = {name for of_image in regions for attributes, _ in of_image for name in attributes}
        if not any(regions) or attribute in found:
            return
        nearest = difflib.get_close_matches(attribute, found, n=1)
        offered = f"did you mean `{nearest[0]}`?" if nearest else "name one of them, or what all regions show as `category`"
        raise DataError(
            Check.SOURCE_MALFORMED,
            f"{self.annotations}: no region has the attribute {attribute!r} of `category_attribute`;"
            + (f" they have {', '.join(sorted(found))}" if found else " they have none"),
            offered if found else "leave `category_attribute` out, and name what all regions show as `category`",
        )

    def _regions(self) -> dict[str, Sequence[_Region]]:
        """By the names of the images."""
        content = self._csv() if self.annotations.suffix.lower() == ".csv" else read_json_object(self.annotations, _TOOL)
        found: dict[str, Sequence[_Region]] = {}
        for key, entry in _object(content.get("_via_img_metadata", content)).items():
            name = _object(entry).get("filename")
            if not isinstance(name, str) or not name:
                raise DataError(
                    Check.SOURCE_MALFORMED,
                    f"{self.annotations}: {key!r} is no image",
                    "export the annotations as JSON, and not in COCO's format",
                )
            if name in found:
                raise DataError(
                    Check.DUPLICATE_ID, f"{self.annotations}: {name} is there twice", "remove one of the two, or rename their files"
                )
            regions = entry.get("regions") or []
            if not isinstance(regions, Sequence | Mapping) or isinstance(regions, str):
                raise DataError(
                    Check.SOURCE_MALFORMED, f"{self.annotations}: the regions of {name} are {regions!r}", "export the annotations again"
                )
            listed = regions.values() if isinstance(regions, Mapping) else regions
            found[name] = [(_object(one.get("region_attributes")), _object(one.get("shape_attributes"))) for one in map(_object, listed)]
        return found

    def _csv(self) -> Mapping[str, Any]:
        """What the JSON of the same annotations holds: a line of a CSV is a region, or an image without one."""
        try:
            content = self.annotations.read_bytes()
            rows = list(csv.DictReader(io.StringIO(decoded(content).removeprefix("#"), newline=""), strict=True))
            entries: dict[str, dict[str, Any]] = {}
            for row in rows:
                key = f"{row['filename']}{row['file_size']}"
                shape, attributes = (json.loads(row[column]) for column in ("region_shape_attributes", "region_attributes"))
                regions = entries.setdefault(key, {"filename": row["filename"], "regions": []})["regions"]
                regions += [{"shape_attributes": shape, "region_attributes": attributes}] * bool(shape)
        except OSError as error:
            raise unopened(self.annotations, error) from error
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            if pointer := pointer_in(content):
                raise DataError(Check.SOURCE_MALFORMED, f"{self.annotations}: {pointer.problem}", pointer.fix) from error
            reason = f"there is no column {error}" if isinstance(error, KeyError) else str(error)
            raise DataError(
                Check.SOURCE_MALFORMED, f"{self.annotations}: not a CSV of {_TOOL}: {reason}", "export the annotations as CSV again"
            ) from error
        return entries

    def _only_attribute(self, regions: Collection[Sequence[_Region]]) -> str:
        names = {name for of_image in regions for attributes, _ in of_image for name in attributes}
        if len(names) != 1 and any(regions):
            said = f"the attributes {', '.join(sorted(names))}" if names else "no attributes"
            raise DataError(
                Check.SOURCE_MALFORMED,
                f"{self.annotations}: the regions have {said}",
                "name the one that says what they show as `category_attribute`, or what they all show as `category`",
            )
        return "".join(names)


def _object(value: Any) -> Mapping[str, Any]:
    """A JSON object, an empty one for anything else: what it should say is missed then, by name."""
    return value if isinstance(value, Mapping) else {}


def _outline(where: str, shape: Mapping[str, Any]) -> Polygon:
    def values(*keys: str) -> list[float]:
        return coordinates(where, [shape.get(key) for key in keys])

    match shape.get("name"):
        case "polygon":
            across, down = (coordinates(where, shape.get(key)) for key in ("all_points_x", "all_points_y"))
            if len(across) != len(down):
                raise malformed(where, f"it has {len(across)} x and {len(down)} y")
            return [value for point in zip(across, down, strict=True) for value in point]
        case "rect":
            x, y, width, height = values("x", "y", "width", "height")
            return rectangle(x, y, x + width, y + height)
        case "circle":
            x, y, radius = values("cx", "cy", "r")
            return ellipse(x, y, radius, radius)
        case "ellipse":
            angle = coordinates(where, [shape.get("theta", 0)])
            return ellipse(*values("cx", "cy", "rx", "ry"), *angle)
        case other:
            raise malformed(where, f"it is a {other}, which is no shape with an area")
