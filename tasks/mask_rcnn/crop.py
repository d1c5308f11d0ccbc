"""Pooled crops of the feature map."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import tensorflow as tf

from tasks.mask_rcnn import config


def crop_and_pool(features: tf.Tensor, boxes_yxyx_normalized: tf.Tensor, second_stage: config.SecondStage) -> tf.Tensor:
    """Crops [B * N, c, c, C] of `features` [B, h, w, C] at boxes float32 [B, N, 4], normalized to the padded image.

    `crop_and_resize` samples bilinearly between the corners of a box, in float32 and in TensorFlow's own order of operations: for a box
    that ends exactly at 1.0 the rounding of that order decides whether the last row is features or zeros, so no other will do.
    With `use_matmul_crop_and_resize` they are `matmul_crop_and_resize`'s.
    """
    size = second_stage.initial_crop_size
    # In float32 under mixed precision too: the operation has no gradient for bfloat16.
    crop = _matmul_crop if second_stage.use_matmul_crop_and_resize else _crop
    crops = crop(tf.cast(features, tf.float32), boxes_yxyx_normalized, size)
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

        return tf.image.crop_and_resize(features, flat_boxes, _owners(batch, count), [size, size]), gradient

    return crop(features)


LookUp = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""The cells float32 [K, c, d, C] of K maps of their own at rows int64 [K, c] and columns int64 [K, d], all within the maps."""


