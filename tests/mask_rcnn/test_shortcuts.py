"""The model's shortcuts against the plain formulas: same proposals, losses, gradients and masks."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from benchmarks.plain import PlainCroppedNetwork, PlainMaskRCNN
from tasks.mask_rcnn import config
from tasks.mask_rcnn.backbones import build_backbone
from tasks.mask_rcnn.crop import crop_and_pool
from tasks.mask_rcnn.cropped_network import CroppedNetwork
from tasks.mask_rcnn.model import MaskRCNN
from tasks.mask_rcnn.proposals import suppress
from tasks.training.calibration import calibrate_batch_norm

SETTINGS = config.MaskRCNN(
    num_classes=5,
    feature_extractor=config.FeatureExtractor(type="faster_rcnn_inception_v2"),
    anchors=config.GridAnchorGenerator(height=64, width=64),
    first_stage=config.FirstStage(max_proposals=20),
    second_stage=config.SecondStage(batch_size=8, balance_fraction=0.5, nms_iou_threshold=0.1, max_total_detections=60),
    mask_head=config.MaskHead(conv_depth=8, num_conv_layers=3),
)
IMAGES = tf.random.stateless_uniform([2, 96, 128, 3], [0, 1], 0, 255)
# Of four crops the second crosses the border, the third ends at it, and the fourth is a place without a proposal.
CORNERS = tf.constant([[[0.1, 0.2, 0.6, 0.9], [-0.2, 0.5, 0.4, 1.3]], [[0.3, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]])
TRUE_SHAPES = tf.constant([[96, 128], [80, 112]])


def random_boxes(count: int, spread: float) -> tf.Tensor:
    corners = np.random.default_rng(0).uniform(0, spread, (count, 2))
    return tf.constant(np.concatenate([corners, corners + 10], axis=1), tf.float32)


# Of 500 boxes 80 are the best for 4 proposals. Far apart, these fill the places; on one heap, only the last box of all is apart.
@pytest.mark.parametrize(("spread", "kept"), [(100.0, 4), (0.1, 2)])
def test_suppressing_the_best_anchors_first_keeps_what_suppressing_all_keeps(spread: float, kept: int) -> None:
    boxes_yxyx = tf.concat([random_boxes(499, spread), [[200.0, 200.0, 210.0, 210.0]]], axis=0)
    # Scores of five values: ties everywhere, also at the border of the best.
    scores = tf.constant(np.append(np.random.default_rng(1).integers(2, 7, 499), 1) / 10, tf.float32)
    expected = tf.image.non_max_suppression(boxes_yxyx, scores, 4, 0.7, 0.0)
    assert len(expected) == kept
    np.testing.assert_array_equal(suppress(boxes_yxyx, scores, config.FirstStage(max_proposals=4)), expected)


def test_gradient_of_crops_is_the_sum_of_each_crops_own() -> None:
    features, weights = tf.random.stateless_normal([2, 9, 12, 3], [0, 1]), tf.random.stateless_normal([4, 14, 14, 3], [2, 3])
    settings = config.SecondStage(maxpool_kernel_size=1, maxpool_stride=1)
    with tf.GradientTape() as tape:
        tape.watch(features)
        total = tf.reduce_sum(crop_and_pool(features, CORNERS, settings) * weights)
    # TensorFlow's own gradient is right where there is one box.
    expected = tf.add_n(
        [
            tf.raw_ops.CropAndResizeGradImage(
                grads=weights[box : box + 1],
                boxes=CORNERS[box // 2, box % 2, tf.newaxis],
                box_ind=[box // 2],
                image_size=[2, 9, 12, 3],
                T=tf.float32,
            )
            for box in range(4)
        ]
    )
    np.testing.assert_allclose(tape.gradient(total, features), expected, atol=1e-5)


def test_convolutions_of_single_cells_move_before_the_crop_and_change_nothing() -> None:
    tf_keras.utils.set_random_seed(0)
    crops = tf_keras.Input((None, None, 3))
    first = tf_keras.layers.Conv2D(4, 1, use_bias=False, name="first")(crops)
    # These have to stay: with a bias, with a stride, of more than a cell, and behind a ReLU.
    others = [
        tf_keras.layers.Conv2D(2, 1, bias_initializer="ones")(crops),
        tf_keras.layers.Conv2D(2, 3, padding="same", use_bias=False)(crops),
        tf_keras.layers.Conv2D(2, 1, use_bias=False)(tf.nn.relu(first)),
        tf_keras.layers.UpSampling2D(2)(tf_keras.layers.Conv2D(2, 1, strides=2, use_bias=False)(crops)),
    ]
    network = tf_keras.Model(crops, tf_keras.layers.Concatenate()(others))
    features = tf.random.stateless_normal([2, 9, 12, 3], [0, 1])
    settings = config.SecondStage(maxpool_kernel_size=1, maxpool_stride=1)
    moved, whole = CroppedNetwork(network, settings), PlainCroppedNetwork(network, settings)
    assert moved.moved == ["first"]
    assert CroppedNetwork(network, config.SecondStage()).moved == []
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(features)
        actual, expected = moved(features, CORNERS), whole(features, CORNERS)
        sums = [tf.reduce_sum(values**2) for values in (actual, expected)]
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    ours, plain = (tape.gradient(total, [features, *network.trainable_variables]) for total in sums)
    for one, other in zip(ours, plain, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(other).max())


def test_three_of_the_zoos_convolutions_move() -> None:
    extractor = config.FeatureExtractor(type="faster_rcnn_inception_resnet_v2", first_stage_features_stride=8)
    settings = config.SecondStage(initial_crop_size=17, maxpool_kernel_size=1, maxpool_stride=1)
    moved = CroppedNetwork(build_backbone(extractor).second_stage, settings).moved
    scope = "SecondStageFeatureExtractor/InceptionResnetV2/Mixed_7a"
    assert sorted(moved) == [f"{scope}/Branch_{branch}/Conv2d_0a_1x1" for branch in range(3)]


def test_crops_that_nobody_reads_any_more_are_not_cut_out() -> None:
    # A ResNet's crops have two readers, and both move: the map itself is left without one.
    extractor = config.FeatureExtractor(type="faster_rcnn_resnet50", first_stage_features_stride=8)
    settings = config.SecondStage(initial_crop_size=3, maxpool_kernel_size=1, maxpool_stride=1)
    network = build_backbone(extractor).second_stage
    moved, whole = CroppedNetwork(network, settings), PlainCroppedNetwork(network, settings)
    scope = "SecondStageFeatureExtractor/resnet_v1_50/block4/unit_1/bottleneck_v1"
    assert sorted(moved.moved) == [f"{scope}/conv1", f"{scope}/shortcut"]
    features = tf.random.stateless_normal([2, 6, 8, 1024], [0, 1])
    actual, expected = moved(features, CORNERS), whole(features, CORNERS)
    np.testing.assert_allclose(actual, expected, atol=1e-5 * np.abs(expected).max())


@pytest.fixture(scope="module")
def models() -> tuple[MaskRCNN, MaskRCNN]:
    """Ours and the plain one, of the same weights."""
    tf_keras.utils.set_random_seed(0)
    ours, plain = MaskRCNN(SETTINGS), PlainMaskRCNN(SETTINGS)
    calibrate_batch_norm(ours, [(IMAGES, TRUE_SHAPES, {"boxes": tf.zeros([2, 0, 4]), "num_boxes": tf.zeros([2], tf.int32)})])
    plain.set_weights(ours.get_weights())
    return ours, plain


def test_mask_branch_runs_on_positives_by_quarters(models: tuple[MaskRCNN, MaskRCNN]) -> None:
    # The sampler allows 4 positives an image, 8 in all; so it runs on 2, 4, 6 or 8.
    classes = np.zeros((2, 8), np.int32)
    assert models[0].mask_rows(tf.constant(classes)).numpy().tolist() == [0, 1]
    classes[0, 4], classes[0, 1], classes[1, 7] = 3, 5, 1
    assert models[0].mask_rows(tf.constant(classes)).numpy().tolist() == [1, 4, 15, 0]


def test_losses_and_gradients_are_those_of_all_sampled_proposals_and_classes(models: tuple[MaskRCNN, MaskRCNN]) -> None:
    # Objects where the first image has proposals; none in the second.
    proposals = models[0].propose(IMAGES, TRUE_SHAPES, training=True)["proposal_boxes_normalized"]
    groundtruth = {
        "boxes": tf.stack([proposals[0, :3], tf.zeros([3, 4])]),
        "classes": tf.constant([[4, 0, 2], [0, 0, 0]]),
        "num_boxes": tf.constant([3, 0]),
        "weights": tf.ones([2, 3]),
        "masks": tf.cast(tf.random.stateless_uniform([2, 3, 96, 128], [2, 3]) < 0.5, tf.uint8),
        "seeds": tf.constant([[0, 0], [0, 1]]),
    }
    losses, gradients = [], []
    for model in models:
        with tf.GradientTape() as tape:
            values = model.compute_losses(model(IMAGES, TRUE_SHAPES, groundtruth, training=True))
            total = tf.add_n(list(values.values()))
        losses.append(values)
        gradients.append([tf.convert_to_tensor(gradient) for gradient in tape.gradient(total, model.trainable_variables)])
    assert losses[1]["Loss/BoxClassifierLoss/mask_loss"] > 0
    for name, expected in losses[1].items():
        np.testing.assert_allclose(losses[0][name], expected, rtol=1e-4, err_msg=name)
    for variable, actual, expected in zip(models[0].trainable_variables, *gradients, strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-3 * np.abs(expected).max(), err_msg=variable.name)


def test_detections_and_masks_are_those_of_all_places_and_classes(models: tuple[MaskRCNN, MaskRCNN]) -> None:
    ours, plain = (model(IMAGES, TRUE_SHAPES) for model in models)
    for name in ("boxes", "scores", "classes"):
        np.testing.assert_array_equal(ours[f"detection_{name}"], plain[f"detection_{name}"])
    counts = plain["num_detections"].numpy()
    assert 0 < counts.min() < counts.max() < SETTINGS.second_stage.max_total_detections
    for image, count in enumerate(counts):
        np.testing.assert_allclose(ours["detection_masks"][image, :count], plain["detection_masks"][image, :count], atol=1e-5)
        assert not np.any(ours["detection_masks"][image, count:])
