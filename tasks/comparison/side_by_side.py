"""Images of an evaluation with what they hold, and beside it what each model has found."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.coco.image_opening import opened_image
from tasks.coco.matches import MASK, ImageTruth, Matches
from tasks.coco.pictures import PictureObjects, draw_objects, surest
from tasks.evaluation.analysis import MIN_SCORE
from tasks.evaluation.image_results import Settings, image_truth
from tasks.evaluation.parts import free_image_id
from tasks.records.annotated_image import Category
from tasks.records.features import RecordFeatures
from tasks.records.label_map import LabelMap
from tasks.records.tfrecord import read_shard
from tasks.running.errors import UserError
from tasks.running.workspace import ModelDir, located, read_json

_LONGER_SIDE = 640
_IMAGE_ID = re.compile(rb'\{"image_id":(\d+)')


@dataclass(frozen=True)
class Panel:
    """A picture, as a data URI."""

    name: str
    uri: str


def records_of(evaluation: Path) -> list[str]:
    """The files of records that an evaluation has read. UserError where it does not say so, being of an earlier version."""
    metrics = read_json(evaluation / "metrics.json")
    files = metrics.get("records")
    if not files:
        raise UserError(f"{evaluation} does not say which records it is of", "evaluate the model again")
    return list(files)


def side_by_side(
    matches: Matches, images: Sequence[int], files: Sequence[str], models: Mapping[str, ModelDir]
) -> Iterator[tuple[int, list[Panel]]]:
    """For each of the images, by their index, in the order of the records: the ground truth, and each model's detections.

    UserError where the records are not those of the evaluation any more.
    """
    wanted = {matches.images.ids[index].item(): index for index in images}
    settings = Settings(LabelMap(tuple(Category(number, name) for number, name in matches.categories)), matches.kind == MASK)
    names = dict(matches.categories)
    found = {name: _detections(model, set(wanted)) for name, model in models.items()}
    for image_id, record, where in records_by_id(files, set(wanted)):
        index = wanted.pop(image_id)
        truth = image_truth(settings, record, where)
        if truth.file_name != matches.images.file_names[index] or len(truth.categories) != (matches.objects.image == index).sum():
            raise UserError(f"{where} is not what was evaluated: the records have changed since", "evaluate the models again")
        with opened_image(RecordFeatures.parse(record, where).byte_strings("image/encoded", 1)[0]) as image:
            pixels = np.asarray(image.convert("RGB"))
        panels = [Panel("ground truth", _uri(pixels, _of_truth(truth, settings), names))]
        panels += [Panel(name, _uri(pixels, _of_model(of_images.get(image_id, [])), names)) for name, of_images in found.items()]
        yield index, panels
    if wanted:
        raise UserError(f"the records no longer hold image {next(iter(wanted))}", "evaluate the models again")


def records_by_id(files: Sequence[str], wanted: set[str]) -> Iterator[tuple[str, bytes, str]]:
    """The records of some images, under the ids that the evaluation gave them."""
    ids: dict[int, None] = {}
    left = set(wanted)
    for file in files:
        try:
            records = enumerate(read_shard(located(file)))
            for number, record in records:
                where = f"{file}: record {number}"
                image_id = free_image_id(RecordFeatures.parse(record, where).text("image/source_id", ""), ids)
                ids[image_id] = None
                if str(image_id) in left:
                    left.remove(str(image_id))
                    yield str(image_id), record, where
                if not left:
                    return
        except OSError as error:
            raise UserError(f"{file} cannot be read: {error.strerror or error}", "materialize the dataset again") from error


def _detections(model: ModelDir, wanted: set[str]) -> dict[str, list[dict[str, Any]]]:
    """Of some images, from the evaluation's files, which hold a detection a line."""
    masks = _entries(model.evaluation / "detections.json", wanted)
    boxes_file = model.evaluation / "detections_boxes.json"
    if not boxes_file.exists():
        return masks
    boxes = _entries(boxes_file, wanted)
    # The same detections in the same order, once with their masks and once with their boxes.
    return {
        image: [entry | {"bbox": box["bbox"]} for entry, box in zip(entries, boxes.get(image, []), strict=True)]
        for image, entries in masks.items()
    }


def _entries(file: Path, wanted: set[str]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    try:
        with file.open("rb") as stream:
            for line in stream:
                if (told := _IMAGE_ID.match(line)) and (image := told[1].decode()) in wanted:
                    found.setdefault(image, []).append(json.loads(line.rstrip(b",\n")))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}", "evaluate the model again") from error
    return found


def _of_truth(truth: ImageTruth, settings: Settings) -> PictureObjects:
    return PictureObjects(_yxyx(truth.boxes_xywh), [settings.categories[index][0] for index in truth.categories.tolist()], truth.masks)


def _of_model(entries: Sequence[Mapping[str, Any]]) -> PictureObjects:
    masks = [{**one["segmentation"], "counts": one["segmentation"]["counts"].encode()} for one in entries if "segmentation" in one]
    objects = PictureObjects(
        _yxyx(np.array([one["bbox"] for one in entries], np.float64)),
        [one["category_id"] for one in entries],
        masks or None,
        [one["score"] for one in entries],
    )
    return surest(objects, MIN_SCORE)


def _yxyx(boxes_xywh: Any) -> Any:
    x, y, width, height = np.asarray(boxes_xywh, np.float64).reshape(-1, 4).T
    return np.stack([y, x, y + height, x + width], axis=1)


def _uri(pixels: Any, objects: PictureObjects, names: Mapping[int, str]) -> str:
    picture = draw_objects(pixels, objects, names, _LONGER_SIDE)
    return f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"
