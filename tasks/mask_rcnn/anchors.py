"""Grid anchors of the single feature map, as the original lays them."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tasks.mask_rcnn import config


def anchors_per_cell(generator: config.GridAnchorGenerator) -> int:
    return len(generator.scales) * len(generator.aspect_ratios)


def grid_anchors(grid_height: tf.Tensor, grid_width: tf.Tensor, generator: config.GridAnchorGenerator) -> tf.Tensor:
    """Anchors of every feature cell, float32 [grid_height * grid_width * A, 4], yxyx in pixels of the (padded) image.

    Cells are row-major; inside a cell the aspect ratio is the outer index and the scale the inner one. A cell's anchors are centred at
    (row * stride + offset, column * stride + offset), without half-pixel shifts or inclusive widths.
    """
    ratios, scales = np.meshgrid(generator.aspect_ratios, generator.scales, indexing="ij")
    roots = np.sqrt(ratios.ravel())
    heights = tf.constant(scales.ravel() / roots * generator.height, tf.float32)
    widths = tf.constant(scales.ravel() * roots * generator.width, tf.float32)
    rows = tf.cast(tf.range(grid_height), tf.float32) * generator.height_stride + generator.height_offset
    columns = tf.cast(tf.range(grid_width), tf.float32) * generator.width_stride + generator.width_offset
    y, x = tf.meshgrid(rows, columns, indexing="ij")
    y, x = y[..., tf.newaxis], x[..., tf.newaxis]
    anchors = tf.stack([y - heights / 2, x - widths / 2, y + heights / 2, x + widths / 2], axis=-1)
    return tf.reshape(anchors, [-1, 4])
