"""What the settings of a model's parts change: shapes and values by hand."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tasks.mask_rcnn import config
from tasks.mask_rcnn.anchors import grid_anchors
from tasks.mask_rcnn.backbones import build_backbone
from tasks.mask_rcnn.box_head import BoxHead
from tasks.mask_rcnn.crop import crop_and_pool, matmul_crop_and_resize
from tasks.mask_rcnn.head_layers import convolution
from tasks.mask_rcnn.mask_head import MaskHead
from tasks.mask_rcnn.model import MaskRCNN
from tasks.mask_rcnn.rpn import RegionProposalNetwork

RPN = {"Loss/RPNLoss/localization_loss", "Loss/RPNLoss/objectness_loss"}
BOXES = {"Loss/BoxClassifierLoss/localization_loss", "Loss/BoxClassifierLoss/classification_loss"}
INCEPTION = config.FeatureExtractor(type="faster_rcnn_inception_v2")
MASKS = {"Loss/BoxClassifierLoss/mask_loss"}


@pytest.mark.parametrize(("stages", "names"), [(1, RPN), (2, RPN | BOXES), (3, RPN | BOXES | MASKS)])
def test_each_stage_adds_its_losses_and_samples_as_many_as_it_is_told(stages: int, names: set[str]) -> None:
    model = MaskRCNN(
        config.MaskRCNN(
            num_classes=3,
            number_of_stages=stages,
            feature_extractor=config.FeatureExtractor(type="faster_rcnn_inception_v2"),
            anchors=config.GridAnchorGenerator(height=32, width=32),
            first_stage=config.FirstStage(minibatch_size=20, max_proposals=9),
            second_stage=config.SecondStage(batch_size=7),
            mask_head=config.MaskHead(conv_depth=4),
        )
    )
    truth = {
        "boxes": tf.constant([[[0.1, 0.1, 0.6, 0.6]]]),
        "classes": tf.constant([[2]]),
        "num_boxes": tf.constant([1]),
        "weights": tf.ones([1, 1]),
        "masks": tf.ones([1, 1, 64, 64], tf.uint8),
        "seeds": tf.constant([[0, 0]]),
    }
    outputs = model(tf.random.stateless_uniform([1, 64, 64, 3], [0, 1], 0, 255), tf.constant([[64, 64]]), truth, training=True)
    assert set(model.compute_losses(outputs)) == names
    assert np.sum(outputs["rpn_sampled"]) == 20
    assert outputs["proposal_boxes"].shape == (1, 9 if stages == 1 else 7, 4)
    assert (hasattr(model, "box_head"), hasattr(model, "mask_head")) == (stages >= 2, stages == 3)


@pytest.mark.parametrize(("stride", "cells", "rates"), [(8, (8, 12), {1, 2}), (16, (4, 6), {1})])
def test_features_lie_a_stride_apart_and_dilation_makes_up_for_it(stride: int, cells: tuple[int, int], rates: set[int]) -> None:
    extractor = config.FeatureExtractor(type="faster_rcnn_resnet50", first_stage_features_stride=stride)
    first_stage = build_backbone(extractor).first_stage
    assert first_stage.compute_output_shape((1, 64, 96, 3)) == (1, *cells, 1024)
    assert {layer.dilation_rate[0] for layer in first_stage.layers if hasattr(layer, "dilation_rate")} == rates


@pytest.mark.parametrize(("kernel", "rate", "reached"), [(3, 1, [3, 4, 5]), (3, 2, [2, 4, 6]), (5, 1, [2, 3, 4, 5, 6]), (3, 4, [0, 4, 8])])
def test_rpn_convolution_reaches_as_far_as_kernel_and_rate_say(kernel: int, rate: int, reached: list[int]) -> None:
    settings = config.FirstStage(box_predictor_depth=6, box_predictor_kernel_size=kernel, atrous_rate=rate)
    network = RegionProposalNetwork(settings, 2, 1)
    network.conv.kernel.assign(tf.ones_like(network.conv.kernel))
    outputs = network(tf.scatter_nd([[0, 4, 4, 0]], [1.0], [1, 9, 9, 1]))
    expected = np.zeros((9, 9))
    expected[np.ix_(reached, reached)] = 1
    np.testing.assert_array_equal(outputs["rpn_box_predictor_features"][0], np.repeat(expected[..., np.newaxis], 6, axis=-1))
    assert outputs["rpn_box_encodings"].shape == (1, 9 * 9 * 2, 4)


def test_anchors_begin_at_the_offset() -> None:
    shifted = config.GridAnchorGenerator(height_offset=3, width_offset=-5)
    plain = grid_anchors(2, 2, config.GridAnchorGenerator())
    np.testing.assert_allclose(grid_anchors(2, 2, shifted) - plain, np.tile([3.0, -5, 3, -5], (48, 1)), atol=1e-4)


def test_crops_are_sampled_and_pooled_in_the_sizes_asked_for() -> None:
    # Six rows numbered from 0, taken whole: pools of three have their maxima at 2 and 5.
    features = tf.tile(tf.range(6.0)[tf.newaxis, :, tf.newaxis, tf.newaxis], [1, 1, 6, 1])
    settings = config.SecondStage(initial_crop_size=6, maxpool_kernel_size=3, maxpool_stride=3)
    pooled = crop_and_pool(features, tf.constant([[[0.0, 0.0, 1.0, 1.0]]]), settings)
    np.testing.assert_allclose(pooled[0, ..., 0], [[2, 2], [5, 5]], atol=1e-5)


def hat(position: float, cells: int) -> np.ndarray:
    """Weights [cells] of linear interpolation, where cells beyond the border are zero."""
    return np.maximum(1 - np.abs(position - np.arange(cells)), 0)


# Inside, ending at the border, crossing it by less than a cell and by more, and flipped.
CROPPED = np.array(
    [[0.1, 0.2, 0.6, 0.7], [0.3, 0.4, 1, 1], [-0.05, 0.5, 0.5, 1.05], [-0.5, -0.2, 1.4, 1.2], [0.8, 0.9, 0.2, 0.3]], np.float32
)


def test_crops_by_products_fade_over_a_cell_at_the_border() -> None:
    features = np.random.default_rng(0).normal(size=(1, 9, 12, 3)).astype(np.float32)
    settings = config.SecondStage(initial_crop_size=5, use_matmul_crop_and_resize=True, maxpool_kernel_size=1, maxpool_stride=1)
    with tf.GradientTape() as tape:
        watched = tf.Variable(features)
        crops = crop_and_pool(watched, tf.constant(CROPPED[np.newaxis]), settings)
        total = tf.reduce_sum(crops**2) / 2
    rows, columns = (
        np.array([[hat(place * (cells - 1), cells) for place in np.linspace(box[axis], box[axis + 2], 5)] for box in CROPPED])
        for axis, cells in ((0, 9), (1, 12))
    )
    np.testing.assert_allclose(crops, np.einsum("nyh,nxw,hwc->nyxc", rows, columns, features[0]), atol=1e-5)
    gradient = np.einsum("nyh,nxw,nyxc->hwc", rows, columns, crops)
    np.testing.assert_allclose(tf.convert_to_tensor(tape.gradient(total, watched))[0], gradient, atol=1e-4)


def test_crops_by_products_take_bytes_and_each_box_s_own_image() -> None:
    masks = np.random.default_rng(1).integers(0, 2, (3, 9, 12, 1), np.uint8)
    picked = [2, 0, 1, 2, 0]
    crops = matmul_crop_and_resize(tf.constant(masks), tf.constant(CROPPED), tf.constant(picked), (1, 2))
    for box, mask, crop in zip(CROPPED, masks[picked, ..., 0], crops, strict=True):
        # One row, in the middle; two columns, at the ends.
        expected = [hat((box[0] + box[2]) / 2 * 8, 9) @ mask @ hat(box[axis] * 11, 12) for axis in (1, 3)]
        np.testing.assert_allclose(crop[0, :, 0], expected, atol=1e-5)


@pytest.mark.parametrize(("original", "scale"), [(False, [0.75, 0.5]), (True, [1.0, 1.0])])
def test_masks_of_padded_images_are_predicted_at_their_objects_or_where_the_original_did(original: bool, scale: list[float]) -> None:
    network = MaskRCNN(config.MaskRCNN(number_of_stages=1, original_padded_masks=original, feature_extractor=INCEPTION))
    outputs = {"detection_boxes": tf.constant([[[0.2, 0.4, 1.0, 0.8]]]), "image_size": tf.constant([64.0, 64.0])}
    boxes = network.mask_boxes(outputs, tf.constant([[48, 32]]))
    np.testing.assert_allclose(boxes, [[np.multiply([0.2, 0.4, 1.0, 0.8], scale * 2)]], rtol=1e-6)
    # Without padding there is one place.
    np.testing.assert_array_equal(network.mask_boxes(outputs, tf.constant([[64, 64]])), outputs["detection_boxes"])


def box_head(**settings: bool | float) -> BoxHead:
    head = BoxHead(config.SecondStage(**settings), 3, 1000)
    for predictor in (head.classes, head.box_encodings):
        predictor.kernel.assign(tf.ones_like(predictor.kernel))
    return head


def test_dropout_keeps_its_share_and_makes_up_for_the_rest() -> None:
    features, seeds = tf.ones([50, 1, 1, 1000]), tf.constant([[0, 0], [0, 1]])
    head = box_head(use_dropout=True, dropout_keep_probability=0.25)
    sums = head(features, training=True, seeds=seeds)["class_predictions_with_background"].numpy()[:, 0]
    # Each kept feature counts four; of 1000 are kept 250, give or take 14.
    np.testing.assert_array_equal(sums % 4, 0)
    assert sums.mean() == pytest.approx(1000, abs=40)
    assert sums.std() == pytest.approx(4 * np.sqrt(1000 * 0.25 * 0.75), rel=0.4)
    for still in (head(features), box_head(dropout_keep_probability=0.25)(features, training=True)):
        np.testing.assert_array_equal(still["class_predictions_with_background"], 1000)


@pytest.mark.parametrize("shared", [False, True])
def test_both_predictors_and_all_proposals_drop_features_of_their_own(shared: bool) -> None:
    head = box_head(use_dropout=True, dropout_keep_probability=0.5, share_box_across_classes=shared)
    outputs = head(tf.ones([400, 1, 1, 1000]), training=True, seeds=tf.constant([[0, 0], [0, 1]]))
    boxes, classes = outputs["refined_box_encodings"].numpy()[:, 0, 0], outputs["class_predictions_with_background"].numpy()[:, 0]
    # Sums of what was kept: of 400 independent pairs the correlation is 0, give or take 0.05.
    pairs = ((boxes, classes), (boxes[::2], boxes[1::2]), (classes[::2], classes[1::2]), (boxes[:200], boxes[200:]))
    for first, second in pairs:
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.2
    assert boxes.std() == pytest.approx(2 * np.sqrt(1000 * 0.5 * 0.5), rel=0.2)
    # Within a predictor all outputs of a proposal see the same features.
    np.testing.assert_array_equal(outputs["class_predictions_with_background"], np.repeat(classes[:, np.newaxis], 4, axis=1))


@pytest.mark.parametrize(("shared", "boxes"), [(False, 3), (True, 1)])
def test_a_box_for_every_class_or_one_for_all(shared: bool, boxes: int) -> None:
    outputs = box_head(share_box_across_classes=shared)(tf.ones([2, 1, 1, 1000]))
    assert outputs["refined_box_encodings"].shape == (2, boxes, 4)
    assert outputs["class_predictions_with_background"].shape == (2, 4)


@pytest.mark.parametrize(("layers", "kernels"), [(1, [(12, 5)]), (3, [(12, 6), (6, 6), (6, 5)])])
def test_mask_size_and_layers(layers: int, kernels: list[tuple[int, int]]) -> None:
    head = MaskHead(config.MaskHead(height=9, width=15, conv_depth=6, num_conv_layers=layers), 5, (4, 4, 12))
    assert [tuple(layer.kernel.shape) for layer in head.convs] == [(3, 3, *kernel) for kernel in kernels]
    assert head(tf.ones([2, 4, 4, 12]), tf.constant([0, 4])).shape == (2, 9, 15)


def test_one_mask_for_all_classes_is_the_same_for_each() -> None:
    head = MaskHead(config.MaskHead(height=9, width=15, conv_depth=4, num_conv_layers=2, class_agnostic=True), 7, (4, 4, 12))
    assert [tuple(layer.kernel.shape) for layer in head.convs] == [(3, 3, 12, 4), (3, 3, 4, 1)]
    features = tf.random.stateless_normal([2, 4, 4, 12], [0, 1])
    np.testing.assert_array_equal(head(features, tf.constant([0, 0])), head(features, tf.constant([6, 3])))
    np.testing.assert_allclose(head(features, tf.constant([6, 3])), head.all_classes(features)[:, 0], atol=1e-5)


@pytest.mark.parametrize(
    ("initializer", "deviation", "largest"),
    [
        # Cut at two deviations, a normal distribution keeps 0.8796 of its own.
        (config.Initializer(kind="truncated_normal", stddev=0.5), 0.5 * 0.8796, 1.0),
        (config.Initializer(kind="random_normal", stddev=0.5), 0.5, np.inf),
        # Uniform in +-sqrt(3 / n), n = 9 * 40 inputs, or the mean with 9 * 60 outputs.
        (config.Initializer(kind="variance_scaling", factor=1.0, uniform=True, mode="FAN_IN"), np.sqrt(1 / 360), np.sqrt(3 / 360)),
        (config.Initializer(kind="variance_scaling", factor=2.0, uniform=True, mode="FAN_AVG"), np.sqrt(2 / 450), np.sqrt(6 / 450)),
    ],
)
def test_kernels_are_drawn_as_the_config_says(initializer: config.Initializer, deviation: float, largest: float) -> None:
    layer = convolution(60, 3, "Conv", config.Hyperparams(initializer=initializer))
    layer.build((None, None, None, 40))
    assert np.std(layer.kernel) == pytest.approx(deviation, rel=0.03)
    assert np.abs(layer.kernel).max() <= largest


def test_l2_is_half_the_sum_of_squares() -> None:
    layer = convolution(2, 3, "Conv", config.Hyperparams(l2_weight=0.5))
    layer.build((None, None, None, 1))
    layer.kernel.assign(tf.fill([3, 3, 1, 2], 2.0))
    # 18 values of 2.
    np.testing.assert_allclose(sum(layer.losses), 0.5 * 18 * 4 / 2)
