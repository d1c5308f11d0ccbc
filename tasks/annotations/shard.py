"""One shard of a data set: from the catalog's entries to records, in a process of its own where there are several."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import google_crc32c

from tasks.annotations.catalog import Catalog, Entry, read_ahead
from tasks.annotations.categories import LabelIds
from tasks.annotations.instances import instances_of
from tasks.annotations.source import ListedImage, Source, SourceObject
from tasks.records.annotated_image import AnnotatedImage, Instance
from tasks.records.checks import BadImageError, Check, DataError
from tasks.records.example import build_example
from tasks.records.image_file import encode_image
from tasks.records.statistics import Statistics
from tasks.records.tfrecord import ShardWriter


class Crowds(StrEnum):
    """What becomes of objects that stand for many."""

    KEEP = "keep"
    """they stay, marked as crowds: the original's way"""
    DROP = "drop"
    OBJECTS = "objects"
    """they stay, as ordinary objects"""


@dataclass(frozen=True)
class Contents:
    """What records hold of the images that are there. `sources` and `label_ids` go by the sources' names."""

    sources: Mapping[str, Source]
    label_ids: Mapping[str, LabelIds]
    names: Mapping[int, str]
    mask_type: str
    crowds: Crowds
    keep_empty: bool
    drop_without_mask: bool = False
    keep_duplicates: bool = False


@dataclass(frozen=True)
class ShardJob:
    """All that a worker needs to write shard `index` of a split's `count`, of so many `images`."""

    path: Path
    catalog: Path
    split: str
    index: int
    count: int
    images: int
    contents: Contents
    max_bad: int


@dataclass(frozen=True)
class Quarantined:
    """An image that is in no shard: where it comes from, and why not."""

    split: str
    source: str
    source_id: str
    code: str
    message: str
    fix: str


@dataclass
class ShardReport:
    """What a shard holds; adds up over shards. `findings` counts by code what was mended or left out."""

    statistics: Statistics = field(default_factory=Statistics)
    findings: dict[str, int] = field(default_factory=dict)
    quarantined: list[Quarantined] = field(default_factory=list)

    def count(self, check: Check, times: int = 1) -> None:
        self.findings[check.value] = self.findings.get(check.value, 0) + times

    def merge(self, other: ShardReport) -> None:
        self.statistics.merge(other.statistics)
        for code, times in other.findings.items():
            self.count(Check.of(code), times)
        self.quarantined.extend(other.quarantined)

    def to_json(self) -> dict[str, Any]:
        quarantined = [vars(one) for one in self.quarantined]
        return {"statistics": self.statistics.to_json(), "findings": self.findings, "quarantined": quarantined}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ShardReport:
        quarantined = [Quarantined(**one) for one in values["quarantined"]]
        return cls(Statistics.from_json(values["statistics"]), dict(values["findings"]), quarantined)


def write_shard(job: ShardJob, advance: Callable[[], None]) -> ShardReport:
    """Writes one shard, an image at a time, and calls `advance` after each.

    Bad images are quarantined. With more than `max_bad` of them the shard is not written: the last one's error is raised where none is
    allowed, else a DataError.
    """
    report = ShardReport()
    with ShardWriter(job.path) as shard:
        for entry, content in read_ahead(Catalog(job.catalog).part(job.split, job.index, job.count), job.contents.sources):
            try:
                for record in _record(entry, content, job.contents, report):
                    shard.write(record)
            except BadImageError as error:
                if not job.max_bad:
                    raise
                report.quarantined.append(
                    Quarantined(job.split, entry.source, entry.image.source_id, error.check.value, error.message, error.fix)
                )
                confirm_few(report.quarantined, job.max_bad)
            advance()
    return report


def confirm_few(quarantined: list[Quarantined], max_bad: int) -> None:
    """DataError where more than `max_bad` images are quarantined."""
    if len(quarantined) > max_bad:
        raise DataError(
            Check.TOO_MANY_BAD,
            f"more than {max_bad} images cannot become records, the last of them: {quarantined[-1].message}",
            f"{quarantined[-1].fix}; or allow more by --max-bad",
        )


def _record(entry: Entry, read: Callable[[], bytes], contents: Contents, report: ShardReport) -> Iterator[bytes]:
    """The image's record; none where it is a copy, or has no objects and such images are not wanted."""
    image = entry.image
    if entry.fault == Check.SPLIT_LEAKAGE:
        raise BadImageError(
            entry.fault, f"{image.path}: {entry.fault.meaning}", "take the image out of one of the splits, or split by content"
        )
    content = _unchanged(entry, read)
    encoded = encode_image(str(image.path), content, image.size, entry.sha256)
    size = (encoded.height, encoded.width)
    instances, findings = _instances(entry.source, image, size, contents)
    if entry.original is not None and not contents.keep_duplicates:
        if entry.original.size != image.size:
            # Where the first one cannot become a record, this one is no copy of it.
            encode_image(str(entry.original.path), content, entry.original.size, entry.sha256)
        objects_there, _ = _instances(entry.source, entry.original, size, contents)
        if _drawn(objects_there) != _drawn(instances):
            raise BadImageError(
                Check.DUPLICATE_DIFFERS,
                f"{image.path}: image {image.source_id} is the same as image {entry.original.source_id}, and has other objects",
                "give all objects to one of the two, and remove the other",
            )
        report.count(Check.DUPLICATE_IMAGE)
        return
    for check, times in findings.items():
        report.count(check, times)
    if not instances and not contents.keep_empty:
        return
    for check in (*image.findings, *encoded.findings):
        report.count(check)
    annotated = AnnotatedImage(image.source_id, image.file_name, encoded.height, encoded.width, instances)
    report.statistics.add(annotated)
    yield build_example(annotated, encoded, contents.names, contents.mask_type)


def _unchanged(entry: Entry, read: Callable[[], bytes]) -> bytes:
    """What is read, if it is still what the catalog has of it: by that the dataset's digest was made."""
    try:
        content = read()
    except BadImageError as error:
        if entry.sha256 is None:
            raise
        raise _changed(entry) from error
    if google_crc32c.value(content) != entry.crc32c:
        raise _changed(entry)
    return content


def _changed(entry: Entry) -> DataError:
    return DataError(
        Check.IMAGE_CHANGED,
        f"{entry.image.path}: the file is not what it was when the images were listed",
        "run again when nothing else writes there",
    )


def _instances(name: str, image: ListedImage, size: tuple[int, int], contents: Contents) -> tuple[tuple[Instance, ...], Counter[Check]]:
    """The objects of an image, of `size` (height, width), of the source called `name`, and what was found in them."""
    objects = _objects(contents.sources[name].objects(image, size), contents.crowds)
    return instances_of(objects, size, contents.label_ids[name], drop_without_mask=contents.drop_without_mask)


def _drawn(instances: Iterable[Instance]) -> list[tuple[int, bytes, bool]]:
    """What tells objects apart, whatever their order: category, mask, and whether a crowd."""
    return sorted((one.category_id, one.mask["counts"], one.is_crowd) for one in instances)


def _objects(objects: Iterator[SourceObject], crowds: Crowds) -> Iterator[SourceObject]:
    for one in objects:
        if not one.is_crowd or crowds == Crowds.KEEP:
            yield one
        elif crowds == Crowds.OBJECTS:
            yield dataclasses.replace(one, is_crowd=False)
