"""Images of records in batches of one size, as a network takes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tasks.input.image_resizer import resize_image
from tasks.mask_rcnn.config import ImageResizer

_WAITING = 4
"""Batches' worth of images of other sizes that may wait for more of their size."""


@dataclass(frozen=True)
class Batch:
    """B images of one size after resizing and padding: `images` float32 [B, h, w, 3], `true_shapes` int32 [B, 2] before padding.

    Of each the serialized record, its number in the file, and the image's own size (height, width).
    """

    images: npt.NDArray[np.float32]
    true_shapes: npt.NDArray[np.int32]
    records: list[bytes]
    indices: list[int]
    sizes: list[tuple[int, int]]


def batches_of_one_size(file: str, resizer: ImageResizer, batch_size: int) -> Iterator[Batch]:
    """All images of a file of records, once, in batches of up to `batch_size`.

    Never padded to a common size: the network clips anchors to the padded image, and its convolutions look into the padding, so that an
    image beside a larger one would get other detections. Images come in the order of the file but where they wait for others of their
    size; a few batches' worth may wait, which bounds the memory.
    """
    dataset = tf.data.TFRecordDataset(file).map(
        lambda serialized: _resized(serialized, resizer), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    waiting: dict[tuple[int, ...], list[tuple[Any, ...]]] = {}
    for index, elements in enumerate(dataset.prefetch(batch_size)):
        image, true_shape, size, serialized = (element.numpy() for element in elements)
        same = waiting.setdefault(image.shape, [])
        same.append((image, true_shape, serialized, index, tuple(size.tolist())))
        if len(same) == batch_size:
            yield _batch(waiting.pop(image.shape))
        elif sum(map(len, waiting.values())) >= _WAITING * batch_size:
            yield _batch(waiting.pop(next(iter(waiting))))
    for same in waiting.values():
        yield _batch(same)


def _resized(serialized: tf.Tensor, resizer: ImageResizer) -> tuple[tf.Tensor, ...]:
    encoded = tf.io.parse_single_example(serialized, {"image/encoded": tf.io.FixedLenFeature([], tf.string)})["image/encoded"]
    image = tf.ensure_shape(tf.io.decode_image(encoded, channels=3, expand_animations=False), [None, None, 3])
    return (*resize_image(image, resizer), tf.shape(image)[:2], serialized)


def _batch(rows: list[tuple[Any, ...]]) -> Batch:
    images, true_shapes, records, indices, sizes = zip(*rows, strict=True)
    return Batch(np.stack(images), np.stack(true_shapes), list(records), list(indices), list(sizes))
