"""Losses, gradients and a short training of the original against ours.

The first step is fed the stored proposals. Later steps make their own, and there a crop at the image's border may be rounded one way by
the original and the other way by us (`border`). Where a loss is off, the fewest crops are turned that bring it back, and the rows'
remarks say which, and how far off the losses were without.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras

from tasks.checkpoints.original_names import original_variables
from tasks.mask_rcnn import boxes
from tasks.mask_rcnn.model import MaskRCNN
from tests.parity.border import possible_turns
from tests.parity.deviation import AFTER_STEPS, EXACT, GRADIENTS, LATER, LOSSES, STAGE_1, TOLERANCES, Deviation, relative
from tests.parity.inference import resized, variables_deviation
from tests.parity.keras_training import (
    allowed,
    allowed_of_gradients,
    allowed_of_sums,
    repeatable_rows,
    statistics_deviations,
    update_deviation,
)
from tests.parity.reference import Reference, weighted

_MOST_TURNED = 3
# Losses of the same crops agree this closely, relative.
_ROUNDING = 1e-5


class Step(NamedTuple):
    """What one evaluation gives: `losses` [5] in the file's order, `gradients` of their sum in the order of trainable variables."""

    outputs: dict[str, tf.Tensor]
    losses: tf.Tensor
    gradients: list[tf.Tensor]
    norm: tf.Tensor


def groundtruth(reference: Reference, images: tf.Tensor, true_shapes: tf.Tensor) -> dict[str, tf.Tensor]:
    """The reference's objects, as a batch of one; the original's boxes are relative to the padded image."""
    padding = images.shape[1:3] / true_shapes[0].numpy()
    truth_boxes = reference["train/gt_boxes_normalized"] * np.tile(padding, 2)
    masks = {}
    if "train/gt_masks_shape" in reference:
        shape = reference["train/gt_masks_shape"]
        packed = np.unpackbits(reference["train/gt_masks_packed"])[: np.prod(shape)].reshape(shape)
        masks["masks"] = tf.constant(packed[np.newaxis], tf.uint8)
    return {
        "boxes": tf.constant(truth_boxes[np.newaxis], tf.float32),
        "classes": tf.constant(reference["train/gt_classes_zero_based"][np.newaxis], tf.int32),
        "num_boxes": tf.constant([len(truth_boxes)]),
        "weights": tf.ones([1, len(truth_boxes)]),
        "seeds": tf.zeros([1, 2], tf.int32),
        **masks,
    }


class Training:
    """The reference's training: its model, image and objects, and its optimizer.

    Moving statistics, where they are trained, follow one forward pass in a step, however often the step is evaluated.
    """

    def __init__(self, reference: Reference) -> None:
        self.settings = json.loads(str(reference["train/config"]))
        config = reference.model("train")
        self.model = weighted(config, reference.seed)
        self._images, self._true_shapes = resized(reference, config.image_resizer)
        self._groundtruth = groundtruth(reference, self._images, self._true_shapes)
        self._optimizer = tf_keras.optimizers.legacy.SGD(self.settings.get("learning_rate", 0.0), momentum=self.settings["momentum"])
        self.is_used = False
        self.loss_names = [str(name) for name in reference["train/loss_names"]]
        self._moving = [tf.identity(variable) for variable in self.model.non_trainable_variables]

    @tf.function
    def propose(self) -> dict[str, tf.Tensor]:
        """Stage 1's outputs."""
        return self.model.propose(self._images, self._true_shapes, training=True)

    def evaluate(self, proposals: tf.Tensor) -> Step:
        """Losses and gradients at proposals float32 [1, P, 4], yxyx in pixels; moving statistics have then followed this pass alone."""
        for variable, value in zip(self.model.non_trainable_variables, self._moving, strict=True):
            variable.assign(value)
        return self._evaluate(proposals)

    @tf.function
    def _evaluate(self, proposals: tf.Tensor) -> Step:
        with tf.GradientTape() as tape:
            outputs, losses, total = self._finish(self.propose(), proposals)
        gradients = tape.gradient(total, self.model.trainable_variables)
        return Step(outputs, losses, gradients, tf.linalg.global_norm(gradients))

    @tf.function
    def losses(self, own: dict[str, tf.Tensor], proposals: tf.Tensor) -> tf.Tensor:
        """The losses alone, after stage 1."""
        return self._finish(own, proposals)[1]

    def apply(self, step: Step, learning_rate: float | None = None) -> None:
        """Changes the model by an optimizer step along clipped gradients; without a rate, by the file's own."""
        self._moving = [tf.identity(variable) for variable in self.model.non_trainable_variables]
        self.is_used = True
        if learning_rate is not None:
            self._optimizer.learning_rate = learning_rate
        gradients, clip = step.gradients, self.settings["clip_by_global_norm"]
        if clip:
            gradients, _ = tf.clip_by_global_norm(gradients, clip, step.norm)
        self._optimizer.apply_gradients(zip(gradients, self.model.trainable_variables, strict=True))

    def _finish(self, own: dict[str, tf.Tensor], proposals: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor, tf.Tensor]:
        """Outputs and losses of stage 1's outputs, at other proposals, and the sum of all losses."""
        outputs = self.model.training_outputs(own | {"proposal_boxes": proposals}, self._true_shapes, self._groundtruth)
        losses = self.model.compute_losses(outputs)
        regularization = tf.add_n([tf.constant(0.0), *self.model.losses])
        total = tf.add_n([*losses.values(), regularization])
        losses |= {"Loss/regularization_loss": regularization, "Loss/total_loss": total}
        return outputs, tf.stack([losses[name] for name in self.loss_names]), total


