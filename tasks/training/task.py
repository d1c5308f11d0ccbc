"""The zoo models as a Model Garden `Task`: what its trainer asks for, and nothing else."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf
import tf_keras
from official.core import base_task, task_factory

from tasks.checkpoints.class_match import match_classes
from tasks.checkpoints.importing import FULL, import_checkpoint
from tasks.checkpoints.training_state import TrainingState, stored_training_state
from tasks.input.batches import training_dataset
from tasks.input.config import DataConfig
from tasks.mask_rcnn.model import MaskRCNN, Tensors
from tasks.records.label_map import read_label_map
from tasks.running.workspace import CHECKPOINT_IMPORT, write_json
from tasks.training import experiment, guards
from tasks.training.averages import Averages
from tasks.training.calibration import begin_statistics_anew, calibrate_batch_norm, silence_residual_branches
from tasks.training.common_size import padded_alike
from tasks.training.left_out import RecordsLeftOut
from tasks.training.records import with_needed_masks
from tasks.training.step_log import StepLog

TOTAL_LOSS = "Loss/total_loss"
GRADIENT_NORM, LEARNING_RATE = "gradient_norm", "learning_rate"
FINITE, APPLIED = "finite", "applied"
SAMPLED_ANCHORS, POSITIVE_ANCHORS = "sampled/anchors", "sampled/positive_anchors"
OBJECTS_CUT_OFF = "objects_cut_off"
SAMPLED_PROPOSALS, POSITIVE_PROPOSALS = "sampled/proposals", "sampled/positive_proposals"

_CALIBRATION_BATCHES = 4

Inputs = tuple[tf.Tensor, tf.Tensor, Tensors]
"""Images, true shapes and groundtruth as `MaskRCNN.call` takes them, but for `position` int64 [B], of each image in the whole training"""


@task_factory.register_task_cls(experiment.MaskRCNNTask)
class MaskRCNNTask(base_task.Task):
    """Trains one zoo model; evaluation is `tasks.evaluation`."""

    beginning = ""
    """What the weights started from, for people; empty where `initialize` was not called or had nothing to do."""
    continued: TrainingState | None = None
    """Of the training that wrote the checkpoint, where this one goes on with it; `initialize` finds it, and `loop` takes it over"""
    first_step = 0
    """At which the data of `build_inputs` begins"""
    step_log: StepLog | None = None
    """Where a step's figures are kept until the loop is over"""
    bad_records: RecordsLeftOut | None = None
    """Those that `build_inputs` goes without; `loop` sets it"""
    averages: Averages | None = None
    """Of the trained weights, where they are kept"""
    pads_alike = False
    """Whether replicas are fed by several pipelines, with images of different sizes"""
    loss = TOTAL_LOSS
    """What Model Garden's trainer takes for the loss among a step's figures"""

    def build_model(self) -> MaskRCNN:
        return MaskRCNN(self.task_config.model)

    def initialize(self, model: MaskRCNN) -> None:
        """Called once, before the first step of a training that has no checkpoint of its own."""
        if self.task_config.init_checkpoint:
            self._import_checkpoint(model)
            return
        silence_residual_branches(model)
        if not self.task_config.model.feature_extractor.batch_norm_trainable:
            layers = self._calibrate(model)
            self.beginning = (
                f"no fine_tune_checkpoint: {layers} frozen batch norms take their statistics from {_CALIBRATION_BATCHES} batches"
            )

    def _calibrate(self, model: MaskRCNN) -> int:
        def calibrate() -> int:
            return calibrate_batch_norm(model, self.build_inputs(self.task_config.train_data).take(_CALIBRATION_BATCHES))

        return self.bad_records.going_without(calibrate, self.first_step, _CALIBRATION_BATCHES) if self.bad_records else calibrate()

    def _import_checkpoint(self, model: MaskRCNN) -> None:
        """Restores the configured checkpoint; what became of it is told, and kept beside the training's own checkpoints."""
        task, classes = self.task_config, None
        if task.checkpoint_label_map_path:
            ours, theirs = (read_label_map(Path(path)) for path in (task.train_data.label_map_path, task.checkpoint_label_map_path))
            classes = match_classes(ours.names, theirs.names)
        report = import_checkpoint(
            model, Path(task.init_checkpoint), task.fine_tune_checkpoint_type, task.load_all_detection_checkpoint_vars, classes
        )
        self.beginning = report.text()
        if task.fine_tune_checkpoint_type == FULL and classes is None and report.is_whole:
            self.continued = stored_training_state(model, Path(task.init_checkpoint))
        write_json(Path(self.logging_dir) / CHECKPOINT_IMPORT, report.to_json())

    def build_inputs(self, params: DataConfig, input_context: tf.distribute.InputContext | None = None) -> tf.data.Dataset:
        batch_size = params.global_batch_size
        if input_context is not None:
            batch_size = input_context.get_per_replica_batch_size(batch_size)
        label_map = read_label_map(Path(params.label_map_path))
        model, bad = self.task_config.model, self.bad_records.records if self.bad_records else ()
        data = with_needed_masks(params, model)
        return training_dataset(data, model.image_resizer, label_map, batch_size, input_context, self.first_step, bad)

    def build_metrics(self, training: bool = True) -> list[tf_keras.metrics.Metric]:
        """None: Keras's are means over a loop of steps, and one step that is no number makes them none."""
        return []

    def train_step(
        self,
        inputs: Inputs,
        model: MaskRCNN,
        optimizer: tf_keras.optimizers.Optimizer,
        metrics: list[tf_keras.metrics.Metric] | None = None,
    ) -> Tensors:
        """One optimizer step on one replica's share of the batch; figures of the whole batch come back, float32 [], and go to `step_log`.

        The losses by their names and `TOTAL_LOSS`; `GRADIENT_NORM`, of all gradients before they are clipped; `LEARNING_RATE`; `FINITE`, 0
        where an input, a loss or a gradient was no number, which leaves weights, momentum and statistics as they were; `APPLIED`, 0 there
        too, and where float16 looks for a loss scale; and, means over images, how many anchors and proposals were sampled and are positive,
        and how many objects were cut off.
        """
        images, true_shapes, groundtruth = inputs
        if self.pads_alike:
            images, groundtruth = padded_alike(images, groundtruth)
        trains_statistics = self.task_config.model.feature_extractor.batch_norm_trainable
        if not self.task_config.init_checkpoint and trains_statistics:
            begin_statistics_anew(model, lambda: optimizer.iterations)
        statistics = model.non_trainable_variables if trains_statistics else []
        statistics_before = [tf.identity(value) for value in statistics]
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        scaled = isinstance(optimizer, tf_keras.mixed_precision.LossScaleOptimizer)
        with tf.GradientTape() as tape:
            losses, outputs = self.losses(model, (images, true_shapes, groundtruth))
            # Gradients are summed over replicas.
            objective = losses[TOTAL_LOSS] / replicas
            objective = optimizer.get_scaled_loss(objective) if scaled else objective
        variables = model.trainable_variables
        # Those of gathered biases come as slices, whose other rows TensorFlow 1 moved too, by their momentum.
        gradients = [tf.convert_to_tensor(gradient) for gradient in tape.gradient(objective, variables)]
        gradients = optimizer.get_unscaled_gradients(gradients) if scaled else gradients
        replica = tf.distribute.get_replica_context()
        gradients = replica.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        # Not the losses alone: on a CPU max(NaN, 0) is 0, and behind the first ReLU nothing is left of a bad image.
        finite = guards.is_finite([images, groundtruth["boxes"], groundtruth["weights"], *statistics, *losses.values()])
        figures = losses | {FINITE: tf.cast(finite, tf.float32)} | _sampled(outputs) | _cut_off(groundtruth)
        figures = replica.all_reduce(tf.distribute.ReduceOp.MEAN, figures)

        finite, finite_gradients = figures[FINITE] == 1.0, guards.is_finite(gradients)
        norm = tf.linalg.global_norm(gradients)
        rate = optimizer.learning_rate
        figures |= {GRADIENT_NORM: norm, LEARNING_RATE: tf.cast(rate(optimizer.iterations) if callable(rate) else rate, tf.float32)}
        applied = finite & finite_gradients
        if guards.scales_dynamically(optimizer):
            # At a scale of one there is none left to find.
            finite &= finite_gradients | (optimizer.loss_scale > 1.0)
        else:
            finite = applied
        guards.step_if(finite, optimizer, gradients, variables, self.averages)
        for value, before in zip(statistics, statistics_before, strict=True):
            value.assign(tf.where(finite, value, before))
        figures |= {FINITE: tf.cast(finite, tf.float32), APPLIED: tf.cast(applied, tf.float32)}
        if self.step_log is not None:
            self.step_log.write(figures)
        return figures

    def losses(self, model: MaskRCNN, inputs: Inputs) -> tuple[Tensors, Tensors]:
        """The losses of a batch by their names, `TOTAL_LOSS` among them, with what regularization adds; and the network's outputs."""
        images, true_shapes, groundtruth = inputs
        outputs = model(images, true_shapes, groundtruth | {"seeds": self._seeds(groundtruth["position"])}, training=True)
        losses = model.compute_losses(outputs)
        total = tf.add_n([*losses.values(), *(tf.cast(loss, tf.float32) for loss in model.losses)])
        return losses | {TOTAL_LOSS: total}, outputs

    def _seeds(self, positions: tf.Tensor) -> tf.Tensor:
        """Of the images at positions int64 [B]: the training's seed beside each, int32 [B, 2]."""
        seed = tf.constant(self.task_config.train_data.seed or 0, tf.int64)
        return tf.cast(tf.stack([tf.fill(tf.shape(positions), seed), positions], axis=1), tf.int32)


def _cut_off(groundtruth: Tensors) -> Tensors:
    """How many objects of an image are more than `max_number_of_boxes`, a mean over the batch; none of a batch that does not tell."""
    told = groundtruth.get(OBJECTS_CUT_OFF)
    return {} if told is None else {OBJECTS_CUT_OFF: tf.reduce_mean(tf.cast(told, tf.float32))}


def _sampled(outputs: Tensors) -> Tensors:
    """How many anchors and proposals of an image enter the losses, and how many of them are positive; means over the batch."""
    sampled, objects = outputs["rpn_sampled"], tf.cast(outputs["rpn_target_objectness"], tf.float32)
    counts = {SAMPLED_ANCHORS: tf.reduce_sum(sampled, axis=1), POSITIVE_ANCHORS: tf.reduce_sum(sampled * objects, axis=1)}
    if "target_classes" in outputs:
        counts[SAMPLED_PROPOSALS] = tf.cast(outputs["num_proposals"], tf.float32)
        # Beyond their number all are of class 0.
        counts[POSITIVE_PROPOSALS] = tf.cast(tf.math.count_nonzero(outputs["target_classes"], axis=1), tf.float32)
    return {name: tf.reduce_mean(count) for name, count in counts.items()}
