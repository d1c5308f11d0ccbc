"""The step that measures a trained model on the validation records, or on those that are kept for the end.

    maskline evaluate MODEL_DIR [--split test] [--workers N] [--batch-size N] [--shard-range A:B]
    maskline evaluate MODEL_DIR --from-matches [--split test]

Reads the last checkpoint and `train/experiment.yaml`; writes `evaluation/`: in COCO's format `groundtruth.json`, `detections.json` (masks,
or boxes where the model has no masks) and, beside masks, `detections_boxes.json`; `matches.npz`, from which all figures are derived;
`pictures/`, and last `metrics.json`. pycocotools finds the same figures in COCO's files: `COCOeval(truth, truth.loadRes("detections.json"),
"segm")`, and with the boxes "bbox". Figures over objects that the records have none of are no figures; `metrics.json` lists them under
`unmeasured`.

With `--split test` the records are the dataset's split `test`, which nothing else reads, and the folder is `evaluation_test/`; MLflow has
these metrics under names that start with `test/`.

Each file of records is a part by itself. A run with `--shard-range` writes the parts of some files alone, and may run on another machine
that shares the folder; a run without it writes those that are missing, joins all and gives the same result, bit for bit. With
`--from-matches` no network runs, and no TensorFlow: the figures are derived again from the stored matches.
Runtime: a tenth of a second to a second per image on two CPU cores at the demo's image size.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tasks import tracking
from tasks.annotations.split_names import TEST, VAL, split_meaning
from tasks.checkpoints.own_checkpoint import step_of
from tasks.coco.figures import SUMMARY_NAMES
from tasks.coco.matches import read_matches
from tasks.evaluation.parts import Parts
from tasks.evaluation.results import MATCHES, measured, write_results
from tasks.records.record_set import RecordSet
from tasks.running.errors import UserError
from tasks.running.workers import Workers
from tasks.running.workspace import ModelDir, StepResult, read_json, staged_directory, write_json

MASK_AP, MASK_AP50 = "DetectionMasks_Precision/mAP", "DetectionMasks_Precision/mAP@.50IOU"
BOX_AP = "DetectionBoxes_Precision/mAP"

FORMAT_VERSION = 3
_BATCH_ON_GPU = 8
_MOST_WORKERS = 8


@dataclass(frozen=True)
class Effort:
    """How the work is done; no figure depends on it."""

    workers: int | None = None
    """Processes that paste, encode and match; by default one for each two processors, up to eight"""
    batch_size: int | None = None
    """Images that go through the network at once; by default the config's `eval_config.batch_size`, on a GPU eight at least"""
    shard_range: tuple[int, int] | None = None
    """Write only the parts of the split's files from the first to before the second of this number, and no figures"""

    def __post_init__(self) -> None:
        for name in ("workers", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name.replace('_', '-')} is {value}", "give at least 1")


