"""The files of an evaluation, from its parts: COCO's files, the matches and pictures of the first images; and the figures of matches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.coco.figures import figures
from tasks.coco.image_opening import opened_image
from tasks.coco.matches import Matches, write_matches
from tasks.coco.pictures import PictureObjects, draw_comparison
from tasks.evaluation.parts import FirstImage, Parts
from tasks.records.features import RecordFeatures
from tasks.records.tfrecord import read_shard
from tasks.running.errors import UserError
from tasks.running.workspace import located

_PICTURES = 8
MATCHES = "matches.npz"


def write_results(parts: Parts, folder: Path, about: Mapping[str, Any]) -> Matches:
    """Writes all of them into `folder`, which is there; the matches come back. UserError where there is no image."""
    matches, first = parts.join(folder, about, _PICTURES)
    if not len(matches.images):
        raise UserError(f"{parts.files[0]} holds no record", "materialize the dataset again with images in that split")
    write_matches(folder / MATCHES, matches)
    _draw(first, parts, folder / "pictures")
    if int(matches.images.ids[-1]) >= 2**63:
        print("image ids pass 63 bits: pycocotools itself finds -1 in the files of detections, if others do not", flush=True)
    return matches


def measured(matches: Matches) -> dict[str, Any]:
    """The figures and counts of stored matches."""
    found = figures(matches)
    return {
        "images": len(matches.images),
        "objects": int((~matches.objects.crowd).sum()),
        "crowds": int(matches.objects.crowd.sum()),
        "detections": len(matches.detections),
        # COCO says -1 where there is nothing to measure on.
        "metrics": {name: value for name, value in found.items() if value >= 0},
        "unmeasured": sorted(name for name, value in found.items() if value < 0),
    }


def _draw(first: Sequence[FirstImage], parts: Parts, folder: Path) -> None:
    """Pictures of the first images, what they hold beside what was found."""
    folder.mkdir()
    names = dict(parts.settings.categories)
    records = (record for file in parts.files for record in read_shard(located(file)))
    for one, record in zip(first, records, strict=False):
        with opened_image(RecordFeatures.parse(record, one.image["file_name"]).byte_strings("image/encoded", 1)[0]) as image:
            pixels = np.asarray(image.convert("RGB"))
        picture = draw_comparison(pixels, _objects(one.objects), _objects(one.boxes, one.masks), names, title=one.image["file_name"])
        (folder / f"{one.image['id']:04d}.png").write_bytes(picture)


def _objects(boxes: Sequence[Mapping[str, Any]], masks: Sequence[Mapping[str, Any]] = ()) -> PictureObjects:
    """Of entries in COCO's format, of which `masks` have the masks where `boxes` have none."""
    x, y, width, height = np.array([entry["bbox"] for entry in boxes], np.float64).reshape(-1, 4).T
    codes = [entry["segmentation"] for entry in masks or boxes if "segmentation" in entry]
    return PictureObjects(
        np.stack([y, x, y + height, x + width], axis=1),
        [entry["category_id"] for entry in boxes],
        [{**code, "counts": code["counts"].encode()} for code in codes] if codes else None,
        [entry["score"] for entry in boxes] if boxes and "score" in boxes[0] else None,
    )
