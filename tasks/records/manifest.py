"""What a materialized dataset holds; its file is written last, so a dataset with one is complete."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.records.annotated_image import Category
from tasks.records.label_map import LabelMap
from tasks.records.statistics import Statistics
from tasks.running.errors import UserError
from tasks.running.workspace import DatasetDir, read_json, write_json

FORMAT_VERSION = 2
SUSPICIOUS_SHARE = 0.1


@dataclass(frozen=True)
class Split:
    """One split. `shards` are file names beside the manifest and `pattern` is the glob over them; the rest are counts.

    `objects` counts all objects, crowds too; `findings` counts by code what was mended or left out, `quarantined` the images that are in
    `quarantine.jsonl` instead; `findings.jsonl` lists each of both.
    """

    shards: tuple[str, ...]
    pattern: str
    images: int
    empty_images: int
    objects: int
    crowd_objects: int
    objects_per_category: Mapping[str, int]
    findings: Mapping[str, int]
    quarantined: Mapping[str, int]
    statistics: Statistics
    overruled: Mapping[str, int] = field(default_factory=dict)
    """Of `findings`, by code, those of objects for which the source gave another value, by more than a pixel"""

    @property
    def suspicious(self) -> dict[str, float]:
        """By code, the share of all objects for which a value was overruled, where it is more than a tenth.

        Single images are seldom wrong that often in one way: an export is.
        """
        shares = {code: times / max(self.objects, 1) for code, times in self.overruled.items()}
        return {code: share for code, share in shares.items() if share > SUSPICIOUS_SHARE}


@dataclass(frozen=True)
class Manifest:
    """`digest` is SHA-256 over the inputs: equal inputs have equal digests on every machine, at any number of shards.

    `source_findings` counts by code what was mended or left out in what sources say of themselves, their categories: it is of no split.
    """

    name: str
    digest: str
    mask_type: str
    categories: tuple[Category, ...]
    splits: Mapping[str, Split]
    source_findings: Mapping[str, int] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @property
    def label_map(self) -> LabelMap:
        return LabelMap(self.categories)

    @property
    def findings(self) -> dict[str, int]:
        """The counts of all splits and of the sources together."""
        return _sum([self.source_findings, *(split.findings for split in self.splits.values())])

    @property
    def quarantined(self) -> dict[str, int]:
        """The counts of all splits together."""
        return _sum(split.quarantined for split in self.splits.values())


def _sum(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for one in counts:
        for code, count in one.items():
            total[code] = total.get(code, 0) + count
    return total


def write_manifest(path: Path, manifest: Manifest) -> None:
    values = {**vars(manifest), "categories": [vars(category) for category in manifest.categories]}
    values["splits"] = {name: {**vars(split), "statistics": split.statistics.to_json()} for name, split in manifest.splits.items()}
    write_json(path, values)


def materialized_in(folder: Path) -> Manifest | None:
    """The manifest of a dataset that lies materialized in a folder on a disk; None of anything else. UserError for one that is damaged."""
    dataset = DatasetDir(folder)
    is_one = isinstance(folder, Path) and dataset.manifest.is_file() and dataset.label_map.is_file()
    return read_manifest(dataset.manifest) if is_one else None


def read_manifest(path: Path) -> Manifest:
    """The manifest in a file; UserError where it is missing, or not one of this format."""
    values: Any = read_json(path)
    try:
        if values["format_version"] != FORMAT_VERSION:
            raise UserError(
                f"{path}: format_version is {values['format_version']}, this program reads {FORMAT_VERSION}",
                "materialize the dataset again",
            )
        return Manifest(
            name=values["name"],
            digest=values["digest"],
            mask_type=values["mask_type"],
            categories=tuple(Category(**category) for category in values["categories"]),
            splits={name: _split(split) for name, split in values["splits"].items()},
            source_findings=values.get("source_findings", {}),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: not a dataset's manifest: {error!r}", "name a dataset's folder, or materialize the dataset again"
        ) from error


def _split(values: Mapping[str, Any]) -> Split:
    return Split(**{**values, "shards": tuple(values["shards"]), "statistics": Statistics.from_json(values["statistics"])})