def evaluate(model: ModelDir, split: str = VAL, effort: Effort | None = None, checkpoint: str | Path = "") -> StepResult:
    """Evaluates `model.train` on the split `val` or `test`, by default its best checkpoint; outputs name the metrics and the detections.

    `checkpoint` is as `read_trained_model` takes it: the last is the default where training has measured none on its way.
    UserError for another split, and for `test` where the model's records are no materialized dataset with one, or are not those that it
    was trained on: other shares may have shown it what is now kept from it.
    """
    # Not at the top: the other ways to evaluate need no TensorFlow, which takes seconds to import.
    import tensorflow as tf

    from tasks.evaluation.latency import latency
    from tasks.evaluation.measure import detect_parts, detector, parts_of
    from tasks.serving.trained_model import read_trained_model, restored_model
    from tasks.training.records import records_read

    effort = effort or Effort()
    is_test = _is_test(split)
    trained = read_trained_model(model.train, checkpoint)
    data = copy.deepcopy(trained.experiment.task.validation_data)
    records = records_read(trained.experiment.task)
    if is_test:
        data.input_path = _test_records(trained.dataset_digest, records)
    evaluation = _folder(model, split)
    basis = {
        "format_version": FORMAT_VERSION,
        "checkpoint": trained.checkpoint,
        "checkpoint_digest": trained.checkpoint_digest,
        "dataset_digest": records.digest,
    }
    if effort.shard_range is None and (done := _measured(evaluation, basis)) is not None:
        return _answer("skipped", evaluation, done, read_json(model.tracking) if model.tracking.exists() else {})
    smallest = _BATCH_ON_GPU if tf.config.list_physical_devices("GPU") else 1
    batch_size = effort.batch_size or max(smallest, data.global_batch_size)
    name = TEST if is_test else VAL
    with _workers(effort) as workers:
        network = restored_model(trained)
        detect = detector(network)
        parts = parts_of(network, data, _parts_folder(model, name, basis))
        numbers = _numbers(parts, effort.shard_range)
        images = records.counts.get(name, {}).get("images") if len(numbers) == len(parts.files) else None
        detect_parts(detect, network, data, parts, numbers, workers=workers, batch_size=batch_size, images=images)
    if effort.shard_range is not None:
        return StepResult("evaluate", "part", {"model": str(model.root)}, {"parts": numbers, "files": len(parts.files)})
    with tracking.model_run(model, records, "evaluate") as run:
        with staged_directory(evaluation) as folder:
            about = {"config": model.name, "split": name, "dataset": records.name, **basis}
            found = {**about, **measured(write_results(parts, folder, about))}
            found["latency"] = latency(detect, network.config.image_resizer, data, batch_size)
            found["seconds_per_image"] = found["latency"]["seconds_per_image"]["1"]["p50"]
            write_json(folder / "metrics.json", found)
        _remove_parts(model, name)
        prefix = f"{TEST}/" if is_test else ""
        run.log_metrics({f"{prefix}{name}": value for name, value in found["metrics"].items()}, step_of(trained.checkpoint))
        if not is_test:
            run.log_summary(_figures(found) | {"val_objects": found["objects"]})
            run.log_pictures(evaluation / "pictures")
        run.log_artifacts(evaluation, evaluation.name)
    return _answer("done", evaluation, found, vars(run.identity) if run.identity else {})


def evaluate_from_matches(model: ModelDir, split: str = VAL) -> StepResult:
    """Derives the figures again from the stored matches of an evaluation, and writes them into its `metrics.json`.

    UserError where there is no evaluation, or its matches are not what an evaluation writes.
    """
    evaluation = _folder(model, split)
    earlier = read_json(evaluation / "metrics.json")
    found = {**earlier, **measured(read_matches(evaluation / MATCHES))}
    write_json(evaluation / "metrics.json", found)
    return _answer("done", evaluation, found, read_json(model.tracking) if model.tracking.exists() else {})


def _is_test(split: str) -> bool:
    meaning = split_meaning(split)
    if meaning not in (VAL, TEST):
        raise UserError(f"--split is {split!r}", "use val, by which models are compared, or test, which is kept for the end")
    return meaning == TEST


def _folder(model: ModelDir, split: str) -> Path:
    return model.test_evaluation if _is_test(split) else model.evaluation


def _test_records(trained_on: str, records: RecordSet) -> str:
    """The pattern of the dataset's split `test`."""
    if TEST not in records.patterns:
        raise UserError(
            f"{records.root}: the model's records have no split `test`",
            "materialize the dataset with one, as by `split: {train: 0.8, val: 0.1, test: 0.1}`, then convert and train on it",
        )
    if records.digest != trained_on:
        raise UserError(
            f"{records.root}: the dataset is not the one that the model was trained on, and may have shown it what is `test` now",
            "materialize the dataset of the training again, or train on this one",
        )
    return str(records.root / records.patterns[TEST])


def _measured(evaluation: Path, basis: Mapping[str, Any]) -> dict[str, Any] | None:
    """What an earlier evaluation of the same has left."""
    done = evaluation / "metrics.json"
    found: dict[str, Any] = read_json(done) if done.exists() else {}
    return found if {name: found.get(name) for name in basis} == basis and (evaluation / MATCHES).exists() else None


