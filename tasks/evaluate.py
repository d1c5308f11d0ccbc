"""The step that measures a trained model on the validation records, or on those that are kept for the end.

    maskline evaluate MODEL_DIR [--split test] [--workers N] [--batch-size N] [--shard-range A:B]
    maskline evaluate MODEL_DIR --from-matches [--slices FILE.csv] [--split test]
    maskline evaluate MODEL_DIR --operating-point best-f1|precision=P
    maskline evaluate NEW_DIR --results DETECTIONS.json --dataset DATASET_DIR [--split test]
    maskline evaluate NEW_DIR --predictor MODEL --dataset DATASET_DIR [--split test] [--checkpoint ...]
    maskline evaluate NEW_DIR --predictor CHECKPOINT [--config CONFIG] --dataset DATASET_DIR [--label-map FILE]

Reads the best checkpoint, or the last where training has measured none, and `train/experiment.yaml`; before a model is trained that is to
go on from a whole checkpoint of the original, reads that one. Writes `evaluation/`: in COCO's format
`groundtruth.json`, `detections.json` (masks, or boxes where the model has no masks) and, beside masks, `detections_boxes.json`;
`matches.npz`, from which all figures are derived; `thresholds.json`, for each category the score from which a detection is taken for an
object (`tasks/evaluation/thresholds.py`); `analysis/`, what lies behind the figures, and `slices/`, the same by attributes of the images;
`pictures/`, and last `metrics.json`. pycocotools finds the same figures in COCO's files: `COCOeval(truth, truth.loadRes("detections.json"),
"segm")`, and with the boxes "bbox". Figures over objects that the records have none of are no figures; `metrics.json` lists them under
`unmeasured`.

With `--split test` the records are the dataset's split `test`, which nothing else reads, and the folder is `evaluation_test/`; MLflow has
these metrics under names that start with `test/`. It chooses no thresholds: those of the validation records are applied.

Each file of records is a part by itself. A run with `--shard-range` writes the parts of some files alone, and may run on another machine
that shares the folder; a run without it writes those that are missing, joins all and gives the same result, bit for bit. With
`--from-matches` no network runs, and no TensorFlow: the figures are derived again from the stored matches. `--results` evaluates another
program's detections on the records of a materialized dataset, `--predictor` a model that lies anywhere: trained, exported, an ONNX file,
or a checkpoint of the original with its `pipeline.config`.
Runtime: a tenth of a second to a second per image on two CPU cores at the demo's image size.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tasks import tracking
from tasks.annotations.split_names import TEST, VAL, split_meaning
from tasks.coco.matches import Matches, read_matches, write_matches
from tasks.evaluation.analysis import write_analysis
from tasks.evaluation.given_results import GivenResults, read_results
from tasks.evaluation.image_results import Job, Settings, image_result
from tasks.evaluation.model_thresholds import chosen_on_val, has_thresholds, operating_metrics, rule_of
from tasks.evaluation.parts import Parts, free_image_id
from tasks.evaluation.predicted import Predictions, processor_name
from tasks.evaluation.printed import print_figures, print_operating
from tasks.evaluation.results import MATCHES, measured, write_results
from tasks.evaluation.slices import MOST_VALUES, read_attributes, unsliced, whole, with_attributes
from tasks.evaluation.thresholds import THRESHOLDS, Rule, choose_thresholds, operating, write_thresholds
from tasks.evaluation.timing import latency_figures
from tasks.pipeline_config.zoo import find_label_map
from tasks.records.features import RecordFeatures
from tasks.records.record_set import RecordSet, materialized
from tasks.records.tfrecord import read_shard, record_files
from tasks.running.errors import UserError
from tasks.running.progress import Progress
from tasks.running.workers import Workers
from tasks.running.workspace import DatasetDir, ModelDir, StepResult, located, read_json, staged_directory, write_json
from tasks.serving.predictor import find_model

MASK_AP, MASK_AP50 = "DetectionMasks_Precision/mAP", "DetectionMasks_Precision/mAP@.50IOU"
BOX_AP = "DetectionBoxes_Precision/mAP"

FORMAT_VERSION = 4
_BATCH_ON_GPU = 8
_MOST_WORKERS = 8
_JOBS_AHEAD = 4


@dataclass(frozen=True)
class Effort:
    """How the work is done, and by which rule operating thresholds are chosen; no figure depends on it."""

    workers: int | None = None
    """Processes that paste, encode and match; by default one for each two processors, up to eight"""
    batch_size: int | None = None
    """Images that go through the network at once; by default the config's `eval_config.batch_size`, on a GPU eight at least"""
    shard_range: tuple[int, int] | None = None
    """Write only the parts of the split's files from the first to before the second of this number, and no figures"""
    slices: Path | None = None
    """A CSV file with attributes of images, beside those in the records; see `tasks.evaluation.slices.read_attributes`"""
    rule: Rule | None = None
    """By default that of the thresholds which are there, else the best F1"""

    def __post_init__(self) -> None:
        for name in ("workers", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name.replace('_', '-')} is {value}", "give at least 1")


