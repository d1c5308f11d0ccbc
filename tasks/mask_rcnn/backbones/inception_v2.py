"""Inception v2 (Ioffe and Szegedy 2015, batch normalized) as TF-slim built it: up to Mixed_4e, and Mixed_5a to 5c on crops."""

from __future__ import annotations

import tensorflow as tf
import tf_keras

from tasks.mask_rcnn import config
from tasks.mask_rcnn.backbones import FIRST_STAGE_SCOPE, SECOND_STAGE_SCOPE, Backbone
from tasks.mask_rcnn.backbones.inception_blocks import Branch, Step, branches, scale_to_unit, step
from tasks.mask_rcnn.backbones.slim_layers import SlimLayers
from tasks.running.errors import UserError

NAME = "InceptionV2"
FEATURES_STRIDE = 16
FEATURE_CHANNELS = 576

_DEPTHWISE_MULTIPLIER = 8
# Deviations of the initial kernels of a 1x1 convolution that leads into another, and of one behind a pool.
_REDUCTION, _BEHIND_POOL = 0.09, 0.1


def _mixed(direct: int, single: tuple[int, int], double: tuple[int, int], pool: str, pooled: int) -> tuple[Branch, ...]:
    """A module that keeps the size: 1x1; 1x1, 3x3; 1x1, 3x3, 3x3; a pool and 1x1. Arguments are widths."""
    return (
        (Step("Conv2d_0a_1x1", direct),),
        (Step("Conv2d_0a_1x1", single[0], _REDUCTION), Step("Conv2d_0b_3x3", single[1])),
        (Step("Conv2d_0a_1x1", double[0], _REDUCTION), Step("Conv2d_0b_3x3", double[1]), Step("Conv2d_0c_3x3", double[1])),
        (Step(f"{pool}_0a_3x3"), Step("Conv2d_0b_1x1", pooled, _BEHIND_POOL)),
    )


def _halving(single: tuple[int, int], double: tuple[int, int]) -> tuple[Branch, ...]:
    """A module that halves the size: 1x1, 3x3; 1x1, 3x3, 3x3; a maximum. Arguments are widths."""
    return (
        (Step("Conv2d_0a_1x1", single[0], _REDUCTION), Step("Conv2d_1a_3x3", single[1])),
        (Step("Conv2d_0a_1x1", double[0], _REDUCTION), Step("Conv2d_0b_3x3", double[1]), Step("Conv2d_1a_3x3", double[1])),
        (Step("MaxPool_1a_3x3"),),
    )


# Steps and their strides.
_STEM = (
    (Step("MaxPool_2a_3x3"), 2),
    (Step("Conv2d_2b_1x1", 64, 0.1), 1),
    (Step("Conv2d_2c_3x3", 192), 1),
    (Step("MaxPool_3a_3x3"), 2),
)
_FIRST_STAGE = {
    "Mixed_3b": _mixed(64, (64, 64), (64, 96), "AvgPool", 32),
    "Mixed_3c": _mixed(64, (64, 96), (64, 96), "AvgPool", 64),
    "Mixed_4a": _halving((128, 160), (64, 96)),
    "Mixed_4b": _mixed(224, (64, 96), (96, 128), "AvgPool", 128),
    "Mixed_4c": _mixed(192, (96, 128), (96, 128), "AvgPool", 128),
    "Mixed_4d": _mixed(160, (128, 160), (128, 160), "AvgPool", 96),
    "Mixed_4e": _mixed(96, (128, 192), (160, 192), "AvgPool", 96),
}
_SECOND_STAGE = {
    "Mixed_5a": _halving((128, 192), (192, 256)),
    "Mixed_5b": _mixed(352, (192, 320), (160, 224), "AvgPool", 128),
    "Mixed_5c": _mixed(352, (192, 320), (192, 224), "MaxPool", 128),
}


def build(feature_extractor: config.FeatureExtractor) -> Backbone:
    """Inception v2 with features [B, H/16, W/16, 576], and second stage [N, c, c, 576] -> [N, c/2, c/2, 1024], rounded up."""
    if feature_extractor.first_stage_features_stride != FEATURES_STRIDE:
        raise UserError(
            f"feature_extractor.first_stage_features_stride is {feature_extractor.first_stage_features_stride}, "
            f"but the features of faster_rcnn_inception_v2 lie {FEATURES_STRIDE} pixels apart",
            f"write {FEATURES_STRIDE}; the original took 8 as well and built the same network",
        )
    layers = SlimLayers(epsilon=1e-3, decay=0.9997, scale=True, batch_norm_trainable=feature_extractor.batch_norm_trainable)
    return Backbone(
        name=NAME,
        preprocess=scale_to_unit,
        first_stage=_first_stage(layers, f"{FIRST_STAGE_SCOPE}/{NAME}"),
        second_stage=_second_stage(layers, f"{SECOND_STAGE_SCOPE}/{NAME}"),
    )


def _first_stage(layers: SlimLayers, scope: str) -> tf_keras.Model:
    images = tf_keras.Input((None, None, 3))
    x = _separable_stem(layers, images, f"{scope}/Conv2d_1a_7x7")
    for what, stride in _STEM:
        x = step(layers, x, scope, what, stride=stride)
    for name, table in _FIRST_STAGE.items():
        x = branches(layers, x, f"{scope}/{name}", table, stride=2)
    return tf_keras.Model(images, x, name="first_stage")


def _second_stage(layers: SlimLayers, scope: str) -> tf_keras.Model:
    crops = tf_keras.Input((None, None, FEATURE_CHANNELS))
    x = crops
    for name, table in _SECOND_STAGE.items():
        x = branches(layers, x, f"{scope}/{name}", table, stride=2)
    return tf_keras.Model(crops, x, name="second_stage")


def _separable_stem(layers: SlimLayers, images: tf.Tensor, scope: str) -> tf.Tensor:
    """7x7 per colour, then 1x1 over all: [B, H, W, 3] -> [B, H/2, W/2, 64]; batch norm and ReLU follow the second alone."""
    x = tf_keras.layers.SeparableConv2D(
        64,
        7,
        strides=2,
        padding="same",
        depth_multiplier=_DEPTHWISE_MULTIPLIER,
        use_bias=False,
        depthwise_initializer=tf_keras.initializers.TruncatedNormal(stddev=1.0),
        pointwise_initializer=tf_keras.initializers.TruncatedNormal(stddev=1.0),
        name=scope,
    )(images)
    return layers.normalize(x, scope, relu=True)
