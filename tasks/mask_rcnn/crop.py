"""Pooled crops of the feature map."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tasks.mask_rcnn import config


def crop_and_pool(features: tf.Tensor, boxes_yxyx_normalized: tf.Tensor, second_stage: config.SecondStage) -> tf.Tensor:
    """Crops [B * N, c, c, C] of `features` [B, h, w, C] at boxes float32 [B, N, 4], normalized to the padded image.

    `crop_and_resize` samples bilinearly between the corners of a box, in float32 and in TensorFlow's own order of operations: for a box
    that ends exactly at 1.0 the rounding of that order decides whether the last row is features or zeros, so no other will do.
    """
    size = second_stage.initial_crop_size
    # In float32 under mixed precision too: the operation has no gradient for bfloat16.
    crops = _crop(tf.cast(features, tf.float32), boxes_yxyx_normalized, size)
    crops = tf.ensure_shape(tf.cast(crops, features.dtype), [None, size, size, features.shape[-1]])
    if not pools(second_stage):
        return crops
    return tf.nn.max_pool2d(crops, second_stage.maxpool_kernel_size, second_stage.maxpool_stride, "VALID")


def pools(second_stage: config.SecondStage) -> bool:
    """Whether crops are pooled at all; a pool of one cell does nothing."""
    return second_stage.maxpool_kernel_size > 1 or second_stage.maxpool_stride > 1


def _crop(features: tf.Tensor, boxes_yxyx_normalized: tf.Tensor, size: int) -> tf.Tensor:
    """Crops float32 [B * N, size, size, C], differentiable in the features alone.

    TensorFlow's own gradient on a CPU has threads add to the same cells without a lock, and loses some of it, up to a hundredth where other
    processes were running. Here it is the transposed interpolation, row by row and column by column.
    """
    batch, count = tf.shape(boxes_yxyx_normalized)[0], tf.shape(boxes_yxyx_normalized)[1]
    flat_boxes = tf.reshape(boxes_yxyx_normalized, [-1, 4])

    def interpolation(cells: tf.Tensor, crop_size: list[int]) -> tf.Tensor:
        # What the operation makes of unit vectors along one axis is its own weights, zeros beyond the border included.
        weights = tf.image.crop_and_resize(cells, flat_boxes, tf.zeros([batch * count], tf.int32), crop_size)
        return tf.reshape(weights, [batch, count, size, -1])

    @tf.custom_gradient
    def crop(features: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        height, width, channels = tf.shape(features)[1], tf.shape(features)[2], features.shape[-1]

        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            rows = interpolation(tf.eye(height)[tf.newaxis, :, tf.newaxis], [size, 1])
            columns = interpolation(tf.eye(width)[tf.newaxis, tf.newaxis], [1, size])
            # Across, crop row by crop row; then down, all boxes of an image at once.
            upstream = tf.reshape(upstream, [batch, count, size, size, channels])
            wide = tf.matmul(columns[:, :, tf.newaxis], upstream, transpose_a=True)
            wide = tf.reshape(wide, [batch, count * size, width * channels])
            rows = tf.reshape(rows, [batch, count * size, height])
            return tf.reshape(tf.matmul(rows, wide, transpose_a=True), tf.shape(features))

        return tf.image.crop_and_resize(features, flat_boxes, tf.repeat(tf.range(batch), count), [size, size]), gradient

    return crop(features)
