"""The step that measures a trained model on the validation records, or on those that are kept for the end.

    maskline evaluate MODEL_DIR [--split test]

Reads the last checkpoint and `train/experiment.yaml`; writes `evaluation/`: in COCO's format `groundtruth.json`, `detections.json` (masks,
or boxes where the model has no masks) and, beside masks, `detections_boxes.json`; `pictures/`, and last `metrics.json`. pycocotools finds
the same figures in these files: `COCOeval(truth, truth.loadRes("detections.json"), "segm")`, and with the boxes "bbox". Figures over
objects that the records have none of are no figures; `metrics.json` lists them under `unmeasured`.

With `--split test` the records are the dataset's split `test`, which nothing else reads, and the folder is `evaluation_test/`; MLflow has
these metrics under names that start with `test/`.
Runtime: a tenth of a second to a second per image on two CPU cores at the demo's image size.
"""

from __future__ import annotations

import copy
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from official.core import config_definitions as cfg
from rich.console import Console
from rich.table import Table

from tasks import tracking
from tasks.annotations.split_names import TEST, VAL, split_meaning
from tasks.coco.masks import rle_from_mask
from tasks.coco.metrics import SUMMARY_NAMES, CocoEvaluator
from tasks.coco.paste import paste_masks
from tasks.coco.pictures import PictureObjects, draw_comparison
from tasks.input.batches import evaluation_dataset, faulty_records_named
from tasks.mask_rcnn.model import MaskRCNN
from tasks.records.label_map import read_label_map
from tasks.records.record_set import RecordSet
from tasks.running.errors import UserError
from tasks.running.workspace import ModelDir, StepResult, read_json, staged_directory, write_json
from tasks.serving.trained_model import read_trained_model, restored_model
from tasks.training.loop import step_of
from tasks.training.records import records_read

MASK_AP, MASK_AP50 = "DetectionMasks_Precision/mAP", "DetectionMasks_Precision/mAP@.50IOU"
BOX_AP = "DetectionBoxes_Precision/mAP"

FORMAT_VERSION = 2
_PICTURES = 8
_LINE_SECONDS = 5.0
_MOST_DIGITS = 20  # of an image id, 64 bits


def evaluate(model: ModelDir, split: str = VAL) -> StepResult:
    """Evaluates the last checkpoint of `model.train` on the split `val` or `test`; outputs name the metrics and the detections.

    UserError for another split, and for `test` where the model's records are no materialized dataset with one, or are not those that it
    was trained on: other shares may have shown it what is now kept from it.
    """
    is_test = split_meaning(split) == TEST
    if not is_test and split_meaning(split) != VAL:
        raise UserError(f"--split is {split!r}", "use val, by which models are compared, or test, which is kept for the end")
    trained = read_trained_model(model.train)
    experiment = trained.experiment
    records = records_read(experiment.task)
    if is_test:
        experiment = _on_test(experiment, trained.dataset_digest, records)
    evaluation = model.test_evaluation if is_test else model.evaluation
    done = evaluation / "metrics.json"
    basis = {
        "format_version": FORMAT_VERSION,
        "checkpoint": trained.checkpoint,
        "checkpoint_digest": trained.checkpoint_digest,
        "dataset_digest": records.digest,
    }
    if done.exists():
        measured = read_json(done)
        if {name: measured.get(name) for name in basis} == basis:
            return _answer("skipped", evaluation, measured, read_json(model.tracking) if model.tracking.exists() else {})
    network = restored_model(trained)
    with tracking.model_run(model, records, "evaluate") as run:
        with staged_directory(evaluation) as folder:
            measured = {"config": model.name, "split": TEST if is_test else VAL, **basis, **_measure(experiment, network, folder)}
            write_json(folder / "metrics.json", measured)
        prefix = f"{TEST}/" if is_test else ""
        run.log_metrics({f"{prefix}{name}": value for name, value in measured["metrics"].items()}, step_of(trained.checkpoint))
        if not is_test:
            run.log_summary(_figures(measured) | {"val_objects": measured["objects"]})
            run.log_pictures(evaluation / "pictures")
        run.log_artifacts(evaluation, evaluation.name)
    return _answer("done", evaluation, measured, vars(run.identity) if run.identity else {})


