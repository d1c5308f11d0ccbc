"""What a checkpoint of the original holds beside the weights: the step that a training had reached, and its optimizer's state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import tensorflow as tf
import tf_keras

from tasks.checkpoints.original_names import original_variables
from tasks.checkpoints.own_checkpoint import own_checkpoint
from tasks.checkpoints.reader import StoredVariables, stored_variables
from tasks.mask_rcnn.model import MaskRCNN
from tasks.running.errors import UserError

# TF1's names of what an optimizer keeps of a variable, by Keras's; momentum has two, by what else there is.
_SLOTS = {"momentum": ("RMSProp_1", "Momentum"), "rms": ("RMSProp",), "m": ("Adam",), "v": ("Adam_1",)}

_STEP = "global_step"

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class TrainingState:
    """A training's last step, and its optimizer's state by variable and Keras's name of the slot.

    `of_objects`: TensorFlow 2 wrote it, whose momentum holds steps; TF1's holds gradients.
    """

    step: int
    slots: Mapping[tuple[str, str], Array]
    of_objects: bool


def stored_training_state(model: MaskRCNN, checkpoint: Path) -> TrainingState | None:
    """The state of the training that wrote a checkpoint; None where it holds no step, as after an export, and for one of ours."""
    if own_checkpoint(checkpoint) is not None:
        return None
    with stored_variables(checkpoint, model.config.feature_extractor.network) as stored:
        if stored.shapes.get(_STEP) != ():
            return None
        slots = {}
        for name, variable in original_variables(model).items():
            for slot, theirs in _SLOTS.items():
                found = next((f"{name}/{one}" for one in theirs if f"{name}/{one}" in stored.shapes), None)
                if found and stored.shapes[found] == tuple(variable.shape):
                    slots[name, slot] = stored.read(found)
        return TrainingState(int(stored.read(_STEP)), slots, stored.of_objects)


def stored_step(checkpoint: Path) -> int:
    """The step at which a training of the original had written a checkpoint; 0 where it does not say so."""
    with stored_variables(checkpoint, "") as stored:
        return step_in(stored)


def step_in(stored: StoredVariables) -> int:
    """As `stored_step`, of one that is open."""
    return int(stored.read(_STEP)) if stored.shapes.get(_STEP) == () else 0


def has_optimizer_state(stored: StoredVariables) -> bool:
    """Whether there is what an optimizer keeps of variables."""
    endings = tuple(f"/{name}" for names in _SLOTS.values() for name in names)
    return any(name.endswith(endings) for name in stored.shapes)


def take_over(
    state: TrainingState, model: MaskRCNN, optimizer: tf_keras.optimizers.Optimizer, global_step: tf.Variable, train_steps: int
) -> str:
    """Lets a training that has not begun go on where `state` ends; a line for people comes back. The optimizer has its slots already.

    The optimizer's state is taken where all of it is there and means the same; otherwise it begins with zeros, and the line says so.
    UserError where training would be over.
    """
    if state.step >= train_steps:
        raise UserError(
            f"the checkpoint has been trained for {state.step} steps, and training is to end after {train_steps}",
            "raise train_config.num_steps (--steps) to go on with it, or take its weights for a new training: "
            "--checkpoint-type detection --all-checkpoint-variables",
        )
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    taken = _slot_values(state, model, inner)
    for slot, value in taken:
        slot.assign(value)
    for counter in (inner.iterations, global_step):
        counter.assign(state.step)
    kept = f"with the optimizer's state of {len(model.trainable_variables)} variables" if taken else "with an optimizer that starts anew"
    return f"goes on from step {state.step} {kept}"


def _slot_values(state: TrainingState, model: MaskRCNN, optimizer: tf_keras.optimizers.Optimizer) -> list[tuple[tf.Variable, Array]]:
    """The optimizer's slots and their values; none where any is missing, or holds steps in one form and gradients in the other."""
    names = {variable.ref(): name for name, variable in original_variables(model).items()}
    if optimizer.get_slot_names() == ["momentum"] and state.of_objects == getattr(optimizer, "momentum_holds_gradients", False):
        return []
    values = []
    for variable in model.trainable_variables:
        for slot in optimizer.get_slot_names():
            value = state.slots.get((names[variable.ref()], slot))
            if value is None:
                return []
            values.append((optimizer.get_slot(variable, slot), value))
    return values
