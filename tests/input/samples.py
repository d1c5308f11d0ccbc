"""Small records as the original's tools wrote them, and the classes that they name."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tasks.records.annotated_image import Category
from tasks.records.label_map import label_map

LABELS = label_map([Category(1, "cat"), Category(3, "dog")], "test")
MASK = np.zeros((4, 6), np.uint8)
MASK[1:3, 0:2] = 1


def feature(values: list[Any]) -> tf.train.Feature:
    if isinstance(values[0], bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    if isinstance(values[0], int):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    return tf.train.Feature(float_list=tf.train.FloatList(value=values))


def record(**changes: list[Any]) -> bytes:
    """One object, a dog on the left of a 4 x 6 image, as the original's tools wrote it: without class/label."""
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    values: dict[str, list[Any]] = {
        "image/encoded": [tf.io.encode_png(image).numpy()],
        "image/source_id": [b"7"],
        "image/object/bbox/ymin": [0.25],
        "image/object/bbox/xmin": [0.0],
        "image/object/bbox/ymax": [0.75],
        "image/object/bbox/xmax": [1 / 3],
        "image/object/class/text": [b"dog"],
        # 255 where others write 1: any value above zero is the object.
        "image/object/mask": [tf.io.encode_png(MASK[..., None] * 255).numpy()],
    } | {key.replace("__", "/"): value for key, value in changes.items()}
    features = {key: feature(value) for key, value in values.items() if value}
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
