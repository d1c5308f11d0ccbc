"""One shard of a data set: from the catalog's entries to records, in a process of its own where there are several."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c

from tasks.annotations.catalog import Catalog, Entry, read_ahead
from tasks.annotations.categories import LabelIds
from tasks.annotations.instances import Finding, instances_of
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
    limits: Limits


@dataclass(frozen=True)
class Limits:
    """How many images may be quarantined, and by code how often a fault may be found; such a code counts to its own limit alone."""

    max_bad: int = 0
    by_code: Mapping[str, int] = field(default_factory=dict)

    def allowed(self, check: Check) -> int:
        """Of a check that quarantines."""
        return self.by_code.get(check.value, self.max_bad)

    def exceeded(self, findings: Mapping[str, int], quarantined: Mapping[str, int]) -> str | None:
        """What is more than allowed, in words; None where nothing is."""
        bad = sum(times for code, times in quarantined.items() if code not in self.by_code)
        if bad > self.max_bad:
            return f"more than {self.max_bad} images cannot become records"
        for code, limit in self.by_code.items():
            if findings.get(code, 0) + quarantined.get(code, 0) > limit:
                return f"{code} is found more than {limit} times"
        return None


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
    """What a shard holds; adds up over shards. `findings` counts by code what was mended or left out.

    `overruled` counts those of them in which a value of the source was wrong by more than a pixel.
    """

    statistics: Statistics = field(default_factory=Statistics)
    findings: dict[str, int] = field(default_factory=dict)
    quarantined: list[Quarantined] = field(default_factory=list)
    overruled: dict[str, int] = field(default_factory=dict)

    def count(self, check: Check, times: int = 1) -> None:
        self.findings[check.value] = self.findings.get(check.value, 0) + times

    def merge(self, other: ShardReport) -> None:
        self.statistics.merge(other.statistics)
        for code, times in other.findings.items():
            self.count(Check.of(code), times)
        self.quarantined.extend(other.quarantined)
        self.overruled = dict(Counter(self.overruled) + Counter(other.overruled))

    def to_json(self) -> dict[str, Any]:
        quarantined = [vars(one) for one in self.quarantined]
        return {"statistics": self.statistics.to_json(), "findings": self.findings, "quarantined": quarantined, "overruled": self.overruled}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ShardReport:
        quarantined = [Quarantined(**one) for one in values["quarantined"]]
        return cls(Statistics.from_json(values["statistics"]), dict(values["findings"]), quarantined, dict(values.get("overruled", {})))


@dataclass
class _Notes:
    """Every fault as a line of JSON in `stream`, beside its count in the report; `records` are those of the shard by now."""

    job: ShardJob
    stream: BinaryIO
    report: ShardReport
    records: int = 0

    def add(self, entry: Entry, finding: Finding, *, is_kept: bool) -> None:
        """What was mended or left out; `is_kept` tells whether the image becomes the shard's next record."""
        self.report.count(finding.check)
        if finding.overruled:
            self.report.overruled[finding.check.value] = self.report.overruled.get(finding.check.value, 0) + 1
        self._write(entry, finding, record=self.records if is_kept else None, index=finding.index if is_kept else None)

    def quarantine(self, entry: Entry, error: BadImageError) -> None:
        self.report.quarantined.append(
            Quarantined(self.job.split, entry.source, entry.image.source_id, error.check.value, error.message, error.fix)
        )
        self._write(entry, Finding(error.check, "", error.message), path=str(entry.image.path))

    def confirm(self) -> None:
        """DataError where more is found than allowed."""
        confirm_few(self.report, self.job.limits)

    def _write(self, entry: Entry, finding: Finding, **more: object) -> None:
        line = {
            "split": self.job.split,
            "source": entry.source,
            "source_id": entry.image.source_id,
            "image": entry.image.file_name,
            "object": finding.where,
            "code": finding.check.value,
            "outcome": finding.check.outcome.value,
            "done": finding.done,
            "shard": self.job.path.name,
            **more,
        }
        self.stream.write(json.dumps(line).encode() + b"\n")


def write_shard(job: ShardJob, advance: Callable[[], None]) -> ShardReport:
    """Writes one shard, an image at a time, and the list of its faults (`findings_path`); calls `advance` after each image.

    Bad images are quarantined. With more than the limits allow the shard is not written: the last one's error is raised where none is
    allowed, else a DataError.
    """
    report = ShardReport()
    with ShardWriter(job.path) as shard, findings_path(job.path).open("wb") as stream:
        notes = _Notes(job, stream, report)
        for entry, content in read_ahead(Catalog(job.catalog).part(job.split, job.index, job.count), job.contents.sources):
            try:
                for record in _record(entry, content, job.contents, notes):
                    shard.write(record)
                    notes.records += 1
            except BadImageError as error:
                if not job.limits.allowed(error.check):
                    raise
                notes.quarantine(entry, error)
            notes.confirm()
            advance()
    return report


def findings_path(shard: Path) -> Path:
    """Where the faults of a shard that is on its way are listed."""
    return shard.with_name(shard.name.replace(".record-", ".findings-"))


def confirm_few(report: ShardReport, limits: Limits) -> None:
    """DataError where more is found than allowed."""
    if exceeded := limits.exceeded(report.findings, Counter(one.code for one in report.quarantined)):
        last = report.quarantined[-1] if report.quarantined else None
        raise DataError(
            Check.TOO_MANY_BAD,
            exceeded + (f", the last of them: {last.message}" if last else ""),
            f"{last.fix}; or allow more by --max-bad" if last else "mend the source, or allow more by --max-bad",
        )


def _record(entry: Entry, read: Callable[[], bytes], contents: Contents, notes: _Notes) -> Iterator[bytes]:
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
        copy = Finding(Check.DUPLICATE_IMAGE, "", f"left out: the same as image {entry.original.source_id}")
        notes.add(entry, copy, is_kept=False)
        return
    is_kept = bool(instances) or contents.keep_empty
    for finding in findings:
        notes.add(entry, finding, is_kept=is_kept)
    if not is_kept:
        return
    for check in (*image.findings, *encoded.findings):
        notes.add(entry, Finding(check, "", check.meaning), is_kept=True)
    annotated = AnnotatedImage(image.source_id, image.file_name, encoded.height, encoded.width, instances)
    notes.report.statistics.add(annotated)
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


def _instances(name: str, image: ListedImage, size: tuple[int, int], contents: Contents) -> tuple[tuple[Instance, ...], list[Finding]]:
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
