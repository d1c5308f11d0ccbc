"""TFRecords of the original's tools, or ours, as a source: with PNG or dense masks, and categories by name or id."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tasks.annotations.source import ListedImage, Listing, SourceObject
from tasks.records.checks import BadImageError
from tasks.records.example import ImageRecord, parse_example
from tasks.records.features import RecordFeatures
from tasks.records.label_map import LabelMap, read_label_map
from tasks.records.tfrecord import located_records, record_at, record_files


@dataclass(frozen=True)
class TfRecordSource:
    """`records` is a path or pattern, such as `pets.record-?????-of-00010`; `label_map` is the one that they were written with."""

    records: Path
    label_map: Path

    def list(self) -> Listing:
        record_files(self.records)
        return Listing({category.id: category.name for category in self._labels.categories}, self._images())

    def objects(self, image: ListedImage, size: tuple[int, int]) -> Iterator[SourceObject]:
        where = f"{image.path}: record {image.payload['index']}"
        return objects_of(parse_example(_serialized(image), where, self._labels.ids), where)

    def image_bytes(self, image: ListedImage) -> bytes:
        return RecordFeatures.parse(_serialized(image), str(image.path)).byte_strings("image/encoded", 1)[0]

    @cached_property
    def _labels(self) -> LabelMap:
        return read_label_map(self.label_map)

    def _images(self) -> Iterator[ListedImage]:
        """A record that cannot be read is listed all the same, so that it is missed where its image is asked for."""
        for path in record_files(self.records):
            for index, (offset, serialized) in enumerate(located_records(path)):
                place = f"{path.name}:{index}"
                # The digest tells the masks apart, of which the image's own hash says nothing.
                payload = {"index": index, "offset": offset, "sha256": hashlib.sha256(serialized).hexdigest()}
                try:
                    features = RecordFeatures.parse(serialized, place)
                    filename = features.text("image/filename")
                    source_id = features.text("image/source_id") or filename or place
                    yield ListedImage(source_id, filename or place, path, features.size, payload)
                except BadImageError:
                    yield ListedImage(place, place, path, None, payload)


def objects_of(record: ImageRecord, where: str) -> Iterator[SourceObject]:
    """The objects of a record, keyed by label-map ids; areas that the record has not are left for the masks to tell."""
    for index, one in enumerate(record.instances):
        yield SourceObject(
            where=f"{where}, object {index}",
            category=one.category_id,
            segmentation=one.mask,
            box_yxyx=one.box_yxyx,
            area=one.area if record.has_areas else None,
            is_crowd=one.is_crowd,
            is_difficult=one.is_difficult,
            weight=one.weight,
        )


def _serialized(image: ListedImage) -> bytes:
    return record_at(image.path, image.payload["offset"])
