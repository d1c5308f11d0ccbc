"""The step that makes a trained model one that others can load: a SavedModel or an ONNX file with the original's inputs and outputs, or a
model of MLflow's that answers with detections.

    maskline export MODEL_DIR [--input-type KIND --signature tf2 --checkpoint last|best|PREFIX]
    maskline export MODEL_DIR --format onnx [--image-size 800x1333]
    maskline export MODEL_DIR --format mlflow

Reads the best checkpoint that training has measured on its way, or else the last, or the one that is named, `train/experiment.yaml`,
`pipeline.config` and the data's label map; writes `export/KIND/` with `saved_model/`, `export/onnx/` with `model.onnx` and `paste.py`, or
`export/mlflow/` with `model/`; beside it the two that the original puts there, `pipeline.config` and `label_map.pbtxt`, `experiment.yaml`
as it was trained, `thresholds.json` where the evaluation of this checkpoint has chosen operating thresholds, and last `export.json`. An
ONNX file is held against the checkpoint on images of the validation records before it gets its name. TFLite is refused, see `REFUSED`.

Usual runtime: half a minute on two CPU cores; for ONNX twice that, and three images through the network of each.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.coco import paste
from tasks.evaluation.thresholds import THRESHOLDS
from tasks.mask_rcnn.model import MaskRCNN
from tasks.records.label_map import read_label_map
from tasks.running.errors import UserError
from tasks.running.workspace import ModelDir, StepResult, read_json, staged_directory, write_bytes, write_json
from tasks.serving.record_images import record_images
from tasks.serving.signatures import INPUTS, SIGNATURES, save_for_serving
from tasks.serving.trained_model import TrainedModel, read_trained_model, restored_model, shipped_thresholds

FORMAT_VERSION = 2

SAVED_MODEL, ONNX, MLFLOW = "saved_model", "onnx", "mlflow"
_EXPORTED = {SAVED_MODEL: "saved_model", ONNX: "model.onnx", MLFLOW: "model"}
REFUSED = {
    "tflite": "TFLite has no operations for CombinedNonMaxSuppression and CropAndResize, and the interpreter of TensorFlow 2.20 runs "
    "none of TensorFlow's own (its Flex delegate is missing): a converted file cannot be checked",
}
"""Formats that were tried, and what stopped them."""

_CHECKED_IMAGES = 3


@dataclass(frozen=True)
class Choice:
    """What is exported: `input_type` and `signature` as in `serving.signatures`, `image_size` (height, width) fixes an ONNX file's."""

    input_type: str = "image_tensor"
    file_format: str = SAVED_MODEL
    signature: str = "tf1"
    image_size: tuple[int, int] | None = None

    @property
    def folder(self) -> str:
        """Its name below `ModelDir.export`."""
        if self.file_format == SAVED_MODEL:
            return self.input_type
        return self.file_format if self.image_size is None else "{}_{}x{}".format(self.file_format, *self.image_size)


def parse_size(text: str) -> tuple[int, int]:
    """(height, width) of `HEIGHTxWIDTH`, in pixels; UserError for anything else."""
    found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if found is None:
        raise UserError(f"--image-size is {text!r}", "write HEIGHTxWIDTH in pixels, such as 480x640")
    return int(found[1]), int(found[2])


def export(model: ModelDir, choice: Choice = Choice(), checkpoint: str | Path = "") -> StepResult:  # it is frozen
    """Writes `model.export / choice.folder`, unless the same inputs wrote it before; outputs name the folder and the model in it."""
    _confirm(choice)
    trained = read_trained_model(model.train, checkpoint)
    files = {
        "experiment.yaml": _read(trained.experiment_file),
        "pipeline.config": _read(model.pipeline_config),
        "label_map.pbtxt": _read(Path(trained.experiment.task.validation_data.label_map_path)),
    }
    thresholds = shipped_thresholds(model, trained)
    if thresholds is not None:
        files[THRESHOLDS] = _read(thresholds)
    else:
        print(f"no {THRESHOLDS} goes along: no evaluation of this checkpoint has chosen operating thresholds", flush=True)
    digest = _digest(choice, trained.checkpoint_digest, files)
    target = model.export / choice.folder
    exported = _EXPORTED[choice.file_format]
    result = StepResult(
        step="export",
        status="skipped" if _is_written(target, digest) else "done",
        outputs={"model": str(model.root), "export": str(target), choice.file_format: str(target / exported)},
        summary={
            "config": model.name,
            "format": choice.file_format,
            "input_type": choice.input_type,
            "signature": choice.signature,
            "image_size": list(choice.image_size) if choice.image_size else None,
            "checkpoint": trained.checkpoint,
        },
    )
    if result.status == "skipped":
        return result
    network = restored_model(trained)
    with staged_directory(target) as folder:
        checked: dict[str, Any] = {}
        if choice.file_format == ONNX:
            checked = {"check": _export_onnx(network, trained, choice, folder, model.name)}
        elif choice.file_format == MLFLOW:
            _export_for_mlflow(network, trained, folder / exported, thresholds)
        else:
            save_for_serving(network, choice.input_type, folder / exported, choice.signature)
        for name, content in files.items():
            write_bytes(folder / name, content)
        write_json(folder / "export.json", {"format_version": FORMAT_VERSION, "digest": digest, **result.summary, **checked})
    return result


