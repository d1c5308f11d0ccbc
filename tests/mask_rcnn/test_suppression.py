"""Which boxes remain as proposals and as detections, by thresholds and limits, counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from tasks.mask_rcnn import config
from tasks.mask_rcnn.detections import detect
from tasks.mask_rcnn.proposals import propose

# B covers half of A, which is an IoU of 0.5; C is apart; D lies outside of the image of 40 x 40. Zero encodings leave them as they are.
A, B, C, D = [0.0, 0, 20, 20], [0.0, 0, 10, 20], [30.0, 30, 44, 36], [50.0, 0, 60, 10]
BOXES = tf.constant([A, B, C, D])
C_CLIPPED = [30.0, 30, 40, 36]


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [A, B, C_CLIPPED]),
        ({"nms_iou_threshold": 0.4}, [A, C_CLIPPED]),
        ({"nms_score_threshold": 0.65}, [A, B]),
        # D takes one of the three places, and then goes.
        ({"max_proposals": 3}, [A, B]),
    ],
)
def test_proposals(settings: dict[str, float], expected: list[list[float]]) -> None:
    scores = [0.9, 0.7, 0.6, 0.8]
    objectness = tf.constant([[[0.0, logit(score)] for score in scores]])
    first_stage = config.FirstStage(**{"max_proposals": 5, **settings})
    boxes, found_scores, counts = propose(tf.zeros([1, 4, 4]), objectness, BOXES, tf.constant([[40, 40]]), first_stage)
    places = first_stage.max_proposals
    np.testing.assert_allclose(boxes, [expected + [[0.0] * 4] * (places - len(expected))], atol=1e-5)
    assert counts.numpy().tolist() == [len(expected)]
    assert np.count_nonzero(found_scores) == len(expected)


@pytest.mark.parametrize(
    ("partitioned", "training", "expected"),
    [
        # E, wholly above and left of the image, takes the first of two places, and goes.
        (False, True, [A]),
        (True, False, [A]),
        # B's IoU with A is exactly the threshold.
        (True, True, [A, C_CLIPPED]),
    ],
)
def test_proposals_of_fixed_shapes(partitioned: bool, training: bool, expected: list[list[float]]) -> None:
    boxes = tf.constant([A, B, C, [-20.0, -20, -1, 0]])
    objectness = tf.constant([[[0.0, logit(score)] for score in (0.9, 0.7, 0.6, 0.95)]])
    first_stage = config.FirstStage(max_proposals=2, nms_iou_threshold=0.5, partitioned_nms=partitioned)
    found, _, counts = propose(tf.zeros([1, 4, 4]), objectness, boxes, tf.constant([[40, 40]]), first_stage, training)
    np.testing.assert_allclose(found[0, : counts[0]], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # (class, proposal) by score; suppression at 0.6 knows no other class's boxes.
        ({}, [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)]),
        ({"nms_iou_threshold": 0.4}, [(0, 0), (1, 0), (0, 2), (1, 2)]),
        ({"nms_score_threshold": 0.25}, [(0, 0), (1, 0), (0, 1)]),
        ({"max_detections_per_class": 1}, [(0, 0), (1, 0)]),
        ({"max_total_detections": 3}, [(0, 0), (1, 0), (0, 1)]),
    ],
)
def test_detections(settings: dict[str, float], expected: list[tuple[int, int]]) -> None:
    # Background, class 0, class 1, for A, B and C; D is padding, though of the highest score.
    probabilities = tf.constant([[0.2, 0.45, 0.35], [0.46, 0.3, 0.24], [0.7, 0.2, 0.1], [0.1, 0.9, 0.0001]])
    second_stage = config.SecondStage(**{"max_total_detections": 8, **settings})
    found = detect(
        tf.zeros([1, 4, 2, 4]),
        tf.math.log(probabilities)[tf.newaxis],
        BOXES[tf.newaxis],
        tf.constant([3]),
        tf.constant([[40, 40]]),
        second_stage,
    )
    count = len(expected)
    assert found["num_detections"].numpy().tolist() == [count]
    assert found["detection_boxes"].shape == (1, second_stage.max_total_detections, 4)
    pairs = zip(found["detection_classes"][0, :count], found["detection_anchor_indices"][0, :count], strict=True)
    assert [(int(kind), int(proposal)) for kind, proposal in pairs] == expected
    clipped = np.array([A, B, C_CLIPPED]) / 40
    np.testing.assert_allclose(found["detection_boxes"][0, :count], [clipped[proposal] for _, proposal in expected], atol=1e-6)
    scores = [probabilities[proposal, 1 + kind] for kind, proposal in expected]
    np.testing.assert_allclose(found["detection_scores"][0, :count], scores, rtol=1e-5)


@pytest.mark.parametrize("shared", [False, True])
def test_equal_scores_come_by_class_then_by_proposal_and_the_first_suppresses(shared: bool) -> None:
    # Proposals 0 and 2 are A, 1 and 3 are C: of the two of each class the first is left, whatever there is to choose from.
    found = detect(
        tf.zeros([1, 4, 1 if shared else 3, 4]),
        tf.zeros([1, 4, 4]),
        tf.constant([[A, C, A, C]]),
        tf.constant([4]),
        tf.constant([[40, 40]]),
        config.SecondStage(score_converter="SIGMOID", max_total_detections=5),
    )
    assert found["detection_classes"].numpy().tolist() == [[0, 0, 1, 1, 2]]
    assert found["detection_anchor_indices"].numpy().tolist() == [[0, 1, 0, 1, 0]]


def test_a_limit_per_class_keeps_the_first_of_equals() -> None:
    found = detect(
        tf.zeros([1, 3, 1, 4]),
        tf.zeros([1, 3, 2]),
        tf.constant([[C, B, D]]),
        tf.constant([3]),
        tf.constant([[40, 40]]),
        config.SecondStage(score_converter="SIGMOID", max_detections_per_class=2, max_total_detections=3),
    )
    assert found["num_detections"].numpy().tolist() == [2]
    assert found["detection_anchor_indices"].numpy().tolist() == [[0, 1, 0]]


def test_sigmoid_scores_are_each_class_s_own() -> None:
    # Background, class 0, class 1 of C: they need not sum to one, and the background, though the surest, is no class.
    probabilities = [0.9, 0.8, 0.3]
    found = detect(
        tf.zeros([1, 1, 2, 4]),
        tf.constant([[[logit(probability) for probability in probabilities]]]),
        tf.constant([[C]]),
        tf.constant([1]),
        tf.constant([[40, 40]]),
        config.SecondStage(score_converter="SIGMOID", max_total_detections=2),
    )
    assert found["detection_classes"].numpy().tolist() == [[0, 1]]
    np.testing.assert_allclose(found["detection_scores"], [[0.8, 0.3]], rtol=1e-5)
    np.testing.assert_allclose(found["detection_multiclass_scores"], [[probabilities] * 2], rtol=1e-5)
