"""A training step by itself: counted at a given size without running, or run on the records."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable
from typing import Any

import tensorflow as tf
import tf_keras
from official.core import config_definitions as cfg

from tasks.mask_rcnn.model import MaskRCNN
from tasks.planning.batch_shapes import BatchShape
from tasks.planning.graph_operations import Assumed, OperationCount, count_operations
from tasks.training.averages import Averages
from tasks.training.optimization import create_state
from tasks.training.precision import computing_in, precision_of
from tasks.training.step_log import StepLog
from tasks.training.task import MaskRCNNTask


@dataclasses.dataclass(frozen=True)
class StepCount:
    """Of one step on one device; bytes."""

    shape: BatchShape
    operations: OperationCount
    parameters: int
    weight_bytes: int
    optimizer_bytes: int
    """The optimizer's own variables: momenta, or what else it remembers"""
    average_bytes: int = 0
    """Moving averages of the weights"""

    @property
    def variable_bytes(self) -> int:
        return self.weight_bytes + self.optimizer_bytes + self.average_bytes


class FullSample(MaskRCNN):
    """The network with as many positives as the sampler allows: a number that is known before anything runs, and the most there can be."""

    def mask_rows(self, target_classes: tf.Tensor) -> tf.Tensor:
        allowed = target_classes.shape[0] * self.config.most_positives
        background = tf.reshape(target_classes == 0, [-1])
        return tf.argsort(tf.cast(background, tf.int32), stable=True)[: max(allowed, 1)]


def count_step(experiment: cfg.ExperimentConfig, *shapes: BatchShape) -> list[StepCount]:
    """What a step computes and holds at each of the shapes, with as many positives as there can be."""
    experiment = copy.deepcopy(experiment)
    # A compiled network is a single operation in the graph; what it computes is the same.
    experiment.task.model.jit_compile = False
    step = TrainingStep(experiment, FullSample)
    counted = {shape: step.count(shape) for shape in shapes}
    return [counted[shape] for shape in shapes]


class TrainingStep:
    """The model with its optimizer, and the step that trains it: to be counted at any size, or run on the records."""

    def __init__(self, experiment: cfg.ExperimentConfig, network: type[MaskRCNN] = MaskRCNN, step_log: StepLog | None = None) -> None:
        self._experiment = copy.deepcopy(experiment)
        self._precision = precision_of(experiment)
        with computing_in(self._precision):
            self._task = MaskRCNNTask(self._experiment.task)
            self._task.step_log = step_log
            self.model = network(self._experiment.task.model)
            self.optimizer = self._task.create_optimizer(experiment.trainer.optimizer_config, experiment.runtime)
            create_state(self.optimizer, self.model.trainable_variables)
            decay = experiment.trainer.optimizer_config.moving_average_decay
            self._task.averages = Averages(self.model.trainable_variables, decay) if decay > 0.0 else None
        self.dataset: tf.data.Dataset = self._task.build_inputs(self._experiment.task.train_data)
        """The batches that training would see"""
        # One program for batches of any size, as the trainer's loop.
        self._run = tf.function(self.step, input_signature=self.dataset.element_spec)

    def step(self, *batch: Any) -> dict[str, Any]:
        """`Task.train_step`, for a graph of the caller's."""
        return self._task.train_step(batch, self.model, self.optimizer)

    def run(self, *batch: Any) -> dict[str, Any]:
        """Takes a step on a batch of `dataset`; answers as `Task.train_step`."""
        with computing_in(self._precision):
            answer: dict[str, Any] = self._run(*batch)
            return answer

    def graph(self, shape: BatchShape) -> tf.Graph:
        """The graph of a step on a batch of this shape."""
        data = copy.deepcopy(self._experiment.task.train_data)
        data.global_batch_size = shape.images
        images, true_shapes, truth = self._task.build_inputs(data).element_spec
        lengths = {"mask_rows": shape.height, "mask_columns": shape.width, "mask_pixels": shape.objects * shape.height * shape.width}
        batch = (
            _of_lengths(images, shape.images, shape.height, shape.width),
            _of_lengths(true_shapes, shape.images),
            {name: _of_lengths(element, shape.images, lengths.get(name, shape.objects)) for name, element in truth.items()},
        )
        with computing_in(self._precision):
            return tf.function(self.step).get_concrete_function(*batch).graph

    def count(self, shape: BatchShape) -> StepCount:
        """What a step on a batch of this shape computes and holds."""
        anchors = self._experiment.task.model.anchors
        cells = -(-shape.height // anchors.height_stride) * -(-shape.width // anchors.width_stride)
        assumed = Assumed(
            iterations=shape.images,
            length=cells * len(anchors.scales) * len(anchors.aspect_ratios),
            second_length=shape.objects,
        )
        operations = count_operations(self.graph(shape), assumed)
        averages = self._task.averages.values if self._task.averages else []
        return StepCount(
            shape,
            operations,
            self.model.count_params(),
            weight_bytes=_bytes(self.model.variables),
            optimizer_bytes=_bytes(_variables(self.optimizer)),
            average_bytes=_bytes(averages),
        )


def _of_lengths(element: tf.TensorSpec, *lengths: int) -> tf.TensorSpec:
    """An element of a batch whose first lengths, as far as they are unknown, are these. Masks are taken to fill their images, at most."""
    known = element.shape.as_list()
    wanted = [*lengths, *known[len(lengths) :]]
    return tf.TensorSpec([want if have is None else have for have, want in zip(known, wanted, strict=False)], element.dtype)


def _variables(optimizer: tf_keras.optimizers.Optimizer) -> list[tf.Variable]:
    found = optimizer.variables
    return list(found() if callable(found) else found)


def _bytes(variables: Iterable[tf.Variable]) -> int:
    return sum(variable.shape.num_elements() * variable.dtype.size for variable in variables)
