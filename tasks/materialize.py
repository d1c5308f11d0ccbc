"""The step `maskline materialize DATASET.yaml`: images and annotations to TFRecord shards, a label map and a manifest.

Inputs: a dataset's YAML (see `configs/datasets/`), and the COCO JSON and images it names. Outputs: a `DatasetDir`. TensorFlow is not
imported. Equal inputs give byte-identical shards at any number of workers. The manifest
is written last; until then, an earlier dataset in the same folder stays as it was.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import multiprocessing
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tasks.annotations.coco import CategoryIds, CocoFile, CocoImage, annotate, read_coco_file, shared_category_ids
from tasks.dataset import DatasetConfig, GivenSplits, HashedSplits, read_dataset_config
from tasks.errors import UserError
from tasks.records.annotated_image import Finding
from tasks.records.example import PNG_MASKS, build_example
from tasks.records.image_file import read_image, read_image_bytes
from tasks.records.label_map import print_label_map
from tasks.records.manifest import FORMAT_VERSION, Manifest, Split, read_manifest, write_manifest
from tasks.records.tfrecord import ShardWriter
from tasks.shapes.dataset import ShapesConfig, write_shapes
from tasks.workspace import DatasetDir, StepResult, dataset_dir, write_text

_IMAGES_PER_SHARD = 500
_SECONDS_BETWEEN_LINES = 5.0
_HASH_CHARACTERS = 13  # 52 bits: as many as a float holds exactly


@dataclass(frozen=True)
class _Source:
    """One split before it is written: its images, and of each the SHA-256 of the file."""

    name: str
    file: Path
    images: tuple[CocoImage, ...]
    hashes: tuple[str, ...]


@dataclass(frozen=True)
class _ShardJob:
    """All that a worker needs to write one shard."""

    path: Path
    file: Path
    images: tuple[CocoImage, ...]
    label_ids: Mapping[int, int]
    names: Mapping[int, str]


@dataclass
class _Counts:
    """What shards hold; adds up over them."""

    images: int = 0
    empty_images: int = 0
    crowd_objects: int = 0
    objects: Counter[int] = field(default_factory=Counter)
    findings: Counter[Finding] = field(default_factory=Counter)

    def add(self, other: _Counts) -> None:
        self.images += other.images
        self.empty_images += other.empty_images
        self.crowd_objects += other.crowd_objects
        self.objects.update(other.objects)
        self.findings.update(other.findings)


def materialize(dataset_yaml: Path, output: Path | None = None, shards: int | None = None, workers: int = 1) -> StepResult:
    """The dataset that a YAML file describes, as records in `output` (by default the workspace's folder of its name).

    `shards` is the number for each split (never more than it has images), by default one for 500 images. Status `skipped` where the
    folder already holds these inputs in these shards.
    """
    for option, value in (("shards", shards), ("workers", workers)):
        if value is not None and value < 1:
            raise UserError(f"--{option} is {value}", "give at least 1")
    config = read_dataset_config(dataset_yaml)
    dataset = DatasetDir(output.absolute()) if output is not None else dataset_dir(config.name)
    if isinstance(config.images, ShapesConfig):
        write_shapes(config.images, dataset.source)
        config = DatasetConfig(config.name, read_dataset_config(dataset.source / "dataset.yaml").images)
    files, sources = _read_sources(config, workers)
    ids = shared_category_ids(files)
    digest = _digest(config, files, sources)
    shard_names = {source.name: _shard_names(dataset, source, shards) for source in sources}

    manifest = _existing(dataset, digest, shard_names)
    status = "skipped" if manifest else "done"
    if manifest is None:
        manifest = _write(dataset, config.name, digest, ids, sources, shard_names, workers)
    _report(manifest, ids)
    return StepResult(
        step="materialize",
        status=status,
        outputs={"dataset": str(dataset.root), "manifest": str(dataset.manifest)},
        summary={
            "name": manifest.name,
            "digest": manifest.digest,
            "images": {name: split.images for name, split in manifest.splits.items()},
            "objects": {name: split.objects for name, split in manifest.splits.items()},
            "findings": manifest.findings,
        },
    )


def _read_sources(config: DatasetConfig, workers: int) -> tuple[list[CocoFile], list[_Source]]:
    """The COCO files of a dataset, and its splits with every image's hash."""
    images = config.images
    if isinstance(images, GivenSplits):
        files = {name: read_coco_file(source.annotations, source.images) for name, source in images.splits.items()}
        sources = [_Source(name, file.path, file.images, _hash_images(name, file.images, workers)) for name, file in files.items()]
    elif isinstance(images, HashedSplits):
        file = read_coco_file(images.source.annotations, images.source.images)
        files = {"": file}
        sources = _split_by_hash(file, _hash_images(config.name, file.images, workers), images.fractions)
    else:
        raise TypeError(f"not a source of COCO files: {images}")
    for source in sources:
        if not source.images:
            raise UserError(
                f"{source.file}: split {source.name!r} gets no image", "add images, change the shares, or give the splits yourself"
            )
    return list(files.values()), sources


def _hash_images(what: str, images: Sequence[CocoImage], workers: int) -> tuple[str, ...]:
    """SHA-256 of every image file; the first that cannot be read is a UserError."""
    progress = _Progress(f"{what}: reading", len(images))
    hashes = []
    with ThreadPoolExecutor(workers) as pool:
        for value in pool.map(lambda image: hashlib.sha256(read_image_bytes(image.path)).hexdigest(), images):
            hashes.append(value)
            progress.advance(1)
    return tuple(hashes)


def _split_by_hash(file: CocoFile, hashes: Sequence[str], fractions: Mapping[str, float]) -> list[_Source]:
    """Each image in the split whose part of [0, 1) its hash falls into; copies of an image always fall together."""
    bounds = list(itertools.accumulate(fractions.values()))
    chosen: list[list[int]] = [[] for _ in bounds]
    for index, value in enumerate(hashes):
        position = int(value[:_HASH_CHARACTERS], 16) / 16**_HASH_CHARACTERS
        chosen[sum(position >= bound for bound in bounds[:-1])].append(index)
    return [
        _Source(name, file.path, tuple(file.images[index] for index in indices), tuple(hashes[index] for index in indices))
        for name, indices in zip(fractions, chosen, strict=True)
    ]


def _digest(config: DatasetConfig, files: Sequence[CocoFile], sources: Sequence[_Source]) -> str:
    """SHA-256 over all that decides what the records hold: name, annotations, splits, images; no path, time or machine."""
    content = {
        "format": FORMAT_VERSION,
        "mask_type": PNG_MASKS,
        "name": config.name,
        "annotations": [hashlib.sha256(file.path.read_bytes()).hexdigest() for file in files],
        "splits": [[source.name, *source.hashes] for source in sources],
    }
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _shard_names(dataset: DatasetDir, source: _Source, shards: int | None) -> tuple[str, ...]:
    count = min(shards or math.ceil(len(source.images) / _IMAGES_PER_SHARD), len(source.images))
    return tuple(dataset.shard(source.name, index, count).name for index in range(count))


def _existing(dataset: DatasetDir, digest: str, shard_names: Mapping[str, tuple[str, ...]]) -> Manifest | None:
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
        and {name: split.shards for name, split in manifest.splits.items()} == dict(shard_names)
        and all((dataset.root / shard).is_file() for shards in shard_names.values() for shard in shards)
        and dataset.label_map.is_file()
    )
    return manifest if complete else None


