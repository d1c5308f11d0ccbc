"""One record to tensors: the original's tf.Example features, decoded, and augmented where a training asks for it.

Memory stays bounded: masks are bytes, each moved and resized as soon as it is decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from tasks.input.config import DataConfig
from tasks.input.image_resizer import resize_masks
from tasks.input.scene import Movement, Scene
from tasks.mask_rcnn.config import ImageResizer
from tasks.records.example import BOX_SIDES
from tasks.records.label_map import LabelMap
from tasks.records.survey import FARTHEST
from tasks.running.errors import UserError

Example = dict[str, tf.Tensor]

# Which of the record's objects one is: augmentation may leave some out.
_STORED_AT = "stored_at"
_IDENTITY = ImageResizer(kind="identity")


class RecordParser:
    """Serialized tf.Example to decoded tensors. Faults of a record fail with its source id; `find_faulty_record` tells its place."""

    def __init__(self, data: DataConfig, label_map: LabelMap) -> None:
        if data.mask_type not in ("PNG_MASKS", "NUMERICAL_MASKS"):
            raise UserError(f"mask_type {data.mask_type!r} is unknown", "use PNG_MASKS or NUMERICAL_MASKS")
        self._png_masks = data.mask_type == "PNG_MASKS"
        self._load_masks = data.load_instance_masks
        self._label_map = label_map
        floats = [*BOX_SIDES, "image/object/area", "image/object/weight"]
        self._features = {
            "image/encoded": tf.io.FixedLenFeature([], tf.string),
            "image/source_id": tf.io.FixedLenFeature([], tf.string, ""),
            "image/filename": tf.io.FixedLenFeature([], tf.string, ""),
            "image/object/class/text": tf.io.VarLenFeature(tf.string),
            "image/object/class/label": tf.io.VarLenFeature(tf.int64),
            "image/object/is_crowd": tf.io.VarLenFeature(tf.int64),
        } | {name: tf.io.VarLenFeature(tf.float32) for name in floats}
        if self._load_masks:
            self._features["image/object/mask"] = tf.io.VarLenFeature(tf.string if self._png_masks else tf.float32)

    def __call__(
        self,
        serialized: tf.Tensor,
        augment: Callable[[Scene], Scene] | None = None,
        most: int | None = None,
        mask_resizer: ImageResizer = _IDENTITY,
    ) -> Example:
        """One record: its image, augmented where asked for, and the first `most` objects that are then in it, M of them.

        `image` uint8 [H, W, 3], or float32 where it is augmented; `source_id` and `filename`, empty where the record has none; `boxes`
        float32 [M, 4] yxyx normalized; `category_ids` int64 [M] of the label map (text, where there is any, overrides the stored label);
        `areas` float32 [M] in pixels of the record's image, the box's where the record has none; `is_crowd` bool [M]; `weights` float32
        [M], one where the record has none; `masks` uint8 [M, h, w], 0 or 1, on `mask_resizer`'s grid, when masks are loaded.
        """
        parsed = tf.io.parse_single_example(serialized, self._features)
        values = {name: tf.sparse.to_dense(value) if isinstance(value, tf.SparseTensor) else value for name, value in parsed.items()}
        image = tf.io.decode_image(values["image/encoded"], channels=3, expand_animations=False)
        image.set_shape([None, None, 3])
        source = values["image/source_id"]
        ymin, xmin, ymax, xmax = (values[key] for key in BOX_SIDES)
        count = tf.size(ymin)
        height, width = tf.cast(tf.shape(image)[0], tf.float32), tf.cast(tf.shape(image)[1], tf.float32)
        box_areas = (ymax - ymin) * height * (xmax - xmin) * width
        objects = {
            "boxes": _usable_boxes(tf.stack([ymin, xmin, ymax, xmax], axis=-1), source),
            "category_ids": self._category_ids(values, count, source),
            "areas": _or_default(values["image/object/area"], count, box_areas),
            "is_crowd": _or_default(values["image/object/is_crowd"], count, tf.zeros([count], tf.int64)) > 0,
            "weights": _or_default(values["image/object/weight"], count, tf.ones([count])),
            _STORED_AT: tf.range(count),
        }
        stored_shape = tf.shape(image)[:2]
        movements: tuple[Movement, ...] = ()
        if augment is not None:
            scene = augment(Scene(tf.cast(image, tf.float32), objects))
            image, objects, movements = scene.image, scene.objects, scene.movements
        example = {name: value[:most] for name, value in objects.items()}
        wanted = example.pop(_STORED_AT)
        if self._load_masks:
            example["masks"] = self._masks(values["image/object/mask"], stored_shape, count, source, wanted, movements, mask_resizer)
        return example | {"image": image, "source_id": source, "filename": values["image/filename"]}

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

    def _masks(
        self,
        stored: tf.Tensor,
        image_shape: tf.Tensor,
        count: tf.Tensor,
        source: tf.Tensor,
        wanted: tf.Tensor,
        movements: Sequence[Movement],
        resizer: ImageResizer,
    ) -> tf.Tensor:
        """The masks at the indices `wanted`, int32 [M], of all `count` stored ones: moved and resized, one at a time; uint8 [M, h, w]."""

        def carried(mask: tf.Tensor) -> tf.Tensor:
            pixels = tf.cast(mask > 0, tf.uint8)[..., tf.newaxis]
            for move in movements:
                pixels = move(pixels, True)
            return resize_masks(pixels[tf.newaxis, ..., 0], resizer)[0]

        def decoded(index: tf.Tensor) -> tf.Tensor:
            mask = tf.io.decode_png(stored[index], channels=1)[..., 0]
            right_size = tf.reduce_all(tf.equal(tf.shape(mask), image_shape))
            with tf.control_dependencies([_check(right_size, "a mask is not of its image's size", source, tf.shape(mask), image_shape)]):
                return tf.identity(mask)

        def sliced(index: tf.Tensor) -> tf.Tensor:
            return tf.reshape(stored, shape)[index]

        shape = tf.concat([[count], image_shape], 0)
        if self._png_masks:
            one = decoded
            check = _check(tf.equal(tf.size(stored), count), "masks are not as many as boxes", source, tf.size(stored), count)
        else:
            one = sliced
            right_size = tf.equal(tf.size(stored), tf.reduce_prod(shape))
            check = _check(right_size, "dense masks are not boxes x height x width", source, tf.size(stored), shape)

        def all_wanted() -> tf.Tensor:
            return tf.map_fn(lambda index: carried(one(index)), wanted, fn_output_signature=tf.TensorSpec([None, None], tf.uint8))

        with tf.control_dependencies([check]):
            # A stack of no masks has no size to take over, so it takes that of an empty one.
            return tf.cond(tf.size(wanted) > 0, all_wanted, lambda: carried(tf.zeros(image_shape, tf.uint8))[tf.newaxis][:0])


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
