"""One record to tensors: the original's tf.Example features that a training needs, decoded; masks in windows of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tasks.input.config import DataConfig
from tasks.input.mask_windows import mask_windows
from tasks.input.rulers import Rulers
from tasks.mask_rcnn.mask_targets import WINDOW_FIELDS
from tasks.records.example import BOX_SIDES
from tasks.records.label_map import LabelMap
from tasks.records.survey import FARTHEST
from tasks.running.errors import UserError

Example = dict[str, tf.Tensor]

STORED_AT = "stored_at"


class RecordParser:
    """Serialized tf.Example to decoded tensors. Faults of a record fail with its source id; `record_faults` tells its place."""

    def __init__(self, data: DataConfig, label_map: LabelMap) -> None:
        if data.mask_type not in ("PNG_MASKS", "NUMERICAL_MASKS"):
            raise UserError(f"mask_type {data.mask_type!r} is unknown", "use PNG_MASKS or NUMERICAL_MASKS")
        self._png_masks = data.mask_type == "PNG_MASKS"
        self._load_masks = data.load_instance_masks
        self._label_map = label_map
        self._features = {
            "image/encoded": tf.io.FixedLenFeature([], tf.string),
            "image/source_id": tf.io.FixedLenFeature([], tf.string, ""),
            "image/object/class/text": tf.io.VarLenFeature(tf.string),
            "image/object/class/label": tf.io.VarLenFeature(tf.int64),
        } | {name: tf.io.VarLenFeature(tf.float32) for name in (*BOX_SIDES, "image/object/weight")}

    def objects(self, serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, Example]:
        """The encoded image, the source id, empty where the record has none, and its G objects but for their masks:

        `boxes` float32 [G, 4] yxyx normalized; `category_ids` int64 [G] of the label map (text, where there is any, overrides the stored
        label); `weights` float32 [G], one where the record has none; `STORED_AT` int32 [G], which of the record's objects one is, since
        augmentation may leave some out.
        """
        parsed = tf.io.parse_single_example(serialized, self._features)
        values = {name: tf.sparse.to_dense(value) if isinstance(value, tf.SparseTensor) else value for name, value in parsed.items()}
        source = values["image/source_id"]
        boxes = tf.stack([values[side] for side in BOX_SIDES], axis=-1)
        count = tf.shape(boxes)[0]
        objects = {
            "boxes": _usable_boxes(boxes, source),
            "category_ids": self._category_ids(values, count, source),
            "weights": _or_default(values["image/object/weight"], count, tf.ones([count])),
            STORED_AT: tf.range(count),
        }
        return values["image/encoded"], source, objects

    def image(self, encoded: tf.Tensor) -> tf.Tensor:
        """uint8 [H, W, 3]."""
        return tf.ensure_shape(tf.io.decode_image(encoded, channels=3, expand_animations=False), [None, None, 3])

    def masks(
        self, serialized: tf.Tensor, source_id: tf.Tensor, count: tf.Tensor, size: tf.Tensor, wanted: tf.Tensor, rulers: Rulers
    ) -> Example:
        """The masks at the indices `wanted`, int32 [M], of a record of `count` objects and an image of `size` int32 [2], through rulers.

        They are as `mask_targets` takes them of one image:

        `mask_pixels` bool [P], `mask_windows` int32 [M, 5], `mask_rows` int32 [h], `mask_columns` int32 [w], `mask_transposed` bool [].
        Empty where masks are not loaded.
        """
        if not self._load_masks:
            return {}

        def windows(serialized: bytes, source_id: bytes, *values: Any) -> tuple[np.ndarray, ...]:
            try:
                return mask_windows(serialized, self._png_masks, *values)
            except ValueError as error:
                raise ValueError(f"{error}; source id {source_id.decode(errors='replace')}") from error

        given = [serialized, source_id, wanted, count, size, rulers.rows, rulers.columns, rulers.transposed]
        found = tf.numpy_function(windows, given, (tf.bool, tf.int32, tf.int32, tf.int32), stateful=False)
        shapes = {"mask_pixels": [None], "mask_windows": [None, WINDOW_FIELDS], "mask_rows": [None], "mask_columns": [None]}
        masks = {name: tf.ensure_shape(value, shape) for (name, shape), value in zip(shapes.items(), found, strict=True)}
        return masks | {"mask_transposed": rulers.transposed}

    def _category_ids(self, values: Example, count: tf.Tensor, source: tf.Tensor) -> tf.Tensor:
        ids_of = self._label_map.ids
        # A table belongs to the graph that uses it, so it is made where it is used.
        initializer = tf.lookup.KeyValueTensorInitializer(list(ids_of), tf.constant(list(ids_of.values()), tf.int64))
        table = tf.lookup.StaticHashTable(initializer, -1)
        texts, labels = values["image/object/class/text"], values["image/object/class/label"]
        ids = tf.cond(tf.size(texts) > 0, lambda: table.lookup(texts), lambda: labels)
        in_map = tf.constant([number in self._label_map.names for number in range(self._label_map.num_classes + 2)])
        known = tf.reduce_all(tf.gather(in_map, tf.clip_by_value(ids, 0, self._label_map.num_classes + 1)))
        with tf.control_dependencies(
            [
                _check(tf.equal(tf.size(ids), count), "classes (text or label) are not as many as boxes", source, tf.size(ids), count),
                _check(known, "a class is not in the label map", source, texts, ids),
            ]
        ):
            return tf.identity(ids)


def _usable_boxes(boxes: tf.Tensor, source: tf.Tensor) -> tf.Tensor:
    """The boxes, float32 [M, 4] yxyx normalized, if each has an area and no coordinate beyond the original's limit; NaN never passes."""
    low, high = boxes[:, :2], boxes[:, 2:]
    usable = tf.reduce_all((low >= 1.0 - FARTHEST) & (low < high) & (high <= FARTHEST))
    with tf.control_dependencies([_check(usable, "a box has no area, or is beyond the image", source, boxes)]):
        return tf.identity(boxes)


def _check(condition: tf.Tensor, message: str, source: tf.Tensor, *details: tf.Tensor) -> tf.Operation:
    return tf.debugging.Assert(condition, [f"{message}; source id", source, *details], summarize=20)


def _or_default(values: tf.Tensor, count: tf.Tensor, default: tf.Tensor) -> tf.Tensor:
    return tf.cond(tf.equal(tf.size(values), count), lambda: values, lambda: default)
