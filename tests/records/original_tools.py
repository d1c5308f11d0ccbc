"""Records as the original's tools write them, by TensorFlow's own classes: the other side in tests of what we read."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def jpeg_of(height: int, width: int, seed: int = 0) -> bytes:
    """A photograph's stand-in."""
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)).save(stream, "JPEG")
    return stream.getvalue()


def png_of(mask: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(mask).save(stream, "PNG")
    return stream.getvalue()


def original_features(
    masks: Sequence[np.ndarray], names: Sequence[str], *, size: tuple[int, int], dense: bool = False, source_id: str = "7", seed: int = 0
) -> dict[str, list[Any]]:
    """What the original's tools for COCO (PNG masks) and for pets (dense ones too) have in common: names and no ids."""
    height, width = size
    image = jpeg_of(height, width, seed)
    extents = [(np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))) for mask in masks]
    return {
        "image/height": [height],
        "image/width": [width],
        "image/filename": [f"{source_id}.jpg".encode()],
        "image/source_id": [source_id.encode()],
        "image/key/sha256": [hashlib.sha256(image).hexdigest().encode()],
        "image/encoded": [image],
        "image/format": [b"jpeg"],
        "image/object/bbox/xmin": [columns[0] / width for _, columns in extents],
        "image/object/bbox/xmax": [(columns[-1] + 1) / width for _, columns in extents],
        "image/object/bbox/ymin": [rows[0] / height for rows, _ in extents],
        "image/object/bbox/ymax": [(rows[-1] + 1) / height for rows, _ in extents],
        "image/object/class/text": [name.encode() for name in names],
        "image/object/is_crowd": [0 for _ in masks],
        "image/object/area": [float(mask.sum()) for mask in masks],
        "image/object/mask": np.stack(masks).astype(float).flatten().tolist() if dense else [png_of(mask) for mask in masks],
    }


def serialized(features: dict[str, list[Any]]) -> bytes:
    """The `tf.train.Example` with these lists, of the kind of their first value; an empty list has none."""
    import tensorflow as tf

    kinds = {
        bytes: lambda values: tf.train.Feature(bytes_list=tf.train.BytesList(value=values)),
        int: lambda values: tf.train.Feature(int64_list=tf.train.Int64List(value=values)),
        float: lambda values: tf.train.Feature(float_list=tf.train.FloatList(value=values)),
    }
    feature = {
        key: kinds[next(kind for kind in kinds if isinstance(values[0], kind))](values) if values else tf.train.Feature()
        for key, values in features.items()
    }
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def write_records(path: Path, records: Sequence[bytes]) -> None:
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
