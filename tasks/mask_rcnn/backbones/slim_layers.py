"""Convolutions as TF-slim made them: bias-free, batch normalized, rectified, and named by their TF1 scope."""

from __future__ import annotations

import dataclasses

import tensorflow as tf
import tf_keras


def variance_scaling() -> tf_keras.initializers.Initializer:
    """slim's default kernel initializer: truncated normal of variance 2 / fan-in."""
    return tf_keras.initializers.VarianceScaling(scale=2.0, mode="fan_in", distribution="truncated_normal")


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
        norm = tf_keras.layers.BatchNormalization(momentum=self.decay, epsilon=self.epsilon, scale=self.scale, name=f"{scope}/BatchNorm")
        x = norm(x) if self.batch_norm_trainable else norm(x, training=False)
        return tf_keras.layers.ReLU(name=f"{scope}/Relu")(x) if relu else x
