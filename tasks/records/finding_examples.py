"""What `findings.jsonl` tells of each kind of fault: how many images have it, and the first places, one of them with a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.coco.image_opening import PILLOW_ERRORS, ImageTooLargeError, opened_image
from tasks.records.checks import BadImageError
from tasks.records.example import ImageRecord, parse_example
from tasks.records.image_file import read_image_bytes
from tasks.records.tfrecord import record_at, record_offsets
from tasks.running.errors import UserError
from tasks.running.workspace import DatasetDir, named

PLACES = 5
"""That are told of each kind."""


@dataclass
class Kind:
    """The faults of one code in one split; `places` are the first of them as `findings.jsonl` has them."""

    images: int = 0
    places: list[Mapping[str, Any]] = field(default_factory=list)
    _last: object = None

    def add(self, line: Mapping[str, Any]) -> None:
        image = (line["source"], line["source_id"], line["image"])
        self.images += image != self._last  # those of one image stand together
        self._last = image
        if len(self.places) < PLACES:
            self.places.append(line)


@dataclass(frozen=True)
class Shown:
    """An image uint8 [height, width, 3] with what is drawn on it: the record's objects at `chosen`; no record where it became none."""

    pixels: npt.NDArray[np.uint8]
    record: ImageRecord | None
    chosen: tuple[int, ...]


def kinds_of_findings(dataset: DatasetDir) -> dict[tuple[str, str], Kind]:
    """By split and code, from one pass over the list; empty where the dataset was written before there was one."""
    kinds: dict[tuple[str, str], Kind] = {}
    if not dataset.findings.is_file():
        return kinds
    with dataset.findings.open("rb") as stream:
        for number, text in enumerate(stream, start=1):
            try:
                line = json.loads(text)
                kinds.setdefault((line["split"], line["code"]), Kind()).add(line)
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{dataset.findings}, line {number}: not a finding: {error}", "materialize the dataset again") from error
    return kinds


def shown(dataset: DatasetDir, line: Mapping[str, Any]) -> Shown | None:
    """The picture of a finding: its record with the object in question, or its image's file; None where there is none to see."""
    if line.get("record") is not None:
        path = dataset.root / line["shard"]
        offset = record_offsets(path)[line["record"]]
        record = parse_example(record_at(path, offset), f"{path}: record {line['record']}")
        chosen = range(len(record.instances)) if line["index"] is None else [line["index"]]
        with opened_image(record.encoded) as image:
            return Shown(np.asarray(image.convert("RGB")), record, tuple(chosen))
    if "path" not in line:
        return None
    try:
        with opened_image(read_image_bytes(named(line["path"]))) as image:
            return Shown(np.asarray(image.convert("RGB")), None, ())
    except (BadImageError, ImageTooLargeError, *PILLOW_ERRORS):
        return None
