"""Pooled crops of the feature map."""

from __future__ import annotations

import tensorflow as tf

from tasks.mask_rcnn import config


def crop_and_pool(features: tf.Tensor, boxes_yxyx_normalized: tf.Tensor, second_stage: config.SecondStage) -> tf.Tensor:
    """Crops [B * N, c, c, C] of `features` [B, h, w, C] at boxes float32 [B, N, 4], normalized to the padded image.

    `crop_and_resize` samples bilinearly between the corners of a box, in float32 and in TensorFlow's own order of operations: for a box
    that ends exactly at 1.0 the rounding of that order decides whether the last row is features or zeros, so no other will do.
    """
    batch, count = tf.shape(boxes_yxyx_normalized)[0], tf.shape(boxes_yxyx_normalized)[1]
    image_indices = tf.repeat(tf.range(batch), count)
    size = second_stage.initial_crop_size
    # In float32 under mixed precision too: the operation has no gradient for bfloat16.
    flat_boxes = tf.reshape(boxes_yxyx_normalized, [-1, 4])
    crops = tf.image.crop_and_resize(tf.cast(features, tf.float32), flat_boxes, image_indices, [size, size])
    crops = tf.ensure_shape(tf.cast(crops, features.dtype), [None, size, size, features.shape[-1]])
    if second_stage.maxpool_kernel_size == 1 and second_stage.maxpool_stride == 1:
        return crops
    return tf.nn.max_pool2d(crops, second_stage.maxpool_kernel_size, second_stage.maxpool_stride, "VALID")
