"""A few records of a split to look at, chosen evenly and the same each time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, islice
from typing import TypeVar

from tasks.records.example import ImageRecord, parse_example
from tasks.records.features import RecordFeatures
from tasks.records.manifest import Split
from tasks.records.tfrecord import read_shard, record_at, record_offsets
from tasks.running.workspace import DatasetDir

_LOOK_INTO = 1000
"""Records from the first on, for one that is rare."""

_Item = TypeVar("_Item")


def sample_records(dataset: DatasetDir, split: Split, count: int) -> list[ImageRecord]:
    """`count` records, as evenly as the images lie in the shards, all where there are fewer; raises what `parse_example` does.

    Where the split has images without objects, or crowds, and none of the records shows it, the first one that does is added, if it
    is among the first thousand records. Of many shards only `count` are read.
    """
    shards = [dataset.root / name for name in _evenly(split.shards, count)]
    # Image i is in shard i modulo their number, so this is the images' order.
    places = sorted((number, shard, offset) for shard, path in enumerate(shards) for number, offset in enumerate(record_offsets(path)))
    chosen = [
        parse_example(record_at(shards[shard], offset), f"{shards[shard]}: record {number}")
        for number, shard, offset in _evenly(places, count)
    ]
    if split.empty_images and all(record.instances for record in chosen):
        chosen += _first(dataset, split, empty=True)
    if split.crowd_objects and not any(instance.is_crowd for record in chosen for instance in record.instances):
        chosen += _first(dataset, split, empty=False)
    return chosen


def _evenly(items: Sequence[_Item], count: int) -> list[_Item]:
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def _first(dataset: DatasetDir, split: Split, *, empty: bool) -> list[ImageRecord]:
    """The first record without objects, or else the first with a crowd; none where there is none soon."""
    records = chain.from_iterable(read_shard(dataset.root / name) for name in split.shards)
    for number, record in enumerate(islice(records, _LOOK_INTO)):
        where = f"{dataset.root}: record {number} of {split.pattern}"
        features = RecordFeatures.parse(record, where)
        crowds = features.feature("image/object/is_crowd").int64_list.value
        if not features.feature("image/object/bbox/ymin").float_list.value if empty else any(crowds):
            return [parse_example(record, where)]
    return []
