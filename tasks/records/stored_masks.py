"""How somebody else's records store their masks, found out by looking into the first of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from google.protobuf.message import DecodeError

from tasks.errors import UserError
from tasks.records.example import NUMERICAL_MASKS, PNG_MASKS
from tasks.records.example_pb2 import Example
from tasks.records.tfrecord import read_shard

_LOOK_INTO = 200
"""Records; as many images without an object in a row are no accident."""


def stored_mask_type(files: Iterable[Path]) -> str | None:
    """`PNG_MASKS` or `NUMERICAL_MASKS`, as the first record with a mask has it; None where the first 200 have none.

    Raises UserError for a file that is no TFRecord file, and for a record that is no tf.train.Example.
    """
    for file, record in islice(_records(files), _LOOK_INTO):
        try:
            features = Example.FromString(record).features.feature
        except DecodeError as error:
            raise UserError(f"{file}: a record is not a tf.train.Example", "give the path of an object detection dataset") from error
        if features["image/object/mask"].bytes_list.value:
            return PNG_MASKS
        if features["image/object/mask"].float_list.value:
            return NUMERICAL_MASKS
    return None


def _records(files: Iterable[Path]) -> Iterator[tuple[Path, bytes]]:
    for file in files:
        for record in read_shard(file):
            yield file, record
