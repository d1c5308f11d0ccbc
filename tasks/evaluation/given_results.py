"""Detections in a file of COCO's results format, another program's or our own, for the images of records."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.coco.masks import MalformedSegmentationError, Rle, rle_extents_yxyx, rle_from_segmentation
from tasks.coco.matches import ImageFound, ImageTruth
from tasks.records.label_map import LabelMap
from tasks.running.errors import UserError

_BOX_NUMBERS = 4
_FIX = "write a list of objects with `image_id`, `category_id`, `score`, and `segmentation` or `bbox`, as COCO's results are"


@dataclass(frozen=True)
class GivenDetections:
    """Of one image: each with its number in the file, which `file` names in errors."""

    file: str
    entries: Sequence[tuple[int, Mapping[str, Any]]]

    def found(self, truth: ImageTruth, labels: LabelMap) -> ImageFound:
        """The detections on an image of `truth`'s size. UserError for a mask that is none, or of another size."""
        index_of = {category.id: index for index, category in enumerate(labels.categories)}
        masks = [self._mask(number, entry, truth) for number, entry in self.entries] if truth.masks is not None else None
        return ImageFound(
            self._boxes(masks),
            np.array([index_of[entry["category_id"]] for _, entry in self.entries], np.int32),
            np.array([entry["score"] for _, entry in self.entries], np.float64),
            masks,
        )

    def _boxes(self, masks: list[Rle] | None) -> Any:
        boxes = [entry.get("bbox") for _, entry in self.entries]
        if masks and None in boxes:
            extents = [[left, top, right - left, bottom - top] for top, left, bottom, right in rle_extents_yxyx(masks)]
            boxes = [extent if box is None else box for box, extent in zip(boxes, extents, strict=True)]
        return np.array(boxes, np.float64).reshape(-1, _BOX_NUMBERS)

    def _mask(self, number: int, entry: Mapping[str, Any], truth: ImageTruth) -> Rle:
        try:
            mask = rle_from_segmentation(entry["segmentation"], truth.height, truth.width)
        except MalformedSegmentationError as error:
            raise _wrong(self.file, number, f"its segmentation {error}") from error
        if mask is None:
            raise _wrong(self.file, number, "its segmentation has no polygon of three points")
        return mask


@dataclass(frozen=True)
class GivenResults:
    """The detections of a file, by the id of their image; `with_masks` where they have masks, all of them."""

    file: str
    with_masks: bool
    by_image: Mapping[int, list[tuple[int, Mapping[str, Any]]]]

    def of(self, image_id: int) -> GivenDetections:
        return GivenDetections(self.file, self.by_image.get(image_id, ()))

    def confirm_images(self, image_ids: Sequence[int]) -> None:
        """UserError where there are detections on other images, or on none of these."""
        if unknown := sorted(set(self.by_image) - set(image_ids)):
            told = ", ".join(map(str, unknown[:5])) + (" ..." if len(unknown) > 5 else "")
            raise UserError(
                f"{self.file}: {len(unknown)} of its images are not among the {len(image_ids)} of the split: {told}",
                "name the split that they are of; an image's id is its record's `image/source_id`, where that is a number",
            )


def read_results(file: Path, labels: LabelMap | None) -> GivenResults:
    """The detections in a file. UserError, naming the first that is wrong, for one that is no list of detections of these categories; of
    any, where these are not known yet."""
    try:
        entries = json.loads(file.read_bytes())
    except OSError as error:
        raise UserError(f"{file} cannot be opened: {error.strerror or error}", "correct the path") from error
    except ValueError as error:
        raise UserError(f"{file} is not valid JSON: {error}", _FIX) from error
    if not isinstance(entries, list):
        raise UserError(f"{file} is no list of detections", _FIX)
    if not entries:
        raise UserError(f"{file} holds no detection", "see why the program that wrote it found nothing")
    known = {category.id for category in labels.categories} if labels is not None else None
    with_masks = "segmentation" in entries[0] if isinstance(entries[0], dict) else False
    by_image: dict[int, list[tuple[int, Mapping[str, Any]]]] = {}
    for number, entry in enumerate(entries):
        if (reason := _fault(entry, known, with_masks)) is not None:
            raise _wrong(str(file), number, reason)
        by_image.setdefault(entry["image_id"], []).append((number, entry))
    return GivenResults(str(file), with_masks, by_image)


def _fault(entry: Any, known: set[int] | None, with_masks: bool) -> str | None:
    if not isinstance(entry, dict):
        return f"it is a {type(entry).__name__}"
    for name in ("image_id", "category_id"):
        if isinstance(entry.get(name), bool) or not isinstance(entry.get(name), int):
            return f"its {name} is {entry.get(name)!r}, not a whole number"
    if known is not None and entry["category_id"] not in known:
        return f"its category_id is {entry['category_id']}, and the label map has {', '.join(map(str, sorted(known)[:10]))}"
    if not _is_finite(entry.get("score")):
        return f"its score is {entry.get('score')!r}, which is no number"
    if ("segmentation" in entry) != with_masks:
        return "it has no segmentation, and others have" if with_masks else "it has a segmentation, and others have none"
    box = entry.get("bbox")
    if box is None and with_masks:
        return None
    if not isinstance(box, list) or len(box) != _BOX_NUMBERS or not all(map(_is_finite, box)):
        return f"its bbox is {box!r}, not x, y, width and height"
    return None


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _wrong(file: str, number: int, reason: str) -> UserError:
    return UserError(f"{file}: detection {number}: {reason}", _FIX)
