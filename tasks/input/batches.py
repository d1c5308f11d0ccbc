"""Records to batches: parsed, augmented, resized, and padded to a common size. What is shuffled are the numbers of records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from tasks.input.bad_record import BadRecord, left_out
from tasks.input.config import DataConfig
from tasks.input.order import RecordOrder, positions
from tasks.input.preparation import Example, Preparation
from tasks.input.record_reader import RecordReader
from tasks.mask_rcnn.config import ImageResizer
from tasks.records.label_map import LabelMap
from tasks.records.tfrecord import confirm_whole, matching_files
from tasks.running.errors import UserError


def training_dataset(
    data: DataConfig,
    resizer: ImageResizer,
    label_map: LabelMap,
    batch_size: int,
    context: tf.distribute.InputContext | None = None,
    first_step: int = 0,
    bad: Sequence[BadRecord] = (),
) -> tf.data.Dataset:
    """Endless batches from a step on: (`images`, `true_shapes`, groundtruth) as `MaskRCNN.call` takes them, zero padded to the largest.

    Replicas that are fed by one pipeline get batches of one size, that of their largest together: what is padded is seen by the network.

    Each image has a position, counted over the whole training, row by row and step by step: `position` int64 [B] in the groundtruth.
    Record and augmentation follow `data.seed` and the position alone, so a step is sought, not replayed, and neither threads nor the number
    of replicas change what a step sees; records that are `bad` are replaced. `batch_size` is a replica's. Of an image with more than
    `max_number_of_boxes` objects after augmentation, and after merging where that is asked for, the first ones count.
    """
    reader = RecordReader(record_files(data))
    order = record_order(data, reader, bad)
    examples = training_examples(data, resizer, label_map, reader, order, positions(batch_size, context, first_step))
    replicas = context.num_replicas_in_sync // context.num_input_pipelines if context else 1
    batches = batched(examples, batch_size * replicas).map(_as_model_inputs)
    if replicas > 1:
        batches = batches.rebatch(batch_size)
    # Of an end that may come, replicas would tell each other at every step.
    return batches.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)).prefetch(2 * replicas)


def record_order(data: DataConfig, reader: RecordReader, bad: Sequence[BadRecord] = ()) -> RecordOrder:
    """Which of the reader's records stands where; UserError where there is none to stand anywhere."""
    if not len(reader):
        raise UserError(f"{', '.join(reader.files)}: there is no record", "write the records again, or correct input_path")
    # Experiments of older versions ask for the files' order by a buffer of one record.
    shuffled = data.shuffle and data.shuffle_buffer_size != 1
    return RecordOrder(len(reader), data.seed or 0, shuffled, left_out(bad, reader))


def training_examples(
    data: DataConfig, resizer: ImageResizer, label_map: LabelMap, reader: RecordReader, order: RecordOrder, at: tf.data.Dataset
) -> tf.data.Dataset:
    """What stands at each position of `at`, one by one: `image`, `true_shape`, `position`, objects and their masks."""
    prepare = Preparation(data, resizer, label_map, reader, order)
    return at.map(prepare, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def record_files(data: DataConfig) -> list[str]:
    """The files that `data.input_path` means (a path or pattern, or several), in order of their names; UserError where there is none, or
    one of their shards is missing."""
    patterns: Sequence[str] = [data.input_path] if isinstance(data.input_path, str) else data.input_path
    files: list[str] = []
    for pattern in patterns:
        # TensorFlow's own takes a folder such as `set [1]` for a pattern.
        found = _matching_urls(pattern) if "://" in pattern else [str(file) for file in matching_files(pattern)]
        if not found:
            where = "" if pattern.startswith("/") or "://" in pattern else f" in {Path.cwd()}, the working directory"
            raise UserError(f"no file matches the records' path {pattern}{where}", "materialize the dataset, or correct input_path")
        confirm_whole(pattern, map(Path, found))
        files += found
    return files


def _matching_urls(pattern: str) -> list[str]:
    try:
        return sorted(tf.io.gfile.glob(pattern))
    except tf.errors.UnimplementedError as error:
        raise UserError(
            f"{pattern}: TensorFlow has no file system for such URLs here", "install its plugin, or copy the records to a disk"
        ) from error


def batched(examples: tf.data.Dataset, batch_size: int) -> tf.data.Dataset:
    """Examples by so many, zero padded to the largest."""
    if batch_size == 1:
        # There is nothing to pad, nor to copy.
        return examples.map(lambda example: {name: value[tf.newaxis] for name, value in example.items()})
    return examples.padded_batch(batch_size, drop_remainder=True)


def _as_model_inputs(batch: Example) -> tuple[tf.Tensor, tf.Tensor, Example]:
    groundtruth = {name: value for name, value in batch.items() if name not in ("image", "true_shape")}
    return batch["image"], batch["true_shape"], groundtruth
