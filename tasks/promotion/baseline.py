"""What a champion was promoted on, against which later data is held: its matches, and the manifest of the dataset."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from tasks.annotations.split_names import TEST
from tasks.coco.matches import Matches, NotMatchesError, read_matches, write_matches
from tasks.evaluation.results import MATCHES
from tasks.records.manifest import Manifest, read_manifest
from tasks.running.workspace import DatasetDir, ModelDir, at, promotion_dir, staged_directory
from tasks.tracking.registry import Version


@dataclass(frozen=True)
class Baseline:
    """None where nothing of it was kept."""

    matches: Matches | None
    manifest: Manifest | None


def keep_baseline(version: Version, matches: Matches, manifest: Path | None) -> None:
    """Keeps what a version is promoted on; `manifest` is the file of the dataset's, where it has one."""
    with staged_directory(_folder(version)) as folder:
        write_matches(folder / MATCHES, matches)
        if manifest is not None:
            shutil.copyfile(manifest, DatasetDir(folder).manifest)


def read_baseline(champion: Version, split: str) -> Baseline:
    """What is kept of a split; of a version that was promoted before anything was kept, what its model's folder still has."""
    own = ModelDir(at(champion.tags.get("model_dir", "")))
    kept = DatasetDir(_folder(champion)).manifest
    for folder in (_folder(champion), own.test_evaluation if split == TEST else own.evaluation):
        try:
            found = read_matches(folder / MATCHES)
        except NotMatchesError:
            continue
        if (found.about.get("split"), found.about.get("checkpoint_digest")) == (split, champion.tags["checkpoint_digest"]):
            return Baseline(found, read_manifest(kept) if kept.is_file() else None)
    return Baseline(None, read_manifest(kept) if kept.is_file() else None)


def _folder(version: Version) -> Path:
    return promotion_dir(version.name) / f"version-{version.number}"