def matmul_crop_and_resize(images: tf.Tensor, boxes: tf.Tensor, box_indices: tf.Tensor, crop_size: tuple[int, int]) -> tf.Tensor:
    """Crops float32 [K, c, d, C] of `images` [G, h, w, C], any number type, as the original makes them for `use_matmul_crop_and_resize`.

    `boxes` float32 [K, 4], yxyx normalized, `box_indices` int32 [K] of their images, as for `tf.image.crop_and_resize`.
    """
    height, width = tf.shape(images)[1], tf.shape(images)[2]
    cells = tf.reshape(images, [-1, images.shape[-1]])
    first_cells = tf.cast(box_indices, tf.int64) * tf.cast(height * width, tf.int64)

    def look_up(rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
        places = first_cells[:, tf.newaxis, tf.newaxis] + rows[:, :, tf.newaxis] * tf.cast(width, tf.int64) + columns[:, tf.newaxis]
        return tf.cast(tf.gather(cells, places), tf.float32)

    return crop_by_matmul(look_up, boxes, height, width, crop_size)


def crop_by_matmul(look_up: LookUp, boxes: tf.Tensor, height: tf.Tensor, width: tf.Tensor, crop_size: tuple[int, int]) -> tf.Tensor:
    """Crops float32 [K, c, d, C] of maps of `height` x `width` cells at `boxes` float32 [K, 4], yxyx normalized.

    `tf.image.crop_and_resize` sets a sample beyond the border to zero; here each of its four neighbours beyond the border is zero, so that
    samples fade over one cell. The differences are whole rows and columns: a box that ends at the border has its last samples on it, or by
    rounding just beyond.
    """
    # In float32 and in the original's order of operations: positions decide about neighbours.
    corners = boxes * tf.cast(tf.stack([height, width, height, width]) - 1, tf.float32)
    rows = _sample_positions(corners[:, 0], corners[:, 2], crop_size[0])
    columns = _sample_positions(corners[:, 1], corners[:, 3], crop_size[1])
    crops = []
    for row, row_weight in _neighbours(rows, height):
        for column, column_weight in _neighbours(columns, width):
            weights = row_weight[:, :, tf.newaxis] * column_weight[:, tf.newaxis]
            crops.append(look_up(row, column) * weights[..., tf.newaxis])
    return tf.add_n(crops)


def crop_by_operation(look_up: LookUp, boxes: tf.Tensor, height: tf.Tensor, width: tf.Tensor, crop_size: tuple[int, int]) -> tf.Tensor:
    """The same crops as `tf.image.crop_and_resize` makes them of maps that are there as wholes, in its order of operations."""
    (before, behind, down), (first, last, across) = (
        _between_cells(boxes, axis, size, count) for axis, size, count in ((0, height, crop_size[0]), (1, width, crop_size[1]))
    )
    down, across = down[:, :, tf.newaxis, tf.newaxis], across[:, tf.newaxis, :, tf.newaxis]
    above, below = (_mixed(look_up(row, first), look_up(row, last), across) for row in (before, behind))
    return _mixed(above, below, down) * _inside(boxes, height, width, crop_size)


def _mixed(one: tf.Tensor, other: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    """Between one and the other, by a share of the latter."""
    return one + (other - one) * share


def _between_cells(boxes: tf.Tensor, axis: int, size: tf.Tensor, count: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Of `count` samples along an axis: the cells before and behind each, int64 [K, count], and how far it is from the former."""
    start, end = boxes[:, axis : axis + 1], boxes[:, axis + 2 : axis + 3]
    length = tf.cast(size - 1, tf.float32)
    if count > 1:
        position = start * length + tf.range(count, dtype=tf.float32) * ((end - start) * length / (count - 1))
    else:
        # In double precision, and then rounded.
        position = tf.cast(0.5 * tf.cast(start + end, tf.float64) * tf.cast(length, tf.float64), tf.float32)
    before, behind = (tf.cast(tf.clip_by_value(cell, 0.0, length), tf.int64) for cell in (tf.floor(position), tf.math.ceil(position)))
    return before, behind, position - tf.floor(position)


def _inside(boxes: tf.Tensor, height: tf.Tensor, width: tf.Tensor, crop_size: tuple[int, int]) -> tf.Tensor:
    """1 for samples within the map and 0 for others, float32 [K, c, d, 1], by the operation's own word.

    For a box that ends at the border the last bit of a position decides, and other kernels round it in other ways.
    """
    none = tf.zeros([tf.shape(boxes)[0]], tf.int32)
    rows = tf.image.crop_and_resize(tf.ones([1, height, 1, 1]), _along(boxes, 0), none, [crop_size[0], 1])
    columns = tf.image.crop_and_resize(tf.ones([1, 1, width, 1]), _along(boxes, 1), none, [1, crop_size[1]])
    return rows * columns


def _along(boxes: tf.Tensor, axis: int) -> tf.Tensor:
    """Boxes of one axis alone; a map has one cell along the other."""
    kept = tf.constant([1.0, 0.0, 1.0, 0.0] if axis == 0 else [0.0, 1.0, 0.0, 1.0])
    return boxes * kept


def _matmul_crop(features: tf.Tensor, boxes_yxyx_normalized: tf.Tensor, size: int) -> tf.Tensor:
    batch, count = tf.shape(boxes_yxyx_normalized)[0], tf.shape(boxes_yxyx_normalized)[1]
    flat_boxes = tf.reshape(boxes_yxyx_normalized, [-1, 4])
    return matmul_crop_and_resize(features, flat_boxes, _owners(batch, count), (size, size))


def _owners(batch: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """The image of each of `count` boxes an image, int32 [batch * count]; on the host, which `tf.repeat` leaves and comes back to."""
    return tf.range(batch * count) // tf.maximum(count, 1)


def _sample_positions(start: tf.Tensor, end: tf.Tensor, count: int) -> tf.Tensor:
    """[K, count]: `count` positions from `start` [K] to `end` [K]; a single one lies between them."""
    length = (end - start)[:, tf.newaxis]
    if count == 1:
        return start[:, tf.newaxis] + length / 2
    return start[:, tf.newaxis] + tf.linspace(0.0, 1.0, count) * length


def _neighbours(positions: tf.Tensor, size: tf.Tensor) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
    """The cells before and behind each position, int64, and their weights, zero for those that are none of the `size` cells."""
    before = tf.floor(positions)
    fraction = positions - before
    # Not `before + 1`: just below a whole number the sum may round up to the next but one, in the original too.
    for cell, weight in ((before, 1.0 - fraction), (tf.floor(positions + 1), fraction)):
        index = tf.cast(cell, tf.int32)
        inside = (index >= 0) & (index < size)
        yield tf.cast(tf.clip_by_value(index, 0, size - 1), tf.int64), tf.where(inside, weight, 0.0)
