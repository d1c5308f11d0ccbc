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
from tasks.records.image_file import encode_image
from tasks.records.label_map import LabelMap

_SIGNATURES = {"jpeg": b"\xff\xd8", "png": b"\x89PNG"}
_READ_BY_TENSORFLOW = (b"BM", b"GIF8")  # beside those


@dataclass
class RecordFaults:
    """`found` counts by check, and `messages` say more of some; `image_hash` is the image's SHA-256, None where there is no image."""

    where: str
    source_id: str = ""
    image_hash: str | None = None
    found: Counter[Check] = field(default_factory=Counter)
    messages: dict[Check, str] = field(default_factory=dict)

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """Within the block, the error of a bad image ends the block alone, and is noted."""
        try:
            yield
        except BadImageError as error:
            self.found[error.check] = 1
            self.messages[error.check] = error.message.removeprefix(f"{self.where}: ")


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
            faults.found.update(instances_of(objects_of(record, where), (record.height, record.width), categories)[1])
        faults.source_id = features.text("image/source_id")
    return faults


def _check_image(features: RecordFeatures, faults: RecordFaults) -> None:
    (content,) = features.byte_strings("image/encoded", 1)
    faults.image_hash = hashlib.sha256(content).hexdigest()
    stored_hash = features.text("image/key/sha256")
    if stored_hash not in ("", faults.image_hash):
        faults.found[Check.IMAGE_HASH] = 1
    for check in encode_image(features.where, content, features.size).findings:
        faults.found[_unmended(check, content)] = 1
    told = features.text("image/format", "jpeg").lower().replace("jpg", "jpeg")
    if told not in (name for name, signature in _SIGNATURES.items() if content.startswith(signature)):
        faults.found[Check.IMAGE_MISNAMED] = 1


def _unmended(check: Check, content: bytes) -> Check:
    """What a finding that materialization mends is to training, which takes the image as it is stored."""
    if check == Check.IMAGE_TURNED:
        return Check.IMAGE_SIZE_SWAPPED
    if check == Check.IMAGE_REENCODED and not content.startswith(_READ_BY_TENSORFLOW):
        return Check.IMAGE_UNREADABLE
    return check
