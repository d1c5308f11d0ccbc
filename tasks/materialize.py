"""The step `maskline materialize DATASET.yaml`: images and annotations to TFRecord shards, a label map and a manifest.

Inputs: a dataset's YAML (see `configs/datasets/` and docs/sources.md), or a folder in which it is found or written, and what it names.
Outputs: a `DatasetDir`, in a folder or under an fsspec URL. TensorFlow is not imported. Equal inputs give byte-identical shards at any
number of workers, and in any number of parts (`--shard-range`). The manifest is written last; until then, an earlier dataset in the same
folder stays as it was. About 400 of COCO's photographs a second and core.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tasks.annotations.catalog import Catalog
from tasks.annotations.categories import LabelIds, share_categories
from tasks.annotations.corrections import CorrectedSource, Corrections, category_keys
from tasks.annotations.dataset import DatasetConfig, GivenSplits, HashedSplits, confirm_trainable, read_dataset_config
from tasks.annotations.recognition import description_of
from tasks.annotations.record_choice import Choice, DuplicateImages, EmptyImages, WithoutMask, choose
from tasks.annotations.shard import Contents, Limits, Quarantined, ShardJob, ShardReport, confirm_few, findings_path, write_shard
from tasks.annotations.source import Listing, Source
from tasks.annotations.split_names import TEST
from tasks.records.checks import Check, DataError
from tasks.records.label_map import LabelMap, print_label_map
from tasks.records.manifest import FORMAT_VERSION, Manifest, Split, materialized_in, read_manifest, write_manifest
from tasks.records.staging import Staging
from tasks.running.errors import UserError
from tasks.running.progress import Progress
from tasks.running.scratch import scratch_folder
from tasks.running.workers import Workers
from tasks.running.workspace import DatasetDir, StepResult, dataset_dir, write_text, written_whole
from tasks.shapes.dataset import ShapesConfig, write_shapes

_IMAGES_PER_SHARD = 500
_FEW_IDS = 3
_HASH_CHARACTERS = 13  # 52 bits: as many as a float holds exactly


@dataclass(frozen=True)
class Effort:
    """How the work is done; it does not show in the records, but for the number of shards."""

    shards: int | None = None
    """For each split, never more than it has images; by default one for 500 images"""
    workers: int = 1
    max_bad: int = 0
    """Images that may be quarantined"""
    shard_range: tuple[int, int] | None = None
    """Write only the shards from the first to before the second of this number, counted over all splits, and no manifest"""
    limits: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """By code, how often a fault may be found; such a code does not count to `max_bad`"""


def materialize(
    dataset_yaml: Path, output: Path | None = None, options: Mapping[str, Any] | None = None, effort: Effort | None = None
) -> StepResult:
    """The dataset that a YAML file describes, as records in `output` (by default the workspace's folder of its name).

    Of a folder, it is the YAML in it, or one that is written there by what the folder holds; a folder that this step has written stays as
    it is, unless there is an `output`, or other shards or `options` are asked for. `options` are fields of `Choice` that count instead of
    the YAML's own (`record_choice.read_options` makes them of texts). Status `skipped` where the folder already holds these inputs in these
    shards.
    """
    effort = effort or Effort()
    for option, value in (("shards", effort.shards), ("workers", effort.workers)):
        if value is not None and value < 1:
            raise UserError(f"--{option} is {value}", "give at least 1")
    if effort.max_bad < 0:
        raise UserError(f"--max-bad is {effort.max_bad}", "give at least 0")
    is_as_it_was = output is None and not options and (effort.shards, effort.shard_range) == (None, None)
    if is_as_it_was and (manifest := materialized_in(dataset_yaml)) is not None:
        print(f"{dataset_yaml} is a materialized dataset, and stays as it is", flush=True)
        return _answer("skipped", DatasetDir(dataset_yaml.absolute()), manifest, changed=False, corrected={})
    config = read_dataset_config(description_of(dataset_yaml))
    choice = choose(config.options, options or {})
    dataset = DatasetDir(output.absolute()) if output is not None else dataset_dir(config.name)
    with scratch_folder() as scratch, Workers(effort.workers, write_shard.__module__) as workers:
        if isinstance(config.images, ShapesConfig):
            # Parts may run at the same time, each with its own drawings, and they are drawn on a disk.
            is_shared = effort.shard_range is not None or not isinstance(dataset.root, Path)
            drawings = scratch / "source" if is_shared else dataset.source
            write_shapes(config.images, drawings)
            config = dataclasses.replace(config, images=read_dataset_config(drawings / "dataset.yaml").images)
        return _materialize(config, dataset, choice, effort, Catalog(scratch / "catalog.sqlite"), workers)


def _materialize(
    config: DatasetConfig, dataset: DatasetDir, choice: Choice, effort: Effort, catalog: Catalog, workers: Workers
) -> StepResult:
    sources, split_of, split_names = _sources(config, choice)
    _report_splits(config, split_names)
    listings = {name: source.list() for name, source in sources.items()}
    labels, label_ids = share_categories({name: listing.categories for name, listing in listings.items()}, choice.categories)
    _report_numbering(config.name, label_ids.values())

    corrections = Corrections(choice.corrections) if choice.corrections else None
    digest = hashlib.sha256(json.dumps(_recipe(config.name, choice, labels), sort_keys=True).encode())
    progress = Progress(f"{config.name}: reading")
    for name, listing in listings.items():
        if listing.passed_over:
            print(f"{name}: {listing.passed_over} images without annotations are passed over", flush=True)
        for note in listing.notes:
            print(f"{name}: {note}", flush=True)
        listed = listing.images
        if corrections is not None:
            listed = corrections.laid_over(name, sources[name], listed, category_keys(listing.categories, label_ids[name], labels))
            sources[name] = CorrectedSource(sources[name])
        for line in catalog.fill(name, sources[name], listed, partial(split_of, name), workers):
            digest.update(line.encode())
            progress.advance()
    corrected: dict[str, Any] = {}
    if corrections is not None:
        corrections.confirm_all_met()
        corrected = {"corrections": dataclasses.asdict(corrections.counts)}
        print(f"{config.name}: corrections of {corrections.counts}", flush=True)
    found = catalog.arrange(choice.limit)
    images = {name: found.get(name, 0) for name in split_names}
    _confirm_filled(config.name, images)

    shards = {name: _shard_names(dataset, name, number, effort.shards) for name, number in images.items()}
    total = sum(map(len, shards.values()))
    first, end = effort.shard_range or (0, total)
    if not 0 <= first < end <= total:
        raise UserError(f"--shard-range is {first}:{end}", f"there are {total} shards: give a range within 0:{total}")
    manifest = _existing(dataset, digest.hexdigest(), shards)
    limits = Limits(effort.max_bad, effort.limits)
    if manifest is not None and not limits.exceeded(manifest.findings, manifest.quarantined):
        return _answer("skipped", dataset, manifest, changed=False, corrected=corrected)
    earlier = _digest_of(dataset)
    contents = Contents(
        sources,
        label_ids,
        labels.names,
        choice.mask_type,
        choice.crowds,
        keep_empty=choice.empty == EmptyImages.INCLUDE,
        drop_without_mask=choice.objects_without_mask == WithoutMask.DROP,
        keep_duplicates=choice.duplicate_images == DuplicateImages.KEEP,
    )
    staging = Staging(dataset, {"digest": digest.hexdigest(), "shards": {name: list(names) for name, names in shards.items()}})
    jobs = [
        ShardJob(
            staging.shard(shard),
            catalog.path,
            name,
            index,
            len(names),
            len(range(index, images[name], len(names))),
            contents,
            limits,
        )
        for name, names in shards.items()
        for index, shard in enumerate(names)
    ]
    try:
        reports = _write(jobs[first:end], staging, workers)
        if effort.shard_range is not None:
            return StepResult("materialize", "part", {"dataset": str(dataset.root)}, {"name": config.name, "shards": list(reports)})
        splits = {name: _split(dataset, names, [reports[shard] for shard in names], labels) for name, names in shards.items()}
        written = _sum(reports.values())
        quarantined = written.quarantined
        source_findings = _of_sources(listings)
        written.merge(ShardReport(findings=source_findings))
        confirm_few(written, limits)
        _confirm_filled(config.name, {name: split.images for name, split in splits.items()}, quarantined)
        _confirm_objects(config.name, splits)
    except DataError:
        workers.stop()  # before what they write is removed
        # Other parts may be at work beside this one.
        if effort.shard_range is None:
            staging.give_up()
        raise
    manifest = Manifest(config.name, digest.hexdigest(), choice.mask_type, labels.categories, splits, source_findings)
    staging.install(reports)
    with written_whole(dataset.findings) as stream:
        stream.writelines(_lines_of_sources(listings))
        for shard in reports:
            with findings_path(staging.shard(shard)).open("rb") as part:
                shutil.copyfileobj(part, stream)
    write_text(dataset.quarantine, "".join(json.dumps(vars(one)) + "\n" for one in quarantined))
    write_text(dataset.label_map, print_label_map(labels))
    write_manifest(dataset.manifest, manifest)
    staging.remove()
    return _answer("done", dataset, manifest, changed=earlier != manifest.digest, corrected=corrected)


def _of_sources(listings: Mapping[str, Listing]) -> dict[str, int]:
    """How often, by code, the sources as wholes were mended."""
    found: Counter[str] = Counter()
    for listing in listings.values():
        found.update({check.value: times for check, times in listing.findings.items()})
    return dict(found)


def _lines_of_sources(listings: Mapping[str, Listing]) -> Iterator[bytes]:
    """Their lines in the list of faults, one a code and source: of no split and no image."""
    for source, listing in listings.items():
        for check, times in listing.findings.items():
            line = {
                "split": "",
                "source": source,
                "source_id": "",
                "image": "",
                "object": "",
                "code": check.value,
                "outcome": check.outcome.value,
                "done": check.meaning,
                "times": times,
            }
            yield json.dumps(line).encode() + b"\n"


def _confirm_filled(name: str, images: Mapping[str, int], quarantined: Iterable[Quarantined] = ()) -> None:
    """DataError where a split has no image: training and evaluation would end on it."""
    for split, number in images.items():
        if not number:
            bad = next((one for one in quarantined if one.split == split), None)
            raise DataError(
                Check.SPLIT_EMPTY,
                f"{name}: split {split!r} gets no image"
                + (f"; the first of those that cannot become records: {bad.message}" if bad else ""),
                bad.fix if bad else "add images, change the shares, or give the splits yourself",
            )


def _confirm_objects(name: str, splits: Mapping[str, Split]) -> None:
    """DataError where a split has nothing that training could learn from, or metrics could count: every AP would be -1."""
    for split, held in splits.items():
        if held.objects == held.crowd_objects:
            raise DataError(
                Check.SPLIT_WITHOUT_OBJECTS,
                f"{name}: split {split!r} has no object to learn or measure: "
                + (f"all {held.objects} are crowds (`iscrowd` 1)" if held.objects else f"its {held.images} images are without any"),
                "where each is one object, as of CVAT's brush, say so: `crowds: objects` in the dataset's YAML, or --crowds objects"
                if held.objects
                else "annotate some, choose other categories, or change the shares",
            )


def _sources(config: DatasetConfig, choice: Choice) -> tuple[dict[str, Source], Callable[[str, str], str], tuple[str, ...]]:
    """The sources by name, what tells the split of an image by its source's name and its SHA-256, and the splits in order."""
    images = config.images
    if isinstance(images, GivenSplits) and choice.split is not None:
        raise UserError(f"--split cannot divide {config.name}: its splits are given", "leave --split out, or describe one `source`")
    confirm_trainable(config, choice)
    if isinstance(images, GivenSplits):
        return dict(images.splits), lambda source, _: source, tuple(images.splits)
    if isinstance(images, HashedSplits):
        fractions = choice.split or {}
        return {config.name: images.source}, lambda _, sha256: _split_by_hash(sha256, fractions), tuple(fractions)
    raise TypeError(f"not a source of images: {images}")


def _report_splits(config: DatasetConfig, splits: Iterable[str]) -> None:
    """Prints what becomes of the YAML's own words for splits, and what `test` is for."""
    for split, word in config.split_words.items():
        if word != split:
            print(f"{config.name}: the split `{word}` is read as `{split}`", flush=True)
    if TEST in splits:
        print(f"{config.name}: `test` is kept from training; `maskline evaluate MODEL --split test` measures on it", flush=True)


def _split_by_hash(sha256: str, fractions: Mapping[str, float]) -> str:
    """The split whose part of [0, 1) the hash falls into: of the same image always the same, whatever is added around it."""
    position = int(sha256[:_HASH_CHARACTERS], 16) / 16**_HASH_CHARACTERS
    bounds = itertools.accumulate(fractions.values())
    return next((name for name, bound in zip(fractions, bounds, strict=True) if position < bound), list(fractions)[-1])


def _recipe(name: str, choice: Choice, labels: LabelMap) -> dict[str, Any]:
    """What decides the records beside the images and annotations; no path, time or machine."""
    # What the splits and corrections come to is in the images' lines.
    kept = {key: value for key, value in dataclasses.asdict(choice).items() if key not in ("split", "corrections")}
    return {"format": FORMAT_VERSION, "name": name, "labels": [vars(category) for category in labels.categories], **kept}


def _shard_names(dataset: DatasetDir, split: str, images: int, shards: int | None) -> tuple[str, ...]:
    count = min(shards or math.ceil(images / _IMAGES_PER_SHARD), images)
    return tuple(dataset.shard(split, index, count).name for index in range(count))


def _existing(dataset: DatasetDir, digest: str, shards: Mapping[str, tuple[str, ...]]) -> Manifest | None:
    """The manifest of a complete dataset of this digest in these shards, or None."""
    if not dataset.manifest.is_file():
        return None
    try:
        manifest = read_manifest(dataset.manifest)
    except UserError as error:
        print(f"writing the dataset anew: {error.message}", flush=True)
        return None
    complete = (
        manifest.digest == digest
        and {name: split.shards for name, split in manifest.splits.items()} == dict(shards)
        and all((dataset.root / shard).is_file() for names in shards.values() for shard in names)
        and dataset.label_map.is_file()
    )
    return manifest if complete else None


def _write(jobs: Sequence[ShardJob], staging: Staging, workers: Workers) -> dict[str, ShardReport]:
    """The reports of the shards, in their order, by name; those that an earlier run has left are not written again."""
    names = [job.path.name for job in jobs]
    found = {
        name: ShardReport.from_json(report)
        for name in names
        if (report := staging.report(name)) is not None and findings_path(staging.shard(name)).is_file()
    }
    if found:
        print(f"{len(found)} of {len(jobs)} shards are there already", flush=True)
    missing = [job for job in jobs if job.path.name not in found]
    for job, report in workers.run(write_shard, missing, Progress("writing", sum(job.images for job in missing))):
        staging.finish(job.path.name, report.to_json())
        found[job.path.name] = report
    return {name: found[name] for name in names}


def _split(dataset: DatasetDir, shards: tuple[str, ...], reports: Sequence[ShardReport], labels: LabelMap) -> Split:
    """What the shards of a split hold together."""
    total = _sum(reports)
    statistics = total.statistics
    return Split(
        shards=shards,
        pattern=Path(dataset.shard_pattern(shards[0].split(".record-")[0], len(shards))).name,
        images=statistics.images,
        empty_images=statistics.empty_images,
        objects=statistics.objects,
        crowd_objects=statistics.crowds,
        objects_per_category={category.name: statistics.objects_per_category[category.id] for category in labels.categories},
        findings={check.value: total.findings[check.value] for check in Check if check.value in total.findings},
        quarantined=dict(sorted(Counter(one.code for one in total.quarantined).items())),
        statistics=statistics,
        overruled=dict(sorted(total.overruled.items())),
    )


def _sum(reports: Iterable[ShardReport]) -> ShardReport:
    total = ShardReport()
    for report in reports:
        total.merge(report)
    return total


def _report_numbering(name: str, label_ids: Iterable[LabelIds]) -> None:
    """Prints which ids of the sources the label map could not keep; many that move by one step, as all that count from 0 do, in short."""
    for ids in {tuple(one.items()): one for one in label_ids}.values():
        moved = {key: label_id for key, label_id in ids.items() if isinstance(key, int) and label_id not in (key, None)}
        first, last = min(moved, default=0), max(moved, default=0)
        if len(moved) > _FEW_IDS and moved == {key: key + 1 for key in range(first, last + 1)}:
            print(f"{name}: category ids renumbered: {first} ... {last} to {first + 1} ... {last + 1}")
        elif moved:
            print(f"{name}: category ids renumbered: {', '.join(f'{key} to {label_id}' for key, label_id in moved.items())}")


def _digest_of(dataset: DatasetDir) -> str | None:
    """Of the records that are there, whole or not; None where they do not say."""
    try:
        return read_manifest(dataset.manifest).digest
    except UserError:
        return None


def _answer(status: str, dataset: DatasetDir, manifest: Manifest, *, changed: bool, corrected: Mapping[str, Any]) -> StepResult:
    """Prints what the dataset holds and what had to be done to it; `changed` tells other data from the same in other shards."""
    for name, split in manifest.splits.items():
        print(
            f"{manifest.name}: {name}: {split.images} images ({split.empty_images} without objects), {split.objects} objects"
            f" ({split.crowd_objects} crowds) in {len(split.shards)} shard{'s' * (len(split.shards) > 1)}"
        )
    for found in (manifest.findings, manifest.quarantined):
        for code, count in found.items():
            check = Check.of(code)
            print(f"{manifest.name}: {count} x {code}, {check.outcome}: {check.meaning}")
    for name, split in manifest.splits.items():
        for code, share in split.suspicious.items():
            print(
                f"warning: {manifest.name}: {name}: {share:.0%} of all objects have {code}: that points to a broken export rather than to"
                f" broken images; look at some of them (`maskline inspect {dataset.root}`)"
            )
    if manifest.findings or manifest.quarantined:
        print(f"{manifest.name}: each of them is in {dataset.findings}")
    return StepResult(
        step="materialize",
        status=status,
        outputs={"dataset": str(dataset.root), "manifest": str(dataset.manifest)},
        summary={
            "name": manifest.name,
            "digest": manifest.digest,
            "changed": changed,
            "images": {name: split.images for name, split in manifest.splits.items()},
            "objects": {name: split.objects for name, split in manifest.splits.items()},
            "findings": manifest.findings,
            "quarantined": manifest.quarantined,
            "suspicious": {name: split.suspicious for name, split in manifest.splits.items() if split.suspicious},
            **corrected,
        },
    )
