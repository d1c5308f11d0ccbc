"""A network measured on records: COCO's figures, the matches, detections and ground truth behind them, and pictures of some."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tasks.evaluation.batches import Batch, batches_of_one_size
from tasks.evaluation.image_results import Job, NetworkOutput, Settings, image_result
from tasks.evaluation.parts import Parts
from tasks.evaluation.results import measured, write_results
from tasks.input.batches import record_files
from tasks.input.config import DataConfig
from tasks.input.record_faults import faulty_records_named
from tasks.mask_rcnn.model import MaskRCNN
from tasks.records.label_map import read_label_map
from tasks.running.errors import UserError
from tasks.running.progress import Progress
from tasks.running.workers import Workers

Detector = Callable[[Any, Any], dict[str, tf.Tensor]]

_JOBS_AHEAD = 4
"""Images for each worker that may be under way."""


def measure(
    network: MaskRCNN,
    data: DataConfig,
    folder: Path,
    *,
    workers: Workers | None = None,
    batch_size: int | None = None,
    about: Mapping[str, Any] | None = None,
    detect: Detector | None = None,
) -> dict[str, Any]:
    """The figures over the records of `data`; the files beside them go to `folder`, which is there and empty.

    `workers` paste, encode and match while the network goes on; without any, this process does. `batch_size` images of one size go
    through the network at once, by default `data.global_batch_size`. `about` goes into the matches' file. `detect` is `detector(network)`,
    for who measures one network several times and would have it built once.
    """
    parts = parts_of(network, data, folder / ".parts")
    speeds = detect_parts(detect or detector(network), network, data, parts, parts.missing(), workers=workers, batch_size=batch_size)
    found = measured(write_results(parts, folder, about or {}))
    parts.remove()
    return found | {"seconds_per_image": float(np.median(speeds))}


def parts_of(network: MaskRCNN, data: DataConfig, folder: Path) -> Parts:
    """The parts, written or not, in which the network is measured; UserError where it finds nothing that can be."""
    if network.config.number_of_stages == 1:
        raise UserError("the config has number_of_stages 1: proposals have no classes to evaluate", "set it to 2 or 3")
    settings = Settings(read_label_map(Path(data.label_map_path)), with_masks=network.config.number_of_stages == 3)
    return Parts(folder, record_files(data), settings)


def detect_parts(
    detect: Detector,
    network: MaskRCNN,
    data: DataConfig,
    parts: Parts,
    numbers: list[int],
    *,
    workers: Workers | None = None,
    batch_size: int | None = None,
    images: int | None = None,
) -> list[float]:
    """Writes the parts of these numbers; the network's seconds per image in each batch come back. `images`: how many there will be."""
    workers = workers or Workers(1, image_result.__module__)
    progress, seconds = Progress("evaluated", images), []

    def timed(batches: Iterator[Batch], where: str) -> Iterator[Job]:
        for batch in batches:
            started = time.monotonic()
            outputs = {name: value.numpy() for name, value in detect(batch.images, batch.true_shapes).items()}
            seconds.append((time.monotonic() - started) / len(batch.records))
            for row, index in enumerate(batch.indices):
                yield Job(index, batch.records[row], f"{where}: record {index}", batch.sizes[row], _of_image(outputs, row))

    with faulty_records_named(data):
        for number in numbers:
            file = parts.files[number]
            batches = batches_of_one_size(file, network.config.image_resizer, batch_size or data.global_batch_size)
            results = workers.stream(partial(image_result, parts.settings), timed(batches, file), _JOBS_AHEAD)
            parts.write(number, progress.over(results))
    # The first batch compiles.
    return seconds[1:] or seconds


def detector(network: MaskRCNN) -> Detector:
    """The network as a graph that is traced once, for images of any size and number: (images, true_shapes) -> final detections.

    It computes with the weights that the network has when it is called.
    """

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32), tf.TensorSpec([None, 2], tf.int32)])
    def detect(images: tf.Tensor, true_shapes: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = network(images, true_shapes)
        return {name: value for name, value in outputs.items() if name in _DETECTIONS}

    return detect


_DETECTIONS = ("detection_boxes", "detection_scores", "detection_classes", "detection_masks", "num_detections")


def _of_image(outputs: Mapping[str, Any], row: int) -> NetworkOutput:
    count = int(outputs["num_detections"][row])
    boxes, scores, classes = (outputs[f"detection_{name}"][row, :count] for name in ("boxes", "scores", "classes"))
    masks = outputs.get("detection_masks")
    return NetworkOutput(boxes, scores, classes, None if masks is None else masks[row, :count])
