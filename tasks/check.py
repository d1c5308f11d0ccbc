"""The step that looks for faults in records that are there: shards, features, images, masks, boxes, classes, copies.

    maskline check DATASET [--label-map FILE] [--workers N]

DATASET is a materialized dataset's folder, or, with the label map, a path or pattern of records of other tools. Prints each fault's code,
how often it was found and where first, and writes nothing. What materialization mends, training takes as it is stored: here it makes a
record unfit. Needs no TensorFlow; usual runtime: that of materialization.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from tasks.annotations.record_faults import faults_of, is_fit_to_train
from tasks.records.checks import Check, DataError
from tasks.records.label_map import LabelMap
from tasks.records.shards import find_shards
from tasks.records.tfrecord import FRAMING_BYTES, index_path, located_records, print_places
from tasks.running.errors import UserError
from tasks.running.progress import Progress
from tasks.running.workers import Workers
from tasks.running.workspace import StepResult

_PLACES_TOLD = 3


@dataclass(frozen=True)
class Place:
    """A record by its shard and its number there, from 0; `message` says more, where there is more to say."""

    shard: str
    record: int
    source_id: str
    message: str = ""

    def __str__(self) -> str:
        source = f" (source id {self.source_id})" if self.source_id else ""
        return f"{self.shard}: record {self.record}{source}" + (f": {self.message}" if self.message else "")


@dataclass
class Found:
    """How often each fault is there, and its first places; adds up over shards."""

    counts: Counter[Check] = field(default_factory=Counter)
    places: dict[Check, list[Place]] = field(default_factory=dict)
    unfit: set[Check] = field(default_factory=set)

    def add(self, check: Check, place: Place, times: int = 1, *, is_fit: bool = False) -> None:
        self.counts[check] += times
        if not is_fit:
            self.unfit.add(check)
        told = self.places.setdefault(check, [])
        if len(told) < _PLACES_TOLD:
            told.append(place)

    def merge(self, other: Found) -> None:
        self.counts.update(other.counts)
        self.unfit |= other.unfit
        for check, places in other.places.items():
            self.places[check] = [*self.places.get(check, ()), *places][:_PLACES_TOLD]

    @property
    def bad(self) -> list[str]:
        """The codes that make a record unfit to train on."""
        return [check.value for check in Check if check in self.unfit]


@dataclass
class _Shard:
    """What one file holds; of each image its SHA-256, for the copies in other files."""

    found: Found = field(default_factory=Found)
    images: list[tuple[bytes, Place]] = field(default_factory=list)
    records: int = 0


def check(dataset: str, label_map: str | None = None, workers: int = 1) -> StepResult:
    """Prints what is found; the summary has the counts and places by code, and as `bad` the codes that make a record unfit."""
    if workers < 1:
        raise UserError(f"--workers is {workers}", "give at least 1")
    given = find_shards(dataset, label_map)
    if given.labels is None:
        raise UserError(f"{dataset}: nothing says which classes the records have", "give their --label-map")
    files = [(split, file) for split, shards in given.splits.items() for file in shards]
    progress = Progress("checking", sum(split.images for split in given.manifest.splits.values()) if given.manifest else None)
    total, records = Found(), 0
    splits: dict[bytes, str] = {}  # of each image's hash, where it was first
    with Workers(min(workers, len(files)), __name__) as pool:
        checked = dict(pool.run(partial(_check_shard, given.labels), [file for _, file in files], progress))
    for split, file in files:
        shard = checked[file]
        records += shard.records
        total.merge(shard.found)
        for image_hash, place in shard.images:
            first = splits.get(image_hash)
            if first is None:
                splits[image_hash] = split
            else:
                copy = Check.DUPLICATE_IMAGE if first == split else Check.SPLIT_LEAKAGE
                total.add(copy, place, is_fit=is_fit_to_train(copy))
    _report(records, total)
    findings = {check.value: total.counts[check] for check in Check if check in total.counts}
    places = {code: [vars(place) for place in total.places[Check.of(code)]] for code in findings}
    return StepResult("check", "done", {}, {"records": records, "findings": findings, "places": places, "bad": total.bad})


def _check_shard(labels: LabelMap, file: Path, advance: Callable[[], None]) -> _Shard:
    shard, places = _Shard(), []
    try:
        for offset, serialized in located_records(file):
            places.append((offset, len(serialized) + FRAMING_BYTES))
            faults = faults_of(serialized, f"{file.name}: record {shard.records}", labels)
            place = Place(file.name, shard.records, faults.source_id)
            for check, times in faults.found.items():
                shard.found.add(check, replace(place, message=faults.messages.get(check, "")), times, is_fit=check not in faults.unfit)
            if faults.image_hash is not None:
                shard.images.append((bytes.fromhex(faults.image_hash), place))
            shard.records += 1
            advance()
        index = index_path(file)
        if index.is_file() and index.read_text() != print_places(places):
            shard.found.add(Check.INDEX_STALE, Place(file.name, 0, "", str(index)), is_fit=is_fit_to_train(Check.INDEX_STALE))
    except DataError as error:
        shard.found.add(error.check, Place(file.name, shard.records, ""))
    return shard


def _report(records: int, total: Found) -> None:
    for check in Check:
        if check in total.counts:
            print(f"{check.value}, {total.counts[check]} times: {check.meaning}")
            for place in total.places[check]:
                print(f"  {place}")
    unfit = f", unfit to train on: {', '.join(total.bad)}" if total.bad else ""
    print(f"{records} records, {sum(total.counts.values())} faults{unfit}")
