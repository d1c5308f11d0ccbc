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
from pathlib import Path
from typing import Any

from official.core import config_definitions as cfg
from rich.console import Console
from rich.table import Table

from tasks import tracking
from tasks.annotations.split_names import TEST, VAL, split_meaning
from tasks.checkpoints.own_checkpoint import step_of
from tasks.coco.metrics import SUMMARY_NAMES
from tasks.evaluation.measure import measure
from tasks.records.record_set import RecordSet
from tasks.running.errors import UserError
from tasks.running.workspace import ModelDir, StepResult, read_json, staged_directory, write_json
from tasks.serving.trained_model import read_trained_model, restored_model
from tasks.training.records import records_read

MASK_AP, MASK_AP50 = "DetectionMasks_Precision/mAP", "DetectionMasks_Precision/mAP@.50IOU"
BOX_AP = "DetectionBoxes_Precision/mAP"

FORMAT_VERSION = 2


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
            measured = {
                "config": model.name,
                "split": TEST if is_test else VAL,
                **basis,
                **measure(network, experiment.task.validation_data, folder),
            }
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
