"""The mask head: second-stage features to the mask logits of one class per crop, without the original's waste.

The original enlarges all channels of a crop to the mask's size, applies its first 3x3 convolution there, and predicts every class. Both
are exactly reducible: enlarging is linear and acts per channel, so the convolution's nine products are taken on the small crop and
enlarged afterwards, each shifted by its tap; and only the channel of the wanted class is ever computed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tf_keras

from tasks.mask_rcnn import config
from tasks.mask_rcnn.head_layers import convolution
from tasks.mask_rcnn.mask_depth import automatic_conv_depth

_KERNEL = 3


class MaskHead(tf_keras.Model):
    """`num_conv_layers` convolutions, the last to one channel per class, or to one for all classes.

    The original's scopes `SecondStageBoxPredictor/Conv*`.
    """

    def __init__(self, mask_head: config.MaskHead, num_classes: int, feature_shape: tuple[int, int, int]) -> None:
        """`feature_shape` is (h, w, C) of one crop's features."""
        super().__init__(name="mask_head")
        height, width, channels = feature_shape
        self._class_agnostic = mask_head.class_agnostic
        self._size = (mask_head.height, mask_head.width)
        depth = mask_head.conv_depth or automatic_conv_depth(channels, num_classes)
        depths = [depth] * (mask_head.num_conv_layers - 1) + [1 if mask_head.class_agnostic else num_classes]
        self.convs = []
        for index, filters in enumerate(depths):
            scope = "SecondStageBoxPredictor/Conv" + (f"_{index}" if index else "")
            layer = convolution(filters, _KERNEL, scope, mask_head.conv_hyperparams)
            layer.build((None, None, None, channels))
            self.convs.append(layer)
            channels = filters
        self._rows = _shifted_interpolation(height, mask_head.height)
        self._columns = _shifted_interpolation(width, mask_head.width)

    def call(self, features: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        """Logits float32 [N, mask_h, mask_w] of class `classes` (whole numbers [N], zero-based) for `features` [N, h, w, C]."""
        if self._class_agnostic:
            classes = tf.zeros_like(classes)
        *hidden, last = self.convs
        if not hidden:
            return tf.gather(self.all_classes(features), classes, axis=1, batch_dims=1)
        x = tf.nn.relu(self._enlarge_and_convolve(features, hidden[0]))
        for layer in hidden[1:]:
            x = tf.nn.relu(layer(x))
        return self._convolve_to_class(x, classes, last)

    def all_classes(self, features: tf.Tensor) -> tf.Tensor:
        """Logits float32 [N, num_classes or 1, mask_h, mask_w] of every class, as the original's graph holds them."""
        x = features
        for index, layer in enumerate(self.convs):
            x = self._enlarge_and_convolve(x, layer) if index == 0 else layer(x)
            if layer is not self.convs[-1]:
                x = tf.nn.relu(x)
        return tf.cast(tf.transpose(x, [0, 3, 1, 2]), tf.float32)

    def _enlarge_and_convolve(self, features: tf.Tensor, layer: tf_keras.layers.Conv2D) -> tf.Tensor:
        """conv(resize(features)), [N, h, w, C] -> [N, mask_h, mask_w, depth]: products first, then enlarging and shifting in one.

        `_rows[Y, dy, y]` is the weight of small row y in large row Y + dy - 1 (zero where that row is padding), `_columns` likewise;
        contracting over taps and small positions gives the convolution.
        """
        kernel = tf.cast(layer.kernel, features.dtype)
        # Taps are moved beside the output channels: one product of the small map by [C, 3 * 3 * depth].
        _, _, channels, depth = kernel.shape
        taps = tf.reshape(tf.transpose(kernel, [2, 0, 1, 3]), [channels, _KERNEL * _KERNEL * depth])
        products = tf.matmul(tf.reshape(features, [-1, channels]), taps)
        products = tf.reshape(products, [-1, *features.shape[1:3], _KERNEL, _KERNEL, depth])
        wide = tf.einsum("nyxvud,Xux->nyvXd", products, tf.cast(self._columns, features.dtype))
        large = tf.einsum("nyvXd,Yvy->nYXd", wide, tf.cast(self._rows, features.dtype))
        return large + tf.cast(layer.bias, features.dtype)

    def _convolve_to_class(self, x: tf.Tensor, classes: tf.Tensor, layer: tf_keras.layers.Conv2D) -> tf.Tensor:
        """The one output channel `classes[n]` of the last convolution, float32 [N, mask_h, mask_w]."""
        height, width = self._size
        kernels = tf.gather(tf.cast(layer.kernel, x.dtype), classes, axis=3)
        kernels = tf.reshape(tf.transpose(kernels, [3, 2, 0, 1]), [-1, x.shape[-1], _KERNEL * _KERNEL])
        products = tf.matmul(tf.reshape(x, [-1, height * width, x.shape[-1]]), kernels)
        products = tf.reshape(tf.cast(products, tf.float32), [-1, height, width, _KERNEL, _KERNEL])
        padded = tf.pad(products, [[0, 0], [1, 1], [1, 1], [0, 0], [0, 0]])
        taps = [padded[:, dy : dy + height, dx : dx + width, dy, dx] for dy in range(_KERNEL) for dx in range(_KERNEL)]
        bias = tf.gather(tf.cast(layer.bias, tf.float32), classes)
        return tf.add_n(taps) + bias[:, tf.newaxis, tf.newaxis]


def _shifted_interpolation(small: int, large: int) -> npt.NDArray[np.float32]:
    """Weights [large, 3, small]: bilinear, corner-aligned enlarging from `small` to `large` cells, seen through the three taps."""
    positions = np.arange(large, dtype=np.float32) * np.float32((small - 1) / max(large - 1, 1))
    lower = np.floor(positions).astype(int)
    upper = np.minimum(lower + 1, small - 1)
    fraction = positions - lower
    weights = np.zeros((large, small), np.float32)
    np.add.at(weights, (np.arange(large), lower), 1 - fraction)
    np.add.at(weights, (np.arange(large), upper), fraction)
    padded = np.pad(weights, [(1, 1), (0, 0)])
    return np.stack([padded[tap : tap + large] for tap in range(_KERNEL)], axis=1)
