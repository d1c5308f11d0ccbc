"""The evaluations of a training on its way, which of its checkpoints is the best by them, and whether it still gets better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.checkpoints.own_checkpoint import EVALUATIONS, checkpoint_at, is_written
from tasks.coco.figures import PREFIXES, SUMMARY_NAMES
from tasks.running.errors import UserError
from tasks.running.workspace import read_json, write_json

SHORT_NAMES = {
    "mask_ap": "DetectionMasks_Precision/mAP",
    "mask_ap50": "DetectionMasks_Precision/mAP@.50IOU",
    "box_ap": "DetectionBoxes_Precision/mAP",
    "box_ap50": "DetectionBoxes_Precision/mAP@.50IOU",
}


def metric_named(name: str, stages: int) -> str:
    """The full name of a metric that was given short or full; "" is mask AP, and box AP where there are no masks. All are better higher."""
    if not name:
        return SHORT_NAMES["mask_ap" if stages == 3 else "box_ap"]
    full = SHORT_NAMES.get(name, name)
    if full not in {prefix + summary for prefix in PREFIXES.values() for summary in SUMMARY_NAMES}:
        raise UserError(f"--best-metric is {name!r}", f"use {', '.join(SHORT_NAMES)}, or a full name such as {SHORT_NAMES['mask_ap']}")
    if stages < 3 and not full.startswith("DetectionBoxes_"):
        raise UserError(f"--best-metric is {name!r}, and the model has no masks", "use box_ap")
    return full


def forget_best(folder: Path) -> None:
    """Lets no earlier checkpoint in a training's folder count as its best, where it goes on without evaluations; these are kept."""
    file = folder / EVALUATIONS
    if file.exists():
        write_json(file, read_json(file) | {"best": None})


class Selection:
    """What `evaluations.json` in a training's folder holds: each evaluation's step and figures, and the best of those that are kept.

    Of equal figures the later is the best, which was trained longer; but only a higher one is an improvement.
    """

    def __init__(self, folder: Path, metric: str, start_step: int) -> None:
        """What a killed process measured after `start_step` is forgotten: it will come again."""
        self._folder = folder
        self._metric = metric
        file = folder / EVALUATIONS
        rows = read_json(file)["evaluations"] if file.exists() else []
        self._rows: list[dict[str, Any]] = [row for row in rows if row["step"] <= start_step]
        if rows:
            self._write()

    @property
    def best(self) -> Path | None:
        """The prefix of the best checkpoint; None before the first evaluation."""
        row = self._best_row()
        return checkpoint_at(self._folder, row["step"]) if row else None

    @property
    def best_value(self) -> float:
        """Its figure; minus infinity where there is none."""
        row = self._best_row()
        return self._value(row) if row else -math.inf

    @property
    def count(self) -> int:
        return len(self._rows)

    @property
    def without_improvement(self) -> int:
        """How many evaluations there were since the last that was higher than all before."""
        since, highest = 0, -math.inf
        for row in self._rows:
            since = 0 if self._value(row) > highest else since + 1
            highest = max(highest, self._value(row))
        return since

    def has(self, step: int) -> bool:
        """Whether a step was evaluated."""
        return any(row["step"] == step for row in self._rows)

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Keeps what was measured of the checkpoint of a step, which is there; UserError where it has not what the best is chosen by."""
        if self._metric not in metrics:
            raise UserError(
                f"{self._metric} cannot be measured on the validation records: they hold no object for it",
                "choose another --best-metric, or materialize the dataset with objects in its validation split",
            )
        self._rows.append({"step": step, "metrics": dict(metrics)})
        self._write()

    def _value(self, row: Mapping[str, Any]) -> float:
        return float(row["metrics"].get(self._metric, -math.inf))

    def _best_row(self) -> dict[str, Any] | None:
        kept = [row for row in self._rows if is_written(checkpoint_at(self._folder, row["step"]))]
        return max(kept, key=lambda row: (self._value(row), row["step"]), default=None)

    def _write(self) -> None:
        best = self._best_row()
        told = best and {"checkpoint": checkpoint_at(self._folder, best["step"]).name, "step": best["step"], "value": self._value(best)}
        write_json(self._folder / EVALUATIONS, {"metric": self._metric, "best": told, "evaluations": self._rows})