def _write(
    dataset: DatasetDir,
    name: str,
    digest: str,
    ids: CategoryIds,
    sources: Sequence[_Source],
    shard_names: Mapping[str, tuple[str, ...]],
    workers: int,
) -> Manifest:
    """Writes all shards aside, then moves them in: an error or a kill before that leaves the folder as it was."""
    incoming = dataset.root / ".incoming"
    shutil.rmtree(incoming, ignore_errors=True)
    existed = dataset.root.exists()
    incoming.mkdir(parents=True)
    try:
        splits = {}
        for source in sources:
            names = shard_names[source.name]
            jobs = [
                _ShardJob(incoming / shard, source.file, source.images[index :: len(names)], ids.by_coco_id, ids.label_map.names)
                for index, shard in enumerate(names)
            ]
            counts = _run(jobs, workers, _Progress(f"{source.name}: writing", len(source.images)))
            splits[source.name] = Split(
                shards=names,
                pattern=Path(dataset.shard_pattern(source.name, len(names))).name,
                images=counts.images,
                empty_images=counts.empty_images,
                objects=counts.objects.total(),
                crowd_objects=counts.crowd_objects,
                objects_per_category={c.name: counts.objects[c.id] for c in ids.label_map.categories},
                findings={finding.value: counts.findings[finding] for finding in Finding if counts.findings[finding]},
            )
    except BaseException:
        shutil.rmtree(incoming, ignore_errors=True)
        if not existed:
            dataset.root.rmdir()
        raise
    # From here on until the manifest is back, the folder is no dataset, and says so by having none.
    dataset.manifest.unlink(missing_ok=True)
    for old in dataset.root.glob("*.record-*-of-*"):
        old.unlink()
    for shard in itertools.chain.from_iterable(shard_names.values()):
        (incoming / shard).rename(dataset.root / shard)
    incoming.rmdir()
    write_text(dataset.label_map, print_label_map(ids.label_map))
    manifest = Manifest(name, digest, PNG_MASKS, ids.label_map.categories, splits)
    write_manifest(dataset.manifest, manifest)
    return manifest


