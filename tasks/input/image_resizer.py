"""The original's image resizers: sizes rounded as it rounded them, pixels sampled on the grid it sampled.

That grid is TensorFlow 1's (`align_corners=False`, no half-pixel centres: output pixel i reads input position i * in / out), which
today's `tf.image.resize` no longer offers, but the operations under it do. A model trained on it sees images shifted by up to half a pixel
on any other.
"""

from __future__ import annotations

import functools

import tensorflow as tf

from tasks.input.rulers import Rulers
from tasks.mask_rcnn import config
from tasks.running.errors import UserError

KINDS = ("keep_aspect_ratio", "fixed_shape", "identity")

# All but the nearest neighbour compute in float32 whatever the input's type.
METHODS = {
    "BILINEAR": functools.partial(tf.raw_ops.ResizeBilinear, half_pixel_centers=False),
    "NEAREST_NEIGHBOR": functools.partial(tf.raw_ops.ResizeNearestNeighbor, half_pixel_centers=False),
    "BICUBIC": functools.partial(tf.raw_ops.ResizeBicubic, half_pixel_centers=False),
    "AREA": tf.raw_ops.ResizeArea,
}
"""Functions of `images` [B, H, W, C], `size` [2] and `align_corners`, by their name in the `pipeline.config` language."""


def resized_shape(height: tf.Tensor, width: tf.Tensor, resizer: config.ImageResizer) -> tf.Tensor:
    """The size (height, width), int32 [2], that an image of `height` x `width` pixels gets, before any padding.

    `keep_aspect_ratio`: the short side becomes `min_dimension`, unless the long side would then pass `max_dimension`; in that case the
    long side becomes `max_dimension`. Sides are rounded half to even, in float32, as in the original, and are a pixel at least.
    """
    if resizer.kind == "identity":
        return tf.stack([tf.cast(height, tf.int32), tf.cast(width, tf.int32)])
    if resizer.kind == "fixed_shape":
        return tf.constant([resizer.height, resizer.width], tf.int32)
    if resizer.kind != "keep_aspect_ratio":
        raise UserError(f"image_resizer.kind {resizer.kind!r} is unknown", f"use one of {', '.join(KINDS)}")
    shape = tf.cast(tf.stack([height, width]), tf.float32)
    by_short_side = tf.round(shape * (tf.cast(resizer.min_dimension, tf.float32) / tf.reduce_min(shape)))
    by_long_side = tf.round(shape * (tf.cast(resizer.max_dimension, tf.float32) / tf.reduce_max(shape)))
    fits = tf.reduce_max(by_short_side) <= float(resizer.max_dimension)
    # Of an image of 1 x 3000 pixels nothing would be left.
    return tf.cast(tf.maximum(tf.where(fits, by_short_side, by_long_side), 1.0), tf.int32)


def one_size(resizer: config.ImageResizer) -> bool:
    """Whether all images leave the resizer with the same height and width."""
    return resizer.kind == "fixed_shape" or (resizer.kind == "keep_aspect_ratio" and resizer.pad_to_max_dimension)


def resize_image(image: tf.Tensor, resizer: config.ImageResizer) -> tuple[tf.Tensor, tf.Tensor]:
    """The resized image, float32 [h, w, 3] in the input's value range, and its size before padding, int32 [2].

    `image` is [H, W, 3] of any number type. With `pad_to_max_dimension`, the pad value is added at the bottom and the right up to
    max_dimension x max_dimension.
    """
    if resizer.resize_method not in METHODS:
        raise UserError(f"image_resizer.resize_method {resizer.resize_method!r} is unknown", f"use one of {', '.join(METHODS)}")
    resize = METHODS[resizer.resize_method]
    size = resized_shape(tf.shape(image)[0], tf.shape(image)[1], resizer)
    # Of numbers of 8 bits the operation would make the same, and take twice as long.
    resized = resize(images=tf.cast(image, tf.float32)[tf.newaxis], size=size, align_corners=False)[0]
    if not _pads(resizer):
        return resized, size
    padding, values = _padding(size, resizer), resizer.per_channel_pad_value
    if not any(values):
        return tf.pad(resized, [*padding, [0, 0]]), size
    channels = zip(tf.unstack(resized, 3, axis=-1), values, strict=True)
    return tf.stack([tf.pad(channel, padding, constant_values=value) for channel, value in channels], axis=-1), size


def resize_rulers(rulers: Rulers, resizer: config.ImageResizer) -> Rulers:
    """The rulers of the resized (and padded) image: masks take the nearest pixel, whatever the method for images."""
    height, width = tf.unstack(resized_shape(*rulers.size, resizer))
    resized = rulers.stretched(height, width, align_corners=False)
    if not _pads(resizer):
        return resized
    return resized.seen_through(tf.constant(0), tf.constant(0), *[tf.constant(resizer.max_dimension)] * 2)


def _pads(resizer: config.ImageResizer) -> bool:
    return resizer.kind == "keep_aspect_ratio" and resizer.pad_to_max_dimension


def _padding(size: tf.Tensor, resizer: config.ImageResizer) -> list[list[tf.Tensor | int]]:
    """Pixels before and after, for height and width, up to a square of max_dimension."""
    return [[0, resizer.max_dimension - size[0]], [0, resizer.max_dimension - size[1]]]
