"""Which records a step of training saw: the way back from positions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import tensorflow as tf

from tasks.input.bad_record import BadRecord
from tasks.input.batches import record_files, record_order
from tasks.input.config import DataConfig
from tasks.input.record_reader import RecordReader
from tasks.records.features import RecordFeatures
from tasks.running.errors import UserError


@dataclass(frozen=True)
class PlacedRecord:
    """Record `record` of `file`, from 0, which stands at `position`; its own `source_id`, empty where it has none or cannot be read."""

    position: int
    file: str
    record: int
    source_id: str


def records_at(data: DataConfig, positions: Iterable[int], bad: Sequence[BadRecord] = ()) -> list[PlacedRecord]:
    """The records at positions of the training on `data` without those that are `bad`."""
    reader = RecordReader(record_files(data))
    order = record_order(data, reader, bad)
    found = []
    for position in positions:
        number = int(order(tf.constant(position, tf.int64)))
        file, record = reader.place(number)
        found.append(PlacedRecord(position, file, record, _source_id(reader, number)))
    return found


def _source_id(reader: RecordReader, number: int) -> str:
    try:
        return RecordFeatures.parse(reader.read(number), "the record").text("image/source_id")
    except (UserError, OSError, tf.errors.OpError):
        return ""