def training_deviations(reference: Reference) -> Iterator[Deviation]:
    """Rows for the training graph's outputs, losses and gradients, and for the losses after each optimizer step."""
    training = Training(reference)
    model, names = training.model, training.loss_names
    yield variables_deviation(reference, model, "train")
    if reference.is_keras:
        # The original's Keras layers have a penalty each, of weight zero; ours have none then.
        reference.leave_out("train/num_regularization_losses")
    else:
        expected = float(reference["train/num_regularization_losses"])
        yield Deviation("train/num_regularization_losses", abs(len(model.losses) - expected), EXACT)

    own = training.propose()
    step = training.evaluate(boxes.scale(tf.constant(reference["train/proposal_boxes_normalized"]), *tf.unstack(own["image_size"])))
    yield from _output_deviations(reference, model, own, step.outputs)
    for key in ("losses", "losses_rerun"):
        yield from _loss_deviations(f"train/{key}", names, step, reference[f"train/{key}"], LOSSES, "", allowed(reference, "train/losses"))
    yield from _gradient_deviations(reference, model, step)

    frozen = [tf.identity(variable) for variable in model.non_trainable_variables]
    if reference.is_keras:
        yield from statistics_deviations(reference, model)
        yield from _keras_trajectories(reference, training)
    else:
        yield from _trajectory_deviations(reference, "train/trajectory", training, step)
        changed = sum(not np.array_equal(old, new) for old, new in zip(frozen, model.non_trainable_variables, strict=True))
        yield Deviation("train/num_update_ops", abs(changed - float(reference["train/num_update_ops"])), EXACT)


def _keras_trajectories(reference: Reference, training: Training) -> Iterator[Deviation]:
    """Rows of two trainings from the beginning: at a small constant rate, and by the config's schedule; as far as either is repeatable."""
    for key in ("train/trajectory_constant_lr", "train/trajectory"):
        rows = repeatable_rows(reference, key)
        training = Training(reference) if training.is_used else training
        own = training.propose()
        yield from _trajectory_deviations(reference, key, training, training.evaluate(own["proposal_boxes"]), rows)
        if rows == len(reference[key]):
            yield update_deviation(reference, key, training.model)
        else:
            reference.leave_out(f"{key}_update_norms")


def _trajectory_deviations(reference: Reference, key: str, training: Training, step: Step, rows: int | None = None) -> Iterator[Deviation]:
    """Rows of the losses and gradient norms before each optimizer step, and behind the last; the first `rows` of them."""
    limits = allowed(reference, key)
    limits[:, -1] = np.maximum(limits[:, -1], allowed_of_gradients(reference, norm=True) if reference.is_keras else 0.0)
    rates = reference.get(f"{key}_learning_rates")
    for number, row in enumerate(reference[key][:rows]):
        kind, remark = LOSSES, ""
        if number > 0:
            kind = AFTER_STEPS
            training.apply(step, None if rates is None else float(rates[number - 1]))
            found = training.propose()
            step = training.evaluate(found["proposal_boxes"])
            step, remark = _turned(training, found, step, row)
        yield from _loss_deviations(f"{key}/{number}", training.loss_names, step, row, kind, remark, limits[number])
        if np.isfinite(row[-1]):
            yield Deviation(f"{key}/{number}/gradient norm", relative(step.norm, row[-1]), GRADIENTS, remark, float(limits[number][-1]))


