"""Two answers to the same image, detection by detection: how far what was exported agrees with its checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from pycocotools import mask as pycoco

from tasks.coco.paste import paste_masks
from tasks.mask_rcnn.model import MaskRCNN
from tasks.serving.signatures import INPUTS, resized_images, served_outputs

Arrays = dict[str, npt.NDArray[Any]]

TOLERANCE = 1e-4
"""Of scores, of boxes as shares of the image, and of all else as shares of its largest value."""
LEAST_IOU = 0.999
"""Of masks, pasted into their image."""


@dataclass
class Agreement:
    """Counts of images, of the checkpoint's `detections`, and of those that agree in class, score, box and mask; how far these differ."""

    images: int = 0
    detections: int = 0
    agreeing: int = 0
    score_difference: float = 0.0
    box_difference: float = 0.0
    least_mask_iou: float = 1.0

    def add(self, expected: Arrays, got: Arrays, size: tuple[int, ...]) -> bool:
        """Counts an image of `size` (height, width, in pixels); whether there is nothing on either side that the other has not."""
        agreeing, iou = _with_equal_masks(matched(expected, got), expected, got, size)
        self.images += 1
        self.detections += int(expected["num_detections"])
        self.agreeing += len(agreeing)
        self.score_difference = max([self.score_difference, *(_difference(expected, got, pair, "score") for pair in agreeing)])
        self.box_difference = max([self.box_difference, *(_difference(expected, got, pair, "box") for pair in agreeing)])
        self.least_mask_iou = min(self.least_mask_iou, iou)
        return len(agreeing) == max(int(expected["num_detections"]), int(got["num_detections"]))


def agreement(
    network: MaskRCNN, exported: Callable[[tf.Tensor], dict[str, tf.Tensor]], images: Iterable[npt.NDArray[np.uint8]]
) -> tuple[Agreement, bool]:
    """How far a SavedModel agrees with the network on images uint8 [H, W, 3], and whether it does in all that either finds.

    `exported` answers a batch of images. The network runs as a graph, as the SavedModel does: TensorFlow rounds alike then.
    """
    spec, _ = INPUTS["image_tensor"]

    @tf.function(input_signature=[spec])
    def own(batch: tf.Tensor) -> dict[str, tf.Tensor]:
        return served_outputs(network, *resized_images(batch, "image_tensor", network.config.image_resizer))

    found, all_agree = Agreement(), True
    for image in images:
        batch = tf.constant(image[np.newaxis])
        expected, got = ({name: value.numpy()[0] for name, value in answer(batch).items()} for answer in (own, exported))
        all_agree &= found.add(expected, got, image.shape[:2])
    return found, all_agree


def matched(expected: Arrays, got: Arrays) -> list[tuple[int, int]]:
    """Pairs of detections of one image, by place, that agree in class, score and box; each has one partner at most."""
    pairs = []
    free = np.arange(int(got["num_detections"]))
    for index in range(int(expected["num_detections"])):
        close = (
            (got["detection_classes"][free] == expected["detection_classes"][index])
            & (np.abs(got["detection_scores"][free] - expected["detection_scores"][index]) <= TOLERANCE)
            & (np.abs(got["detection_boxes"][free] - expected["detection_boxes"][index]).max(axis=1, initial=0) <= TOLERANCE)
        )
        places = np.flatnonzero(close)
        if places.size:
            # Of several, the one at the same place, or the next to it.
            place = places[np.abs(free[places] - index).argmin()]
            pairs.append((index, int(free[place])))
            free = np.delete(free, place)
    return pairs


def _with_equal_masks(
    pairs: list[tuple[int, int]], expected: Arrays, got: Arrays, size: tuple[int, ...]
) -> tuple[list[tuple[int, int]], float]:
    """The pairs whose masks agree too, and the least of their overlaps."""
    if "detection_masks" not in expected or not pairs:
        return pairs, 1.0
    ours, theirs = (list(places) for places in zip(*pairs, strict=True))
    shares = overlaps(expected["detection_masks"][ours], got["detection_masks"][theirs], expected["detection_boxes"][ours], size)
    agreeing = [pair for pair, share in zip(pairs, shares, strict=True) if share > LEAST_IOU]
    return agreeing, min((share for share in shares if share > LEAST_IOU), default=1.0)


def overlaps(masks: npt.NDArray[Any], others: npt.NDArray[Any], boxes: npt.NDArray[Any], size: tuple[int, ...]) -> list[float]:
    """The IoU of each mask with its other, both pasted at the same box; 1 where neither has a pixel."""
    found = []
    for one, other in zip(*(paste_masks(each, boxes, *size) for each in (masks, others)), strict=True):
        empty = not pycoco.area(one) and not pycoco.area(other)
        found.append(1.0 if empty else float(pycoco.iou([one], [other], [0])[0, 0]))
    return found


def _difference(expected: Arrays, got: Arrays, pair: tuple[int, int], name: str) -> float:
    key = {"score": "detection_scores", "box": "detection_boxes"}[name]
    return float(np.abs(expected[key][pair[0]] - got[key][pair[1]]).max())
