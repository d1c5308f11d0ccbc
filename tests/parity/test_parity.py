"""The models against the original's stored tensors. The two cheapest run always; `make parity` runs all and writes the table."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tasks.mask_rcnn import config
from tasks.mask_rcnn.crop import crop_and_pool
from tasks.mask_rcnn.detections import detect
from tasks.mask_rcnn.model import MaskRCNN
from tasks.mask_rcnn.original_names import original_variables
from tasks.mask_rcnn.proposals import propose
from tests.parity.comparison import (
    REFERENCES,
    Reference,
    inference_deviations,
    training_deviations,
    zoo_model,
)

MODELS = [
    "resnet50",
    "inception_v2",
    pytest.param("resnet101", marks=pytest.mark.slow),
    pytest.param("inception_resnet_v2", marks=pytest.mark.slow),
]


def reference(name: str) -> Reference:
    return Reference(REFERENCES / f"{name}_small.npz")


@pytest.mark.parametrize("name", MODELS)
def test_variables_are_the_originals_but_for_the_unused_block4(name: str) -> None:
    ours = {key: tuple(value.shape) for key, value in original_variables(MaskRCNN(zoo_model(reference(name)))).items()}
    original = {
        key: shape
        for key, shape in reference(name).variables().items()
        if not (key.startswith("FirstStageFeatureExtractor/") and "/block4/" in key)
    }
    assert ours == original


@pytest.mark.parametrize("name", MODELS)
def test_every_stored_tensor_of_inference(name: str) -> None:
    assert [row for row in inference_deviations(reference(name)) if not row.holds] == []


@pytest.mark.parametrize("name", MODELS)
def test_losses_gradients_and_trajectory(name: str) -> None:
    assert [row for row in training_deviations(reference(name)) if not row.holds] == []


@pytest.fixture(scope="module")
def operations() -> dict[str, np.ndarray]:
    return dict(np.load(REFERENCES / "ops.npz"))


def test_proposals_of_a_padded_batch(operations: dict[str, np.ndarray]) -> None:
    proposals, scores, counts = propose(
        tf.constant(operations["rpn/box_encodings"]),
        tf.constant(operations["rpn/objectness"]),
        tf.constant(operations["rpn/anchors_unclipped"]),
        tf.constant(operations["rpn/true_image_shapes"][:, :2]),
        config.FirstStage(max_proposals=60),
    )
    np.testing.assert_array_equal(counts, operations["rpn/num_proposals"])
    height, width = operations["rpn/image_shapes"][0, :2]
    np.testing.assert_allclose(
        proposals / np.float32([height, width, height, width]), operations["rpn/proposal_boxes_normalized"], atol=1e-6
    )
    np.testing.assert_allclose(scores, operations["rpn/proposal_scores"], atol=1e-6)


def test_crops_and_their_pooling(operations: dict[str, np.ndarray]) -> None:
    pooled = crop_and_pool(tf.constant(operations["crop/features"]), tf.constant(operations["crop/boxes"]), config.SecondStage())
    np.testing.assert_allclose(pooled, operations["crop/pooled"], atol=1e-6)


def test_detections_of_many_classes_in_a_padded_batch(operations: dict[str, np.ndarray]) -> None:
    settings = config.SecondStage(max_detections_per_class=20, max_total_detections=50)
    found = detect(
        tf.reshape(operations["det/refined_box_encodings"], [2, 60, 90, 4]),
        tf.reshape(operations["det/class_predictions_with_background"], [2, 60, 91]),
        tf.constant(operations["det/proposal_boxes_absolute"]),
        tf.constant(operations["det/num_proposals"]),
        tf.constant(operations["det/true_image_shapes"][:, :2], tf.int32),
        settings,
    )
    for name, tolerance in (("boxes", 1e-5), ("scores", 1e-6), ("classes", 0)):
        np.testing.assert_allclose(found[f"detection_{name}"], operations[f"det/detection_{name}"], atol=tolerance)
    np.testing.assert_array_equal(found["num_detections"], operations["det/num_detections"])
