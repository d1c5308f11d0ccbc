"""What the mask branch should have said: the objects' masks, cropped by proposals and bilinearly resized.

The masks need not be there at the size of the image. A crop looks at a few pixels of the resized mask, each of which is one of the stored
mask, by nearest neighbour: these are looked up. The result is that of `tf.image.crop_and_resize` on masks that were moved and resized as
wholes, to the bit on a CPU without fused multiply-add; else within the rounding of a position, some 1e-4 of a pixel.
"""

from __future__ import annotations

import tensorflow as tf

from tasks.mask_rcnn.crop import LookUp, crop_by_matmul, crop_by_operation

Tensors = dict[str, tf.Tensor]

WINDOW_FIELDS = 5
"""Where a window's pixels begin, its top, left, height and width."""


def whole_frames(masks: tf.Tensor) -> Tensors:
    """Masks [B, M, H, W] of any number type, above 0 where the object is, in the form that `mask_targets` takes."""
    batch, objects, height, width = tf.unstack(tf.shape(masks))
    starts = tf.range(objects) * height * width
    zeros = tf.zeros_like(starts)
    windows = tf.stack([starts, zeros, zeros, zeros + height, zeros + width], axis=-1)
    return {
        "mask_pixels": tf.reshape(masks > 0, [batch, objects * height * width]),
        "mask_windows": tf.tile(windows[tf.newaxis], [batch, 1, 1]),
        "mask_rows": tf.tile(tf.range(1, height + 1)[tf.newaxis], [batch, 1]),
        "mask_columns": tf.tile(tf.range(1, width + 1)[tf.newaxis], [batch, 1]),
        "mask_transposed": tf.zeros([batch], tf.bool),
    }


def mask_targets(
    groundtruth: Tensors, images: tf.Tensor, objects: tf.Tensor, boxes: tf.Tensor, crop_size: tuple[int, int], *, use_matmul: bool
) -> tf.Tensor:
    """The masks of R objects in boxes of theirs, soft: float32 [R, c, d].

    Args:
      groundtruth: of all masks of an image, `mask_pixels` bool [B, P], their windows' pixels one after the other; `mask_windows` int32
        [B, M, 5], see `WINDOW_FIELDS`, of the pixels of the stored mask, outside of which there is no object; `mask_rows` int32 [B, H] and
        `mask_columns` int32 [B, W], which row and column of the stored mask each of the padded image shows, from 1, and 0 for none;
        `mask_transposed` bool [B], whether they are exchanged.
      images, objects: int32 [R], which image and which of its objects.
      boxes: float32 [R, 4], yxyx normalized to the padded image.
      crop_size: (c, d).
      use_matmul: crops as `crop_by_matmul` makes them, else as `crop_by_operation`.
    """
    height, width = tf.shape(groundtruth["mask_rows"])[1], tf.shape(groundtruth["mask_columns"])[1]
    crop = crop_by_matmul if use_matmul else crop_by_operation
    return crop(_look_up(groundtruth, images, objects), boxes, height, width, crop_size)[..., 0]


def _look_up(groundtruth: Tensors, images: tf.Tensor, objects: tf.Tensor) -> LookUp:
    # Indices are int64: on a GPU TensorFlow has kernels for these, and takes int32 to the host.
    images, objects = tf.cast(images, tf.int64), tf.cast(objects, tf.int64)
    # One of each more, so that a batch without objects can be looked at.
    pixels = tf.pad(tf.reshape(groundtruth["mask_pixels"], [-1]), [[0, 1]])
    windows = tf.reshape(tf.cast(groundtruth["mask_windows"], tf.int64), [-1, WINDOW_FIELDS])
    windows = tf.concat([windows, tf.zeros([1, WINDOW_FIELDS], tf.int64)], axis=0)
    pixels_an_image = tf.shape(groundtruth["mask_pixels"], tf.int64)[1]
    objects_an_image = tf.shape(groundtruth["mask_windows"], tf.int64)[1]
    window = tf.gather(windows, images * objects_an_image + objects)[:, tf.newaxis, tf.newaxis]
    starts, tops, lefts, heights, widths = (window[..., field] for field in range(WINDOW_FIELDS))
    starts += (images * pixels_an_image)[:, tf.newaxis, tf.newaxis]
    transposed = tf.gather(groundtruth["mask_transposed"], images)[:, tf.newaxis, tf.newaxis]

    def shown(ruler: tf.Tensor, lines: tf.Tensor) -> tf.Tensor:
        """Which line of the stored mask each of the image's lines, int64 [R, c], shows, from 0, and -1 for none: int64 [R, c]."""
        places = images[:, tf.newaxis] * tf.shape(ruler, tf.int64)[1] + lines
        return tf.gather(tf.reshape(tf.cast(ruler, tf.int64), [-1]), places) - 1

    def look_up(rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
        down = shown(groundtruth["mask_rows"], rows)[:, :, tf.newaxis]
        across = shown(groundtruth["mask_columns"], columns)[:, tf.newaxis]
        row, column = tf.where(transposed, across, down), tf.where(transposed, down, across)
        is_seen = (down >= 0) & (across >= 0)
        is_inside = is_seen & (row >= tops) & (row < tops + heights) & (column >= lefts) & (column < lefts + widths)
        place = tf.where(is_inside, starts + (row - tops) * widths + column - lefts, 0)
        return tf.cast(is_inside & tf.gather(pixels, place), tf.float32)[..., tf.newaxis]

    return look_up
