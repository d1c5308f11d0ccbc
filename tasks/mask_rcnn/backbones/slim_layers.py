"""Convolutions as TF-slim made them: bias-free, batch normalized, rectified, and named by their TF1 scope."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import tensorflow as tf
import tf_keras


def variance_scaling() -> tf_keras.initializers.Initializer:
    """slim's default kernel initializer: truncated normal of variance 2 / fan-in."""
    return tf_keras.initializers.VarianceScaling(scale=2.0, mode="fan_in", distribution="truncated_normal")


class BatchNorm(tf_keras.layers.BatchNormalization):
    """Keras's batch norm, whose moving statistics can be told to forget soon what they began with."""

    _steps: Callable[[], tf.Variable] | None = None

    def begin_anew(self, steps: Callable[[], tf.Variable]) -> None:
        """Lets statistics count from the first of `steps` on: the decay at step t is (1 + t) / (10 + t), up to the layer's own.

        That is `num_updates` of TensorFlow's `ExponentialMovingAverage`. Has to come before the layer is called in a graph.
        """
        # Not the variable itself, which Keras would take for one of the layer's weights.
        self._steps = steps

    @property
    def momentum(self) -> float | tf.Tensor:
        if self._steps is None:
            return self._decay
        step = tf.cast(self._steps(), tf.float32)
        return tf.minimum(self._decay, (1 + step) / (10 + step))

    @momentum.setter
    def momentum(self, decay: float) -> None:
        self._decay = decay


@dataclasses.dataclass(frozen=True)
class SlimLayers:
    """One network's choice of batch norm, applied to symbolic tensors [B, h, w, C] of the functional API.

    With `batch_norm_trainable` false, batch norm uses its moving statistics even in training and never updates them; gamma (where
    `scale`) and beta are trained all the same.
    """

    epsilon: float
    decay: float
    scale: bool
    batch_norm_trainable: bool

    def conv(
        self,
        x: tf.Tensor,
        filters: int,
        kernel: int | tuple[int, int],
        scope: str,
        *,
        stride: int = 1,
        rate: int = 1,
        padding: str = "same",
        relu: bool = True,
        kernel_initializer: tf_keras.initializers.Initializer | None = None,
    ) -> tf.Tensor:
        """Convolution `scope` without bias, batch norm `scope`/BatchNorm, ReLU `scope`/Relu."""
        x = tf_keras.layers.Conv2D(
            filters,
            kernel,
            strides=stride,
            dilation_rate=rate,
            padding=padding,
            use_bias=False,
            kernel_initializer=kernel_initializer or variance_scaling(),
            name=scope,
        )(x)
        return self.normalize(x, scope, relu)

    def conv_same(self, x: tf.Tensor, filters: int, kernel: int, scope: str, *, stride: int, rate: int = 1) -> tf.Tensor:
        """slim's conv2d_same: with a stride the padding is symmetric, not TensorFlow's (which depends on the input's size)."""
        if stride == 1:
            return self.conv(x, filters, kernel, scope, rate=rate)
        total = rate * (kernel - 1)
        before = total // 2
        x = tf_keras.layers.ZeroPadding2D(((before, total - before),) * 2)(x)
        return self.conv(x, filters, kernel, scope, stride=stride, rate=rate, padding="valid")

    def normalize(self, x: tf.Tensor, scope: str, relu: bool) -> tf.Tensor:
        """Batch norm `scope`/BatchNorm, then the ReLU `scope`/Relu."""
        norm = BatchNorm(momentum=self.decay, epsilon=self.epsilon, scale=self.scale, name=f"{scope}/BatchNorm")
        x = norm(x) if self.batch_norm_trainable else norm(x, training=False)
        return tf_keras.layers.ReLU(name=f"{scope}/Relu")(x) if relu else x
