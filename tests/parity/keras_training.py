"""What a training of the original's TensorFlow 2 form has more: moving statistics that follow the data, and two short trainings.

Under the zoo's learning rates, random weights blow up whatever rounding there is: the files tell how far each number moves when every
weight is disturbed by a millionth. A training is compared up to the step where that exceeds the tolerance.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tasks.checkpoints.original_names import original_variables
from tasks.mask_rcnn.model import MaskRCNN
from tests.parity.deviation import GRADIENTS, LATER, Deviation, in_spreads, relative
from tests.parity.reference import Reference

_ROUNDING = 3.0
_WORTHLESS = 1e-3
# What two runs of the original on several threads were seen to differ by: docs/parity.md.
_LOST_OF_NORM, _LOST_OF_SAMPLES = 4.5e-3, 2.5e-2


def statistics_deviations(reference: Reference, model: MaskRCNN) -> Iterator[Deviation]:
    """Rows for the moving statistics after one forward pass: their norms, samples, and how far each has moved from its weight."""
    ours = original_variables(model)
    found: dict[str, list[Any]] = {"norms": [], "max_change": [], "sample": []}
    names, lengths, strides = (reference[f"train/step1_moving_{key}"] for key in ("names", "sample_lengths", "sample_flat_strides"))
    for name, length, stride in zip(map(str, names), lengths, strides, strict=True):
        value = ours[name].numpy()
        found["norms"].append(np.linalg.norm(value))
        found["max_change"].append(np.abs(value - reference.weight(name, value.shape)).max())
        found["sample"].extend(value.ravel()[::stride][:length])
    for key, values in found.items():
        expected = reference[f"train/step1_moving_{key}"]
        yield Deviation(f"train/step1_moving_{key}", in_spreads(values, expected, float(np.std(expected))), LATER)


def movement(reference: Reference, key: str) -> Any:
    """How far the original's values under `key` move, each relative to itself, when every weight is disturbed by a millionth.

    Of the shape of the array; zeros where it is told neither by this file nor by the one of the same model.
    """
    expected = np.abs(reference[key])
    moved = reference.sensitivity(key)
    if moved is None:
        return np.zeros_like(expected)
    return np.nan_to_num(np.divide(moved, expected, out=np.zeros_like(expected), where=expected > 0))


def allowed(reference: Reference, key: str) -> Any:
    """What is tolerated of each value under `key`, as rounding does about what a disturbance of a millionth does."""
    return _ROUNDING * movement(reference, key)


def allowed_of_gradients(reference: Reference, *, norm: bool) -> float:
    """What is tolerated of all gradients together: of their norm, or else of single ones.

    Beside rounding, which is told for the norms of variables, what the original's gradient of native crops loses on several threads.
    """
    moved, native = reference.sensitivity("train/grad_norms"), reference.is_keras and not reference.matmul_crops()
    rounding = 0.0 if moved is None else _ROUNDING * float(np.linalg.norm(moved) / np.linalg.norm(reference["train/grad_norms"]))
    return max(rounding, (_LOST_OF_NORM if norm else _LOST_OF_SAMPLES) if native else 0.0)


def allowed_of_sums(reference: Reference) -> float:
    """What is tolerated of the sums over gradients: as many numbers as a variable has add up, each off in the same direction at worst."""
    moved = reference.sensitivity("train/grad_norms")
    if moved is None:
        return 0.0
    shapes = reference.variables("train")
    roots = np.sqrt([np.prod(shapes[name]) for name in map(str, reference["train/grad_names"])])
    return _ROUNDING * float(np.linalg.norm(roots * moved) / np.linalg.norm(reference["train/grad_sums"]))


def repeatable_rows(reference: Reference, key: str) -> int:
    """How many rows of a training have losses that the original itself repeats to a thousandth; one where the file does not tell."""
    if f"{key}_sensitivity" not in reference:
        return 1
    unsteady = (movement(reference, key)[:, :-1] > _WORTHLESS).any(axis=1)
    return int(np.argmax(unsteady)) if unsteady.any() else len(unsteady)


def update_deviation(reference: Reference, key: str, model: MaskRCNN) -> Deviation:
    """Row for how far each trained variable has moved over all steps of a training."""
    ours = original_variables(model)
    moved = []
    for name in map(str, reference["train/grad_names"]):
        value = ours[name].numpy()
        moved.append(np.linalg.norm(value - reference.weight(name, value.shape)))
    # Steps are as steady as the gradients are.
    most = float(max(allowed(reference, key)[:, -1].max(), allowed_of_gradients(reference, norm=True)))
    return Deviation(f"{key}_update_norms", relative(moved, reference[f"{key}_update_norms"]), GRADIENTS, "", most)
