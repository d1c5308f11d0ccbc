"""What one image adds to an evaluation: its record's objects, what was found on it, and which is which.

Worker processes do this, without TensorFlow.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.coco.image_opening import opened_image
from tasks.coco.masks import Rle
from tasks.coco.matches import ImageFound, ImageTruth, Matches, match_image
from tasks.coco.paste import paste_masks
from tasks.evaluation.given_results import GivenDetections
from tasks.records.example import BOX_SIDES, MASK_KEY, category_ids
from tasks.records.features import RecordFeatures
from tasks.records.label_map import LabelMap
from tasks.records.mask_forms import stored_masks
from tasks.running.errors import UserError

_OWN_KEYS = ("encoded", "format", "filename", "key/sha256", "source_id", "height", "width")
_OBJECTS_AND_CLASSES = ("object/", "class/", "neg_category_ids", "not_exhaustive_category_ids")


@dataclass(frozen=True)
class Settings:
    """What all images of an evaluation have in common."""

    labels: LabelMap
    with_masks: bool

    @property
    def categories(self) -> tuple[tuple[int, str], ...]:
        return tuple((category.id, category.name) for category in self.labels.categories)


@dataclass(frozen=True)
class NetworkOutput:
    """A network's detections on one image, without padding: boxes yxyx normalized to the image, float32 [D, 4], `scores` float32 [D],
    `classes` [D] from zero, and `masks` float32 [D, h, w], probabilities over each box."""

    boxes_yxyx_normalized: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    classes: npt.NDArray[Any]
    masks: npt.NDArray[np.float32] | None


@dataclass(frozen=True)
class Job:
    """A serialized record, where it stands, its number in its file, its image's size as decoded, and what was found on it."""

    index: int
    record: bytes
    where: str
    size: tuple[int, int] | None
    found: NetworkOutput | GivenDetections | ImageFound


@dataclass(frozen=True)
class ImageResult:
    """`objects`, `masks` and `boxes` are JSON objects in COCO's formats, as text, that lack the image's id; an object's own id, too."""

    index: int
    matches: Matches
    source_id: str
    file_name: str
    height: int
    width: int
    objects: list[str]
    masks: list[str]
    boxes: list[str]

    def line(self) -> str:
        """All but the matches, as JSON."""
        return json.dumps({name: value for name, value in vars(self).items() if name not in ("index", "matches")})


def image_result(settings: Settings, job: Job) -> ImageResult:
    """UserError for a record that cannot be used, and for scores that are no numbers."""
    truth = image_truth(settings, job.record, job.where, job.size)
    match job.found:
        case NetworkOutput():
            found = _pasted(job.found, truth, settings)
        case GivenDetections():
            found = job.found.found(truth, settings.labels)
        case _:
            found = job.found
    if not np.isfinite(found.scores).all():
        raise UserError(
            f"{job.where}: a detection's score is {found.scores[~np.isfinite(found.scores)][0]}, which is no number",
            "evaluate an earlier checkpoint: this one's weights are no numbers any more",
        )
    numbers = [number for number, _ in settings.categories]
    objects, masks, boxes = [], [], []
    for index, category in enumerate(truth.categories.tolist()):
        entry = {
            "category_id": numbers[category],
            "bbox": truth.boxes_xywh[index].tolist(),
            "area": float(truth.areas[index]),
            "iscrowd": int(truth.crowd[index]),
        }
        objects.append(_text(entry if truth.masks is None else entry | {"segmentation": _in_text(truth.masks[index])}))
    for index, category in enumerate(found.categories.tolist()):
        entry = {"category_id": numbers[category], "score": float(found.scores[index])}
        boxes.append(_text(entry | {"bbox": found.boxes_xywh[index].tolist()}))
        if found.masks is not None:
            # Never both: beside a box, `loadRes` takes the box's area for the mask's.
            masks.append(_text(entry | {"segmentation": _in_text(found.masks[index])}))
    matches = match_image(truth, found, settings.categories)
    return ImageResult(job.index, matches, truth.image_id, truth.file_name, truth.height, truth.width, objects, masks, boxes)


def image_truth(settings: Settings, record: bytes, where: str, size: tuple[int, int] | None = None) -> ImageTruth:
    """The objects of a record as training reads them; `image_id` is its source id. `size` of its image, where that was decoded already.

    A text that names a class overrides the stored label; absent areas are the boxes', absent flags are no. BadImageError.
    """
    features = RecordFeatures.parse(record, where)
    if size is None:
        with opened_image(features.byte_strings("image/encoded", 1)[0]) as image:
            size = (image.height, image.width)
    height, width = size
    sides = np.array([features.floats(key) for key in BOX_SIDES], np.float64)
    ymin, xmin, ymax, xmax = sides * np.array([[height], [width], [height], [width]])
    boxes = np.stack([xmin, ymin, xmax - xmin, ymax - ymin], axis=1)
    count = len(boxes)
    ids = category_ids(features, count, settings.labels.ids)
    index_of = {category.id: index for index, category in enumerate(settings.labels.categories)}
    source_id = features.text("image/source_id", "")
    return ImageTruth(
        source_id,
        features.text("image/filename", "") or source_id,
        height,
        width,
        boxes,
        np.array([index_of[number] for number in ids], np.int32),
        _or_default(features.floats("image/object/area"), boxes[:, 2] * boxes[:, 3]),
        _or_default(list(features.feature("image/object/is_crowd").int64_list.value), np.zeros(count)) > 0,
        list(stored_masks(features.feature(MASK_KEY), count, size, where, any_values=True)) if settings.with_masks else None,
        _attributes(features),
    )


def _or_default(values: Sequence[float], default: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.array(values, np.float64) if len(values) == len(default) else default


def _attributes(features: RecordFeatures) -> dict[str, str]:
    """What the record says of its image beyond the original's features: each that is one text or whole number, by its name."""
    found = {}
    for key, feature in features.example.features.feature.items():
        name = key.removeprefix("image/")
        if name in _OWN_KEYS or name.startswith(_OBJECTS_AND_CLASSES):
            continue
        values: list[bytes | int] = [*feature.bytes_list.value, *feature.int64_list.value]
        if len(values) == 1:
            found[name] = features.decoded(key, values[0]) if isinstance(values[0], bytes) else str(values[0])
    return found


def _pasted(output: NetworkOutput, truth: ImageTruth, settings: Settings) -> ImageFound:
    """The detections in the image's own pixels and the label map's categories.

    Where the label map's ids have gaps, the model has classes that it lacks: their detections count nothing, as in the original.
    """
    index_of = {category.id: index for index, category in enumerate(settings.labels.categories)}
    ids = (output.classes + 1).tolist()
    chosen = [index for index, number in enumerate(ids) if number in index_of]
    normalized = output.boxes_yxyx_normalized[chosen]
    top, left, bottom, right = (
        (normalized * np.array([truth.height, truth.width, truth.height, truth.width], np.float32)).astype(np.float64).T
    )
    return ImageFound(
        np.stack([left, top, right - left, bottom - top], axis=1),
        np.array([index_of[ids[index]] for index in chosen], np.int32),
        output.scores[chosen].astype(np.float64),
        paste_masks(output.masks[chosen], normalized, truth.height, truth.width) if output.masks is not None else None,
    )


def _in_text(rle: Rle) -> dict[str, Any]:
    return {"size": list(map(int, rle["size"])), "counts": rle["counts"].decode("ascii")}


def _text(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry, separators=(",", ":"))
