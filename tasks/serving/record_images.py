"""Images of records, to try a model on before it is handed out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tasks.input.batches import record_files
from tasks.input.config import DataConfig
from tasks.input.record_faults import faulty_records_named


def record_images(data: DataConfig, count: int, image_size: tuple[int, int] | None = None) -> Iterator[npt.NDArray[np.uint8]]:
    """The first `count` images of records, uint8 [H, W, 3], resized to `image_size` (height, width) where there is one."""
    encoded = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}
    with faulty_records_named(data):
        for record in tf.data.TFRecordDataset(record_files(data)).take(count):
            image = tf.io.decode_image(tf.io.parse_single_example(record, encoded)["image/encoded"], channels=3, expand_animations=False)
            yield (tf.cast(tf.round(tf.image.resize(image, image_size)), tf.uint8) if image_size else image).numpy()