def _on_test(experiment: cfg.ExperimentConfig, trained_on: str, records: RecordSet) -> cfg.ExperimentConfig:
    """The experiment with the dataset's split `test` in place of its validation records."""
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
    experiment = copy.deepcopy(experiment)
    experiment.task.validation_data.input_path = str(records.root / records.patterns[TEST])
    return experiment


def _measure(experiment: cfg.ExperimentConfig, network: MaskRCNN, folder: Path) -> dict[str, Any]:
    data = experiment.task.validation_data
    label_map = read_label_map(Path(data.label_map_path))
    names = label_map.names
    with_masks = experiment.task.model.number_of_stages == 3
    if experiment.task.model.number_of_stages == 1:
        raise UserError("the config has number_of_stages 1: proposals have no classes to evaluate", "set it to 2 or 3")
    evaluator = CocoEvaluator(list(names.items()), with_masks)
    detect = _detector(network)
    (folder / "pictures").mkdir()
    image_ids: set[int] = set()
    seconds: list[float] = []
    last_line = time.monotonic()
    with faulty_records_named(data):
        for images, true_shapes, record in evaluation_dataset(data, experiment.task.model.image_resizer, label_map):
            started = time.monotonic()
            outputs = {name: value.numpy() for name, value in detect(images, true_shapes).items()}
            seconds.append(time.monotonic() - started)
            truth = _groundtruth(record, with_masks)
            found = _detections(outputs, truth["height"], truth["width"], list(names), with_masks)
            image_id = _free_image_id(record["source_id"].numpy().decode(), image_ids)
            image_ids.add(image_id)
            evaluator.add_groundtruth(image_id, **truth)
            evaluator.add_detections(image_id, **found)
            if len(seconds) <= _PICTURES:
                picture = _picture(record["image"].numpy(), truth, found, names)
                (folder / "pictures" / f"{image_id:04d}.png").write_bytes(picture)
            if time.monotonic() - last_line > _LINE_SECONDS:
                last_line = time.monotonic()
                print(f"evaluated {len(seconds)} images  {np.median(seconds):.2f} s/image", flush=True)
    if not seconds:
        raise UserError(f"{data.input_path} holds no record", "materialize the dataset again with images in that split")
    figures = evaluator.evaluate()
    write_json(folder / "detections.json", evaluator.detections_json("segm" if with_masks else "bbox"))
    if with_masks:
        write_json(folder / "detections_boxes.json", evaluator.detections_json("bbox"))
    write_json(folder / "groundtruth.json", evaluator.groundtruth_json())
    if max(image_ids) >= 2**63:
        print("image ids pass 63 bits: pycocotools itself finds -1 in the files of detections, if others do not", flush=True)
    return {
        "images": len(seconds),
        "objects": evaluator.objects,
        "crowds": evaluator.crowds,
        # The first image compiles.
        "seconds_per_image": float(np.median(seconds[1:] or seconds)),
        # COCO says -1 where there is nothing to measure on.
        "metrics": {name: value for name, value in figures.items() if value >= 0},
        "unmeasured": sorted(name for name, value in figures.items() if value < 0),
    }


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
    print(f"{held}, {measured['seconds_per_image']:.2f} s/image")
    table = Table("")
    kinds = [kind for kind in ("Boxes", "Masks") if f"Detection{kind}_{SUMMARY_NAMES[0]}" in metrics]
    for kind in kinds:
        table.add_column(kind.lower(), justify="right")
    for name in SUMMARY_NAMES:
        figures = (metrics.get(f"Detection{kind}_{name}") for kind in kinds)
        table.add_row(name, *("-" if figure is None else f"{figure:.4f}" for figure in figures))
    Console().print(table)


