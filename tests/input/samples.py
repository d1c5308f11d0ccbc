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


def frames(masks: dict[str, Any]) -> np.ndarray:
    """The masks of one image as wholes, uint8 [M, H, W]: each pixel of the image is looked up in the window of each object."""
    rows, columns, pixels = (np.asarray(masks[f"mask_{name}"]) for name in ("rows", "columns", "pixels"))
    down, across = (columns, rows) if masks["mask_transposed"] else (rows, columns)
    found = np.zeros((len(masks["mask_windows"]), len(rows), len(columns)), np.uint8)
    for frame, (start, top, left, height, width) in zip(found, np.asarray(masks["mask_windows"]), strict=True):
        # Lines count from 1; line 0 shows nothing.
        stored = np.zeros((max(down.max(initial=0), top + height) + 1, max(across.max(initial=0), left + width) + 1), np.uint8)
        stored[1 + top : 1 + top + height, 1 + left : 1 + left + width] = pixels[start : start + height * width].reshape(height, width)
        frame[:] = stored[columns][:, rows].T if masks["mask_transposed"] else stored[rows][:, columns]
    return found


def frames_of(truth: dict[str, Any], image: int) -> np.ndarray:
    """The same of one image of a batch."""
    return frames({name: value.numpy()[image] for name, value in truth.items() if name.startswith("mask_")})
