"""ResNet v1 of 50, 101 and 152 layers as TF-slim built it, and as Keras did for the original's TensorFlow 2.

In slim's form a block's last unit holds the stride, in its 3x3 convolution, and the stride turns to dilation at the end. In Keras's form
(`_keras`) the next block's first unit does, in its 1x1 convolutions, the second stage's too; nothing is dilated. The first stages compute
the same, but for batch norm that is trained: its statistics are of maps of other sizes.
"""

from __future__ import annotations

import tensorflow as tf
import tf_keras

from tasks.mask_rcnn import config
from tasks.mask_rcnn.backbones import FIRST_STAGE_SCOPE, SECOND_STAGE_SCOPE, Backbone
from tasks.mask_rcnn.backbones.slim_layers import SlimLayers
from tasks.running.errors import UserError

CHANNEL_MEANS_RGB = (123.68, 116.779, 103.939)
FEATURE_CHANNELS = 1024

# Scope, and the units of block1..block3; block4 is the second stage and always has three.
_NETWORKS = {
    "faster_rcnn_resnet50": ("resnet_v1_50", (3, 4, 6)),
    "faster_rcnn_resnet101": ("resnet_v1_101", (3, 4, 23)),
    "faster_rcnn_resnet152": ("resnet_v1_152", (3, 8, 36)),
}
_DEPTHS = (64, 128, 256, 512)
_SECOND_STAGE_UNITS = 3


def build(feature_extractor: config.FeatureExtractor) -> Backbone:
    """ResNet with block1..block3 as first stage ([B, H/stride, W/stride, 1024]) and block4 as second.

    The second stage keeps the size of its crops, [N, c, c, 2048], and in Keras's form halves it.
    """
    keras = feature_extractor.is_keras
    strides = (16,) if keras else (8, 16)
    if feature_extractor.first_stage_features_stride not in strides:
        raise UserError(
            f"feature_extractor.first_stage_features_stride is {feature_extractor.first_stage_features_stride}",
            f"that of {feature_extractor.type} is {' or '.join(map(str, strides))}",
        )
    name, units = _NETWORKS[feature_extractor.network]
    layers = SlimLayers(epsilon=1e-5, decay=0.997, scale=True, batch_norm_trainable=feature_extractor.batch_norm_trainable)
    scope = f"{FIRST_STAGE_SCOPE}/{name}"
    return Backbone(
        name=name,
        preprocess=subtract_channel_means,
        first_stage=(
            _keras_first_stage(layers, scope, units)
            if keras
            else _first_stage(layers, scope, units, feature_extractor.first_stage_features_stride)
        ),
        second_stage=_second_stage(layers, f"{SECOND_STAGE_SCOPE}/{name}", entry_stride=2 if keras else 1),
    )


def subtract_channel_means(images: tf.Tensor) -> tf.Tensor:
    """RGB images [B, H, W, 3] less the channel means; neither scaled nor swapped."""
    return images - tf.constant(CHANNEL_MEANS_RGB, images.dtype)


def _stem(layers: SlimLayers, images: tf.Tensor, scope: str) -> tf.Tensor:
    """[B, H, W, 3] -> [B, H/4, W/4, 64]."""
    x = layers.conv_same(images, 64, 7, f"{scope}/conv1", stride=2)
    return tf_keras.layers.MaxPooling2D(3, strides=2, padding="same", name=f"{scope}/pool1")(x)


def _first_stage(layers: SlimLayers, scope: str, units: tuple[int, ...], features_stride: int) -> tf_keras.Model:
    images = tf_keras.Input((None, None, 3))
    x = _stem(layers, images, scope)
    stride, rate = 4, 1
    for block, (depth, count) in enumerate(zip(_DEPTHS, units, strict=False), start=1):
        for unit in range(1, count + 1):
            unit_scope = f"{scope}/block{block}/unit_{unit}/bottleneck_v1"
            wanted = 2 if unit == count else 1
            # Once the features are as coarse as they may get, a stride becomes dilation of what follows.
            if stride == features_stride:
                x = _bottleneck(layers, x, depth, unit_scope, rate=rate)
                rate *= wanted
            else:
                x = _bottleneck(layers, x, depth, unit_scope, stride=wanted)
                stride *= wanted
    return tf_keras.Model(images, x, name="first_stage")


def _keras_first_stage(layers: SlimLayers, scope: str, units: tuple[int, ...]) -> tf_keras.Model:
    images = tf_keras.Input((None, None, 3))
    x = _stem(layers, images, scope)
    for block, (depth, count) in enumerate(zip(_DEPTHS, units, strict=False), start=1):
        for unit in range(1, count + 1):
            entry_stride = 2 if block > 1 and unit == 1 else 1
            x = _bottleneck(layers, x, depth, f"{scope}/block{block}/unit_{unit}/bottleneck_v1", entry_stride=entry_stride)
    return tf_keras.Model(images, x, name="first_stage")


def _second_stage(layers: SlimLayers, scope: str, entry_stride: int) -> tf_keras.Model:
    crops = tf_keras.Input((None, None, FEATURE_CHANNELS))
    x = crops
    for unit in range(1, _SECOND_STAGE_UNITS + 1):
        unit_scope = f"{scope}/block4/unit_{unit}/bottleneck_v1"
        x = _bottleneck(layers, x, _DEPTHS[-1], unit_scope, entry_stride=entry_stride if unit == 1 else 1)
    return tf_keras.Model(crops, x, name="second_stage")


def _bottleneck(
    layers: SlimLayers, x: tf.Tensor, depth: int, scope: str, *, stride: int = 1, rate: int = 1, entry_stride: int = 1
) -> tf.Tensor:
    """Residual unit [B, h, w, C] -> [B, h/stride, w/stride, 4 * depth]; `stride` is the 3x3 convolution's, `entry_stride` the 1x1's."""
    if x.shape[-1] != 4 * depth:
        shortcut = layers.conv(x, 4 * depth, 1, f"{scope}/shortcut", stride=stride * entry_stride, relu=False)
    elif stride > 1:
        shortcut = tf_keras.layers.MaxPooling2D(1, strides=stride, name=f"{scope}/shortcut")(x)
    else:
        shortcut = x
    residual = layers.conv(x, depth, 1, f"{scope}/conv1", stride=entry_stride)
    residual = layers.conv_same(residual, depth, 3, f"{scope}/conv2", stride=stride, rate=rate)
    residual = layers.conv(residual, 4 * depth, 1, f"{scope}/conv3", relu=False)
    x = tf_keras.layers.Add(name=f"{scope}/add")([shortcut, residual])
    return tf_keras.layers.ReLU(name=f"{scope}/Relu")(x)
