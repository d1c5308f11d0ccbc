"""Layers of the heads as a config's hyperparams describe them: with bias, without batch norm, named by their TF1 scope."""

from __future__ import annotations

import tf_keras

from tasks.mask_rcnn import config
from tasks.running.errors import UserError


def kernel_initializer(initializer: config.Initializer) -> tf_keras.initializers.Initializer:
    """The Keras initializer of the same distribution as slim's."""
    if initializer.kind == "truncated_normal":
        return tf_keras.initializers.TruncatedNormal(initializer.mean, initializer.stddev)
    if initializer.kind == "random_normal":
        return tf_keras.initializers.RandomNormal(initializer.mean, initializer.stddev)
    if initializer.kind == "variance_scaling":
        return tf_keras.initializers.VarianceScaling(
            scale=initializer.factor,
            mode=initializer.mode.lower(),
            distribution="uniform" if initializer.uniform else "truncated_normal",
        )
    raise UserError(f"initializer kind {initializer.kind!r} is unknown", "use truncated_normal, random_normal or variance_scaling")


def _regularizer(hyperparams: config.Hyperparams) -> tf_keras.regularizers.Regularizer | None:
    # slim's L2 is weight * sum(w ** 2) / 2; Keras's has no half.
    return tf_keras.regularizers.L2(hyperparams.l2_weight / 2) if hyperparams.l2_weight else None


def convolution(filters: int, kernel: int, scope: str, hyperparams: config.Hyperparams, *, rate: int = 1) -> tf_keras.layers.Conv2D:
    """SAME convolution [N, h, w, C] -> [N, h, w, filters], stride 1, without activation."""
    return tf_keras.layers.Conv2D(
        filters,
        kernel,
        dilation_rate=rate,
        padding="same",
        kernel_initializer=kernel_initializer(hyperparams.initializer),
        kernel_regularizer=_regularizer(hyperparams),
        name=scope,
    )


def fully_connected(units: int, scope: str, hyperparams: config.Hyperparams) -> tf_keras.layers.Dense:
    """Product [N, C] -> [N, units] with bias, without activation."""
    return tf_keras.layers.Dense(
        units,
        kernel_initializer=kernel_initializer(hyperparams.initializer),
        kernel_regularizer=_regularizer(hyperparams),
        name=scope,
    )
