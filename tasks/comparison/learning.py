"""How models came to learn: their loss over the steps, and what was measured on the way."""

from __future__ import annotations

import math
from typing import Any

from tasks.comparison.rows import step_lines
from tasks.running.errors import UserError
from tasks.running.workspace import ModelDir, read_json

LOSS = "Loss/total_loss"
_MOST_POINTS = 120

Points = list[tuple[float, float]]


def loss_curve(model: ModelDir) -> Points:
    """Total loss by step, means over as many steps as leave 120 points; of a step that was taken again, the last counts."""
    losses = {one["step"]: one[LOSS] for one in step_lines(model) if isinstance(one.get("step"), int) and _is_finite(one.get(LOSS))}
    steps = sorted(losses)
    several = max(1, math.ceil(len(steps) / _MOST_POINTS))
    groups = [steps[start : start + several] for start in range(0, len(steps), several)]
    return [(sum(group) / len(group), sum(losses[step] for step in group) / len(group)) for group in groups]


def measured_curve(model: ModelDir, metric: str) -> Points:
    """What evaluations on the way found of a metric, by step; nothing where training measured none."""
    try:
        evaluations = read_json(model.train / "evaluations.json")["evaluations"]
        return sorted((int(one["step"]), float(one["metrics"][metric])) for one in evaluations if metric in one["metrics"])
    except (UserError, KeyError, TypeError, ValueError):
        return []


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
