"""What is wrong with a record that is there already: the checks of materialization, on the image and the objects that it holds."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from tasks.annotations.categories import LabelIds
from tasks.annotations.instances import instances_of
from tasks.annotations.tfrecord import objects_of
from tasks.records.checks import BadImageError, Check
from tasks.records.example import parse_example
from tasks.records.features import RecordFeatures
from tasks.records.image_file import encode_image, is_misread_bmp
from tasks.records.label_map import LabelMap

_SIGNATURES = {"jpeg": b"\xff\xd8", "png": b"\x89PNG"}
_READ_BY_TENSORFLOW = (b"BM", b"GIF8", b"RIFF")  # beside those; of the RIFF files, Pillow reads WebP alone
_FIT = {
    Check.AREA_FROM_MASK,  # the box's area stands in, as in the original
    Check.DUPLICATE_IMAGE,
    Check.IMAGE_SIXTEEN_BIT,
    Check.IMAGE_PALETTE,
    Check.IMAGE_CMYK,
    Check.IMAGE_ALPHA,
    Check.IMAGE_REENCODED,
    Check.IMAGE_GREY,
    Check.IMAGE_MISNAMED,
    Check.IMAGE_HASH,
    Check.INDEX_STALE,
}
"""What training takes as materialization would have written it: all else it takes as it is stored."""


@dataclass
class RecordFaults:
    """`found` counts by check, and `messages` say more of some; `image_hash` is the image's SHA-256, None where there is no image.

    `unfit` are the checks by which the record is unfit to train on: what materialization would have mended, training does not.
    """

    where: str
    source_id: str = ""
    image_hash: str | None = None
    found: Counter[Check] = field(default_factory=Counter)
    messages: dict[Check, str] = field(default_factory=dict)
    unfit: set[Check] = field(default_factory=set)

    def add(self, check: Check, message: str = "", *, is_fit: bool | None = None) -> None:
        """Counts one more; `is_fit` where the check alone does not tell."""
        self.found[check] += 1
        if message:
            self.messages.setdefault(check, message)
        if not (is_fit if is_fit is not None else is_fit_to_train(check)):
            self.unfit.add(check)

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """Within the block, the error of a bad image ends the block alone, and is noted."""
        try:
            yield
        except BadImageError as error:
            if error.check not in self.found:
                self.add(error.check, error.message.removeprefix(f"{self.where}: "))


def is_fit_to_train(check: Check) -> bool:
    """Whether training takes a record with such a fault as materialization would have written it."""
    return check in _FIT


def faults_of(serialized: bytes, where: str, labels: LabelMap) -> RecordFaults:
    """All faults of a record; image and objects are looked at both, whatever is wrong with the other. `where` names it in messages."""
    faults = RecordFaults(where)
    with faults.noted():
        features = RecordFeatures.parse(serialized, where)
        with faults.noted():
            _check_image(features, faults)
        with faults.noted():
            record = parse_example(serialized, where, labels.ids)
            categories: LabelIds = {category.id: category.id for category in labels.categories}
            for one in instances_of(objects_of(record, where), (record.height, record.width), categories)[1]:
                # A box that ends less than a pixel beyond its image comes from rounding, and trains as it did in the original.
                is_fit = not one.overruled if one.check == Check.BOX_CLIPPED else None
                faults.add(one.check, f"{one.where.removeprefix(f'{where}, ')}: {one.done}", is_fit=is_fit)
        faults.source_id = features.text("image/source_id")
    return faults


def _check_image(features: RecordFeatures, faults: RecordFaults) -> None:
    (content,) = features.byte_strings("image/encoded", 1)
    faults.image_hash = hashlib.sha256(content).hexdigest()
    stored_hash = features.text("image/key/sha256")
    if stored_hash not in ("", faults.image_hash):
        faults.add(Check.IMAGE_HASH)
    for check in encode_image(features.where, content, features.size).findings:
        faults.add(_unmended(check, content))
    told = features.text("image/format", "jpeg").lower().replace("jpg", "jpeg")
    if told not in (name for name, signature in _SIGNATURES.items() if content.startswith(signature)):
        faults.add(Check.IMAGE_MISNAMED)


def _unmended(check: Check, content: bytes) -> Check:
    """What a finding that materialization mends is to training, which takes the image as it is stored."""
    if check == Check.IMAGE_TURNED:
        return Check.IMAGE_SIZE_SWAPPED
    if is_misread_bmp(content) or (check == Check.IMAGE_REENCODED and not content.startswith(_READ_BY_TENSORFLOW)):
        return Check.IMAGE_UNREADABLE
    return check
