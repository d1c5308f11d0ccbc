"""Losses worked out by hand: Huber's 0.5 e^2 up to 1 and e - 0.5 beyond, log 2 for undecided logits, and the config's weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tasks.mask_rcnn import config
from tasks.mask_rcnn.losses import (
    BOX_CLASSIFICATION,
    BOX_LOCALIZATION,
    MASK,
    RPN_LOCALIZATION,
    RPN_OBJECTNESS,
    box_losses,
    hard_examples,
    mask_loss,
    rpn_losses,
)


def test_rpn_losses_are_means_over_sampled_anchors_and_images() -> None:
    outputs = {
        "rpn_box_encodings": tf.constant([[[0.0, 0, 0, 0], [9.0, 9, 9, 9]], [[0.0, 0, 0, 0]] * 2]),
        "rpn_objectness_predictions_with_background": tf.zeros([2, 2, 2]),
        "rpn_target_encodings": tf.constant([[[3.0, 1, 0, 0], [0.0, 0, 0, 0]], [[0.5, 0, 0, 0], [7.0, 7, 7, 7]]]),
        "rpn_target_box_weights": tf.constant([[1.0, 0.0], [1.0, 1.0]]),
        "rpn_target_objectness": tf.constant([[1, 0], [1, 1]]),
        "rpn_sampled": tf.constant([[1.0, 1.0], [1.0, 0.0]]),
    }
    losses = rpn_losses(outputs, config.FirstStage(localization_loss_weight=2.0, objectness_loss_weight=3.0))
    # (2.5 + 0.5) / 2 of the first image, 0.125 / 1 of the second.
    np.testing.assert_allclose(losses[RPN_LOCALIZATION], 2 * (1.5 + 0.125) / 2)
    np.testing.assert_allclose(losses[RPN_OBJECTNESS], 3 * math.log(2), rtol=1e-6)


def test_box_losses_are_means_over_an_images_proposals_and_count_no_padding() -> None:
    # Of two classes the second one's encoding counts, as the target is class 2; the second image has one proposal.
    encodings = tf.constant([[[9.0, 9, 9, 9], [0.0, 2, 0, 0]]] * 4)
    outputs = {
        "num_proposals": tf.constant([2, 1]),
        "refined_box_encodings": encodings,
        "class_predictions_with_background": tf.zeros([4, 3]),
        "target_encodings": tf.zeros([2, 2, 4]),
        "target_classes": tf.constant([[2, 0], [2, 2]]),
        "target_box_weights": tf.constant([[1.0, 0.0], [1.0, 1.0]]),
        "target_class_weights": tf.ones([2, 2]),
    }
    losses = box_losses(outputs, config.SecondStage(localization_loss_weight=2.0, classification_loss_weight=5.0))
    np.testing.assert_allclose(losses[BOX_LOCALIZATION], 2 * (1.5 / 2 + 1.5 / 1) / 2)
    np.testing.assert_allclose(losses[BOX_CLASSIFICATION], 5 * math.log(3), rtol=1e-6)


def test_sigmoid_losses_are_sums_over_all_classes_and_the_background() -> None:
    outputs = {
        "num_proposals": tf.constant([2, 1]),
        "refined_box_encodings": tf.zeros([4, 2, 4]),
        # Of background and two classes: a probability of 3/4, 1/2 and 1/4 each, whatever the others'.
        "class_predictions_with_background": tf.constant([[math.log(3), 0, -math.log(3)]] * 4),
        "target_encodings": tf.zeros([2, 2, 4]),
        "target_classes": tf.constant([[2, 0], [1, 1]]),
        "target_box_weights": tf.ones([2, 2]),
        "target_class_weights": tf.constant([[1.0, 1.0], [0.5, 1.0]]),
    }
    settings = config.SecondStage(classification_loss="weighted_sigmoid", classification_loss_weight=5.0)
    # Class 2: not background, not 1, 2. Background: background, neither 1 nor 2. Class 1: not background, 1, not 2.
    second, background, first = (-math.log(a * b * c) for a, b, c in ((1 / 4, 1 / 2, 1 / 4), (3 / 4, 1 / 2, 3 / 4), (1 / 4, 1 / 2, 3 / 4)))
    expected = 5 * ((second + background) / 2 + 0.5 * first) / 2
    np.testing.assert_allclose(box_losses(outputs, settings)[BOX_CLASSIFICATION], expected, rtol=1e-6)
    # The second image's object is of both classes.
    outputs["target_class_sets"] = tf.constant([[[0.0, 0, 1], [1.0, 0, 0]], [[0.0, 1, 1], [0.0, 1, 1]]])
    both = -math.log(1 / 4 * 1 / 2 * 1 / 4)
    expected = 5 * ((second + background) / 2 + 0.5 * both) / 2
    np.testing.assert_allclose(box_losses(outputs, settings)[BOX_CLASSIFICATION], expected, rtol=1e-6)
    # Softmax: the probabilities of logits log 3, 0 and -log 3 are 9/13, 3/13 and 1/13.
    second, background, both = math.log(13), math.log(13 / 9), math.log(13) + math.log(13 / 3)
    softmax = box_losses(outputs, config.SecondStage())[BOX_CLASSIFICATION]
    np.testing.assert_allclose(softmax, ((second + background) / 2 + 0.5 * both) / 2, rtol=1e-6)


def test_a_shared_box_is_every_classs() -> None:
    outputs = {
        "num_proposals": tf.constant([1]),
        "refined_box_encodings": tf.constant([[[0.0, 2, 0, 0]]]),
        "class_predictions_with_background": tf.zeros([1, 3]),
        "target_encodings": tf.zeros([1, 1, 4]),
        "target_classes": tf.constant([[2]]),
        "target_box_weights": tf.ones([1, 1]),
        "target_class_weights": tf.ones([1, 1]),
    }
    np.testing.assert_allclose(box_losses(outputs, config.SecondStage())[BOX_LOCALIZATION], 1.5)


def test_the_mask_loss_is_a_mean_over_all_positives_pixels() -> None:
    logits = tf.constant([0.0, math.log(3), 50.0])[:, tf.newaxis, tf.newaxis] * tf.ones([3, 2, 4])
    targets = tf.constant([0.3, 1.0, 0.0])[:, tf.newaxis, tf.newaxis] * tf.ones([3, 2, 4])
    outputs = {"mask_logits": logits, "mask_targets": targets, "mask_weights": tf.constant([1.0, 1.0, 0.0])}
    # log 2 whatever the target, and -log(3 / 4); the third is background.
    expected = 4 * (math.log(2) + math.log(4 / 3)) / 2
    np.testing.assert_allclose(mask_loss(outputs, config.MaskHead(height=2, width=4, loss_weight=4.0))[MASK], expected, rtol=1e-6)
    outputs["mask_weights"] = tf.zeros([3])
    assert mask_loss(outputs, config.MaskHead(height=2, width=4))[MASK] == 0.0


def undecided(logits: list[list[float]], **others: tf.Tensor) -> dict[str, tf.Tensor]:
    """One image of as many proposals, the first an object of class 1 and the others background, boxes as they should be."""
    count = len(logits)
    classes = tf.one_hot([0], count, dtype=tf.int32)
    outputs = {
        "num_proposals": tf.constant([count]),
        "refined_box_encodings": tf.zeros([count, 2, 4]),
        "class_predictions_with_background": tf.constant(logits),
        "target_encodings": tf.zeros([1, count, 4]),
        "target_classes": classes,
        "target_box_weights": tf.cast(classes, tf.float32),
        "target_class_weights": tf.ones([1, count]),
    }
    return outputs | others


def test_scaled_logits_are_divided_before_the_softmax() -> None:
    outputs = undecided([[0.0, 2 * math.log(3)]])
    losses = box_losses(outputs, config.SecondStage(loss_logit_scale=2.0))
    # Probabilities of 1/4 and 3/4.
    np.testing.assert_allclose(losses[BOX_CLASSIFICATION], math.log(4 / 3), rtol=1e-6)


@pytest.mark.parametrize(("alpha", "of_object", "of_background"), [(None, 1.0, 1.0), (0.25, 0.25, 0.75)])
def test_focal_loss_fades_with_the_probability_of_the_truth(alpha: float | None, of_object: float, of_background: float) -> None:
    # An object (class 1 of 1) that has a probability of 3/4, and background of 3/4: the truth has 3/4, and 1/4.
    outputs = undecided([[math.log(3), math.log(3)]])
    losses = box_losses(outputs, config.SecondStage(classification_loss="weighted_sigmoid_focal", focal_gamma=2.0, focal_alpha=alpha))
    expected = of_object * (1 / 4) ** 2 * math.log(4 / 3) + of_background * (3 / 4) ** 2 * math.log(4)
    np.testing.assert_allclose(losses[BOX_CLASSIFICATION], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        # Losses 1, 2, 3, 4 (in units of log 2 beyond the first); the last two overlap by half.
        ({}, [0, 1, 3]),
        ({"num_hard_examples": 2}, [1, 3]),
        ({"iou_threshold": 0.6}, [0, 1, 2, 3]),
        ({"iou_threshold": 0.6, "num_hard_examples": 3}, [1, 2, 3]),
        # Of the localization losses the first is the greatest.
        ({"loss_type": "LOCALIZATION", "num_hard_examples": 1}, [0]),
    ],
)
def test_hard_examples_have_the_greatest_losses_and_do_not_overlap(settings: dict[str, Any], kept: list[int]) -> None:
    proposals = tf.constant([[[0.0, 0, 9, 9], [20.0, 0, 29, 9], [40.0, 0, 50, 20], [40.0, 0, 50, 10]]])
    miner = config.HardExampleMiner(**{"loss_type": "CLASSIFICATION", "num_hard_examples": 64, "iou_threshold": 0.4, **settings})
    localization, classification = tf.constant([[5.0, 0, 0, 0]]), tf.constant([[1.0, 2, 3, 4]])
    second_stage = config.SecondStage(hard_example_miner=miner)
    hard = hard_examples(proposals, tf.constant([4]), localization, classification, second_stage)
    assert np.flatnonzero(hard[0]).tolist() == kept
    # Padding is never hard.
    hard = hard_examples(proposals, tf.constant([2]), localization, classification, second_stage)
    assert set(np.flatnonzero(hard[0])) <= {0, 1}


def test_losses_of_hard_examples_are_still_divided_by_all_proposals() -> None:
    outputs = undecided([[0.0, 0.0], [0.0, math.log(3)]], proposal_boxes=tf.constant([[[0.0, 0, 9, 9], [20.0, 0, 29, 9]]]))
    miner = config.HardExampleMiner(loss_type="BOTH", num_hard_examples=1)
    losses = box_losses(outputs, config.SecondStage(hard_example_miner=miner))
    # Background at a probability of 1/4 is harder than an object at 1/2.
    np.testing.assert_allclose(losses[BOX_CLASSIFICATION], math.log(4) / 2, rtol=1e-6)
