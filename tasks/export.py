"""The step that makes a trained model one that others can load: a SavedModel with the original's inputs and outputs.

    maskline export MODEL_DIR [--input-type KIND --checkpoint PREFIX]

Reads the last checkpoint, or the one that is named, `train/experiment.yaml`, `pipeline.config` and the data's label map; writes
`export/KIND/`: `saved_model/`, the two that the original puts beside it, `pipeline.config` and `label_map.pbtxt`, `experiment.yaml` as it
was trained, and last `export.json`. `--format tflite` and `onnx` are refused, see `REFUSED`. Usual runtime: half a minute on two CPU cores.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from tasks.running.errors import UserError
from tasks.running.workspace import ModelDir, StepResult, read_json, staged_directory, write_bytes, write_json
from tasks.serving.signatures import INPUTS, save_for_serving
from tasks.serving.trained_model import read_trained_model, restored_model

FORMAT_VERSION = 1

REFUSED = {
    "tflite": "TFLite has no operations for CombinedNonMaxSuppression and CropAndResize, and the interpreter of TensorFlow 2.20 runs "
    "none of TensorFlow's own (its Flex delegate is missing): a converted file cannot be checked",
    "onnx": "tf2onnx 1.17 converts CombinedNonMaxSuppression only for boxes that all classes share; these models have "
    "boxes of their own for each class",
}
"""Formats that were tried, and what stopped them."""


def export(
    model: ModelDir,
    input_type: str = "image_tensor",
    file_format: str = "saved_model",
    checkpoint: Path | None = None,
) -> StepResult:
    """Writes `model.export / input_type`, unless the same inputs wrote it before; outputs name the folder and the SavedModel in it."""
    _check_choice(input_type, file_format)
    trained = read_trained_model(model.train, checkpoint)
    files = {
        "experiment.yaml": _read(model.train / "experiment.yaml"),
        "pipeline.config": _read(model.pipeline_config),
        "label_map.pbtxt": _read(Path(trained.experiment.task.validation_data.label_map_path)),
    }
    digest = _digest(input_type, trained.checkpoint_digest, files)
    target = model.export / input_type
    result = StepResult(
        step="export",
        status="skipped" if _is_written(target, digest) else "done",
        outputs={"model": str(model.root), "export": str(target), "saved_model": str(target / "saved_model")},
        summary={"config": model.name, "input_type": input_type, "checkpoint": trained.checkpoint},
    )
    if result.status == "skipped":
        return result
    network = restored_model(trained)
    with staged_directory(target) as folder:
        save_for_serving(network, input_type, folder / "saved_model")
        for name, content in files.items():
            write_bytes(folder / name, content)
        write_json(folder / "export.json", {"format_version": FORMAT_VERSION, "digest": digest, **result.summary})
    return result


def _check_choice(input_type: str, file_format: str) -> None:
    if input_type not in INPUTS:
        raise UserError(f"--input-type is {input_type!r}", f"use one of {', '.join(INPUTS)}")
    if file_format in REFUSED:
        raise UserError(f"--format {file_format} is not supported: {REFUSED[file_format]}", "use --format saved_model")
    if file_format != "saved_model":
        raise UserError(f"--format is {file_format!r}", "use --format saved_model")


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{file} does not exist", "an export carries it along: restore it, or convert and train again") from error


def _digest(input_type: str, checkpoint_digest: str, files: Mapping[str, bytes]) -> str:
    parts = [str(FORMAT_VERSION), input_type, checkpoint_digest, *(hashlib.sha256(content).hexdigest() for content in files.values())]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _is_written(target: Path, digest: str) -> bool:
    report = target / "export.json"
    return report.exists() and bool(read_json(report).get("digest") == digest)
