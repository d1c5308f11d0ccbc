"""The records that an experiment reads, a materialized dataset's or somebody's own: a name, and a digest that tells them from others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tasks.records.label_map import LabelMap, read_label_map
from tasks.records.manifest import Manifest, read_manifest
from tasks.records.survey import Survey, survey
from tasks.running.errors import UserError
from tasks.running.workspace import DatasetDir, located


@dataclass(frozen=True)
class RecordSet:
    """`digest` is the manifest's; of records without one, SHA-256 over the classes and all records, wherever they lie."""

    name: str
    digest: str
    root: Path
    counts: Mapping[str, Mapping[str, int]]
    """By split: `images` and, where the manifest tells, `objects`"""
    labels: LabelMap
    description: Path
    """The file that tells most about them: the manifest, or else the label map"""
    objects_per_image: Mapping[str, Mapping[int, int]]
    """By split, how many images have so many objects"""
    patterns: Mapping[str, str] = field(default_factory=dict)
    """The globs in `root` over the files of each split, where a manifest tells them"""


def materialized(dataset: DatasetDir) -> RecordSet:
    """The records of a materialized dataset; UserError where it has no manifest."""
    return _of_manifest(dataset, read_manifest(dataset.manifest))


def record_set(training: Sequence[str], validation: Sequence[str], label_map: Path, max_bad: int = 0) -> RecordSet:
    """The records in two lists of files.

    A materialized dataset's shards are known by the manifest beside the label map. All others are read whole, once, and called after the
    folder of the first. UserError where a split holds no record, a file is damaged, the label map cannot be read, or training could not
    use a record, which is named; but for `max_bad` records of training.
    """
    if (manifest := manifest_of((*training, *validation), label_map)) is not None:
        return _of_manifest(DatasetDir(label_map.parent), manifest)
    labels = read_label_map(label_map)
    found: dict[str, Survey] = {}
    for split, files, most in (("train", training, max_bad), ("val", validation, 0)):
        found[split] = one = survey(map(located, files), labels, most)
        if not one.records:
            raise UserError(f"{', '.join(files)}: there is no record", "write the records again, or correct input_path")
        if one.fault and one.unusable > most:
            raise one.fault
        if one.fault:
            print(f"{one.unusable} records of {one.records} cannot be used; {most} may be left out: {one.fault.message}", flush=True)
    counts = {split: {"images": one.records} for split, one in found.items()}
    # In the order of the digests, so that files may be renamed.
    told = {"classes": labels.names, **{split: sorted(one.digests) for split, one in found.items()}}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    root = located(training[0]).absolute().parent
    return RecordSet(root.name, digest, root, counts, labels, label_map, {split: one.objects_per_image for split, one in found.items()})


def manifest_of(files: Sequence[str], label_map: Path) -> Manifest | None:
    """The manifest beside the label map, where it is one of all these files."""
    dataset = DatasetDir(label_map.absolute().parent)
    if not files or not dataset.manifest.is_file():
        return None
    manifest = read_manifest(dataset.manifest)
    shards = {dataset.root / shard for split in manifest.splits.values() for shard in split.shards}
    return manifest if {located(file).absolute() for file in files} <= shards else None


def _of_manifest(dataset: DatasetDir, manifest: Manifest) -> RecordSet:
    counts = {name: {"images": split.images, "objects": split.objects} for name, split in manifest.splits.items()}
    objects = {name: split.statistics.objects_per_image for name, split in manifest.splits.items()}
    patterns = {name: split.pattern for name, split in manifest.splits.items()}
    return RecordSet(manifest.name, manifest.digest, dataset.root, counts, manifest.label_map, dataset.manifest, objects, patterns)
