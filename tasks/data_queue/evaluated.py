"""What evaluations have left of some images: their objects, and each model's detections, with masks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.coco.masks import Rle
from tasks.running.errors import UserError
from tasks.running.workspace import read_json

_IMAGE_ID = re.compile(rb'\{"image_id":(\d+)')


@dataclass(frozen=True)
class Things:
    """N objects or detections of one image. `masks` are None where there are none; the scores of objects are 1."""

    category_ids: npt.NDArray[np.int64]
    boxes_xywh: npt.NDArray[np.float64]
    """Pixels"""
    masks: Sequence[Rle] | None
    scores: npt.NDArray[np.float64]
    crowd: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.category_ids)

    def some(self, places: Sequence[int]) -> Things:
        """Those at some places, in that order."""
        chosen = np.asarray(places, np.intp)
        masks = None if self.masks is None else [self.masks[place] for place in chosen.tolist()]
        return Things(self.category_ids[chosen], self.boxes_xywh[chosen], masks, self.scores[chosen], self.crowd[chosen])


@dataclass(frozen=True)
class TrueImage:
    """An image as `groundtruth.json` has it: id, file's name, size, its annotations, and the same as things."""

    id: int
    file_name: str
    height: int
    width: int
    annotations: Sequence[Mapping[str, Any]]
    objects: Things


def true_images(evaluation: Path, wanted: set[str] | None = None) -> tuple[dict[str, TrueImage], list[dict[str, Any]]]:
    """Images by their ids, as texts, those that are wanted or all; and the categories. UserError where the evaluation has not left them."""
    file = evaluation / "groundtruth.json"
    content = read_json(file)
    try:
        of_image: dict[str, list[dict[str, Any]]] = {
            str(one["id"]): [] for one in content["images"] if wanted is None or str(one["id"]) in wanted
        }
        for annotation in content["annotations"]:
            if (own := of_image.get(str(annotation["image_id"]))) is not None:
                own.append(annotation)
        images = {
            str(one["id"]): TrueImage(one["id"], one["file_name"], one["height"], one["width"], own, things(own))
            for one in content["images"]
            if (own := of_image.get(str(one["id"]))) is not None
        }
        return images, list(content["categories"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file} is no ground truth of an evaluation: {error}", "evaluate the model again") from error


def found_things(evaluation: Path, wanted: set[str] | None, min_score: float) -> dict[str, Things]:
    """The detections of at least `min_score` on some images or all, by their ids; an image without any is not there."""
    entries: dict[str, list[dict[str, Any]]] = {}
    for image, entry in _lines(evaluation, wanted, min_score):
        entries.setdefault(image, []).append(entry)
    return {image: things(of_image) for image, of_image in entries.items()}


def things(entries: Sequence[Mapping[str, Any]]) -> Things:
    """Of COCO's annotations, or results with boxes; masks are run-length codes, of all of them or of none."""
    masks = [
        Rle(size=list(one["segmentation"]["size"]), counts=one["segmentation"]["counts"].encode())
        for one in entries
        if "segmentation" in one
    ]
    return Things(
        np.array([one["category_id"] for one in entries], np.int64),
        np.array([one["bbox"] for one in entries], np.float64).reshape(-1, 4),
        masks if masks or not entries else None,
        np.array([one.get("score", 1.0) for one in entries], np.float64),
        np.array([bool(one.get("iscrowd", 0)) for one in entries], bool),
    )


def _lines(evaluation: Path, wanted: set[str] | None, min_score: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Detections, a line each in the evaluation's files; masks and boxes stand in two, in the same order."""
    files = [file for file in (evaluation / "detections.json", evaluation / "detections_boxes.json") if file.exists()]
    if not files:
        raise UserError(f"{evaluation} holds no detections", "evaluate the model again")
    try:
        with ExitStack() as stack:
            for lines in zip(*(stack.enter_context(file.open("rb")) for file in files), strict=True):
                if not (told := _IMAGE_ID.match(lines[0])) or (wanted is not None and told[1].decode() not in wanted):
                    continue
                entry = json.loads(lines[0].rstrip(b",\n"))
                if entry["score"] >= min_score:
                    for line in lines[1:]:
                        entry["bbox"] = json.loads(line.rstrip(b",\n"))["bbox"]
                    yield told[1].decode(), entry
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{files[0]} cannot be read: {error}", "evaluate the model again") from error