def evaluate(
    model: ModelDir, split: str = VAL, effort: Effort | None = None, checkpoint: str | Path = "", *, register: bool = False
) -> StepResult:
    """Evaluates `model.train` on the split `val` or `test`, by default its best checkpoint; outputs name the metrics and the detections.

    `checkpoint` is as `read_trained_model` takes it: the last is the default where training has measured none on its way. With `register`
    the model, exported, goes into MLflow's registry under the dataset's name, with these figures.
    UserError for another split, and for `test` where the model's records are no materialized dataset with one, or are not those that it
    was trained on: other shares may have shown it what is now kept from it.
    """
    # Not at the top: the other ways to evaluate need no TensorFlow, which takes seconds to import.
    import tensorflow as tf

    from tasks.evaluation.latency import latency
    from tasks.evaluation.measure import detect_parts, detector, parts_of
    from tasks.serving.registration import is_prepared, prepare_registration, prepared_tags
    from tasks.serving.trained_model import read_trained_model, restored_model
    from tasks.training.records import records_read

    effort = effort or Effort()
    attributes = _Attributes(effort.slices)
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
    name = TEST if is_test else VAL
    if effort.shard_range is None and (done := _measured(evaluation, basis)) is not None:
        derived = None
        if effort.slices is not None or not has_thresholds(model, name, effort.rule, done):
            derived = evaluate_from_matches(model, split, effort.slices, effort.rule)
            with tracking.model_run(model, records, "evaluate") as run:
                run.log_metrics(_of_split(operating_metrics(evaluation, name), name), trained.step)
                run.log_artifacts(evaluation, evaluation.name)
        if register and not is_prepared(model, trained):
            tags = prepare_registration(restored_model(trained), model, trained)
            with tracking.model_run(model, records, "evaluate") as run:
                run.register(model.registered / "model", tags, records, _of_split(_figures(done), name), trained.step)
        return derived or _answer("skipped", evaluation, done, read_json(model.tracking) if model.tracking.exists() else {})
    smallest = _BATCH_ON_GPU if tf.config.list_physical_devices("GPU") else 1
    batch_size = effort.batch_size or max(smallest, data.global_batch_size)
    with _workers(effort) as workers:
        network = restored_model(trained)
        detect = detector(network)
        parts = parts_of(network, data, _parts_folder(model, name, basis))
        numbers = _numbers(parts, effort.shard_range)
        images = records.counts.get(name, {}).get("images") if len(numbers) == len(parts.files) else None
        detect_parts(detect, network, data, parts, numbers, workers=workers, batch_size=batch_size, images=images)
    if effort.shard_range is not None:
        return StepResult("evaluate", "part", {"model": str(model.root)}, {"parts": numbers, "files": len(parts.files)})
    rule = rule_of(model, effort.rule)
    with tracking.model_run(model, records, "evaluate") as run:
        with staged_directory(evaluation) as folder:
            about = {"config": model.name, "split": name, "dataset": records.name, **basis}
            found = {**about, **_derived(attributes.added_to(write_results(parts, folder, about)), folder, model, rule)}
            found["records"] = list(parts.files)
            found["latency"] = latency(detect, network.config.image_resizer, data, batch_size)
            found["seconds_per_image"] = found["latency"]["seconds_per_image"]["1"]["p50"]
            write_json(folder / "metrics.json", found)
        _remove_parts(model, name)
        _log(run, evaluation, found, trained.step)
        if register:
            tags = prepared_tags(model) if is_prepared(model, trained) else prepare_registration(network, model, trained)
            run.register(model.registered / "model", tags, records, _of_split(_figures(found), name), trained.step)
    return _answer("done", evaluation, found, vars(run.identity) if run.identity else {})


