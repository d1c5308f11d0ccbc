"""A batch of images of different sizes against the same images one by one; and the same batch in bfloat16 and compiled by XLA."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from official.core import config_definitions as cfg

from tasks.input.image_resizer import resize_image
from tasks.mask_rcnn import config
from tasks.mask_rcnn.model import MaskRCNN, Tensors
from tasks.training.experiment import MaskRCNNTask
from tasks.training.loop import compile_networks_only
from tests.parity.reference import weighted

PROPOSALS = 12
# Whatever is sampled at random is sampled whole, so that a batch and its images see the same.
SETTINGS = config.MaskRCNN(
    num_classes=4,
    feature_extractor=config.FeatureExtractor(type="faster_rcnn_inception_v2"),
    anchors=config.GridAnchorGenerator(height=64, width=64),
    first_stage=config.FirstStage(max_proposals=PROPOSALS, minibatch_size=1_000_000),
    second_stage=config.SecondStage(batch_size=PROPOSALS, balance_fraction=1.0, max_total_detections=6),
    mask_head=config.MaskHead(conv_depth=8, num_conv_layers=3),
)
RPN = ("Loss/RPNLoss/localization_loss", "Loss/RPNLoss/objectness_loss")
BOXES = ("Loss/BoxClassifierLoss/localization_loss", "Loss/BoxClassifierLoss/classification_loss")
MASK = "Loss/BoxClassifierLoss/mask_loss"


@pytest.fixture(scope="module")
def model() -> MaskRCNN:
    return weighted(SETTINGS, 0)


def batch(resizer: config.ImageResizer) -> tuple[tf.Tensor, tf.Tensor]:
    """Two images of 90 x 128 and 128 x 80 pixels as the model takes them: resized, and padded to a common size."""
    draw = np.random.default_rng(0)
    raw = [draw.integers(0, 256, shape).astype(np.uint8) for shape in ((90, 128, 3), (128, 80, 3))]
    images, shapes = zip(*(resize_image(tf.constant(image), resizer) for image in raw), strict=True)
    height, width = (max(int(image.shape[axis]) for image in images) for axis in (0, 1))
    padded = [tf.pad(image, [[0, height - image.shape[0]], [0, width - image.shape[1]], [0, 0]]) for image in images]
    return tf.stack(padded), tf.stack(shapes)


KEEP_RATIO = config.ImageResizer(min_dimension=96, max_dimension=128)
PADDED = config.ImageResizer(min_dimension=96, max_dimension=160, pad_to_max_dimension=True)


@pytest.mark.parametrize(
    ("resizer", "size", "true_shapes"),
    [
        # With a short side of 96 the long one would pass 128, which it has already.
        (KEEP_RATIO, (128, 128), [[90, 128], [128, 80]]),
        # 96 / 90 * 128 = 136.5 and 96 / 80 * 128 = 153.6, in a square of 160.
        (PADDED, (160, 160), [[96, 137], [154, 96]]),
    ],
)
def test_detections_of_a_batch_are_those_of_its_images(
    model: MaskRCNN, resizer: config.ImageResizer, size: tuple[int, int], true_shapes: list[list[int]]
) -> None:
    images, shapes = batch(resizer)
    assert tuple(images.shape[1:3]) == size
    assert shapes.numpy().tolist() == true_shapes
    together = model(images, shapes)
    for index in range(2):
        alone = model(images[index : index + 1], shapes[index : index + 1])
        for name in ("num_proposals", "num_detections", "detection_classes", "detection_anchor_indices"):
            np.testing.assert_array_equal(together[name][index], alone[name][0], err_msg=name)
        for name in ("proposal_boxes", "detection_boxes", "detection_scores", "detection_masks"):
            np.testing.assert_allclose(together[name][index], alone[name][0], rtol=1e-4, atol=1e-4, err_msg=name)
        # Proposals end at the true image, not at the padding; detections are relative to it.
        assert np.all(together["proposal_boxes"][index] <= np.tile(shapes[index], 2))
        assert 0.9 < np.max(together["detection_boxes"][index]) <= 1.0


def groundtruth(model: MaskRCNN, images: tf.Tensor, shapes: tf.Tensor) -> Tensors:
    """Three objects in the first image and one, with two places of padding, in the second; each beside a proposal."""
    proposals = model.propose(images, shapes, training=True)["proposal_boxes"]
    scale = tf.tile(tf.cast(shapes, tf.float32), [1, 2])[:, tf.newaxis]
    objects = tf.stack([proposals[0, :3], tf.pad(proposals[1, :1], [[0, 2], [0, 0]])]) + [1.0, 2.0, -1.0, -2.0]
    return {
        "boxes": objects / scale,
        "classes": tf.constant([[3, 0, 2], [1, 0, 0]]),
        "num_boxes": tf.constant([3, 1]),
        "weights": tf.ones([2, 3]),
        "masks": tf.cast(tf.random.stateless_uniform([2, 3, *images.shape[1:3]], [2, 3]) < 0.5, tf.uint8),
        "seeds": tf.constant([[0, 0], [0, 1]]),
    }


Example = tuple[tf.Tensor, tf.Tensor, Tensors]


@pytest.fixture(scope="module")
def example(model: MaskRCNN) -> Example:
    """A batch with its objects, as a training step takes it."""
    images, shapes = batch(KEEP_RATIO)
    return images, shapes, groundtruth(model, images, shapes)


def test_losses_of_a_batch_are_means_of_its_images_but_for_the_masks(model: MaskRCNN, example: Example) -> None:
    images, shapes, truth = example
    together = model.compute_losses(model(images, shapes, truth, training=True))
    alone, positives = [], []
    for index in range(2):
        one = slice(index, index + 1)
        outputs = model(images[one], shapes[one], {name: value[one] for name, value in truth.items()}, training=True)
        alone.append(model.compute_losses(outputs))
        positives.append(np.count_nonzero(outputs["target_classes"]))
    assert positives[0] != positives[1]
    for name in (*RPN, *BOXES):
        assert together[name] > 0
        np.testing.assert_allclose(together[name], np.mean([losses[name] for losses in alone]), rtol=1e-4, err_msg=name)
    # Every positive's mask counts alike, whichever image it is of.
    np.testing.assert_allclose(together[MASK], np.average([losses[MASK] for losses in alone], weights=positives), rtol=1e-4)


class TrainingStep(NamedTuple):
    """Losses by name, and all gradients in one row."""

    losses: dict[str, float]
    gradient: np.ndarray


def training_step(model: MaskRCNN, images: tf.Tensor, shapes: tf.Tensor, truth: Tensors) -> TrainingStep:
    @tf.function
    def step() -> tuple[Tensors, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            losses = model.compute_losses(model(images, shapes, truth, training=True))
            total = tf.add_n(list(losses.values()))
        return losses, tape.gradient(total, model.trainable_variables)

    losses, gradients = step()
    flat = np.concatenate([tf.convert_to_tensor(gradient).numpy().ravel() for gradient in gradients])
    return TrainingStep({name: float(value) for name, value in losses.items()}, flat)


@pytest.fixture(scope="module")
def plain_step(model: MaskRCNN, example: Example) -> TrainingStep:
    return training_step(model, *example)


@pytest.fixture
def bfloat16() -> Iterator[None]:
    tf_keras.mixed_precision.set_global_policy("mixed_bfloat16")
    yield
    tf_keras.mixed_precision.set_global_policy("float32")


def test_a_bfloat16_step_is_nearly_the_float32_step(bfloat16: None, example: Example, plain_step: TrainingStep) -> None:
    model = weighted(SETTINGS, 0)
    assert {variable.dtype for variable in model.trainable_variables} == {tf.float32}
    assert model.first_stage.output.dtype == tf.bfloat16
    found = training_step(model, *example)
    # bfloat16 keeps 8 bits, so single values are off by up to 2 ** -9.
    for name, expected in plain_step.losses.items():
        assert found.losses[name] == pytest.approx(expected, rel=0.05), name
    lengths = np.linalg.norm(found.gradient), np.linalg.norm(plain_step.gradient)
    assert lengths[0] == pytest.approx(lengths[1], rel=0.05)
    assert found.gradient @ plain_step.gradient / np.prod(lengths) > 0.99


def test_networks_compiled_by_xla_compute_the_same(model: MaskRCNN, example: Example, plain_step: TrainingStep) -> None:
    compiled = weighted(SETTINGS.replace(jit_compile=True), 0)
    found = training_step(compiled, *example)
    for name, expected in plain_step.losses.items():
        assert found.losses[name] == pytest.approx(expected, rel=1e-4), name
    assert np.linalg.norm(found.gradient - plain_step.gradient) < 1e-3 * np.linalg.norm(plain_step.gradient)
    images, shapes, _ = example
    expected_detections, detections = model(images, shapes), compiled(images, shapes)
    np.testing.assert_array_equal(detections["detection_classes"], expected_detections["detection_classes"])
    for name in ("detection_boxes", "detection_scores", "detection_masks"):
        np.testing.assert_allclose(detections[name], expected_detections[name], rtol=1e-3, atol=1e-4, err_msg=name)


def test_model_gardens_switch_compiles_the_networks_and_not_the_whole_step() -> None:
    experiment = cfg.ExperimentConfig(task=MaskRCNNTask(), runtime=cfg.RuntimeConfig(enable_xla=True))
    compile_networks_only(experiment)
    assert (experiment.runtime.enable_xla, experiment.task.model.jit_compile) == (False, True)
