"""What a backbone's config can say. Its layers and variables are compared with the original's in `tests/parity`."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tasks.checkpoints.original_names import original_variables
from tasks.mask_rcnn import config
from tasks.mask_rcnn.backbones import Backbone, build_backbone
from tasks.mask_rcnn.backbones.slim_layers import BatchNorm
from tasks.running.errors import UserError


def variables(backbone: Backbone) -> dict[str, tf.Variable]:
    return original_variables(backbone.first_stage) | original_variables(backbone.second_stage)


@pytest.mark.slow
def test_inception_resnet_at_stride_16_halves_once_more_and_dilates_nothing() -> None:
    extractor = config.FeatureExtractor(type="faster_rcnn_inception_resnet_v2", first_stage_features_stride=16)
    first_stage = build_backbone(extractor).first_stage
    # 65 and 33 pixels, halved four times and rounded up: 33, 17, 9, 5 and 17, 9, 5, 3.
    assert first_stage.compute_output_shape((1, 65, 33, 3)) == (1, 5, 3, 1088)
    convolutions = [layer for layer in first_stage.layers if isinstance(layer, tf_keras.layers.Conv2D)]
    assert {layer.dilation_rate for layer in convolutions} == {(1, 1)}


@pytest.mark.parametrize(
    ("kind", "stride"),
    [
        ("faster_rcnn_inception_v2", 8),
        ("faster_rcnn_inception_resnet_v2", 32),
        ("faster_rcnn_resnet50", 4),
        ("faster_rcnn_vgg", 16),
        ("faster_rcnn_resnet50_keras", 8),
        ("faster_rcnn_inception_resnet_v2_keras", 8),
    ],
)
def test_what_cannot_be_built_is_refused(kind: str, stride: int) -> None:
    with pytest.raises(UserError, match=r"first_stage_features_stride|feature_extractor\.type"):
        build_backbone(config.FeatureExtractor(type=kind, first_stage_features_stride=stride))


def test_resnet_152_has_the_layers_of_its_name() -> None:
    backbone = build_backbone(config.FeatureExtractor(type="faster_rcnn_resnet152"))
    first, second = original_variables(backbone.first_stage), original_variables(backbone.second_stage)
    # A kernel and four of batch norm per convolution: conv1, three in each of 3 + 8 + 36 units, and a shortcut per block.
    assert len(first) == 5 * (1 + 3 * 47 + 3)
    assert len(second) == 5 * (3 * 3 + 1)
    # Kernels on the way through: 1 + 3 * (47 + 3), and slim's classifier, which is not part of a detector, is the 152nd.
    assert sum(name.endswith("/weights") and "shortcut" not in name for name in first | second) + 1 == 152
    assert first["FirstStageFeatureExtractor/resnet_v1_152/block3/unit_36/bottleneck_v1/conv3/weights"].shape == (1, 1, 256, 1024)
    # Halved four times: 64 pixels become 4 cells.
    assert backbone.first_stage.compute_output_shape((1, 64, 64, 3)) == (1, 4, 4, 1024)


def test_keras_s_resnet_computes_slim_s_first_stage_and_halves_the_crops() -> None:
    slim, keras = (build_backbone(config.FeatureExtractor(type=f"faster_rcnn_resnet50{form}")) for form in ("", "_keras"))
    assert list(variables(slim)) == list(variables(keras))
    for name, value in variables(keras).items():
        # Large enough not to vanish, and other than what batch norm begins with.
        value.assign(tf.random.stateless_uniform(value.shape, [0, len(name)], 0.05 if "weights" not in name else -0.1, 0.1))
        variables(slim)[name].assign(value)
    images = tf.random.stateless_uniform([1, 75, 93, 3], [1, 2], 0, 255)
    # The stride stands in other layers, but leaves the same cells: of 75 and 93 pixels 5 and 6.
    features = keras.first_stage(images)
    assert features.shape == (1, 5, 6, 1024)
    np.testing.assert_allclose(features, slim.first_stage(images), rtol=1e-5)
    strides = {layer.name: layer.strides for layer in keras.first_stage.layers if getattr(layer, "strides", (1, 1)) != (1, 1)}
    scope = "FirstStageFeatureExtractor/resnet_v1_50"
    entries = [f"{scope}/block{block}/unit_1/bottleneck_v1/{layer}" for block in (2, 3) for layer in ("conv1", "shortcut")]
    assert set(strides) == {f"{scope}/conv1", f"{scope}/pool1", *entries}
    assert slim.second_stage.compute_output_shape((4, 7, 7, 1024)) == (4, 7, 7, 2048)
    assert keras.second_stage.compute_output_shape((4, 7, 7, 1024)) == (4, 4, 4, 2048)


@pytest.mark.slow
def test_keras_s_inception_resnet_pads_its_second_stage() -> None:
    extractors = (config.FeatureExtractor(type=f"faster_rcnn_inception_resnet_v2{form}") for form in ("", "_keras"))
    sizes = [build_backbone(extractor).second_stage.compute_output_shape((1, 17, 17, 1088)) for extractor in extractors]
    assert sizes == [(1, 8, 8, 1536), (1, 9, 9, 1536)]


@pytest.mark.parametrize("trainable", [False, True])
def test_batch_norm_statistics_move_only_where_the_config_says_so(trainable: bool) -> None:
    extractor = config.FeatureExtractor(type="faster_rcnn_inception_v2", first_stage_features_stride=16, batch_norm_trainable=trainable)
    second_stage = build_backbone(extractor).second_stage
    names = original_variables(second_stage)
    scope = "SecondStageFeatureExtractor/InceptionV2/Mixed_5a/Branch_0/Conv2d_0a_1x1"
    mean = names[f"{scope}/BatchNorm/moving_mean"]
    crops = tf.random.stateless_normal([2, 3, 3, 576], [0, 1])
    training = second_stage(crops, training=True)
    inner = tf.tensordot(crops, names[f"{scope}/weights"][0, 0], 1)
    # The exponential average starts at zero: one update leaves 1 - decay of the batch's mean.
    expected = 0.0003 * tf.reduce_mean(inner, [0, 1, 2]) if trainable else tf.zeros_like(mean)
    np.testing.assert_allclose(mean, expected, atol=1e-7)
    if not trainable:
        np.testing.assert_array_equal(training, second_stage(crops, training=False))
    trained = {variable.ref() for variable in second_stage.trainable_variables}
    assert {name.rsplit("/", 1)[-1] for name, variable in names.items() if variable.ref() in trained} == {"weights", "gamma", "beta"}


def test_statistics_that_begin_anew_forget_the_zeros_they_began_with() -> None:
    extractor = config.FeatureExtractor(type="faster_rcnn_inception_v2", first_stage_features_stride=16, batch_norm_trainable=True)
    second_stage = build_backbone(extractor).second_stage
    names = original_variables(second_stage)
    scope = "SecondStageFeatureExtractor/InceptionV2/Mixed_5a/Branch_0/Conv2d_0a_1x1"
    kernel, variance = names[f"{scope}/weights"], names[f"{scope}/BatchNorm/moving_variance"]
    count, steps = len(second_stage.weights), tf.Variable(0, dtype=tf.int64)
    for layer in second_stage.layers:
        if isinstance(layer, BatchNorm):
            layer.begin_anew(lambda: steps)
    step = tf.function(lambda crops: second_stage(crops, training=True))
    expected = np.ones(variance.shape)
    # Decays 1/10 and 2/11, and at last the layer's own instead of 100001/100010.
    for at, decay in ((0, 1 / 10), (1, 2 / 11), (100_000, 0.9997)):
        steps.assign(at)
        crops = tf.random.stateless_normal([2, 3, 3, 576], [0, at])
        step(crops)
        batch = np.var(tf.tensordot(crops, kernel[0, 0], 1), axis=(0, 1, 2))
        # Fused batch norm keeps the unbiased variance: of 18 cells.
        expected = decay * expected + (1 - decay) * batch * 18 / 17
        np.testing.assert_allclose(variance, expected, rtol=1e-4)
    assert len(second_stage.weights) == count


@functools.cache
def fresh_inception() -> Backbone:
    return build_backbone(config.FeatureExtractor(type="faster_rcnn_inception_v2", first_stage_features_stride=16))


@pytest.mark.parametrize(
    ("scope", "deviation"),
    [
        # A normal distribution of deviation 1 cut at 2 has deviation 0.8796.
        ("Mixed_5a/Branch_0/Conv2d_0a_1x1", 0.09 * 0.8796),
        ("Mixed_5b/Branch_3/Conv2d_0b_1x1", 0.1 * 0.8796),
        # Glorot uniform: sqrt(2 / (fan in + fan out)), fans over 3 x 3.
        ("Mixed_5a/Branch_0/Conv2d_1a_3x3", np.sqrt(2 / (9 * 128 + 9 * 192))),
    ],
)
def test_initial_kernels_are_spread_as_slims(scope: str, deviation: float) -> None:
    kernel = variables(fresh_inception())[f"SecondStageFeatureExtractor/InceptionV2/{scope}/weights"]
    assert np.std(kernel) == pytest.approx(deviation, rel=0.02)