def _log(run: tracking.ModelRun, evaluation: Path, found: Mapping[str, Any], step: int) -> None:
    """Lets MLflow have an evaluation: its figures at the step of the checkpoint, how long an image takes on what, pictures and files."""
    run.log_metrics(_of_split(found["metrics"] | operating_metrics(evaluation, found["split"]), found["split"]), step)
    if found["split"] != TEST:
        latency = found.get("latency", {})
        run.log_summary(_figures(found) | latency_figures(latency) | {"val_objects": found["objects"]})
        if latency:
            run.tag({f"latency.{name}": str(latency[name]) for name in ("device", "machine")})
        run.log_pictures(evaluation / "pictures")
    run.log_artifacts(evaluation, evaluation.name)


def _of_split(figures: Mapping[str, Any], split: str) -> dict[str, Any]:
    """The figures under the names that MLflow has them by."""
    return {f"{TEST}/{name}" if split == TEST else name: value for name, value in figures.items()}


def evaluate_from_matches(model: ModelDir, split: str = VAL, slices: Path | None = None, rule: Rule | None = None) -> StepResult:
    """Derives all figures and their analysis again from the stored matches of an evaluation, in its folder.

    `slices` is a CSV file with more attributes of images, which the matches keep; `rule` is as in `Effort`.
    UserError where there is no evaluation, or its matches are not what an evaluation writes.
    """
    evaluation = _folder(model, split)
    earlier = read_json(evaluation / "metrics.json")
    attributes = _Attributes(slices)
    matches = attributes.added_to(read_matches(evaluation / MATCHES))
    found = {**earlier, **_derived(matches, evaluation, model, rule_of(model, rule))}
    write_json(evaluation / "metrics.json", found)
    return _answer("done", evaluation, found, read_json(model.tracking) if model.tracking.exists() else {})


def evaluate_results(model: ModelDir, results: Path, dataset: DatasetDir, split: str = VAL, effort: Effort | None = None) -> StepResult:
    """Evaluates detections in COCO's results format on a split of a materialized dataset, into the folder `model`.

    UserError for a folder that holds a training of ours, and for detections that are not of this split's images and categories.
    """
    records, files = _materialized_split(model, dataset, split)
    given = read_results(results, records.labels)
    basis = {
        "format_version": FORMAT_VERSION,
        "results_digest": hashlib.sha256(results.read_bytes()).hexdigest(),
        "dataset_digest": records.digest,
    }

    def detected() -> _Detected:
        return _Detected(given.with_masks, _jobs(files, given), {})

    return _evaluate_detected(model, split, effort or Effort(), records, files, basis, {"results": str(results)}, detected)