def _workers(effort: Effort) -> Workers:
    count = effort.workers or min(_MOST_WORKERS, max(1, (os.cpu_count() or 1) // 2))
    return Workers(count, "tasks.evaluation.image_results")


def _parts_folder(model: ModelDir, split: str, basis: Mapping[str, Any]) -> Path:
    """Where all runs that evaluate the same put their parts."""
    digest = hashlib.sha256(json.dumps(basis, sort_keys=True).encode()).hexdigest()
    return model.evaluation_parts / f"{split}-{digest[:16]}"


def _remove_parts(model: ModelDir, split: str) -> None:
    """Removes those of earlier checkpoints too."""
    for folder in model.evaluation_parts.glob(f"{split}-*"):
        shutil.rmtree(folder)
    with suppress(OSError):  # of the other split there may be some
        model.evaluation_parts.rmdir()


def _numbers(parts: Parts, shard_range: tuple[int, int] | None) -> list[int]:
    """Which parts are to be written."""
    count = len(parts.files)
    first, end = shard_range or (0, count)
    if not 0 <= first < end <= count:
        raise UserError(f"--shard-range is {first}:{end}", f"the split has {count} files of records: give a range within 0:{count}")
    missing = [number for number in parts.missing() if first <= number < end]
    if len(missing) < end - first:
        print(f"{end - first - len(missing)} of {end - first} parts are written already", flush=True)
    return missing


def _print(measured: dict[str, Any]) -> None:
    """The figures, masks beside boxes; where there are none, a warning on standard error."""
    metrics, crowds = measured["metrics"], measured["crowds"]
    held = f"{measured['images']} images with {measured['objects']} objects" + (f" and {crowds} crowds" if crowds else "")
    if not metrics:
        fix = "materialize the dataset with objects in its validation split"
        if crowds:
            fix += ", or its crowds as objects (`crowds: objects`): nobody has to find a crowd"
        print(f"warning: nothing was measured, on {held}\n  fix: {fix}", file=sys.stderr, flush=True)
        return
    print(held)
    table = Table("")
    kinds = [kind for kind in ("Boxes", "Masks", "Boundaries") if f"Detection{kind}_{SUMMARY_NAMES[0]}" in metrics]
    for kind in kinds:
        table.add_column(kind.lower(), justify="right")
    for name in SUMMARY_NAMES:
        figures = (metrics.get(f"Detection{kind}_{name}") for kind in kinds)
        table.add_row(name, *("-" if figure is None else f"{figure:.4f}" for figure in figures))
    Console().print(table)
    if (timed := measured.get("latency")) is not None:
        height, width = timed["image_size"]
        for size, one in timed["seconds_per_image"].items():
            print(f"batch {size}: {one['p50']:.3g} s/image, 95 % within {one['p95']:.3g}, {one['runs']} runs of {height} x {width} pixels")
        print(f"on {timed['device']}, {timed['machine']}")


def _figures(measured: dict[str, Any]) -> dict[str, float | None]:
    """What a person looks at first; None where there was nothing to measure."""
    names = {"mask_ap": MASK_AP, "mask_ap50": MASK_AP50, "box_ap": BOX_AP}
    found = {name: measured["metrics"].get(metric) for name, metric in names.items()}
    return found | {"seconds_per_image": measured.get("seconds_per_image")}


def _answer(status: str, evaluation: Path, measured: dict[str, Any], identity: dict[str, Any]) -> StepResult:
    _print(measured)
    return StepResult(
        "evaluate",
        status,
        {
            "model": str(evaluation.parent),
            "metrics": str(evaluation / "metrics.json"),
            "detections": str(evaluation / "detections.json"),
            "matches": str(evaluation / MATCHES),
        },
        {
            **_figures(measured),
            "images": measured["images"],
            "objects": measured["objects"],
            "mlflow_run_id": identity.get("run_id"),
            "mlflow_url": identity.get("url"),
        },
    )
