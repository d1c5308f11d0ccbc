"""The zoo models as a Model Garden `Task`: what its trainer asks for, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf
import tf_keras
from official.core import base_task, task_factory

from tasks.checkpoints.class_match import match_classes
from tasks.checkpoints.importing import import_checkpoint
from tasks.input.batches import training_dataset
from tasks.input.config import DataConfig
from tasks.mask_rcnn import losses
from tasks.mask_rcnn.model import MaskRCNN
from tasks.records.label_map import read_label_map
from tasks.running.workspace import CHECKPOINT_IMPORT, write_json
from tasks.training import experiment
from tasks.training.calibration import begin_statistics_anew, calibrate_batch_norm, silence_residual_branches

_CALIBRATION_BATCHES = 4


@task_factory.register_task_cls(experiment.MaskRCNNTask)
class MaskRCNNTask(base_task.Task):
    """Trains one zoo model; evaluation is `tasks.evaluation`."""

    beginning = ""
    """What the weights started from, for people; empty where `initialize` was not called or had nothing to do."""

    def build_model(self) -> MaskRCNN:
        return MaskRCNN(self.task_config.model)

    def initialize(self, model: MaskRCNN) -> None:
        """Called once, before the first step of a training that has no checkpoint of its own."""
        if self.task_config.init_checkpoint:
            self._import_checkpoint(model)
            return
        silence_residual_branches(model)
        if not self.task_config.model.feature_extractor.batch_norm_trainable:
            layers = calibrate_batch_norm(model, self.build_inputs(self.task_config.train_data).take(_CALIBRATION_BATCHES))
            self.beginning = (
                f"no fine_tune_checkpoint: {layers} frozen batch norms take their statistics from {_CALIBRATION_BATCHES} batches"
            )

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
        write_json(Path(self.logging_dir) / CHECKPOINT_IMPORT, report.to_json())

    def build_inputs(self, params: DataConfig, input_context: tf.distribute.InputContext | None = None) -> tf.data.Dataset:
        batch_size = params.global_batch_size
        if input_context is not None:
            batch_size = input_context.get_per_replica_batch_size(batch_size)
        label_map = read_label_map(Path(params.label_map_path))
        return training_dataset(params, self.task_config.model.image_resizer, label_map, batch_size, input_context)

    def build_metrics(self, training: bool = True) -> list[tf_keras.metrics.Metric]:
        stages = self.task_config.model.number_of_stages
        names = [losses.RPN_LOCALIZATION, losses.RPN_OBJECTNESS]
        if stages >= 2:
            names += [losses.BOX_LOCALIZATION, losses.BOX_CLASSIFICATION]
        if stages == 3:
            names += [losses.MASK]
        return [tf_keras.metrics.Mean(name, dtype=tf.float32) for name in names] if training else []

    def train_step(
        self,
        inputs: tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]],
        model: MaskRCNN,
        optimizer: tf_keras.optimizers.Optimizer,
        metrics: list[tf_keras.metrics.Metric] | None = None,
    ) -> dict[str, Any]:
        """One optimizer step on one replica's batch; answers with the total loss, and the single ones go to `metrics`."""
        images, true_shapes, groundtruth = inputs
        if not self.task_config.init_checkpoint and self.task_config.model.feature_extractor.batch_norm_trainable:
            begin_statistics_anew(model, lambda: optimizer.iterations)
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        scaled = isinstance(optimizer, tf_keras.mixed_precision.LossScaleOptimizer)
        with tf.GradientTape() as tape:
            values = model.compute_losses(model(images, true_shapes, groundtruth, training=True))
            total = tf.add_n([*values.values(), *(tf.cast(loss, tf.float32) for loss in model.losses)])
            # Gradients are summed over replicas.
            objective = total / replicas
            objective = optimizer.get_scaled_loss(objective) if scaled else objective
        gradients = tape.gradient(objective, model.trainable_variables)
        gradients = optimizer.get_unscaled_gradients(gradients) if scaled else gradients
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        for metric in metrics or []:
            metric.update_state(values[metric.name])
        return {self.loss: total}