def _confirm(choice: Choice) -> None:
    if choice.file_format in REFUSED:
        raise UserError(
            f"--format {choice.file_format} is not supported: {REFUSED[choice.file_format]}", "use --format saved_model or onnx"
        )
    if choice.file_format not in _EXPORTED:
        raise UserError(f"--format is {choice.file_format!r}", f"use one of {', '.join(_EXPORTED)}")
    if choice.input_type not in INPUTS:
        raise UserError(f"--input-type is {choice.input_type!r}", f"use one of {', '.join(INPUTS)}")
    if choice.signature not in SIGNATURES:
        raise UserError(f"--signature is {choice.signature!r}", f"use one of {', '.join(SIGNATURES)}")
    if choice.file_format != ONNX and choice.image_size is not None:
        raise UserError("--image-size fixes the input of an ONNX file, and this is none", "leave it out: any size goes in")
    if choice.file_format == MLFLOW and (choice.input_type, choice.signature) != (Choice.input_type, Choice.signature):
        raise UserError("--format mlflow takes image files, and neither --input-type nor --signature", "leave them out")
    if choice.file_format != ONNX:
        return
    if choice.input_type != "image_tensor":
        raise UserError(
            f"--input-type is {choice.input_type!r}, and ONNX runtimes decode no pictures",
            "leave it out, and give the file decoded images: uint8 [N, H, W, 3], RGB",
        )
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--format onnx needs {' and '.join(missing)}, which this environment has not", "install maskline[onnx]")


def _export_onnx(network: MaskRCNN, trained: TrainedModel, choice: Choice, folder: Path, name: str) -> dict[str, Any]:
    """Writes the file and what belongs to it; the figures of its check."""
    # Not at the top: they are an extra of this package.
    from tasks.serving.onnx_check import check_onnx
    from tasks.serving.onnx_file import save_as_onnx

    data = trained.experiment.task.validation_data
    names = read_label_map(Path(data.label_map_path)).names
    metadata = {"config": name, "checkpoint_digest": trained.checkpoint_digest, "class_names": json.dumps(names, ensure_ascii=False)}
    file = save_as_onnx(network, folder / "model.onnx", choice.signature, choice.image_size, metadata)
    checked = check_onnx(network, file, record_images(data, _CHECKED_IMAGES, choice.image_size), _CHECKED_IMAGES)
    if not checked["images"]:
        raise UserError(f"{data.input_path} holds no record to check the file on", "materialize the dataset with images in that split")
    _print(checked)
    write_bytes(folder / "paste.py", Path(paste.__file__).read_bytes())
    return checked


def _export_for_mlflow(network: MaskRCNN, trained: TrainedModel, folder: Path, thresholds: Path | None) -> None:
    # Not at the top: MLflow takes seconds to import, which the other formats do without.
    from tasks.serving.mlflow_model import save_for_mlflow

    data = trained.experiment.task.validation_data
    example = next(record_images(data, 1), None)
    if example is None:
        raise UserError(f"{data.input_path} holds no record to make an example of", "materialize the dataset with images in that split")
    save_for_mlflow(network, folder, read_label_map(Path(data.label_map_path)).names, example, thresholds)


def _print(checked: Mapping[str, Any]) -> None:
    print(
        f"checked on {checked['images']} images: {checked['agreeing']} of {checked['detections']} detections are the checkpoint's, "
        f"scores to {checked['score_difference']:.1g}, boxes to {checked['box_difference']:.1g}, "
        f"masks to an IoU of {checked['least_mask_iou']:.5f}"
    )
    if checked["decided_by_rounding"]:
        print(
            f"the other {checked['decided_by_rounding']} were decided by rounding: each part of the network does the same (docs/export.md)"
        )


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{file} does not exist", "an export carries it along: restore it, or convert and train again") from error


def _digest(choice: Choice, checkpoint_digest: str, files: Mapping[str, bytes]) -> str:
    parts = [str(FORMAT_VERSION), str(choice), checkpoint_digest, *(hashlib.sha256(content).hexdigest() for content in files.values())]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _is_written(target: Path, digest: str) -> bool:
    report = target / "export.json"
    return report.exists() and bool(read_json(report).get("digest") == digest)
