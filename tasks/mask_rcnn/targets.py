"""What the two stages should have said: matching to ground truth, sampling, and targets. One image at a time, without gradient.

Whole numbers are int64 here: TensorFlow's kernels for int32 work in the host's memory, and a GPU would wait for each of them.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tasks.mask_rcnn import boxes, draws

_RPN_FOREGROUND_IOU = 0.7
_RPN_BACKGROUND_IOU = 0.3
_PROPOSAL_FOREGROUND_IOU = 0.5

UNMATCHED = -1
IGNORED = -2


class GroundTruth(NamedTuple):
    """The objects of one image: G places, some of which may be padding."""

    boxes: tf.Tensor
    """float32 [G, 4], yxyx in pixels of the resized image"""
    classes: tf.Tensor
    """int64 [G], zero-based"""
    weights: tf.Tensor
    """float32 [G]"""
    exists: tf.Tensor
    """bool [G]: false for padding, which nothing matches"""


class Targets(NamedTuple):
    """Targets of N anchors or proposals."""

    matches: tf.Tensor
    """int64 [N]: index of the matched object, UNMATCHED for background, IGNORED for neither"""
    box_encodings: tf.Tensor
    """float32 [N, 4]: encoding of the matched object; zeros elsewhere"""
    box_weights: tf.Tensor
    """float32 [N]: weight of the matched object; zero elsewhere"""
    class_weights: tf.Tensor
    """float32 [N]: weight of the matched object, one for background, zero for what is ignored"""


def rpn_targets(anchors: tf.Tensor, truth: GroundTruth) -> Targets:
    """Targets of anchors [N, 4]: objects at an IoU of 0.7, background below 0.3, and every object's best anchor whatever its IoU.

    An object of weight zero matches like any other, but is not forced upon its best anchor.

    Of several best anchors the first is taken; of several objects with the same best anchor the first object.
    """
    return _targets(anchors, truth, _RPN_FOREGROUND_IOU, _RPN_BACKGROUND_IOU, every_object_matches=True)


def proposal_targets(proposals: tf.Tensor, truth: GroundTruth) -> Targets:
    """Targets of proposals [N, 4]: the best object at an IoU of 0.5, otherwise background."""
    return _targets(proposals, truth, _PROPOSAL_FOREGROUND_IOU, _PROPOSAL_FOREGROUND_IOU, every_object_matches=False)


def filled(eligible: tf.Tensor, size: int) -> tf.Tensor:
    """The `eligible`, bool [N], and where these are fewer than `size`, others in their order: the original's sampler for fixed shapes."""
    missing = size - tf.math.count_nonzero(eligible)
    return eligible | (tf.cumsum(tf.cast(~eligible, tf.int64)) <= missing)


def occupied(counts: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
    """Bool [B, places], true in the first `counts` [B], whole numbers, of each row; `tf.sequence_mask`, but for the device."""
    return tf.cast(tf.range(places), tf.int64) < tf.cast(counts, tf.int64)[:, tf.newaxis]


def sample(positive: tf.Tensor, eligible: tf.Tensor, size: int, positive_fraction: float, seed: tf.Tensor, stream: int) -> tf.Tensor:
    """A random subset of at most `size` of the `eligible`, bool [N], at most `positive_fraction` of it `positive`; bool [N].

    Negatives fill what positives leave free. The draw follows from the image's `seed`, int32 [2], and the stream, one of `draws`.
    """
    positive = positive & eligible
    most = int(size * positive_fraction)
    sampled_positive = draws.random_subset(positive, most, most, seed, stream)
    left = size - tf.math.count_nonzero(sampled_positive)
    # Positives and negatives are different places of one list of random numbers.
    return sampled_positive | draws.random_subset(eligible & ~positive, left, size, seed, stream)


def _targets(
    anchors: tf.Tensor, truth: GroundTruth, foreground_iou: float, background_iou: float, *, every_object_matches: bool
) -> Targets:
    # A row of -1 stands for "no object": it wins where there are none, and is background by its IoU.
    iou = tf.where(truth.exists[:, tf.newaxis], boxes.pairwise_iou(truth.boxes, anchors), -1.0)
    best = tf.argmax(tf.pad(iou, [[0, 1], [0, 0]], constant_values=-1.0), axis=0)
    best_iou = tf.reduce_max(tf.pad(iou, [[0, 1], [0, 0]], constant_values=-1.0), axis=0)
    matches = tf.where(best_iou >= foreground_iou, best, IGNORED)
    matches = tf.where(best_iou < background_iou, tf.constant(UNMATCHED, tf.int64), matches)
    if every_object_matches:
        places, count = tf.shape(iou)[0], tf.shape(iou)[1]
        nobody = tf.cast(places, tf.int64)
        # One more anchor, that no object prefers to any other: an image can be too small to hold a single one.
        best_anchor = tf.argmax(tf.pad(iou, [[0, 0], [0, 1]], constant_values=-1.0), axis=1)
        # The smallest object index wins an anchor that is the best of several; objects without weight force nothing.
        bids = tf.where((truth.weights > 0) & truth.exists, tf.cast(tf.range(places), tf.int64), nobody)
        forced = tf.tensor_scatter_nd_min(tf.fill([count + 1], nobody), best_anchor[:, tf.newaxis], bids)[:count]
        matches = tf.where(forced < nobody, forced, matches)
    matched = matches >= 0
    indices = tf.maximum(matches, 0)
    # One more object of zeros, so that an image without objects can be gathered from.
    matched_boxes = tf.gather(tf.pad(truth.boxes, [[0, 1], [0, 0]]), indices)
    weights = tf.where(matched, tf.gather(tf.pad(truth.weights, [[0, 1]]), indices), 0.0)
    return Targets(
        matches=matches,
        box_encodings=tf.where(
            matched[:, tf.newaxis],
            boxes.encode(tf.where(matched[:, tf.newaxis], matched_boxes, anchors), anchors),
            0.0,
        ),
        box_weights=weights,
        class_weights=tf.where(matches == UNMATCHED, 1.0, weights),
    )
