"""Box arithmetic. Boxes are float32 [..., 4], yxyx; every function takes any leading shape and any one unit."""

from __future__ import annotations

import tensorflow as tf

# Scales of (ty, tx, th, tw) in Faster R-CNN's box coder, and its guard against empty boxes.
_SCALES = (10.0, 10.0, 5.0, 5.0)
_EPSILON = 1e-8


def encode(boxes: tf.Tensor, anchors: tf.Tensor) -> tf.Tensor:
    """Encodings (ty, tx, th, tw), [..., 4], of `boxes` relative to `anchors` (Ren et al. 2015, with the original's scales)."""
    center_y, center_x, height, width = _centers(boxes)
    anchor_y, anchor_x, anchor_height, anchor_width = _centers(anchors)
    height, width = height + _EPSILON, width + _EPSILON
    anchor_height, anchor_width = anchor_height + _EPSILON, anchor_width + _EPSILON
    encodings = tf.stack(
        [
            (center_y - anchor_y) / anchor_height,
            (center_x - anchor_x) / anchor_width,
            tf.math.log(height / anchor_height),
            tf.math.log(width / anchor_width),
        ],
        axis=-1,
    )
    return encodings * _SCALES


def decode(encodings: tf.Tensor, anchors: tf.Tensor) -> tf.Tensor:
    """Boxes, [..., 4], that `encode` maps to `encodings`; sizes are not clamped."""
    anchor_y, anchor_x, anchor_height, anchor_width = _centers(anchors)
    ty, tx, th, tw = tf.unstack(encodings / _SCALES, axis=-1)
    height, width = tf.exp(th) * anchor_height, tf.exp(tw) * anchor_width
    y, x = ty * anchor_height + anchor_y, tx * anchor_width + anchor_x
    return tf.stack([y - height / 2, x - width / 2, y + height / 2, x + width / 2], axis=-1)


def clip(boxes: tf.Tensor, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    """`boxes` cut to the window [0, height] x [0, width]; both broadcast against [...]."""
    ymin, xmin, ymax, xmax = tf.unstack(boxes, axis=-1)
    clipped = [
        tf.clip_by_value(ymin, 0.0, height),
        tf.clip_by_value(xmin, 0.0, width),
        tf.clip_by_value(ymax, 0.0, height),
        tf.clip_by_value(xmax, 0.0, width),
    ]
    return tf.stack(clipped, axis=-1)


def area(boxes: tf.Tensor) -> tf.Tensor:
    """Areas [...]; zero for a box whose sides have crossed."""
    ymin, xmin, ymax, xmax = tf.unstack(boxes, axis=-1)
    return tf.maximum(ymax - ymin, 0.0) * tf.maximum(xmax - xmin, 0.0)


def scale(boxes: tf.Tensor, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    """`boxes` with y times `height` and x times `width`; both broadcast against [...]."""
    ymin, xmin, ymax, xmax = tf.unstack(boxes, axis=-1)
    return tf.stack([ymin * height, xmin * width, ymax * height, xmax * width], axis=-1)


def pairwise_iou(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Intersection over union of every pair, [N, M], of boxes [N, 4] and [M, 4]; zero where both are empty."""
    ymin = tf.maximum(first[:, tf.newaxis, 0], second[tf.newaxis, :, 0])
    xmin = tf.maximum(first[:, tf.newaxis, 1], second[tf.newaxis, :, 1])
    ymax = tf.minimum(first[:, tf.newaxis, 2], second[tf.newaxis, :, 2])
    xmax = tf.minimum(first[:, tf.newaxis, 3], second[tf.newaxis, :, 3])
    intersection = tf.maximum(ymax - ymin, 0.0) * tf.maximum(xmax - xmin, 0.0)
    union = area(first)[:, tf.newaxis] + area(second)[tf.newaxis, :] - intersection
    return tf.math.divide_no_nan(intersection, union)


def _centers(boxes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    ymin, xmin, ymax, xmax = tf.unstack(boxes, axis=-1)
    height, width = ymax - ymin, xmax - xmin
    return ymin + height / 2, xmin + width / 2, height, width
