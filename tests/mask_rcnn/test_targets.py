"""Anchors, encodings and matching by hand."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tasks.mask_rcnn import boxes, config, draws
from tasks.mask_rcnn.anchors import grid_anchors
from tasks.mask_rcnn.targets import IGNORED, UNMATCHED, GroundTruth, filled, proposal_targets, rpn_targets, sample


def truth(*objects: list[float]) -> GroundTruth:
    count = len(objects)
    boxes_yxyx = tf.reshape(tf.constant(objects, tf.float32), [count, 4])
    return GroundTruth(boxes_yxyx, tf.range(count, dtype=tf.int64), tf.ones([count]), tf.fill([count], True))


def test_anchor_order_and_coordinates() -> None:
    generator = config.GridAnchorGenerator(
        scales=(0.5, 1.0), aspect_ratios=(1.0, 4.0), height=8, width=8, height_stride=10, width_stride=20
    )
    anchors = grid_anchors(1, 2, generator).numpy()
    # Ratio 1 at both scales, then ratio 4 (half as high, twice as wide); the second cell lies 20 pixels to the right.
    first = np.array([[-2, -2, 2, 2], [-4, -4, 4, 4], [-1, -4, 1, 4], [-2, -8, 2, 8]])
    to_the_right = np.array([0, 20, 0, 20])
    np.testing.assert_array_equal(anchors, np.concatenate([first, first + to_the_right]))


def test_encoding_by_hand_and_back() -> None:
    anchor, box = tf.constant([[0.0, 0.0, 10.0, 20.0]]), tf.constant([[5.0, 0.0, 15.0, 40.0]])
    # The centre moves by half a height and half a width; the width doubles.
    np.testing.assert_allclose(boxes.encode(box, anchor), [[5.0, 5.0, 0.0, 5 * np.log(2)]], atol=1e-6)
    np.testing.assert_allclose(boxes.decode(boxes.encode(box, anchor), anchor), box, atol=1e-5)


def test_rpn_matches_ignores_and_forces() -> None:
    anchors = tf.constant([[0, 0, 10, 10], [0, 0, 10, 5], [50, 50, 60, 60], [0, 0, 10, 2.5], [100, 100, 110, 110]], tf.float32)
    # Object 0 equals anchor 0, half covers anchor 1 (IoU 0.5: ignored), a quarter of anchor 3 (background).
    # Object 1 touches only anchor 2, at an IoU of 1/7, and is forced upon it.
    targets = rpn_targets(anchors, truth([0, 0, 10, 10], [55, 55, 60, 65]))
    assert targets.matches.numpy().tolist() == [0, IGNORED, 1, UNMATCHED, UNMATCHED]
    assert targets.class_weights.numpy().tolist() == [1, 0, 1, 1, 1]
    assert targets.box_weights.numpy().tolist() == [1, 0, 1, 0, 0]


def test_two_objects_with_one_best_anchor_leave_it_to_the_first() -> None:
    anchors = tf.constant([[0, 0, 10, 10], [90, 90, 99, 99]], tf.float32)
    targets = rpn_targets(anchors, truth([0, 0, 10, 4], [0, 0, 10, 5]))
    assert targets.matches.numpy().tolist() == [0, UNMATCHED]


def test_an_image_without_objects_is_all_background() -> None:
    for match in (rpn_targets, proposal_targets):
        targets = match(tf.constant([[0.0, 0.0, 5.0, 5.0]]), truth())
        assert targets.matches.numpy().tolist() == [UNMATCHED]
        assert targets.box_encodings.numpy().tolist() == [[0, 0, 0, 0]]


def test_padding_is_no_object() -> None:
    anchors = tf.constant([[0, 0, 10, 10], [50, 50, 60, 60]], tf.float32)
    padded = truth([0, 0, 10, 10], [50, 50, 60, 60])._replace(exists=tf.constant([True, False]))
    for match in (rpn_targets, proposal_targets):
        assert match(anchors, padded).matches.numpy().tolist() == [0, UNMATCHED]


def test_sampling_keeps_to_its_limits_and_fills_with_negatives() -> None:
    positive = tf.constant([True] * 6 + [False] * 10)
    eligible = tf.constant([True] * 15 + [False])
    sampled = sample(positive, eligible, 8, 0.25, tf.constant([0, 0]), draws.ANCHORS).numpy()
    assert (sampled[:6].sum(), sampled[6:].sum(), sampled[15]) == (2, 6, False)


def test_too_few_candidates_are_filled_up_in_order() -> None:
    eligible = tf.constant([False, True, False, False, True, False])
    assert filled(eligible, 4).numpy().tolist() == [True, True, True, False, True, False]
    assert filled(eligible, 2).numpy().tolist() == eligible.numpy().tolist()
    assert filled(eligible, 9).numpy().tolist() == [True] * 6
