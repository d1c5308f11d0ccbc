"""One pass over somebody else's records, before anything is learnt from them: what they hold, and what training could not use."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tasks.records.checks import BadImageError, Check, DataError
from tasks.records.example import BOX_SIDES, MASK_KEY, NUMERICAL_MASKS, PNG_MASKS, category_ids
from tasks.records.features import RecordFeatures
from tasks.records.image_file import is_misread_bmp
from tasks.records.label_map import LabelMap
from tasks.records.record_index import records_and_damage
from tasks.records.tfrecord import read_shard
from tasks.running.progress import Progress

FARTHEST = float(np.float32(1.1))
"""The greatest normalized coordinate that the original takes; as far before the image as behind it, here."""
_MASK_KINDS = {"bytes_list": PNG_MASKS, "float_list": NUMERICAL_MASKS}
_MEND = (
    "mend the record; or make these records the source of a dataset (`format: tfrecord`, docs/sources.md), whose materialization mends"
    " boxes by their masks"
)


@dataclass
class Survey:
    """What the records of some files hold. Places are `FILE: record N`, from 0."""

    counts: dict[Path, int] = field(default_factory=dict)
    digests: list[str] = field(default_factory=list)
    """SHA-256 over the records of each file"""
    objects_per_image: Counter[int] = field(default_factory=Counter)
    mask_types: dict[str, str] = field(default_factory=dict)
    """Where the first record of each type, `PNG_MASKS` or `NUMERICAL_MASKS`, is"""
    without_masks: str | None = None
    """Where the first record is that has objects and no mask"""
    fullest: str = ""
    """Where the record with most objects is"""
    fault: DataError | None = None
    """The first record that training could not use"""
    unusable: int = 0
    """How many it could not use"""

    @property
    def records(self) -> int:
        return sum(self.counts.values())

    @property
    def most_objects(self) -> int:
        return max(self.objects_per_image, default=0)

    def _add(self, serialized: bytes, where: str, labels: LabelMap | None) -> None:
        try:
            features = RecordFeatures.parse(serialized, where)
            objects = len(features.feature(f"{BOX_SIDES[0]}").float_list.value)
            masks = features.feature(MASK_KEY)
            kind = masks.WhichOneof("kind")
            if kind in _MASK_KINDS and getattr(masks, kind).value:
                self.mask_types.setdefault(_MASK_KINDS[kind], where)
            elif objects and self.without_masks is None:
                self.without_masks = where
            if objects > self.most_objects:
                self.fullest = where
            self.objects_per_image[objects] += 1
            confirm_trainable(features, labels)
        except BadImageError as error:
            self._note(error)

    def _note(self, error: DataError) -> None:
        self.fault = self.fault or error
        self.unusable += 1


def survey(files: Iterable[Path], labels: LabelMap | None, damaged: int = 0) -> Survey:
    """Reads all records of `files` once. UserError for a file with more than `damaged` records in it and those before it that are cut off
    or not what their checksum says; what else one record has wrong, and so many of the damaged, is the survey's `fault`."""
    found, progress = Survey(), Progress("reading records")
    for file in files:
        digest, index = hashlib.sha256(), 0
        for index, record in enumerate(records_and_damage(file) if damaged else read_shard(file), start=1):
            progress.advance()
            if isinstance(record, DataError):
                damaged -= 1
                if damaged < 0:
                    raise record
                found._note(record)
                continue
            digest.update(len(record).to_bytes(8, "little"))
            digest.update(record)
            found._add(record, f"{file}: record {index - 1}", labels)
        found.counts[file] = index
        found.digests.append(digest.hexdigest())
    return found


def confirm_trainable(features: RecordFeatures, labels: LabelMap | None) -> None:
    """BadImageError, naming record and object, for what training would take amiss without a word, or only after hours.

    That is a box beyond `FARTHEST`, with its corners swapped, without area or of no finite numbers; a class that the label map has not;
    and an image that TensorFlow decodes to other pixels. Masks are left to the reader itself.
    """
    source = features.text("image/source_id")
    named = f"{features.where}{f' (source id {source})' if source else ''}"
    sides = [features.floats(key) for key in BOX_SIDES]
    if len({len(side) for side in sides}) > 1:
        raise features.malformed(f"the boxes' sides hold {[len(side) for side in sides]} values")
    for index, box in enumerate(zip(*sides, strict=True)):
        if reason := _unusable(box):
            told = ", ".join(f"{value:g}" for value in box)
            message = f"{named}: object {index}: its box (ymin, xmin, ymax, xmax) is [{told}]: {reason}"
            raise BadImageError(Check.ANNOTATION_MALFORMED, message, _MEND)
    if labels is not None:
        category_ids(features, len(sides[0]), labels.ids)
    (image,) = features.byte_strings("image/encoded", 1)
    if is_misread_bmp(image):
        raise BadImageError(
            Check.IMAGE_UNREADABLE,
            f"{named}: its image is a BMP with a palette, or compressed, of which TensorFlow reads other colours",
            "write the image as PNG or JPEG",
        )


def _unusable(box: tuple[float, ...]) -> str | None:
    """What is wrong with a normalized box (ymin, xmin, ymax, xmax), None where nothing is."""
    ymin, xmin, ymax, xmax = box
    if not all(map(math.isfinite, box)):
        return "not all are finite numbers"
    if max(box) > FARTHEST or min(box) < 1 - FARTHEST:
        return f"coordinates are shares of the image, from 0 to 1; beyond {FARTHEST:.3g} they are mostly pixels"
    if ymin > ymax or xmin > xmax:
        return "its corners are swapped"
    if ymin == ymax or xmin == xmax:
        return "it has no area"
    return None
