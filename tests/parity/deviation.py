"""One row of the parity table: how far a tensor is off, and how far it may be."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

# Kinds of rows. Outputs are measured in standard deviations of the original's tensor, the others relative to the original's value.
STAGE_1, LATER, LOSSES, GRADIENTS, EXACT = "stage 1", "later stages", "losses", "gradients", "exact"
AFTER_STEPS = "losses after steps"
TOLERANCES = {STAGE_1: 1e-4, LATER: 1e-3, LOSSES: 1e-4, GRADIENTS: 1e-3, AFTER_STEPS: 1e-4, EXACT: 0.0}


@dataclasses.dataclass(frozen=True)
class Deviation:
    """How far a tensor is off, by its kind's measure. `remark` says what had to be assumed for it.

    `allowed` is tolerated where it is more than what the kind allows: for numbers that the original itself does not repeat so closely.
    """

    tensor: str
    deviation: float
    kind: str
    remark: str = ""
    allowed: float = 0.0

    @property
    def tolerance(self) -> float:
        return max(TOLERANCES[self.kind], self.allowed)

    @property
    def holds(self) -> bool:
        return self.deviation <= self.tolerance


def in_spreads(ours: Any, theirs: Any, spread: float) -> float:
    """Largest absolute difference of two arrays over `spread`, or as it is where that is zero; infinite for different shapes."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape:
        return np.inf
    return float(np.abs(ours - theirs).max() / (spread or 1.0))


def relative(ours: Any, theirs: Any) -> float:
    """Norm of the difference over the norm of `theirs`; for a single number the relative difference."""
    return float(np.linalg.norm(np.asarray(ours, np.float64) - theirs) / np.linalg.norm(theirs))
