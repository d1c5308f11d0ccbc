"""Which record it was, and what is wrong with it: TensorFlow's own errors do not tell."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf

from tasks.input.bad_record import BadRecord
from tasks.input.batches import record_files, record_order, training_examples
from tasks.input.config import DataConfig
from tasks.input.order import positions
from tasks.input.record_parser import STORED_AT, Example, RecordParser
from tasks.input.record_reader import RecordReader
from tasks.input.rulers import Rulers
from tasks.mask_rcnn.config import ImageResizer
from tasks.records.checks import BadImageError, Check, DataError
from tasks.records.example import parse_example
from tasks.records.features import RecordFeatures
from tasks.records.image_file import encode_image
from tasks.records.label_map import LabelMap, read_label_map
from tasks.records.survey import confirm_trainable
from tasks.running.errors import UserError

DATA_ERRORS = (tf.errors.InvalidArgumentError, tf.errors.DataLossError)
"""What TensorFlow raises where a record cannot be read, parsed or decoded; and not only there."""


@contextlib.contextmanager
def faulty_records_named(data: DataConfig, label_map: LabelMap | None = None) -> Iterator[None]:
    """Within the block, TensorFlow's error about a record becomes a UserError that names it; any other goes on its way.

    The classes are those of `label_map`, or of the file that `data` names.
    """
    try:
        yield
    except DATA_ERRORS as error:
        fault = find_faulty_record(data, label_map or read_label_map(Path(data.label_map_path)))
        if fault is None:
            raise
        raise fault from error


def find_faulty_record(data: DataConfig, label_map: LabelMap) -> UserError | None:
    """What is wrong with the first record that cannot be parsed, naming its file and number (from 0); None when all can.

    Reads everything, for the moment after a pipeline without positions failed.
    """
    reader, parse = RecordReader(record_files(data)), _parse(data, label_map)
    return next((fault for number in range(len(reader)) if (fault := _fault_of(reader, number, label_map, parse))), None)


@dataclass(frozen=True)
class TrainingFault:
    """A record that training has met and cannot use; `error` says so to a person."""

    record: BadRecord
    error: UserError


def first_fault(
    data: DataConfig, resizer: ImageResizer, label_map: LabelMap, bad: Sequence[BadRecord], first_step: int, steps: int
) -> TrainingFault | None:
    """The first record of so many steps from one on that cannot be used, without those that are `bad` already; None where all can."""
    reader = RecordReader(record_files(data))
    order = record_order(data, reader, bad)
    at = positions(data.global_batch_size, None, first_step).take(steps * data.global_batch_size)
    position = first_step * data.global_batch_size
    try:
        for _ in training_examples(data, resizer, label_map, reader, order, at):
            position += 1
    except DATA_ERRORS as error:
        number = int(order(tf.constant(position, tf.int64)))
        fault = _fault_of(reader, number, label_map, _parse(data, label_map)) or _unusable(reader.where(number), error)
        return TrainingFault(BadRecord(*reader.place(number), first_step, fault.message), fault)
    return None


_Parse = Callable[[bytes], object]


def _parse(data: DataConfig, label_map: LabelMap) -> _Parse:
    parser = RecordParser(data, label_map)

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
    def parse(serialized: tf.Tensor) -> tuple[tf.Tensor, Example]:
        encoded, source_id, objects = parser.objects(serialized)
        image, stored_at = parser.image(encoded), objects[STORED_AT]
        size = tf.shape(image)[:2]
        return image, objects | parser.masks(serialized, source_id, tf.size(stored_at), size, stored_at, Rulers.of(size[0], size[1]))

    return parse


def _fault_of(reader: RecordReader, number: int, label_map: LabelMap, parse: _Parse) -> UserError | None:
    """What is wrong with a record, None where nothing is."""
    where = reader.where(number)
    try:
        serialized = reader.read(number)
        features = RecordFeatures.parse(serialized, where)
        confirm_trainable(features, label_map)
    except DataError as error:
        if error.check == Check.RECORD_DAMAGED:
            reader.confirm_index(reader.place(number)[0])
        return error
    try:
        parse(serialized)
    except DATA_ERRORS as error:
        return _in_our_words(features, label_map) or _unusable(where, error)
    return None


def _unusable(where: str, error: tf.errors.OpError) -> UserError:
    reason = " ".join(error.message.split("\n\t [[")[0].split())
    return UserError(f"{where} cannot be used: {reason}", "mend the record, or materialize the dataset again")


def _in_our_words(features: RecordFeatures, label_map: LabelMap) -> BadImageError | None:
    """What is wrong with a record that TensorFlow has refused, None where only TensorFlow knows."""
    try:
        encode_image(features.where, features.byte_strings("image/encoded", 1)[0], None)
        parse_example(features.example.SerializeToString(), features.where, label_map.ids)
    except BadImageError as error:
        # A feature that is missing here may be one that training does without.
        return error if error.check != Check.RECORD_MALFORMED else None
    return None