def _figures(measured: dict[str, Any]) -> dict[str, float | None]:
    """What a person looks at first; None where there was nothing to measure."""
    names = {"mask_ap": MASK_AP, "mask_ap50": MASK_AP50, "box_ap": BOX_AP}
    found = {name: measured["metrics"].get(metric) for name, metric in names.items()}
    return found | {"seconds_per_image": measured["seconds_per_image"]}


def _detector(network: MaskRCNN) -> Any:
    """The network as a graph that is traced once, for images of any size: (images, true_shapes) -> final detections."""

    @tf.function(input_signature=[tf.TensorSpec([1, None, None, 3], tf.float32), tf.TensorSpec([1, 2], tf.int32)])
    def detect(images: tf.Tensor, true_shapes: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = network(images, true_shapes)
        return {name: value for name, value in outputs.items() if _is_detection(name)}

    return detect


def _free_image_id(source_id: str, taken: set[int]) -> int:
    """COCO's own image id, where the record carries one of up to 64 bits that is not taken; else the next free number."""
    number = int(source_id) if source_id.isdecimal() and len(source_id) <= _MOST_DIGITS else len(taken) + 1
    while number in taken:
        number += 1
    return number


def _picture(image: npt.NDArray[np.uint8], truth: dict[str, Any], found: dict[str, Any], names: dict[int, str]) -> bytes:
    return draw_comparison(
        image,
        PictureObjects(truth["boxes_yxyx"], truth["category_ids"], truth["masks"]),
        PictureObjects(found["boxes_yxyx"], found["category_ids"], found["masks"], found["scores"]),
        names,
        title=truth["file_name"],
    )


def _is_detection(name: str) -> bool:
    return name in ("detection_boxes", "detection_scores", "detection_classes", "detection_masks", "num_detections")


def _groundtruth(record: dict[str, tf.Tensor], with_masks: bool) -> dict[str, Any]:
    height, width = record["image"].shape[:2]
    return {
        "height": height,
        "width": width,
        "boxes_yxyx": record["boxes"].numpy() * np.array([height, width, height, width]),
        "category_ids": record["category_ids"].numpy(),
        "masks": [rle_from_mask(mask) for mask in record["masks"].numpy()] if with_masks else None,
        "areas": record["areas"].numpy(),
        "is_crowd": record["is_crowd"].numpy(),
        "file_name": (record["filename"].numpy() or record["source_id"].numpy()).decode(),
    }


def _detections(outputs: dict[str, npt.NDArray[Any]], height: int, width: int, known: list[int], with_masks: bool) -> dict[str, Any]:
    """The image's detections without padding, in its own pixels and the label map's ids.

    Where the label map's ids have gaps, the model has classes that it lacks: their detections count nothing, as in the original.
    """
    ids = outputs["detection_classes"][0, : int(outputs["num_detections"][0])] + 1
    chosen = np.flatnonzero(np.isin(ids, known))
    boxes = outputs["detection_boxes"][0, chosen]
    return {
        "boxes_yxyx": boxes * np.array([height, width, height, width], np.float32),
        "scores": outputs["detection_scores"][0, chosen],
        "category_ids": ids[chosen],
        "masks": paste_masks(outputs["detection_masks"][0, chosen], boxes, height, width) if with_masks else None,
    }


def _answer(status: str, evaluation: Path, measured: dict[str, Any], identity: dict[str, Any]) -> StepResult:
    _print(measured)
    return StepResult(
        "evaluate",
        status,
        {
            "model": str(evaluation.parent),
            "metrics": str(evaluation / "metrics.json"),
            "detections": str(evaluation / "detections.json"),
        },
        {
            **_figures(measured),
            "images": measured["images"],
            "objects": measured["objects"],
            "mlflow_run_id": identity.get("run_id"),
            "mlflow_url": identity.get("url"),
        },
    )
