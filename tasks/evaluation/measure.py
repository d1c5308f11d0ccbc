"""A network measured on records: COCO's figures, the detections and the ground truth behind them, and pictures of some."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tasks.coco.masks import rle_from_mask
from tasks.coco.metrics import CocoEvaluator
from tasks.coco.paste import paste_masks
from tasks.coco.pictures import PictureObjects, draw_comparison
from tasks.input.batches import evaluation_dataset, faulty_records_named
from tasks.input.config import DataConfig
from tasks.mask_rcnn.model import MaskRCNN
from tasks.records.label_map import read_label_map
from tasks.running.errors import UserError
from tasks.running.workspace import write_json

_PICTURES = 8
_LINE_SECONDS = 5.0
_MOST_DIGITS = 20  # of an image id, 64 bits


def measure(network: MaskRCNN, data: DataConfig, folder: Path) -> dict[str, Any]:
    """The figures over the records of `data`; the files beside them go to `folder`, which is there and empty."""
    label_map = read_label_map(Path(data.label_map_path))
    names = label_map.names
    with_masks = network.config.number_of_stages == 3
    if network.config.number_of_stages == 1:
        raise UserError("the config has number_of_stages 1: proposals have no classes to evaluate", "set it to 2 or 3")
    evaluator = CocoEvaluator(list(names.items()), with_masks)
    detect = _detector(network)
    (folder / "pictures").mkdir()
    image_ids: set[int] = set()
    seconds: list[float] = []
    last_line = time.monotonic()
    with faulty_records_named(data):
        for images, true_shapes, record in evaluation_dataset(data, network.config.image_resizer, label_map):
            started = time.monotonic()
            outputs = {name: value.numpy() for name, value in detect(images, true_shapes).items()}
            seconds.append(time.monotonic() - started)
            truth = _groundtruth(record, with_masks)
            found = _detections(outputs, truth["height"], truth["width"], list(names), with_masks)
            image_id = _free_image_id(record["source_id"].numpy().decode(), image_ids)
            image_ids.add(image_id)
            evaluator.add_groundtruth(image_id, **truth)
            evaluator.add_detections(image_id, **found)
            if len(seconds) <= _PICTURES:
                picture = _picture(record["image"].numpy(), truth, found, names)
                (folder / "pictures" / f"{image_id:04d}.png").write_bytes(picture)
            if time.monotonic() - last_line > _LINE_SECONDS:
                last_line = time.monotonic()
                print(f"evaluated {len(seconds)} images  {np.median(seconds):.2f} s/image", flush=True)
    if not seconds:
        raise UserError(f"{data.input_path} holds no record", "materialize the dataset again with images in that split")
    figures = evaluator.evaluate()
    write_json(folder / "detections.json", evaluator.detections_json("segm" if with_masks else "bbox"))
    if with_masks:
        write_json(folder / "detections_boxes.json", evaluator.detections_json("bbox"))
    write_json(folder / "groundtruth.json", evaluator.groundtruth_json())
    if max(image_ids) >= 2**63:
        print("image ids pass 63 bits: pycocotools itself finds -1 in the files of detections, if others do not", flush=True)
    return {
        "images": len(seconds),
        "objects": evaluator.objects,
        "crowds": evaluator.crowds,
        # The first image compiles.
        "seconds_per_image": float(np.median(seconds[1:] or seconds)),
        # COCO says -1 where there is nothing to measure on.
        "metrics": {name: value for name, value in figures.items() if value >= 0},
        "unmeasured": sorted(name for name, value in figures.items() if value < 0),
    }


def _detector(network: MaskRCNN) -> Any:
    """The network as a graph that is traced once, for images of any size: (images, true_shapes) -> final detections."""

    @tf.function(input_signature=[tf.TensorSpec([1, None, None, 3], tf.float32), tf.TensorSpec([1, 2], tf.int32)])
    def detect(images: tf.Tensor, true_shapes: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = network(images, true_shapes)
        return {name: value for name, value in outputs.items() if _is_detection(name)}

    return detect


def _free_image_id(source_id: str, taken: set[int]) -> int:
    """COCO's own image id, where the record carries one of up to 64 bits that is not taken; else the next free number."""
    number = int(source_id) if source_id.isdecimal() and len(source_id) <= _MOST_DIGITS else len(taken) + 1
    while number in taken:
        number += 1
    return number


def _picture(image: npt.NDArray[np.uint8], truth: dict[str, Any], found: dict[str, Any], names: dict[int, str]) -> bytes:
    return draw_comparison(
        image,
        PictureObjects(truth["boxes_yxyx"], truth["category_ids"], truth["masks"]),
        PictureObjects(found["boxes_yxyx"], found["category_ids"], found["masks"], found["scores"]),
        names,
        title=truth["file_name"],
    )


def _is_detection(name: str) -> bool:
    return name in ("detection_boxes", "detection_scores", "detection_classes", "detection_masks", "num_detections")


def _groundtruth(record: dict[str, tf.Tensor], with_masks: bool) -> dict[str, Any]:
    height, width = record["image"].shape[:2]
    return {
        "height": height,
        "width": width,
        "boxes_yxyx": record["boxes"].numpy() * np.array([height, width, height, width]),
        "category_ids": record["category_ids"].numpy(),
        "masks": [rle_from_mask(mask) for mask in record["masks"].numpy()] if with_masks else None,
        "areas": record["areas"].numpy(),
        "is_crowd": record["is_crowd"].numpy(),
        "file_name": (record["filename"].numpy() or record["source_id"].numpy()).decode(),
    }


def _detections(outputs: dict[str, npt.NDArray[Any]], height: int, width: int, known: list[int], with_masks: bool) -> dict[str, Any]:
    """The image's detections without padding, in its own pixels and the label map's ids.

    Where the label map's ids have gaps, the model has classes that it lacks: their detections count nothing, as in the original.
    """
    ids = outputs["detection_classes"][0, : int(outputs["num_detections"][0])] + 1
    chosen = np.flatnonzero(np.isin(ids, known))
    boxes = outputs["detection_boxes"][0, chosen]
    return {
        "boxes_yxyx": boxes * np.array([height, width, height, width], np.float32),
        "scores": outputs["detection_scores"][0, chosen],
        "category_ids": ids[chosen],
        "masks": paste_masks(outputs["detection_masks"][0, chosen], boxes, height, width) if with_masks else None,
    }
