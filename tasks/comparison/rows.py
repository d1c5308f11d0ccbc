"""What the files of a model tell of it: how far it got, its figures, and what it costs. A line of the comparison's table."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tasks.evaluation.timing import latency_figures
from tasks.running.errors import UserError
from tasks.running.workspace import ModelDir, read_json

EVALUATED = "evaluated"
MASK_AP, MASK_AP50 = "DetectionMasks_Precision/mAP", "DetectionMasks_Precision/mAP@.50IOU"
BOX_AP = "DetectionBoxes_Precision/mAP"

_METRICS = {
    "mask_ap": MASK_AP,
    "mask_ap50": MASK_AP50,
    "mask_ap75": "DetectionMasks_Precision/mAP@.75IOU",
    "mask_ap_small": "DetectionMasks_Precision/mAP (small)",
    "mask_ap_medium": "DetectionMasks_Precision/mAP (medium)",
    "mask_ap_large": "DetectionMasks_Precision/mAP (large)",
    "box_ap": BOX_AP,
}
_MEGABYTE, _GIBI = 10**6, 2**30
_GPU_MEMORY, _PROCESS_MEMORY = "_memory_usage_megabytes", "system/process_memory_usage_megabytes"


@dataclass(frozen=True)
class Row:
    """One model; a figure that does not exist is None."""

    config: str
    state: str
    """`evaluated`, or how far the model got."""
    mask_ap: float | None = None
    mask_ap50: float | None = None
    mask_ap75: float | None = None
    mask_ap_small: float | None = None
    mask_ap_medium: float | None = None
    mask_ap_large: float | None = None
    box_ap: float | None = None
    parameters: int | None = None
    tflop_per_image: float | None = None
    """Operations of a training step for each of its images, as `maskline plan` has counted them."""
    train_images_per_second: float | None = None
    seconds_per_image: float | None = None
    """Inference at batch 1, the median."""
    seconds_per_image_p95: float | None = None
    batch_size: int | None = None
    """The other batch at which inference was timed."""
    seconds_per_image_batched: float | None = None
    seconds_per_image_batched_p95: float | None = None
    device: str | None = None
    """What it was timed on."""
    peak_memory_gb: float | None = None
    """GiB: the most that training was seen to hold, of its GPUs, or of the process where there are none."""
    training_hours: float | None = None
    cost: float | None = None
    """Of the training, at the price that `maskline plan` was told."""
    images: int | None = None
    objects: int | None = None
    interval: tuple[float, float] | None = None
    """Of the figure that ranks: what it is in 95 % of the resamples."""
    seed: int | None = None
    """Of one of several trainings of a model"""
    spread: float | None = None
    """Of a model that was trained several times: the standard deviation of the figure that ranks, over seeds."""
    standing: str | None = None
    left_out: str | None = None
    """Why there is no verdict on an evaluated model."""

    @property
    def rank(self) -> tuple[float, ...]:
        """Greater is better: mask AP, then box AP, so that box-only models have an order too."""
        return tuple(-math.inf if value is None else value for value in (self.mask_ap, self.box_ap))


def read_row(model: ModelDir, dataset: Mapping[str, str] | None) -> Row:
    """What `model` has left. UserError for a result file that is not what its step writes.

    With a `dataset`, a model that was trained on another state of it says so.
    """
    trained_file, evaluated_file = model.train / "result.json", model.evaluation / "metrics.json"
    if evaluated_file.exists() and not model.train.exists():
        # Detections of another program, which were evaluated here.
        return replace(Row(model.name, EVALUATED), **_figures(read_json(evaluated_file), evaluated_file))
    if not trained_file.exists():
        reached = "converted" if model.conversion_report.exists() else "not converted"
        return Row(model.name, "training did not finish" if model.train.exists() else f"{reached}, not trained")
    trained = read_json(trained_file)
    row = Row(
        model.name,
        "trained, not evaluated",
        parameters=int(_number(trained, "parameters", trained_file)),
        train_images_per_second=_number(trained, "images_per_second", trained_file),
        **_costs(model, trained),
    )
    if dataset is not None and _field(trained, "dataset_digest", trained_file) != dataset["digest"]:
        return replace(row, state="trained on another state of the dataset")
    if not evaluated_file.exists():
        return row
    evaluated = read_json(evaluated_file)
    of, latest = (Path(_field(r, "checkpoint", f)).name for r, f in ((evaluated, evaluated_file), (trained, trained_file)))
    state = EVALUATED if of == latest else f"evaluated at {of}, trained to {latest}"
    return replace(row, state=state, **_figures(evaluated, evaluated_file))


def step_lines(model: ModelDir) -> Iterator[dict[str, Any]]:
    """The numbers of the steps of a model's training, in the order in which they were written; a torn line is none."""
    file = model.train / "metrics.jsonl"
    if not file.exists():
        return
    with file.open() as stream:
        for line in stream:
            try:
                step = json.loads(line)
            except ValueError:
                continue
            if isinstance(step, dict):
                yield step


def _figures(evaluated: Mapping[str, Any], file: Path) -> dict[str, Any]:
    metrics = _field(evaluated, "metrics", file)
    return {
        **{name: _precision(metrics, metric) for name, metric in _METRICS.items()},
        "seconds_per_image": _number(evaluated, "seconds_per_image", file) if "seconds_per_image" in evaluated else None,
        **_latency(evaluated.get("latency") or {}),
        "images": evaluated.get("images"),
        "objects": evaluated.get("objects"),
    }


def _latency(timed: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: value for name, value in latency_figures(timed).items() if name != "seconds_per_image"}
    return {**found, "device": f"{timed['device']}, {timed['machine']}"} if timed else found


def _costs(model: ModelDir, trained: Mapping[str, Any]) -> dict[str, Any]:
    """What the training took, and what the plan knows of it: nothing of the plan where there is none that can be read."""
    seconds = trained.get("seconds")
    found: dict[str, Any] = {"training_hours": seconds / 3600 if isinstance(seconds, int | float) else None}
    found["peak_memory_gb"] = max(filter(None, map(_memory, step_lines(model))), default=None)
    try:
        plan = json.loads(model.plan.read_bytes())
        found["tflop_per_image"] = plan["counted"]["tflop_per_step"] * plan["devices"]["count"] / plan["batch_size"]
        if plan["cost"] and found["training_hours"] is not None:
            found["cost"] = plan["cost"]["likely"] / plan["hours"]["likely"] * found["training_hours"]
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
        pass
    return found


def _memory(step: Mapping[str, Any]) -> float | None:
    of_gpus = [value for name, value in step.items() if name.startswith("system/gpu_") and name.endswith(_GPU_MEMORY)]
    megabytes = sum(of_gpus) if of_gpus else step.get(_PROCESS_MEMORY)
    return megabytes * _MEGABYTE / _GIBI if megabytes else None


def _field(record: Mapping[str, Any], name: str, file: Path) -> Any:
    if name not in record:
        raise UserError(f"{file} lacks the field `{name}`", "remove the file and run its step again")
    return record[name]


def _number(record: Mapping[str, Any], name: str, file: Path) -> float:
    value = _field(record, name, file)
    if not isinstance(value, (int, float)):
        raise UserError(f"{file}: `{name}` is {value!r}, not a number", "remove the file and run its step again")
    return float(value)


def _precision(metrics: Mapping[str, float], name: str) -> float | None:
    """None where there was nothing to measure: no such metric, COCO's -1, or no number."""
    value = float(metrics.get(name, -1.0))
    return value if value >= 0 else None
