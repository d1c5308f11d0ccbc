"""One object of several classes out of several objects with one box, by hand, and what a step makes of it."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tasks.input.merged_boxes import merge_equal_boxes
from tasks.mask_rcnn import config
from tasks.mask_rcnn.losses import BOX_CLASSIFICATION
from tasks.mask_rcnn.model import MaskRCNN


def test_equal_boxes_are_one_object_of_all_their_classes() -> None:
    left, right = [0.1, 0.2, 0.5, 0.6], [0.1, 0.2, 0.5, 0.7]
    # The third differs from the first by less than a ten-thousandth of the image.
    boxes = tf.constant([left, right, [0.1, 0.2, 0.50001, 0.6], left])
    objects = {
        "boxes": boxes,
        "classes": tf.constant([3, 1, 0, 3]),
        "weights": tf.constant([0.5, 1.0, 0.25, 1.0]),
        "masks": tf.reshape(tf.range(4, dtype=tf.int32), [4, 1, 1]),
    }
    merged = merge_equal_boxes(objects, 4)
    np.testing.assert_array_equal(merged["boxes"], boxes[:2])
    np.testing.assert_array_equal(merged["class_sets"], [[1, 0, 0, 1], [0, 1, 0, 0]])
    assert merged["classes"].numpy().tolist() == [0, 1]
    assert merged["weights"].numpy().tolist() == [0.5, 1.0]
    assert merged["masks"].numpy().ravel().tolist() == [0, 1]


def test_an_image_without_objects_stays_one() -> None:
    merged = merge_equal_boxes({"boxes": tf.zeros([0, 4]), "classes": tf.zeros([0], tf.int32)}, 4)
    assert merged["class_sets"].shape == (0, 4)
    assert merged["classes"].shape == (0,)


def test_a_step_learns_all_classes_of_an_object() -> None:
    model = MaskRCNN(
        config.MaskRCNN(
            num_classes=3,
            number_of_stages=2,
            feature_extractor=config.FeatureExtractor(type="faster_rcnn_inception_v2"),
            anchors=config.GridAnchorGenerator(height=32, width=32),
            first_stage=config.FirstStage(max_proposals=9),
            second_stage=config.SecondStage(batch_size=9, classification_loss="weighted_sigmoid"),
        )
    )
    images, shapes = tf.random.stateless_uniform([1, 64, 64, 3], [0, 1], 0, 255), tf.constant([[64, 64]])
    # The object is a proposal, so that at least that one matches it; the label map ends at the second class.
    box = model.propose(images, shapes, training=True)["proposal_boxes"][:, :1] / 64
    truth = {"boxes": box, "classes": tf.constant([[0]]), "num_boxes": tf.constant([1]), "weights": tf.ones([1, 1])}
    truth["seeds"] = tf.constant([[0, 0]])
    outputs = model(images, shapes, truth | {"class_sets": tf.constant([[[1.0, 1.0]]])}, training=True)
    sets, classes = outputs["target_class_sets"].numpy()[0], outputs["target_classes"].numpy()[0]
    assert 1 in classes
    np.testing.assert_array_equal(sets, [[0, 1, 1, 0] if one else [1, 0, 0, 0] for one in classes])
    assert np.isfinite(model.compute_losses(outputs)[BOX_CLASSIFICATION])
