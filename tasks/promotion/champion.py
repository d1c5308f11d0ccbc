"""The champion, measured on the records that its challenger was measured on."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tasks.annotations.split_names import TEST
from tasks.coco.matches import Matches, NotMatchesError, read_matches, write_matches
from tasks.evaluation.image_results import Job, NetworkOutput, Settings, image_result
from tasks.evaluation.parts import Parts
from tasks.evaluation.results import MATCHES
from tasks.evaluation.verdicts import incomparable
from tasks.promotion.rules import Measured
from tasks.records.features import RecordFeatures
from tasks.records.label_map import LabelMap, read_label_map
from tasks.records.record_set import materialized
from tasks.records.tfrecord import read_shard, record_files
from tasks.running.errors import UserError
from tasks.running.progress import Progress
from tasks.running.workers import Workers
from tasks.running.workspace import DatasetDir, ModelDir, at, located, promotion_dir, staged_directory
from tasks.tracking.registry import Registry, Version

_MOST_WORKERS, _JOBS_AHEAD = 8, 4


def measured_champion(registry: Registry, champion: Version, challenger: ModelDir, theirs: Matches, split: str) -> Measured:
    """The champion's matches on the records of `theirs`: those of its own evaluation where that was of the same state of the data, else
    of an evaluation that is made now, of what the registry hands out for it; that one is kept."""
    kept = _kept(registry, champion, split, str(theirs.about.get("dataset_digest")))
    found = _measured_before(champion, split, kept, lambda found: incomparable(found, theirs) is None)
    if found is None:
        about = {**theirs.about, "config": champion.tags.get("config"), "checkpoint_digest": champion.tags["checkpoint_digest"]}
        found = _measured_anew(registry, champion, lambda: _records_of(challenger, split), about, kept)
    return Measured(champion, found)


def champion_on(registry: Registry, champion: Version, dataset: DatasetDir, split: str) -> Matches:
    """The champion's matches on a split of a materialized dataset, measured now unless they are there. UserError for another split."""
    records = materialized(dataset)
    if split not in records.patterns:
        raise UserError(f"{dataset.root} has no split `{split}`", f"use one of {', '.join(records.patterns)}")
    kept = _kept(registry, champion, split, records.digest)
    same = (records.digest, split)
    found = _measured_before(champion, split, kept, lambda found: (found.about.get("dataset_digest"), found.about.get("split")) == same)
    if found is not None:
        return found
    about = {
        "config": champion.tags.get("config"),
        "split": split,
        "dataset": records.name,
        "dataset_digest": records.digest,
        "checkpoint": champion.tags.get("checkpoint"),
        "checkpoint_digest": champion.tags["checkpoint_digest"],
    }
    files = [str(file) for file in record_files(records.root / records.patterns[split])]
    return _measured_anew(registry, champion, lambda: (records.labels, files), about, kept)


Records = Callable[[], tuple[LabelMap, Sequence[str]]]
"""Classes and files of the records to measure on."""


def _kept(registry: Registry, champion: Version, split: str, digest: str) -> Path:
    return promotion_dir(registry.name) / f"version-{champion.number}-{split}-{digest[:16]}"


def _measured_before(champion: Version, split: str, kept: Path, is_same: Callable[[Matches], bool]) -> Matches | None:
    """The champion's matches on the same records, by its own evaluation or by one that was kept; None where there are none."""
    own = ModelDir(at(champion.tags.get("model_dir", "")))
    for folder in (own.test_evaluation if split == TEST else own.evaluation, kept):
        try:
            found = read_matches(folder / MATCHES)
        except NotMatchesError:
            continue
        if found.about.get("checkpoint_digest") == champion.tags["checkpoint_digest"] and is_same(found):
            return found
    return None


def _measured_anew(registry: Registry, champion: Version, records: Records, about: Mapping[str, Any], kept: Path) -> Matches:
    print(f"the champion, {champion}, was not measured on these records: it is now", flush=True)
    with tempfile.TemporaryDirectory() as temporary, staged_directory(kept) as folder:
        downloaded = registry.download(champion, Path(temporary))
        return _evaluated(downloaded / "artifacts", records, about, folder)


def _records_of(challenger: ModelDir, split: str) -> tuple[LabelMap, Sequence[str]]:
    from tasks.input.batches import record_files as files_of
    from tasks.serving.trained_model import read_trained_model
    from tasks.training.records import records_read

    task = read_trained_model(challenger.train).experiment.task
    data = task.validation_data
    if split == TEST:
        records = records_read(task)
        data.input_path = str(records.root / records.patterns[TEST])
    return read_label_map(Path(data.label_map_path)), files_of(data)


def _evaluated(artifacts: Path, records: Records, about: Mapping[str, Any], folder: Path) -> Matches:
    """The matches of an exported model on the records, and COCO's files, in `folder`.

    Its classes are the dataset's by their names: it finds nothing of those that it does not know, and what it finds of others counts
    nothing; both are said.
    """
    # Not at the top: most promotions need no TensorFlow, which takes seconds to import.
    import tensorflow as tf

    labels, files = records()
    numbers = _numbers(json.loads((artifacts / "class_names.json").read_text()), labels)
    loaded = tf.saved_model.load(str(artifacts / "saved_model"))
    progress = Progress("images of the champion", None)

    def found(image: bytes) -> tuple[NetworkOutput, tuple[int, int]]:
        pixels = tf.io.decode_image(image, channels=3, expand_animations=False)
        outputs = {name: value.numpy()[0] for name, value in loaded(pixels[tf.newaxis]).items()}
        count = int(outputs["num_detections"])
        ids = np.array([numbers.get(int(number), 0) for number in outputs["detection_classes"][:count]], np.int64)
        known = np.flatnonzero(ids)
        boxes, scores = (outputs[f"detection_{name}"][:count][known] for name in ("boxes", "scores"))
        masks = outputs["detection_masks"][:count][known] if "detection_masks" in outputs else None
        return NetworkOutput(boxes, scores, ids[known] - 1, masks), (int(pixels.shape[0]), int(pixels.shape[1]))

    def jobs(file: str) -> Iterator[Job]:
        for index, record in enumerate(read_shard(located(file))):
            where = f"{file}: record {index}"
            output, size = found(RecordFeatures.parse(record, where).byte_strings("image/encoded", 1)[0])
            yield Job(index, record, where, size, output)

    with_masks = "detection_masks" in loaded.signatures["serving_default"].structured_outputs
    settings = Settings(labels, with_masks)
    parts = Parts(folder / ".parts", files, settings)
    count = min(_MOST_WORKERS, max(1, (os.cpu_count() or 1) // 2))
    with Workers(count, image_result.__module__) as workers:
        for number, file in enumerate(files):
            parts.write(number, progress.over(workers.stream(partial(image_result, settings), jobs(file), _JOBS_AHEAD)))
    matches, _ = parts.join(folder, about, 0)
    write_matches(folder / MATCHES, matches)
    parts.remove()
    return matches


def _numbers(names: Mapping[str, str], labels: LabelMap) -> dict[int, int]:
    """The dataset's id of each of the model's classes that it has."""
    ours = {category.name: category.id for category in labels.categories}
    if missing := sorted(set(ours) - set(names.values())):
        print(f"the champion does not know {', '.join(missing)}: it finds none", flush=True)
    if other := sorted(set(names.values()) - set(ours)):
        print(f"left out: what the champion finds of {', '.join(other)}, which the records do not have", flush=True)
    return {int(number): ours[name] for number, name in names.items() if name in ours}