def _turned(training: Training, own: dict[str, tf.Tensor], step: Step, row: Any) -> tuple[Step, str]:
    """The step with the fewest of its crops turned that bring the later stages' losses to `row`, and which they are.

    To within rounding, if any do, and otherwise to within the tolerance; where none do, the step as it is. Losses are sums over crops, so
    what single turns change adds up.
    """

    def off(those: tuple[int, ...]) -> float:
        deviations = _deviations(step.losses + sum(changes[index] for index in those), row)
        return max(value for name, value in zip(training.loss_names, deviations, strict=True) if "/RPNLoss/" not in name)

    changes: list[tf.Tensor] = []
    if off(()) <= _ROUNDING:
        return step, ""
    proposals, grid = own["proposal_boxes"], own["rpn_features_to_crop"].shape[1:3]
    turns = possible_turns(proposals, own["image_size"], grid, training.model.config.second_stage.initial_crop_size)
    changes += [training.losses(own, turn.proposals) - step.losses for turn in turns]
    counts = range(min(_MOST_TURNED, len(turns)) + 1)
    candidates = [min(itertools.combinations(range(len(turns)), count), key=off) for count in counts]
    for limit in (_ROUNDING, TOLERANCES[AFTER_STEPS]):
        for those in candidates:
            if off(those) <= limit:
                # A turn differs from the proposals in one coordinate, and by an exact difference.
                moved = proposals + sum(turns[index].proposals - proposals for index in those)
                remark = f"{', '.join(turns[index].moved for index in those)}; {off(()):.1e} without" if those else ""
                return training.evaluate(moved), remark
    return step, ""


def _output_deviations(reference: Reference, model: MaskRCNN, own: dict[str, Any], fed: dict[str, Any]) -> Iterator[Deviation]:
    """Rows of stage 1 and its own proposals, and of the later stages at the stored proposals."""
    stage_1 = ("anchors", "rpn_box_encodings", "rpn_objectness_predictions_with_background")
    for name in (*stage_1, *(["rpn_features_to_crop"] if reference.is_keras else [])):
        yield reference.deviation(f"train/{name}", own[name], STAGE_1)
    for name in ("proposal_boxes_normalized", "num_proposals"):
        yield reference.deviation(f"train/{name}", own[name], LATER)
    for name in ("refined_box_encodings", "class_predictions_with_background"):
        yield reference.deviation(f"train/{name}", fed[name], LATER)
    if model.config.number_of_stages == 3:
        logits = tf.function(model.mask_head.all_classes)(fed["box_classifier_features"])
        yield reference.deviation("train/mask_predictions", logits, LATER)


def _deviations(losses: tf.Tensor, row: Any) -> np.ndarray:
    """Relative deviations of the losses from a stored row, which may have more than losses."""
    expected = row[: len(losses)]
    # A loss of zero has to be one.
    return np.abs(losses.numpy() - expected) / np.where(expected == 0, 1.0, np.abs(expected))


def _loss_deviations(
    tensor: str, names: list[str], step: Step, row: Any, kind: str, remark: str = "", limits: Sequence[float] = ()
) -> Iterator[Deviation]:
    for name, deviation, most in zip(names, _deviations(step.losses, row), limits if len(limits) else [0.0] * len(names), strict=False):
        yield Deviation(f"{tensor}/{name}", float(deviation), kind, remark, float(most))


def _gradient_deviations(reference: Reference, model: MaskRCNN, step: Step) -> Iterator[Deviation]:
    """Rows of all gradients together: their norm, and norms, sums and samples of each variable's."""
    norm, single = (allowed_of_gradients(reference, norm=norm) for norm in (True, False))
    norm = max(norm, float(allowed(reference, "train/global_grad_norm")))
    yield Deviation("train/global_grad_norm", relative(step.norm, reference["train/global_grad_norm"]), GRADIENTS, "", norm)
    ours = original_variables(model)
    computed = dict(zip([variable.ref() for variable in model.trainable_variables], step.gradients, strict=True))
    found: dict[str, list[Any]] = {"grad_norms": [], "grad_sums": [], "grad_sample": []}
    for name, length, stride in zip(
        reference["train/grad_names"],
        reference["train/grad_sample_lengths"],
        reference["train/grad_sample_flat_strides"],
        strict=True,
    ):
        gradient = tf.convert_to_tensor(computed[ours[str(name)].ref()]).numpy()
        found["grad_norms"].append(np.linalg.norm(gradient))
        found["grad_sums"].append(gradient.sum(dtype=np.float64))
        found["grad_sample"].extend(gradient.ravel()[::stride][:length])
    for key, values in found.items():
        most = max(single, allowed_of_sums(reference)) if key == "grad_sums" else single
        yield Deviation(f"train/{key}", relative(values, reference[f"train/{key}"]), GRADIENTS, "", most)
