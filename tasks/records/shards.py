"""The records that a command line names: a materialized dataset's, or those of other tools that a pattern matches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tasks.records.label_map import LabelMap, read_label_map
from tasks.records.manifest import Manifest, read_manifest
from tasks.records.tfrecord import record_files, shard_family
from tasks.running.errors import UserError
from tasks.running.workspace import DatasetDir, located


@dataclass(frozen=True)
class Shards:
    """The files by split; without a manifest, those whose names differ in their numbers alone are one split."""

    splits: Mapping[str, tuple[Path, ...]]
    labels: LabelMap | None
    manifest: Manifest | None
    dataset: DatasetDir


def find_shards(name: str, label_map: str | None = None) -> Shards:
    """The shards that a dataset's folder holds, or that a path or pattern matches; its `label_map` stands for a dataset's own.

    UserError where there is none, a folder has no manifest, or the label map cannot be read.
    """
    labels = read_label_map(located(label_map)) if label_map else None
    place = located(name)
    if place.is_dir():
        dataset = DatasetDir(place)
        manifest = read_manifest(dataset.manifest)
        files: dict[str, tuple[Path, ...]] = {
            split: tuple(place / shard for shard in held.shards) for split, held in manifest.splits.items()
        }
        return Shards(files, labels or manifest.label_map, manifest, dataset)
    found = record_files(place)
    if not any(file.stat().st_size for file in found):
        raise UserError(f"{name}: there is no record", "name files that hold records, or write them again")
    files = {
        family: tuple(file for file in found if shard_family(file.name) == family) for family in (shard_family(file.name) for file in found)
    }
    return Shards(files, labels, None, DatasetDir(found[0].parent))
