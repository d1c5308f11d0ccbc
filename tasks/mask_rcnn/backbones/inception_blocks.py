"""Inception modules as tables: parallel branches of convolutions and pools, each step written as its TF1 scope and its width."""

from __future__ import annotations

import re
from typing import NamedTuple

import tensorflow as tf
import tf_keras

from tasks.mask_rcnn.backbones.slim_layers import SlimLayers

# The kind, and the kernel's height and width. `_1a_` marks the step that carries a module's stride.
_SCOPE = re.compile(r"(?P<kind>Conv2d|MaxPool|AvgPool)_(?:\d[a-z]_)?(?P<height>\d)x(?P<width>\d)")
_STRIDED = "_1a_"


class Step(NamedTuple):
    """One layer. `scope` says what it is, as in `Conv2d_0b_1x7` or `MaxPool_1a_3x3`; `filters` is 0 for pools.

    The initial kernel is a truncated normal of deviation `stddev`, where 0 stands for slim's default, Glorot uniform.
    """

    scope: str
    filters: int = 0
    stddev: float = 0.0


Branch = tuple[Step, ...]


def step(layers: SlimLayers, x: tf.Tensor, scope: str, what: Step, *, stride: int = 1, rate: int = 1, padding: str = "same") -> tf.Tensor:
    """[B, h, w, C] -> [B, h', w', filters or C], named `scope`/`what.scope`; padding of average pools is not counted."""
    match = _SCOPE.fullmatch(what.scope)
    if match is None:
        raise ValueError(f"{what.scope} names neither a convolution nor a pool")
    kernel = int(match["height"]), int(match["width"])
    name = f"{scope}/{what.scope}"
    if match["kind"] == "Conv2d":
        initializer = tf_keras.initializers.TruncatedNormal(stddev=what.stddev) if what.stddev else tf_keras.initializers.GlorotUniform()
        dilation = 1 if kernel == (1, 1) else rate
        return layers.conv(x, what.filters, kernel, name, stride=stride, rate=dilation, padding=padding, kernel_initializer=initializer)
    pool = tf_keras.layers.MaxPooling2D if match["kind"] == "MaxPool" else tf_keras.layers.AveragePooling2D
    return pool(kernel, strides=stride, padding=padding, name=name)(x)


def branches(
    layers: SlimLayers,
    x: tf.Tensor,
    scope: str,
    table: tuple[Branch, ...],
    *,
    stride: int = 1,
    rate: int = 1,
    padding: str = "same",
) -> tf.Tensor:
    """The concatenated branches `scope`/Branch_0, ... of [B, h, w, C].

    `stride` and `padding` are those of the steps marked `_1a_`, all others have stride 1 and pad to the same size; `rate` is the
    dilation of every convolution.
    """
    ends = []
    for index, branch in enumerate(table):
        y = x
        for what in branch:
            strided = _STRIDED in what.scope
            y = step(
                layers,
                y,
                f"{scope}/Branch_{index}",
                what,
                stride=stride if strided else 1,
                rate=rate,
                padding=padding if strided else "same",
            )
        ends.append(y)
    return tf_keras.layers.Concatenate(name=scope)(ends)


def scale_to_unit(images: tf.Tensor) -> tf.Tensor:
    """RGB images [B, H, W, 3] in 0..255 brought to [-1, 1]."""
    return images * (2.0 / 255.0) - 1.0
