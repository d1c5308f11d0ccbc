"""How far two trainings agree: their losses step by step, and their final metrics."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

from tasks.training.step_file import STEP
from tasks.training.task import TOTAL_LOSS

LEVELS = (0.0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""Tolerances at which it is told how long they agree."""


@dataclasses.dataclass(frozen=True)
class LossAgreement:
    """Of all losses of each step that both trainings have, the largest difference over the step's total loss."""

    steps: int
    """That both have"""
    largest: float
    at_step: int | None
    agrees_until: Mapping[float, int]
    """By level, the last step up to which every one agrees within it; 0 where the first does not"""

    def within(self, tolerance: float) -> bool:
        """Whether there is anything to compare, and all of it agrees."""
        return self.steps > 0 and self.largest <= tolerance


def loss_agreement(first: Iterable[Mapping[str, Any]], second: Iterable[Mapping[str, Any]]) -> LossAgreement:
    """The agreement of two trainings' rows, as `StepFile` has them. A loss that only one of them has, or that is a number in one alone,
    is an infinite difference."""
    others = {row[STEP]: row for row in second}
    pairs = [(row, others[row[STEP]]) for row in first if row[STEP] in others]
    found = [(row[STEP], _difference(row, other)) for row, other in pairs]
    until = {level: _last_before(found, level) for level in LEVELS}
    at_step, largest = max(found, key=lambda one: one[1], default=(None, 0.0))
    return LossAgreement(len(found), largest, at_step if largest else None, until)


def _last_before(found: Iterable[tuple[int, float]], level: float) -> int:
    """The last step before the first whose difference is above a level."""
    last = 0
    for step, difference in found:
        if difference > level:
            break
        last = step
    return last


def _difference(row: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    losses = {name for name in (*row, *other) if name.startswith("Loss/")}
    total = abs(row.get(TOTAL_LOSS, math.nan))
    largest = 0.0
    for name in losses:
        one, two = row.get(name, math.inf), other.get(name, math.inf)
        if one == two or (math.isnan(one) and math.isnan(two)):
            continue
        difference = abs(one - two) / total if total else math.inf
        largest = max(largest, difference if math.isfinite(difference) else math.inf)
    return largest


def metric_differences(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float | None]:
    """By name, the second's metric less the first's; None where only one has it."""
    names = [*first, *(name for name in second if name not in first)]
    return {name: second[name] - first[name] if name in first and name in second else None for name in names}
