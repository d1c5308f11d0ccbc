"""COCO's panoptic format: a JSON like that of instances, and one PNG for each image, whose colours are numbers of segments."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tasks.annotations.coco import CocoSource
from tasks.annotations.mask_file import read_colour_ids
from tasks.annotations.numbers import as_numbers
from tasks.annotations.source import CategoryKey, ListedImage, Listing, SourceObject
from tasks.records.checks import BadImageError, Check, DataError
from tasks.running.errors import UserError

_VOID = 0
_STUFF = ("drop", "keep")


@dataclass(frozen=True)
class PanopticSource(CocoSource):
    """A panoptic JSON, the folder of its images, and the folder of its PNGs, `masks`.

    A segment whose category has `isthing: 0` is stuff, such as sky: no object. It is left out with its category and counted, or with
    `stuff: keep` an object like others. Pixels of no segment are of number 0.
    """

    masks: Path = field(kw_only=True)
    stuff: str = field(default="drop", kw_only=True)

    def __post_init__(self) -> None:
        if self.stuff not in _STUFF:
            raise UserError(f"panoptic: stuff is {self.stuff!r}", f"use one of {', '.join(_STUFF)}")

    def list(self) -> Listing:
        """DataError too where all categories are stuff that is to be left out, or an image has two annotations."""
        stuff = set() if self.stuff == "keep" else self._stuff()
        listing = super().list()
        things = {key: name for key, name in listing.categories.items() if key not in stuff}
        if stuff and not things:
            raise self._malformed(
                f"all of its {len(stuff)} categories are stuff (`isthing` is 0), of which there are no objects",
                "give `stuff: keep` if they are objects, as where the tool that wrote the file knows no things",
            )
        return dataclasses.replace(listing, categories=things, images=self._with_masks(listing.images, sorted(stuff, key=str)))

    def objects(self, image: ListedImage, size: tuple[int, int]) -> Iterator[SourceObject]:
        """BadImageError where PNG and JSON do not name the same segments."""
        if not image.files:
            raise BadImageError(
                Check.MASK_MISSING,
                f"{self.annotations}: image {image.file_name} has no annotation",
                "add it, with an empty list `segments_info` if there is nothing to see",
            )
        segments, stuff = image.payload
        ids = read_colour_ids(image.files[0], size)
        self._confirm_listed(image, set(np.unique(ids).tolist()), Counter(map(_number, segments)))
        objects = super().objects(dataclasses.replace(image, payload=json.dumps(segments)), size)
        for segment, one in zip(segments, objects, strict=True):
            left_out = Check.STUFF_SEGMENT if one.category in stuff else None
            yield dataclasses.replace(one, segmentation=(ids == _number(segment)).view(np.uint8), left_out=left_out)

    def _confirm_listed(self, image: ListedImage, found: set[int], listed: Counter[int]) -> None:
        """BadImageError unless each segment that is `found` in the PNG is `listed` for the image, each of those once."""
        unlisted, twice = found - {_VOID, *listed}, [number for number, times in listed.items() if times > 1 or number == _VOID]
        if unlisted or twice:
            raise BadImageError(
                Check.MASK_VALUES,
                f"{image.files[0]}: it does not fit {self.annotations}: "
                + (
                    f"segment {min(unlisted)} is not listed there"
                    if unlisted
                    else f"segment {twice[0]} is listed twice, or no segment's number"
                ),
                "export the annotations again",
            )

    def _with_masks(self, images: Iterator[ListedImage], stuff: Sequence[CategoryKey]) -> Iterator[ListedImage]:
        for image in images:
            annotations = json.loads(image.payload)
            if len(annotations) > 1:
                raise DataError(
                    Check.DUPLICATE_ID,
                    f"{self.annotations}: image {image.file_name} has {len(annotations)} annotations",
                    "leave one, with all segments in it",
                )
            files = tuple(self.masks / one["file_name"] for one in annotations)
            yield dataclasses.replace(image, payload=[[part for one in annotations for part in one["segments_info"]], stuff], files=files)

    def _stuff(self) -> set[CategoryKey]:
        """The numbers of the categories that are stuff."""
        with self._readable():
            for key, values in self._lists():
                if key == "categories":
                    return {self._category(value)[0] for value, _ in values if not self._is_thing(value)}
        return set()

    def _is_thing(self, category: Mapping[str, Any]) -> bool:
        value, _ = as_numbers(self._field("category", category, "isthing"))
        if value not in (0, 1):
            raise self._malformed(f"category {category.get('id')} has isthing {value!r}", "write 1 for objects, 0 for stuff")
        return bool(value)

    def _annotation(self, value: Mapping[str, Any], text: str, used: set[object]) -> tuple[str, str, str]:
        image = self._field("annotation", value, "image_id")
        file, segments = (self._field(f"annotation of image {image}", value, key) for key in ("file_name", "segments_info"))
        if not isinstance(file, str) or not file:
            raise self._malformed(f"the annotation of image {image} has file_name {file!r}", "write the PNG's path inside `masks`")
        if not isinstance(segments, list) or not all(isinstance(one, dict) for one in segments):
            raise self._malformed(f"the annotation of image {image} has segments_info {segments!r}", "write a list of segments")
        for segment in segments:
            self._field(f"image {image}: segment", segment, "id")
            if not isinstance(_number(segment), int):
                raise self._malformed(f"image {image} has the segment {segment['id']!r}", "write R + 256 G + 65536 B of its colour")
            category, _ = as_numbers(self._field(f"image {image}: segment", segment, "category_id"))
            if isinstance(category, int):
                used.add(category)
        return super()._annotation({"id": file, "image_id": image, "category_id": None}, text, used)


def _number(segment: Mapping[str, Any]) -> Any:
    """That of a segment, which a tool may have written as text."""
    number, _ = as_numbers(segment["id"])
    return number