def evaluate_predictor(
    model: ModelDir,
    kept: Path,
    dataset: DatasetDir,
    split: str = VAL,
    effort: Effort | None = None,
    *,
    checkpoint: str = "",
    config: str = "",
    label_map: str = "",
) -> StepResult:
    """Evaluates a model that is kept anywhere on a split of a materialized dataset, into the folder `model`, one image after the other.

    `kept`, `checkpoint` and `config` are as `find_model` takes them; `label_map`, a path or a shipped name, tells its classes. UserError
    for a folder that holds a training of ours, for no model, and for one that has none of the dataset's classes.
    """
    effort = effort or Effort()
    records, files = _materialized_split(model, dataset, split)
    found = find_model(kept, find_label_map(label_map) if label_map else None, checkpoint, config)
    basis = {
        "format_version": FORMAT_VERSION,
        "predictor": str(found.path),
        "predictor_digest": found.digest,
        "class_names": {str(number): name for number, name in found.names.items()},
        "dataset_digest": records.digest,
    }

    def detected() -> _Detected:
        predictions = Predictions(found.load(), found.names, records.labels)
        with_masks = predictions.has_masks(files[0])
        # Before the long part, so that a model that fails at a batch fails now.
        timed = predictions.latency(files, _device(found.kind), effort.batch_size or found.batch_size)
        return _Detected(with_masks, [predictions.jobs(file) for file in files], _timed(timed))

    return _evaluate_detected(model, split, effort, records, files, basis, {"kind": found.kind}, detected)


@dataclass(frozen=True)
class _Detected:
    """Detections to evaluate: whether they have masks, for each file of records its images with them, and what else is known of them."""

    with_masks: bool
    jobs: Sequence[Iterator[Job]]
    known: Mapping[str, Any]


def _materialized_split(model: ModelDir, dataset: DatasetDir, split: str) -> tuple[RecordSet, list[str]]:
    if model.train.exists():
        raise UserError(f"{model.root} is a model that was trained here, with evaluations of its own", "name a new folder")
    records = materialized(dataset)
    name = TEST if _is_test(split) else VAL
    if name not in records.patterns:
        raise UserError(f"{dataset.root} has no split `{name}`", f"use one of {', '.join(records.patterns)}")
    return records, [str(file) for file in record_files(records.root / records.patterns[name])]


def _evaluate_detected(
    model: ModelDir,
    split: str,
    effort: Effort,
    records: RecordSet,
    files: Sequence[str],
    basis: Mapping[str, Any],
    told: Mapping[str, Any],
    detected: Callable[[], _Detected],
) -> StepResult:
    attributes = _Attributes(effort.slices)
    evaluation = _folder(model, split)
    name = TEST if _is_test(split) else VAL
    if (done := _measured(evaluation, basis)) is not None:
        if effort.slices is None and has_thresholds(model, name, effort.rule, done):
            return _answer("skipped", evaluation, done, read_json(model.tracking) if model.tracking.exists() else {})
        return evaluate_from_matches(model, split, effort.slices, effort.rule)
    rule = rule_of(model, effort.rule)
    ready = detected()
    settings = Settings(records.labels, ready.with_masks)
    about = {"config": model.name, "split": name, "dataset": records.name, **told, **basis}
    progress = Progress("evaluated", records.counts[name]["images"])
    model.untrained_journal.mkdir(parents=True, exist_ok=True)
    with _workers(effort) as workers, tracking.model_run(model, records, "evaluate") as run:
        with staged_directory(evaluation) as folder:
            parts = Parts(folder / ".parts", files, settings)
            for number, jobs in enumerate(ready.jobs):
                parts.write(number, progress.over(workers.stream(partial(image_result, settings), jobs, _JOBS_AHEAD)))
            derived = _derived(attributes.added_to(write_results(parts, folder, about)), folder, model, rule)
            found = {**about, **derived, **ready.known}
            parts.remove()
            write_json(folder / "metrics.json", found | {"records": list(files)})
        _log(run, evaluation, found, 0)
    return _answer("done", evaluation, found, vars(run.identity) if run.identity else {})


