"""The step that stores masks in the other form: PNGs instead of numbers, or numbers instead of PNGs.

    maskline transcode DATASET --mask-type png|numerical --output FOLDER [--label-map FILE]

DATASET is a materialized dataset's folder, or a path or pattern of records of other tools. All else of a record stays as it is, also what
we do not know. Outputs: the shards, the label map, and a materialized dataset's manifest, written last. Needs no TensorFlow; usual
runtime: a minute for 2,000 of COCO's photographs to PNGs, for 900 to numbers, which are 11 MB for each.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from tasks.records.example import MASK_KEY, MASK_TYPES, NUMERICAL_MASKS, PNG_MASKS, PUT_MASKS
from tasks.records.features import RecordFeatures
from tasks.records.label_map import print_label_map
from tasks.records.manifest import Manifest, read_manifest, write_manifest
from tasks.records.mask_forms import stored_masks
from tasks.records.shards import Shards, find_shards
from tasks.records.staging import Staging
from tasks.records.tfrecord import read_shard, write_shard
from tasks.running.errors import UserError
from tasks.running.progress import Progress
from tasks.running.workspace import DatasetDir, StepResult, write_bytes, write_text, written_whole

_KINDS = {PNG_MASKS: "bytes_list", NUMERICAL_MASKS: "float_list"}


def transcode(dataset: str, mask_type: str, output: Path, label_map: str | None = None) -> StepResult:
    """The records of `dataset` with masks of `mask_type` (`png` or `numerical`) in the folder `output`.

    Status `skipped` where the folder holds them already. UserError for a record that cannot be read; the folder stays as it was.
    """
    if mask_type not in MASK_TYPES:
        raise UserError(f"--mask-type is {mask_type!r}", f"use one of {', '.join(MASK_TYPES)}")
    given, target = find_shards(dataset, label_map), DatasetDir(output)
    if given.dataset.root.absolute() == output.absolute():
        raise UserError(f"--output {output} is the folder of the records themselves", "name another folder")
    manifest = given.manifest and _manifest(given.manifest, MASK_TYPES[mask_type])
    files = {_shard_name(file.name): file for shards in given.splits.values() for file in shards}
    skipped = manifest is not None and _holds(target, manifest)
    if not skipped:
        _write(given, files, MASK_TYPES[mask_type], target, manifest)
    before, after = (sum(file.stat().st_size for file in found) for found in (files.values(), map(target.root.joinpath, files)))
    print(f"{before} bytes before, {after} after: {abs(before - after)} {'saved' if after <= before else 'more'}")
    summary = {"mask_type": MASK_TYPES[mask_type], "bytes_before": before, "bytes_after": after, "bytes_saved": before - after}
    return StepResult("transcode", "skipped" if skipped else "done", {"dataset": str(output)}, summary)


def _manifest(manifest: Manifest, mask_type: str) -> Manifest:
    """Of the same images with other masks; the same as before where these are of the type already."""
    if manifest.mask_type == mask_type:
        return manifest
    digest = hashlib.sha256(f"{manifest.digest} {mask_type}".encode()).hexdigest()
    return dataclasses.replace(manifest, digest=digest, mask_type=mask_type)


def _shard_name(name: str) -> str:
    """`x-00000-00010` as `x-00000-of-00010`, the way that configs look for it."""
    return re.sub(r"-(\d+)-(\d+)$", r"-\1-of-\2", name)


def _holds(target: DatasetDir, manifest: Manifest) -> bool:
    try:
        found = read_manifest(target.manifest)
    except UserError:
        return False
    return found == manifest and all((target.root / shard).is_file() for split in manifest.splits.values() for shard in split.shards)


def _write(given: Shards, files: dict[str, Path], mask_type: str, target: DatasetDir, manifest: Manifest | None) -> None:
    staging = Staging(target, {"mask_type": mask_type, "shards": list(files)})
    progress = Progress("transcoding", sum(split.images for split in manifest.splits.values()) if manifest else None)
    try:
        for name, file in files.items():
            write_shard(staging.shard(name), _records(file, mask_type, progress.advance))
    except BaseException:
        staging.remove()
        raise
    staging.install(files)
    if given.labels is not None:
        write_text(target.label_map, print_label_map(given.labels))
    if manifest is not None:
        if given.dataset.quarantine.is_file():
            write_bytes(target.quarantine, given.dataset.quarantine.read_bytes())
        if given.dataset.findings.is_file():
            with given.dataset.findings.open("rb") as findings, written_whole(target.findings) as stream:
                shutil.copyfileobj(findings, stream)
        write_manifest(target.manifest, manifest)
    staging.remove()


def _records(file: Path, mask_type: str, advance: Callable[[], None]) -> Iterator[bytes]:
    for index, serialized in enumerate(read_shard(file)):
        yield transcode_record(serialized, mask_type, f"{file}: record {index}")
        advance()


def transcode_record(serialized: bytes, mask_type: str, where: str) -> bytes:
    """The record with masks of `mask_type`; the same bytes where it has such masks or none. `where` names it in errors."""
    features = RecordFeatures.parse(serialized, where)
    stored = features.feature(MASK_KEY)
    if stored.WhichOneof("kind") in (None, _KINDS[mask_type]):
        return serialized
    masks = list(stored_masks(stored, len(features.floats("image/object/bbox/ymin")), features.size, where))
    stored.Clear()  # also where there is no mask: an empty list of the other kind is refused by TensorFlow
    PUT_MASKS[mask_type](stored, masks)
    return features.example.SerializeToString(deterministic=True)
