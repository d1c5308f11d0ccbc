"""From a position in a training to the example that stands there, stage by stage, so that each can be timed apart (`profile`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tasks.input.augmentation import augment_all
from tasks.input.config import DataConfig
from tasks.input.image_resizer import resize_image, resize_rulers
from tasks.input.merged_boxes import merge_equal_boxes
from tasks.input.order import RecordOrder
from tasks.input.record_parser import STORED_AT, RecordParser
from tasks.input.record_reader import RecordReader
from tasks.input.rulers import Rulers
from tasks.input.scene import Scene
from tasks.mask_rcnn.config import ImageResizer
from tasks.records.checks import DataError
from tasks.records.label_map import LabelMap

Example = dict[str, tf.Tensor]
State = dict[str, Any]
"""What is known of an example on its way, tensors by name, some of them nested."""


class Preparation:
    """Called with a position, int64 [], it gives `image`, `true_shape`, `position`, objects, their masks and their numbers.

    `stages` are its parts by name, in their order; each takes what the one before it gave, the first a `State` of the `position`.
    """

    def __init__(self, data: DataConfig, resizer: ImageResizer, label_map: LabelMap, reader: RecordReader, order: RecordOrder) -> None:
        self._data, self._resizer, self._label_map, self._reader, self._order = data, resizer, label_map, reader, order
        self._parser = RecordParser(data, label_map)
        self._options = [augmentation.option() for augmentation in data.augmentations]
        self.stages: dict[str, Callable[[State], State]] = {
            "read": self._read,
            "parse": self._parse,
            "decode image": self._decode,
            "augment": self._augment,
            "resize image": self._resize,
            "masks": self._masks,
        }

    def __call__(self, position: tf.Tensor) -> Example:
        state: State = {"position": position}
        for stage in self.stages.values():
            state = stage(state)
        return state

    def _read(self, state: State) -> State:
        def read(number: np.int64) -> bytes:
            try:
                return self._reader.read(int(number))
            except DataError as error:
                # Of Python's errors, TensorFlow takes this one for what the data is to blame for.
                raise ValueError(str(error)) from error

        serialized = tf.numpy_function(read, [self._order(state["position"])], tf.string)
        return state | {"serialized": tf.ensure_shape(serialized, [])}

    def _parse(self, state: State) -> State:
        encoded, source_id, objects = self._parser.objects(state["serialized"])
        return state | {"encoded": encoded, "source_id": source_id, "objects": objects, "count": tf.size(objects[STORED_AT])}

    def _decode(self, state: State) -> State:
        image = self._parser.image(state["encoded"])
        return state | {"image": image, "stored_size": tf.shape(image)[:2]}

    def _augment(self, state: State) -> State:
        scene = Scene.of(state["image"], state["objects"])
        scene = augment_all(scene, self._options, tf.stack([tf.constant(self._order.seed, tf.int64), state["position"]]))
        rulers = scene.rulers
        return state | {"image": scene.image, "objects": scene.objects, "rulers": (rulers.rows, rulers.columns, rulers.transposed)}

    def _resize(self, state: State) -> State:
        image, true_shape = resize_image(state["image"], self._resizer)
        return state | {"image": image, "true_shape": true_shape}

    def _masks(self, state: State) -> State:
        """Of the objects that count: after merging where that is asked for, the first ones."""
        objects = dict(state["objects"])
        objects["classes"] = tf.cast(objects.pop("category_ids"), tf.int32) - 1
        if self._data.merge_multiple_label_boxes:
            objects = merge_equal_boxes(objects, self._label_map.num_classes)
        met = tf.shape(objects["boxes"])[0]
        objects = {name: values[: self._data.max_number_of_boxes] for name, values in objects.items()}
        wanted, rulers = objects.pop(STORED_AT), resize_rulers(Rulers(*state["rulers"]), self._resizer)
        stored = (state["serialized"], state["source_id"], state["count"], state["stored_size"])
        finished = {name: state[name] for name in ("image", "true_shape", "position")}
        counted = tf.shape(objects["boxes"])[0]
        counts = {"num_boxes": counted, "objects_cut_off": met - counted}
        return finished | objects | self._parser.masks(*stored, wanted, rulers) | counts