def _timed(latency: dict[str, Any]) -> dict[str, Any]:
    return {"latency": latency, "seconds_per_image": latency["seconds_per_image"]["1"]["p50"]}


def _device(kind: str) -> str:
    if kind == "onnx":
        return processor_name()
    from tasks.evaluation.latency import device_name

    return device_name()


def _jobs(files: Sequence[str], given: GivenResults) -> list[Iterator[Job]]:
    """For each file its records with the detections on them. UserError where some are on no image."""
    ids: dict[int, None] = {}
    of_file: list[list[int]] = []
    for file in files:
        of_file.append([])
        for index, record in enumerate(read_shard(located(file))):
            number = free_image_id(RecordFeatures.parse(record, f"{file}: record {index}").text("image/source_id", ""), ids)
            ids[number] = None
            of_file[-1].append(number)
    given.confirm_images(list(ids))

    def jobs(file: str, numbers: Sequence[int]) -> Iterator[Job]:
        for index, (record, number) in enumerate(zip(read_shard(located(file)), numbers, strict=True)):
            yield Job(index, record, f"{file}: record {index}", None, given.of(number))

    return [jobs(file, numbers) for file, numbers in zip(files, of_file, strict=True)]


class _Attributes:
    """The attributes of images in a file, read before there is any work to lose."""

    def __init__(self, file: Path | None) -> None:
        self._file, self._values = file, read_attributes(file) if file is not None else {}

    def added_to(self, matches: Matches) -> Matches:
        return with_attributes(matches, self._values, self._file) if self._file is not None else matches


def _derived(matches: Matches, folder: Path, model: ModelDir, rule: Rule) -> dict[str, Any]:
    """Writes what follows from matches, and these, into the folder of an evaluation; the figures come back."""
    write_matches(folder / MATCHES, matches)
    found = measured(matches)
    thresholds = chosen_on_val(model, matches.about) if matches.about.get("split") == TEST else choose_thresholds(matches, rule)
    if thresholds is not None:
        write_thresholds(folder / THRESHOLDS, thresholds)
    else:
        (folder / THRESHOLDS).unlink(missing_ok=True)
    attributes = write_analysis(matches, folder, thresholds)
    print_operating(operating(matches, whole(matches), thresholds), thresholds, matches.about.get("split", VAL))
    for name, count in unsliced(matches).items():
        print(f"{name} has {count} values, of at most {MOST_VALUES} that are told apart", flush=True)
    return {**found, "sliced_by": attributes}


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
    """What an earlier evaluation of the same has left, where nobody has taken files of it away."""
    if not all((evaluation / name).exists() for name in ("metrics.json", "groundtruth.json", "detections.json", MATCHES)):
        return None
    found: dict[str, Any] = read_json(evaluation / "metrics.json")
    return found if {name: found.get(name) for name in basis} == basis else None


def _workers(effort: Effort) -> Workers:
    count = effort.workers or min(_MOST_WORKERS, max(1, (os.cpu_count() or 1) // 2))
    return Workers(count, image_result.__module__)


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


def _figures(measured: Mapping[str, Any]) -> dict[str, float | None]:
    """What a person looks at first; None where there was nothing to measure."""
    names = {"mask_ap": MASK_AP, "mask_ap50": MASK_AP50, "box_ap": BOX_AP}
    found = {name: measured["metrics"].get(metric) for name, metric in names.items()}
    return found | {"seconds_per_image": measured.get("seconds_per_image")}


def _registered(folder: Path) -> str | None:
    """The model in MLflow's registry, as MLflow names it; None where it is not there, or not there yet."""
    file = ModelDir(folder).registered / "version.json"
    return "models:/{name}/{version}".format(**read_json(file)) if file.is_file() else None


def _answer(status: str, evaluation: Path, measured: dict[str, Any], identity: dict[str, Any]) -> StepResult:
    print_figures(measured)
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
            "registered": _registered(evaluation.parent),
        },
    )
