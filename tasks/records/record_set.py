"""The records that an experiment reads, a materialized dataset's or somebody's own: a name, and a digest that tells them from others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tasks.errors import UserError
from tasks.records.label_map import LabelMap, read_label_map
from tasks.records.manifest import Manifest, read_manifest
from tasks.records.tfrecord import read_shard
from tasks.workspace import DatasetDir, located


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
    patterns: Mapping[str, str] = field(default_factory=dict)
    """The globs in `root` over the files of each split, where a manifest tells them"""


def materialized(dataset: DatasetDir) -> RecordSet:
    """The records of a materialized dataset; UserError where it has no manifest."""
    return _of_manifest(dataset, read_manifest(dataset.manifest))


def record_set(training: Sequence[str], validation: Sequence[str], label_map: Path) -> RecordSet:
    """The records in two lists of files.

    A materialized dataset's shards are known by the manifest beside the label map. All others are read whole, once, and called after the
    folder of the first. UserError where a split holds no record, a file is damaged, or the label map cannot be read.
    """
    dataset = DatasetDir(label_map.parent)
    if dataset.manifest.is_file():
        manifest = read_manifest(dataset.manifest)
        shards = {dataset.root / shard for split in manifest.splits.values() for shard in split.shards}
        if {located(file).absolute() for file in (*training, *validation)} <= shards:
            return _of_manifest(dataset, manifest)
    labels = read_label_map(label_map)
    contents = {"train": [_content(file) for file in training], "val": [_content(file) for file in validation]}
    counts = {split: {"images": sum(count for count, _ in found)} for split, found in contents.items()}
    for split, files in (("train", training), ("val", validation)):
        if not counts[split]["images"]:
            raise UserError(f"{', '.join(files)}: there is no record", "write the records again, or correct input_path")
    # In the order of the digests, so that files may be renamed.
    told = {"classes": labels.names, **{split: sorted(digest for _, digest in found) for split, found in contents.items()}}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    root = located(training[0]).absolute().parent
    return RecordSet(root.name, digest, root, counts, labels, label_map)


def _of_manifest(dataset: DatasetDir, manifest: Manifest) -> RecordSet:
    counts = {name: {"images": split.images, "objects": split.objects} for name, split in manifest.splits.items()}
    patterns = {name: split.pattern for name, split in manifest.splits.items()}
    return RecordSet(manifest.name, manifest.digest, dataset.root, counts, manifest.label_map, dataset.manifest, patterns)


def _content(file: str) -> tuple[int, str]:
    """How many records a file holds, and the SHA-256 over them."""
    count, digest = 0, hashlib.sha256()
    for record in read_shard(located(file)):
        digest.update(len(record).to_bytes(8, "little"))
        digest.update(record)
        count += 1
    return count, digest.hexdigest()
