"""A network on crops of a feature map, whose first layers are moved before the crop where that gives the same.

A convolution of size 1 without bias is linear and takes each cell by itself; a bilinear crop is linear and takes each channel by itself,
with zeros outside; so they can change places. The map has fewer cells than its overlapping crops have together: 1,024 against 18,496 for
64 crops of 17 x 17 from an image of 256 x 256 pixels. Max pooling of the crops forbids it; of the zoo, Inception-ResNet has none.
"""

from __future__ import annotations

import tensorflow as tf
import tf_keras

from tasks.mask_rcnn import config, xla
from tasks.mask_rcnn.crop import crop_and_pool, pools


class CroppedNetwork:
    """`network` [N, c, c, C] -> [N, c', c', C'] on crops of a map [B, h, w, C]. The layers stay the network's; `moved` names the first."""

    def __init__(self, network: tf_keras.Model, second_stage: config.SecondStage) -> None:
        self.network = network
        self.second_stage = second_stage
        first = [] if pools(second_stage) else [layer for layer in network.layers if _commutes(layer, network.input)]
        self.moved = [layer.name for layer in first]
        outputs = [layer.output for layer in first]
        # Behind the zoo's ResNets, whose crops are pooled, every reader of the crops would move: then they need not be cut out at all.
        maps = [network.input, *outputs] if _others_read(network, first) else outputs
        self._before = tf_keras.Model(network.input, maps) if first else None
        self._after = tf_keras.Model(maps, network.output, name=network.name) if first else network

    def __call__(
        self, features: tf.Tensor, boxes_yxyx_normalized: tf.Tensor, *, training: bool = False, apply: xla.Apply = xla.plain
    ) -> tf.Tensor:
        """What the network makes of the crops at boxes [B, P, 4], normalized to the padded image: [B * P, c', c', C']."""
        maps = tf.nest.flatten(self._before(features)) if self._before else [features]
        crops = [crop_and_pool(each, boxes_yxyx_normalized, self.second_stage) for each in maps]
        return apply(self._after, crops if self._before else crops[0], training=training)


def _commutes(layer: tf_keras.layers.Layer, crops: tf.Tensor) -> bool:
    """Whether a layer is a convolution of single cells, without bias, of the crops themselves."""
    if not isinstance(layer, tf_keras.layers.Conv2D) or layer.input is not crops:
        return False
    return layer.kernel_size == layer.strides == (1, 1) and not layer.use_bias


def _others_read(network: tf_keras.Model, moved: list[tf_keras.layers.Layer]) -> bool:
    """Whether a layer that was not moved takes the crops themselves."""
    staying = (layer for layer in network.layers if layer not in moved and not isinstance(layer, tf_keras.layers.InputLayer))
    return any(each is network.input for layer in staying for each in tf.nest.flatten(layer.input))
