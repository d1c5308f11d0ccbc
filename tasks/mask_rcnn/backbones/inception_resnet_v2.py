"""Inception-ResNet v2 (Szegedy et al. 2016) as TF-slim built it with aligned feature maps: all padding SAME, features at stride 8 or 16.

The form of the original's TensorFlow 2 (`_keras`) has features at stride 16 and pads the second stage, too.
"""

from __future__ import annotations

import tensorflow as tf
import tf_keras

from tasks.mask_rcnn import config
from tasks.mask_rcnn.backbones import FIRST_STAGE_SCOPE, SECOND_STAGE_SCOPE, Backbone
from tasks.mask_rcnn.backbones.inception_blocks import Branch, Step, branches, scale_to_unit, step
from tasks.mask_rcnn.backbones.slim_layers import SlimLayers
from tasks.running.errors import UserError

NAME = "InceptionResnetV2"
FEATURE_CHANNELS = 1088

# Steps and their strides.
_STEM = (
    (Step("Conv2d_1a_3x3", 32), 2),
    (Step("Conv2d_2a_3x3", 32), 1),
    (Step("Conv2d_2b_3x3", 64), 1),
    (Step("MaxPool_3a_3x3"), 2),
    (Step("Conv2d_3b_1x1", 80), 1),
    (Step("Conv2d_4a_3x3", 192), 1),
    (Step("MaxPool_5a_3x3"), 2),
)
_MIXED_5B: tuple[Branch, ...] = (
    (Step("Conv2d_1x1", 96),),
    (Step("Conv2d_0a_1x1", 48), Step("Conv2d_0b_5x5", 64)),
    (Step("Conv2d_0a_1x1", 64), Step("Conv2d_0b_3x3", 96), Step("Conv2d_0c_3x3", 96)),
    (Step("AvgPool_0a_3x3"), Step("Conv2d_0b_1x1", 64)),
)
_BLOCK35: tuple[Branch, ...] = (
    (Step("Conv2d_1x1", 32),),
    (Step("Conv2d_0a_1x1", 32), Step("Conv2d_0b_3x3", 32)),
    (Step("Conv2d_0a_1x1", 32), Step("Conv2d_0b_3x3", 48), Step("Conv2d_0c_3x3", 64)),
)
_MIXED_6A: tuple[Branch, ...] = (
    (Step("Conv2d_1a_3x3", 384),),
    (Step("Conv2d_0a_1x1", 256), Step("Conv2d_0b_3x3", 256), Step("Conv2d_1a_3x3", 384)),
    (Step("MaxPool_1a_3x3"),),
)
_BLOCK17: tuple[Branch, ...] = (
    (Step("Conv2d_1x1", 192),),
    (Step("Conv2d_0a_1x1", 128), Step("Conv2d_0b_1x7", 160), Step("Conv2d_0c_7x1", 192)),
)
_MIXED_7A: tuple[Branch, ...] = (
    (Step("Conv2d_0a_1x1", 256), Step("Conv2d_1a_3x3", 384)),
    (Step("Conv2d_0a_1x1", 256), Step("Conv2d_1a_3x3", 288)),
    (Step("Conv2d_0a_1x1", 256), Step("Conv2d_0b_3x3", 288), Step("Conv2d_1a_3x3", 320)),
    (Step("MaxPool_1a_3x3"),),
)
_BLOCK8: tuple[Branch, ...] = (
    (Step("Conv2d_1x1", 192),),
    (Step("Conv2d_0a_1x1", 192), Step("Conv2d_0b_1x3", 224), Step("Conv2d_0c_3x1", 256)),
)


def build(feature_extractor: config.FeatureExtractor) -> Backbone:
    """Inception-ResNet v2 with features [B, H/stride, W/stride, 1088], and second stage [N, 17, 17, 1088] -> [N, 8, 8, 1536].

    With its padding the second stage of Keras's form ends at [N, 9, 9, 1536].
    """
    stride = feature_extractor.first_stage_features_stride
    strides = (16,) if feature_extractor.is_keras else (8, 16)
    if stride not in strides:
        fix = f"that of {feature_extractor.type} is {' or '.join(map(str, strides))}"
        raise UserError(f"feature_extractor.first_stage_features_stride is {stride}", fix)
    layers = SlimLayers(epsilon=1e-3, decay=0.9997, scale=False, batch_norm_trainable=feature_extractor.batch_norm_trainable)
    return Backbone(
        name=NAME,
        preprocess=scale_to_unit,
        first_stage=_first_stage(layers, f"{FIRST_STAGE_SCOPE}/{NAME}", stride),
        second_stage=_second_stage(layers, f"{SECOND_STAGE_SCOPE}/{NAME}", "same" if feature_extractor.is_keras else "valid"),
    )


def _first_stage(layers: SlimLayers, scope: str, features_stride: int) -> tf_keras.Model:
    # At stride 8 the last halving is left out, and the 20 blocks behind it see as far by dilation.
    halving, rate = (1, 2) if features_stride == 8 else (2, 1)
    images = tf_keras.Input((None, None, 3))
    x = images
    for what, stride in _STEM:
        x = step(layers, x, scope, what, stride=stride)
    x = branches(layers, x, f"{scope}/Mixed_5b", _MIXED_5B)
    for index in range(1, 11):
        x = _residual(layers, x, f"{scope}/Repeat/block35_{index}", _BLOCK35, scale=0.17)
    x = branches(layers, x, f"{scope}/Mixed_6a", _MIXED_6A, stride=halving)
    for index in range(1, 21):
        x = _residual(layers, x, f"{scope}/Repeat_1/block17_{index}", _BLOCK17, scale=0.10, rate=rate)
    return tf_keras.Model(images, x, name="first_stage")


def _second_stage(layers: SlimLayers, scope: str, entry_padding: str) -> tf_keras.Model:
    crops = tf_keras.Input((None, None, FEATURE_CHANNELS))
    # In slim's form the one place where aligned feature maps still have unpadded layers.
    x = branches(layers, crops, f"{scope}/Mixed_7a", _MIXED_7A, stride=2, padding=entry_padding)
    for index in range(1, 10):
        x = _residual(layers, x, f"{scope}/Repeat/block8_{index}", _BLOCK8, scale=0.20)
    x = _residual(layers, x, f"{scope}/Block8", _BLOCK8, scale=1.0, relu=False)
    x = step(layers, x, scope, Step("Conv2d_7b_1x1", 1536))
    return tf_keras.Model(crops, x, name="second_stage")


def _residual(
    layers: SlimLayers, x: tf.Tensor, scope: str, table: tuple[Branch, ...], *, scale: float, rate: int = 1, relu: bool = True
) -> tf.Tensor:
    """x + scale * (the branches, brought to x's width by a biased 1x1 convolution), then a ReLU; [B, h, w, C] throughout."""
    residual = branches(layers, x, scope, table, rate=rate)
    residual = tf_keras.layers.Conv2D(x.shape[-1], 1, kernel_initializer="glorot_uniform", name=f"{scope}/Conv2d_1x1")(residual)
    residual = tf_keras.layers.Rescaling(scale)(residual)
    x = tf_keras.layers.Add()([x, residual])
    return tf_keras.layers.ReLU(name=f"{scope}/Relu")(x) if relu else x