def _run(jobs: Sequence[_ShardJob], workers: int, progress: _Progress) -> _Counts:
    """Writes the shards, by `workers` processes where that is more than one; the first error in the shards' order is raised."""
    total = _Counts()
    if workers == 1 or len(jobs) == 1:
        for job in jobs:
            total.add(_write_shard(job, progress.advance))
        return total
    with ProcessPoolExecutor(min(workers, len(jobs)), multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(_write_shard, job) for job in jobs]
        try:
            for future in futures:
                counts = future.result()
                total.add(counts)
                progress.advance(counts.images)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return total


def _write_shard(job: _ShardJob, advance: Callable[[int], None] | None = None) -> _Counts:
    """Writes one shard, an image at a time; returns what it holds and tells `advance` of each image."""
    counts = _Counts()
    with ShardWriter(job.path) as shard:
        for record in _records(job, counts):
            shard.write(record)
            if advance is not None:
                advance(1)
    return counts


def _records(job: _ShardJob, counts: _Counts) -> Iterator[bytes]:
    for image in job.images:
        encoded = read_image(image.path, image.height, image.width)
        annotated, findings = annotate(job.file, image, job.label_ids)
        counts.images += 1
        counts.empty_images += not annotated.instances
        counts.crowd_objects += sum(instance.is_crowd for instance in annotated.instances)
        counts.objects.update(instance.category_id for instance in annotated.instances)
        counts.findings.update(findings)
        counts.findings.update(encoded.findings)
        yield build_example(annotated, encoded, job.names)


class _Progress:
    """A line every few seconds: how far, how fast, how long still."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total, self._done = what, total, 0
        self._start = self._last = time.monotonic()

    def advance(self, images: int) -> None:
        self._done += images
        now = time.monotonic()
        if now - self._last < _SECONDS_BETWEEN_LINES:
            return
        self._last = now
        rate = self._done / (now - self._start)
        left = (self._total - self._done) / rate
        print(f"{self._what}: {self._done} of {self._total} images, {rate:.0f} images/s, {left:.0f} s left", flush=True)


def _report(manifest: Manifest, ids: CategoryIds) -> None:
    """Prints what the dataset holds and what had to be done to it."""
    if ids.renumbered:
        renumbering = ", ".join(f"{coco_id} to {label_id}" for coco_id, label_id in ids.by_coco_id.items())
        print(f"{manifest.name}: category ids below 1 are the background's; renumbered {renumbering}")
    for name, split in manifest.splits.items():
        print(
            f"{manifest.name}: {name}: {split.images} images ({split.empty_images} without objects), {split.objects} objects"
            f" ({split.crowd_objects} crowds) in {len(split.shards)} shard{'s' * (len(split.shards) > 1)}"
        )
    for code, count in manifest.findings.items():
        print(f"{manifest.name}: {count} x {code}: {Finding(code).meaning}")  # type: ignore[call-arg]  # mypy reads __new__; a call looks the member up
