"""Records to batches: the original's tf.Example features, its resizers, its horizontal flip, padded to a common size.

Memory stays bounded: records are shuffled as they lie on disk, and masks are bytes, decoded at the image's size and resized at once.
"""

from __future__ import annotations

import tensorflow as tf

from tasks.errors import UserError
from tasks.mask_rcnn import config
from tasks.mask_rcnn.image_resizer import resize_image, resize_masks
from tasks.records.label_map import LabelMap

Example = dict[str, tf.Tensor]

_BOX_SIDES = ("ymin", "xmin", "ymax", "xmax")


class RecordParser:
    """Serialized tf.Example to decoded tensors at the image's own size."""

    def __init__(self, data: config.DataConfig, label_map: LabelMap) -> None:
        if data.mask_type not in ("PNG_MASKS", "NUMERICAL_MASKS"):
            raise UserError(f"mask_type {data.mask_type!r} is unknown", "use PNG_MASKS or NUMERICAL_MASKS")
        self._png_masks = data.mask_type == "PNG_MASKS"
        self._load_masks = data.load_instance_masks
        names = label_map.names
        table = tf.lookup.KeyValueTensorInitializer(list(names.values()), tf.constant(list(names), tf.int64))
        self._ids = tf.lookup.StaticHashTable(table, -1)
        floats = [f"image/object/bbox/{side}" for side in _BOX_SIDES] + ["image/object/area", "image/object/weight"]
        self._features = {
            "image/encoded": tf.io.FixedLenFeature([], tf.string),
            "image/source_id": tf.io.FixedLenFeature([], tf.string, ""),
            "image/object/class/text": tf.io.VarLenFeature(tf.string),
            "image/object/class/label": tf.io.VarLenFeature(tf.int64),
            "image/object/is_crowd": tf.io.VarLenFeature(tf.int64),
            "image/object/mask": tf.io.VarLenFeature(tf.string if self._png_masks else tf.float32),
        } | {name: tf.io.VarLenFeature(tf.float32) for name in floats}

    def __call__(self, serialized: tf.Tensor) -> Example:
        """One record's objects, M of them.

        `image` uint8 [H, W, 3]; `source_id`; `boxes` float32 [M, 4] yxyx normalized; `category_ids` int64 [M] of the label map (text, where
        there is any, overrides the stored label); `areas` float32 [M] pixels, the box's where the record has none; `is_crowd` bool [M];
        `weights` float32 [M], one where the record has none; `masks` uint8 [M, H, W], 0 or 1, when masks are loaded. A category that the
        label map lacks, or masks of another number or size than boxes and image, fail with the record's source id.
        """
        parsed = tf.io.parse_single_example(serialized, self._features)
        values = {name: tf.sparse.to_dense(value) if isinstance(value, tf.SparseTensor) else value for name, value in parsed.items()}
        image = tf.io.decode_image(values["image/encoded"], channels=3, expand_animations=False)
        image.set_shape([None, None, 3])
        source = values["image/source_id"]
        boxes = tf.stack([values[f"image/object/bbox/{side}"] for side in _BOX_SIDES], axis=-1)
        count = tf.shape(boxes)[0]
        height, width = tf.cast(tf.shape(image)[0], tf.float32), tf.cast(tf.shape(image)[1], tf.float32)
        box_areas = (boxes[:, 2] - boxes[:, 0]) * height * (boxes[:, 3] - boxes[:, 1]) * width
        example = {
            "image": image,
            "source_id": source,
            "boxes": boxes,
            "category_ids": self._category_ids(values, count, source),
            "areas": _or_default(values["image/object/area"], count, box_areas),
            "is_crowd": _or_default(values["image/object/is_crowd"], count, tf.zeros([count], tf.int64)) > 0,
            "weights": _or_default(values["image/object/weight"], count, tf.ones([count])),
        }
        if self._load_masks:
            example["masks"] = self._masks(values["image/object/mask"], image, count, source)
        return example

    def _category_ids(self, values: Example, count: tf.Tensor, source: tf.Tensor) -> tf.Tensor:
        texts = values["image/object/class/text"]
        ids = tf.cond(tf.size(texts) > 0, lambda: self._ids.lookup(texts), lambda: values["image/object/class/label"])
        known = tf.reduce_all(ids > 0) & tf.equal(tf.size(ids), count)
        check = tf.debugging.Assert(known, ["a category of this record is not in the label map", source, texts, ids])
        with tf.control_dependencies([check]):
            return tf.identity(ids)

    def _masks(self, stored: tf.Tensor, image: tf.Tensor, count: tf.Tensor, source: tf.Tensor) -> tf.Tensor:
        shape = tf.concat([[count], tf.shape(image)[:2]], 0)
        message = "the masks of this record are not one per box, of the image's size"
        if not self._png_masks:
            right_size = tf.equal(tf.size(stored), tf.reduce_prod(shape))
            with tf.control_dependencies([tf.debugging.Assert(right_size, [message, source, tf.size(stored), shape])]):
                return tf.cast(tf.reshape(stored, shape) > 0, tf.uint8)

        def decode(png: tf.Tensor) -> tf.Tensor:
            mask = tf.io.decode_png(png, channels=1)[..., 0]
            right_size = tf.reduce_all(tf.equal(tf.shape(mask), shape[1:]))
            with tf.control_dependencies([tf.debugging.Assert(right_size, [message, source, tf.shape(mask), shape])]):
                return tf.cast(mask > 0, tf.uint8)

        with tf.control_dependencies([tf.debugging.Assert(tf.equal(tf.size(stored), count), [message, source, shape])]):
            stored = tf.identity(stored)
        return tf.cond(
            count > 0,
            lambda: tf.map_fn(decode, stored, fn_output_signature=tf.TensorSpec([None, None], tf.uint8)),
            lambda: tf.zeros(shape, tf.uint8),
        )


