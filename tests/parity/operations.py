"""The original's operations without a network, in `ops.npz`: resizing, proposals, crops and detections of padded batches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tasks.input.image_resizer import resize_image, resize_rulers
from tasks.input.rulers import Rulers
from tasks.mask_rcnn import boxes, config
from tasks.mask_rcnn.crop import crop_and_pool
from tasks.mask_rcnn.detections import detect
from tasks.mask_rcnn.proposals import propose
from tests.parity.deviation import EXACT, STAGE_1, Deviation, in_spreads

# What each computation of the file was run with, beyond what it stores.
_PROPOSALS = config.FirstStage(max_proposals=60)
_DETECTIONS = config.SecondStage(max_detections_per_class=20, max_total_detections=50)


def operation_deviations(path: Path) -> Iterator[Deviation]:
    """Rows for every result that the file holds."""
    stored = dict(np.load(path))
    for key, ours, kind in (*_resizing(stored), *_proposals(stored), *_crops(stored), *_detections(stored)):
        spread = 0.0 if kind == EXACT else np.std(stored[key], dtype=np.float64)
        yield Deviation(key, in_spreads(ours, stored[key], spread), kind)


Result = tuple[str, Any, str]


def _resizing(stored: dict[str, Any]) -> Iterator[Result]:
    for case in sorted({key.split("/")[1] for key in stored if key.startswith("resize/")}):
        _, _, shortest, longest, pad = stored[f"resize/{case}/args"].tolist()
        resizer = config.ImageResizer(min_dimension=shortest, max_dimension=longest, pad_to_max_dimension=bool(pad))
        image, size = resize_image(tf.constant(stored[f"resize/{case}/image_in"]), resizer)
        yield f"resize/{case}/image", image, STAGE_1
        yield f"resize/{case}/true_shape", [*size, 3], EXACT
        yield f"resize/{case}/masks", _through_rulers(stored[f"resize/{case}/masks_in"], resizer), EXACT


def _through_rulers(masks: Any, resizer: config.ImageResizer) -> Any:
    """Masks [N, H, W] on the grid of the resized and padded image; the rulers' lines count from 1, and line 0 shows nothing."""
    rulers = resize_rulers(Rulers.of(*masks.shape[1:]), resizer)
    return np.pad(masks, [(0, 0), (1, 0), (1, 0)])[:, rulers.rows.numpy()][:, :, rulers.columns.numpy()]


def _proposals(stored: dict[str, Any]) -> Iterator[Result]:
    proposals, scores, counts = propose(
        tf.constant(stored["rpn/box_encodings"]),
        tf.constant(stored["rpn/objectness"]),
        tf.constant(stored["rpn/anchors_unclipped"]),
        tf.constant(stored["rpn/true_image_shapes"][:, :2]),
        _PROPOSALS,
    )
    height, width = tf.unstack(tf.constant(stored["rpn/image_shapes"][0, :2], tf.float32))
    yield "rpn/proposal_boxes_normalized", boxes.scale(proposals, 1.0 / height, 1.0 / width), STAGE_1
    yield "rpn/proposal_scores", scores, STAGE_1
    yield "rpn/num_proposals", counts, EXACT


def _crops(stored: dict[str, Any]) -> Iterator[Result]:
    features, at = tf.constant(stored["crop/features"]), tf.constant(stored["crop/boxes"])
    unpooled = config.SecondStage(maxpool_kernel_size=1, maxpool_stride=1)
    yield "crop/crops", tf.reshape(crop_and_pool(features, at, unpooled), stored["crop/crops"].shape), STAGE_1
    yield "crop/pooled", crop_and_pool(features, at, config.SecondStage()), STAGE_1


def _detections(stored: dict[str, Any]) -> Iterator[Result]:
    proposals = tf.constant(stored["det/proposal_boxes_absolute"])
    batch, count = proposals.shape[:2]
    encodings, logits = stored["det/refined_box_encodings"], stored["det/class_predictions_with_background"]
    found = detect(
        tf.reshape(encodings, [batch, count, *encodings.shape[1:]]),
        tf.reshape(logits, [batch, count, *logits.shape[1:]]),
        proposals,
        tf.constant(stored["det/num_proposals"]),
        tf.constant(stored["det/true_image_shapes"][:, :2]),
        _DETECTIONS,
    )
    for name in ("boxes", "scores"):
        yield f"det/detection_{name}", found[f"detection_{name}"], STAGE_1
    for name in ("detection_classes", "detection_anchor_indices", "num_detections"):
        yield f"det/{name}", found[name], EXACT
