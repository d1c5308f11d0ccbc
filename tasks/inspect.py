"""The step that shows what a dataset holds, and how far it has moved from an earlier one.

    maskline inspect DATASET_DIR [--against MANIFEST_OR_DATASET_DIR] [--output FOLDER]

Prints counts, findings and drift, and writes `index.html`, one page with nothing beside it: the same with histograms and a dozen
images of each split. Needs no TensorFlow; usual runtime: 5 seconds, for the pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tasks.records.dataset_page import checks_of, dataset_page, most_common_image_sizes
from tasks.records.drift import Drift, compare_manifests
from tasks.records.manifest import Manifest, read_manifest
from tasks.records.statistics import SIZES
from tasks.running.workspace import DatasetDir, StepResult, write_text

_CATEGORIES = 30
"""Lines; the page has all."""


def inspect(dataset: DatasetDir, against: Path | None = None, output: Path | None = None) -> StepResult:
    """The page stands in `output`, by default the dataset's folder; the summary lists, by split, which drift is worth telling.

    `against` is a manifest or the folder of one. Raises UserError for a dataset or manifest that is not there, or records that are
    broken.
    """
    manifest = read_manifest(dataset.manifest)
    earlier = None if against is None else read_manifest(DatasetDir(against).manifest if against.is_dir() else against)
    page = (dataset.root if output is None else output) / "index.html"
    write_text(page, dataset_page(dataset, manifest, earlier))
    drifts = compare_manifests(earlier, manifest) if earlier else {}

    console = Console()
    for table in (_counts(manifest), _categories(manifest), _image_sizes(manifest), _findings(manifest), _drifts(drifts)):
        if table.row_count:
            console.print(table)
    told = {name: [drift.what for drift in found if drift.is_worth_telling] for name, found in drifts.items()}
    images = {name: split.images for name, split in manifest.splits.items()}
    return StepResult("inspect", "done", {"page": str(page)}, {"images": images, "drift": told})


def _counts(manifest: Manifest) -> Table:
    table = _table(escape(manifest.name), "split", "images", "empty", "objects", "crowds", *SIZES)
    for name, split in manifest.splits.items():
        sizes = (split.statistics.sizes[size] for size in SIZES)
        _row(table, name, split.images, split.empty_images, split.objects, split.crowd_objects, *sizes)
    return table


def _categories(manifest: Manifest) -> Table:
    table = _table("objects by category", "category", *manifest.splits)
    counts = [split.statistics.objects_per_category for split in manifest.splits.values()]
    ordered = sorted(manifest.categories, key=lambda category: -sum(count[category.id] for count in counts))
    for category in ordered[:_CATEGORIES]:
        _row(table, category.name, *(count[category.id] for count in counts))
    if rest := ordered[_CATEGORIES:]:
        _row(table, f"{len(rest)} others", *(sum(count[category.id] for category in rest) for count in counts))
    return table


def _image_sizes(manifest: Manifest) -> Table:
    table = _table("sizes of images", "split", "height x width", "images")
    for name, split in manifest.splits.items():
        for size, count in most_common_image_sizes(split.statistics):
            _row(table, name, size, count)
    return table


def _findings(manifest: Manifest) -> Table:
    table = _table("what was found", "split", "code", "times", "outcome", "meaning")
    found = {"": checks_of(manifest.source_findings)}
    found |= {name: checks_of(split.findings, split.quarantined) for name, split in manifest.splits.items()}
    for name, checks in found.items():
        for check, times in checks:
            _row(table, name or "(source)", check.value, times, check.outcome, check.meaning)
    return table


def _drifts(drifts: Mapping[str, tuple[Drift, ...]]) -> Table:
    table = _table("drift", "split", "of", "distance", "worth telling", "farthest", "gone or new")
    for name, found in drifts.items():
        for drift in found:
            far = drift.farthest
            told = f"{'yes' if drift.is_worth_telling else 'no'}, from {drift.threshold:.2f}"
            groups = ", ".join([f"-{group}" for group in drift.gone] + [f"+{group}" for group in drift.new])
            _row(table, name, drift.what, f"{drift.distance:.3f}", told, f"{far.group} {far.before:.1%} -> {far.after:.1%}", groups)
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(escape(column), overflow="fold")
    return table


def _row(table: Table, *cells: object) -> None:
    table.add_row(*(f"{cell:,}" if isinstance(cell, int) else escape(str(cell)) for cell in cells))
