"""One step of a training taken again, with a look at each of its images and each of its gradients. Nothing is written."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf
import tf_keras
from official.core import config_definitions as cfg
from official.core import task_factory

from tasks.checkpoints.own_checkpoint import step_of, written_checkpoints
from tasks.checkpoints.own_network import damage
from tasks.input.placed_record import PlacedRecord, records_at
from tasks.mask_rcnn.model import MaskRCNN, Tensors
from tasks.running.errors import UserError
from tasks.running.progress import Progress
from tasks.running.scratch import scratch_folder
from tasks.training.left_out import RecordsLeftOut
from tasks.training.loop import begin, compile_networks_only, trained_state, whole_trainer
from tasks.training.precision import computing_in, precision_of
from tasks.training.retention import Checkpoints
from tasks.training.step_file import TIME
from tasks.training.step_log import INPUT_WAIT, SECONDS, StepLog
from tasks.training.task import TOTAL_LOSS, Inputs, MaskRCNNTask

_IMAGE = "image"


@dataclass(frozen=True)
class ReplayedImage:
    """One image of a step, alone under the step's weights."""

    record: PlacedRecord
    broken: list[str]
    """What of it is infinite or NaN: `image`, `boxes`, `weights`"""
    losses: dict[str, float]
    gradient_norm: float


@dataclass(frozen=True)
class ReplayedStep:
    start: Path | None
    """The checkpoint from which training was gone on with; None for its beginning"""
    figures: dict[str, float]
    """What the step answered, of all its images"""
    images: list[ReplayedImage]
    broken_gradients: list[str]
    """Names of the variables whose gradient of all images is infinite or NaN"""
    variables: int


def replay_step(experiment: cfg.ExperimentConfig, folder: Path, step: int) -> ReplayedStep:
    """Takes a training in `folder` again, on one device, from the newest whole checkpoint before a step, and looks into that step."""
    experiment = copy.deepcopy(experiment)
    if experiment.trainer.deterministic:
        tf.config.experimental.enable_op_determinism()
    compile_networks_only(experiment)
    data = experiment.task.train_data
    earlier = [prefix for prefix in reversed(written_checkpoints(folder)) if step_of(prefix) < step]
    start = next((prefix for prefix in earlier if damage(prefix) is None), None)
    tf_keras.utils.set_random_seed(data.seed)
    with computing_in(precision_of(experiment)), scratch_folder() as own:
        # There it tells of the checkpoint that training started from, which the training's own folder has.
        task = task_factory.get_task(experiment.task, logging_dir=str(own))
        task.first_step = step_of(start) if start else 0
        # All: what was left out later was never read before.
        task.bad_records = RecordsLeftOut(experiment.task, folder, task.first_step, all_stay=True)
        # By the trainer's own loop: another graph of the same step adds in another order.
        task.step_log = StepLog(tf.distribute.get_strategy(), 1)
        trainer = whole_trainer(experiment, task)
        parts, state = trained_state(trainer)
        checkpoints = Checkpoints(tf.train.Checkpoint(**parts), state, folder, experiment.trainer.max_to_keep)
        begin(trainer, checkpoints, start, experiment.trainer.train_steps)
        # One that goes on with a training of the original begins at that one's step.
        between = step - 1 - task.first_step
        if between < 0:
            raise UserError(f"the training began after step {task.first_step}", "give a later one")
        progress = Progress("taken again", between * data.global_batch_size)
        for done in range(between):
            trainer.train(tf.constant(1))
            progress.reach((done + 1) * data.global_batch_size)
        task.first_step = step - 1
        inputs = next(iter(task.build_inputs(data)))
        look = tf.function(lambda inputs: _losses_and_gradients(task, trainer.model, inputs))
        variables = trainer.model.trainable_variables
        broken = [variable.name for variable, gradient in zip(variables, look(inputs)[1], strict=True) if not _is_finite(gradient)]
        records = records_at(data, inputs[2]["position"].numpy().tolist(), task.bad_records.records)
        images = _images(look, inputs, records)
        trainer.train(tf.constant(1))
        (row,) = task.step_log.read(1, time.time())
        figures = {name: value for name, value in row.items() if name not in (TIME, SECONDS, INPUT_WAIT)}
    return ReplayedStep(start, figures, images, broken, len(variables))


def _images(look: Callable[[Inputs], Any], inputs: Inputs, records: Sequence[PlacedRecord]) -> list[ReplayedImage]:
    found = []
    for row, record in enumerate(records):
        one: Inputs = tf.nest.map_structure(lambda value, row=row: value[row : row + 1], inputs)
        losses, gradients = look(one)
        parts = {_IMAGE: one[0], **{name: one[2][name] for name in ("boxes", "weights")}}
        broken = [name for name, value in parts.items() if not _is_finite(value)]
        norm = float(tf.linalg.global_norm(gradients))
        found.append(ReplayedImage(record, broken, {name: float(value) for name, value in losses.items()}, norm))
    return found


def _losses_and_gradients(task: MaskRCNNTask, model: MaskRCNN, inputs: Inputs) -> tuple[Tensors, list[tf.Tensor]]:
    with tf.GradientTape() as tape:
        losses, _ = task.losses(model, inputs)
    gradients = tape.gradient(losses[TOTAL_LOSS], model.trainable_variables)
    return losses, [tf.convert_to_tensor(gradient) for gradient in gradients]


def _is_finite(value: Any) -> bool:
    return bool(tf.reduce_all(tf.math.is_finite(value)))