def training_dataset(
    data: config.DataConfig,
    resizer: config.ImageResizer,
    label_map: LabelMap,
    batch_size: int,
    context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Endless shuffled batches: (`images`, `true_shapes`, groundtruth) as `MaskRCNN.call` takes them, zero padded to the batch's largest.

    Order and flips follow `data.seed`. Of an image with more than `max_number_of_boxes` objects the first ones count.
    """
    parse = RecordParser(data, label_map)

    def prepare(serialized: tf.Tensor) -> Example:
        example = parse(serialized)
        return _resized(flip_left_right(example) if data.random_horizontal_flip else example, data, resizer)

    files = tf.data.Dataset.list_files(data.input_path, shuffle=True, seed=data.seed)
    if context is not None and context.num_input_pipelines > 1:
        files = files.shard(context.num_input_pipelines, context.input_pipeline_id)
    records = files.interleave(tf.data.TFRecordDataset, cycle_length=data.cycle_length or 8)
    records = records.shuffle(data.shuffle_buffer_size, seed=data.seed).repeat()
    examples = records.map(prepare, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return examples.padded_batch(batch_size, drop_remainder=True).map(_as_model_inputs).prefetch(2)


def evaluation_dataset(data: config.DataConfig, resizer: config.ImageResizer, label_map: LabelMap) -> tf.data.Dataset:
    """One pass, in order, one image at a time: (`images` [1, h, w, 3], `true_shapes` [1, 2], the parsed record at its own size)."""
    parse = RecordParser(data, label_map)

    def prepare(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, Example]:
        example = parse(serialized)
        image, true_shape = resize_image(example["image"], resizer)
        return image[tf.newaxis], true_shape[tf.newaxis], example

    files = tf.data.Dataset.list_files(data.input_path, shuffle=False)
    return tf.data.TFRecordDataset(files).map(prepare, num_parallel_calls=2, deterministic=True).prefetch(2)


def flip_left_right(example: Example, flip: tf.Tensor | None = None) -> Example:
    """The example mirrored left to right, image, boxes and masks together, with probability one half, or as `flip` says."""
    if flip is None:
        flip = tf.random.uniform([]) < 0.5
    ymin, xmin, ymax, xmax = tf.unstack(example["boxes"], axis=-1)
    mirrored = example | {
        "image": tf.reverse(example["image"], [1]),
        "boxes": tf.stack([ymin, 1.0 - xmax, ymax, 1.0 - xmin], axis=-1),
    }
    if "masks" in example:
        mirrored["masks"] = tf.reverse(example["masks"], [2])
    return {name: tf.where(flip, mirrored[name], value) if mirrored[name] is not value else value for name, value in example.items()}


def _resized(example: Example, data: config.DataConfig, resizer: config.ImageResizer) -> Example:
    image, true_shape = resize_image(example["image"], resizer)
    most = data.max_number_of_boxes
    prepared = {
        "image": image,
        "true_shape": true_shape,
        "boxes": example["boxes"][:most],
        "classes": tf.cast(example["category_ids"][:most], tf.int32) - 1,
        "num_boxes": tf.minimum(tf.shape(example["boxes"])[0], most),
        "weights": example["weights"][:most],
    }
    if "masks" in example:
        prepared["masks"] = tf.ensure_shape(resize_masks(example["masks"][:most], resizer), [None, None, None])
    return prepared


def _as_model_inputs(batch: Example) -> tuple[tf.Tensor, tf.Tensor, Example]:
    groundtruth = {name: value for name, value in batch.items() if name not in ("image", "true_shape")}
    return batch["image"], batch["true_shape"], groundtruth


def _or_default(values: tf.Tensor, count: tf.Tensor, default: tf.Tensor) -> tf.Tensor:
    return tf.cond(tf.equal(tf.size(values), count), lambda: values, lambda: default)
