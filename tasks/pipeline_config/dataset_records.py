"""A materialized dataset as the edits need to know it."""

from __future__ import annotations

from tasks.pipeline_config.edits import Records
from tasks.records.manifest import Manifest
from tasks.records.tfrecord import missing_error
from tasks.running.errors import UserError
from tasks.running.workspace import DatasetDir


def records_of(dataset: DatasetDir, manifest: Manifest) -> Records:
    """What the manifest says of the dataset; UserError where one of the two splits, or a shard, is missing."""
    for split in ("train", "val"):
        if split not in manifest.splits:
            raise UserError(f"{dataset.manifest} has no split {split}", "materialize the dataset with both splits")
    place = DatasetDir(dataset.root.absolute())
    for held in manifest.splits.values():
        if missing := [path for shard in held.shards if not (path := place.root / shard).is_file()]:
            raise missing_error(missing)
    return Records(
        train_pattern=str(place.root / manifest.splits["train"].pattern),
        validation_pattern=str(place.root / manifest.splits["val"].pattern),
        label_map=str(place.label_map),
        mask_type=manifest.mask_type,
        num_classes=manifest.label_map.num_classes,
        most_objects=max(manifest.splits["train"].statistics.objects_per_image, default=0),
    )
