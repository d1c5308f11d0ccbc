"""A training step: what it answers, and what becomes of it where a loss or a gradient is no number."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tasks.input.config import DataConfig
from tasks.mask_rcnn import config
from tasks.mask_rcnn.model import MaskRCNN, Tensors
from tasks.training.experiment import MaskRCNNTask as TaskConfig
from tasks.training.optimization import Momentum, create_state
from tasks.training.task import (
    APPLIED,
    FINITE,
    GRADIENT_NORM,
    LEARNING_RATE,
    OBJECTS_CUT_OFF,
    POSITIVE_ANCHORS,
    POSITIVE_PROPOSALS,
    SAMPLED_ANCHORS,
    SAMPLED_PROPOSALS,
    TOTAL_LOSS,
    Inputs,
    MaskRCNNTask,
)
from tests.parity.reference import weighted

SETTINGS = config.MaskRCNN(
    num_classes=3,
    feature_extractor=config.FeatureExtractor(type="faster_rcnn_inception_v2", batch_norm_trainable=True),
    anchors=config.GridAnchorGenerator(height=32, width=32),
    first_stage=config.FirstStage(minibatch_size=16, max_proposals=12),
    second_stage=config.SecondStage(batch_size=6),
    mask_head=config.MaskHead(conv_depth=4),
)
FIRST_STAGE = SETTINGS.replace(number_of_stages=1)
SCHEDULE = tf_keras.optimizers.schedules.PiecewiseConstantDecay([0], [0.5, 0.25])


def batch(model: MaskRCNN, *positions: int) -> Inputs:
    """Images of noise, each with two objects where the model proposes some."""
    shape = [len(positions), 64, 64]
    images = tf.random.stateless_uniform([*shape, 3], [4, 4], 0.0, 255.0)
    shapes = tf.fill([len(positions), 2], 64)
    truth = {
        "boxes": model.propose(images, shapes, training=True)["proposal_boxes_normalized"][:, :2],
        "classes": tf.tile([[0, 2]], [len(positions), 1]),
        "num_boxes": tf.fill([len(positions)], 2),
        "weights": tf.ones([len(positions), 2]),
        "masks": tf.ones([len(positions), 2, 64, 64], tf.uint8),
        "position": tf.constant(positions, tf.int64),
    }
    return images, shapes, truth


Step = Callable[[Inputs], Tensors]


class Training:
    """A model, its optimizer and the step of both, compiled once."""

    def __init__(self, optimizer: tf_keras.optimizers.Optimizer, settings: config.MaskRCNN = SETTINGS) -> None:
        self.task = MaskRCNNTask(TaskConfig(init_checkpoint="given", model=settings, train_data=DataConfig(seed=2)))
        self.model = weighted(settings, 0)
        self.optimizer = optimizer
        create_state(optimizer, self.model.trainable_variables)
        self.step: Step = tf.function(lambda inputs: self.task.train_step(inputs, self.model, optimizer))

    def state(self) -> list[np.ndarray]:
        """Everything that a step may change but the count of steps; the trained weights first."""
        slots = [variable for variable in self.optimizer.variables() if variable is not self.optimizer.iterations]
        return [variable.numpy() for variable in (*self.model.trainable_variables, *self.model.non_trainable_variables, *slots)]


@pytest.fixture(scope="module")
def training() -> Training:
    return Training(Momentum(SCHEDULE, momentum=0.9, global_clipnorm=1e-3))


def test_a_step_answers_with_its_figures_and_clips_by_the_norm_that_it_tells(training: Training) -> None:
    inputs = batch(training.model, 10, 11)
    inputs[2]["objects_cut_off"] = tf.constant([3, 0])
    before = [variable.numpy() for variable in training.model.trainable_variables]
    figures = {name: float(value) for name, value in training.step(inputs).items()}
    losses = [value for name, value in figures.items() if name.startswith("Loss/") and name != TOTAL_LOSS]
    assert len(losses) == 5
    assert figures[TOTAL_LOSS] == pytest.approx(sum(losses), rel=1e-6)
    assert (figures[FINITE], figures[APPLIED], figures[LEARNING_RATE]) == (1, 1, 0.5)
    # Every object has an anchor, and at most half of the sample are positive. Objects are proposals, and a quarter of 6 is 1.
    assert (figures[SAMPLED_ANCHORS], figures[SAMPLED_PROPOSALS], figures[POSITIVE_PROPOSALS]) == (16, 6, 1)
    assert 1 <= figures[POSITIVE_ANCHORS] <= 8
    assert figures[OBJECTS_CUT_OFF] == 1.5
    # The first step of momentum goes along the gradient: its length is the rate times the norm that was left.
    moved = [variable.numpy() - old for variable, old in zip(training.model.trainable_variables, before, strict=True)]
    assert figures[GRADIENT_NORM] > 1e-3
    assert np.sqrt(sum(np.sum(np.square(change, dtype=np.float64)) for change in moved)) == pytest.approx(0.5e-3, rel=1e-3)
    assert float(training.step(inputs)[LEARNING_RATE]) == 0.25


def test_what_is_drawn_follows_from_position_and_seed(training: Training) -> None:
    def sampled(*positions: int, seed: int = 2) -> np.ndarray:
        training.task.task_config.train_data.seed = seed
        images, shapes, truth = batch(training.model, *positions)
        truth["seeds"] = training.task._seeds(truth["position"])
        outputs = training.model(images, shapes, truth, training=True)
        training.task.task_config.train_data.seed = 2
        return outputs["rpn_sampled"].numpy()

    first = sampled(10, 11)
    np.testing.assert_array_equal(first, sampled(10, 11))
    for other in (sampled(10, 12), sampled(10, 11, seed=3)):
        assert np.any(first[1] != other[1])


def test_a_step_of_no_number_is_left_out_and_counted(training: Training) -> None:
    good = batch(training.model, 0, 1)
    training.step(good)
    before, steps = training.state(), int(training.optimizer.iterations)
    figures = training.step((good[0] * tf.constant([[[[1.0]]], [[[np.nan]]]]), *good[1:]))
    assert (figures[FINITE], figures[APPLIED]) == (0, 0)
    assert int(training.optimizer.iterations) == steps + 1
    for old, new in zip(before, training.state(), strict=True):
        np.testing.assert_array_equal(old, new)
    # Nor is the loss of an object whose weight is none.
    figures = training.step((*good[:2], good[2] | {"weights": tf.constant([[1.0, np.nan], [1.0, 1.0]])}))
    assert not np.isfinite(figures[TOTAL_LOSS])
    assert (figures[FINITE], figures[APPLIED]) == (0, 0)
    for old, new in zip(before, training.state(), strict=True):
        np.testing.assert_array_equal(old, new)
    # And the training goes on.
    figures = training.step(good)
    assert (figures[FINITE], figures[APPLIED]) == (1, 1)
    assert any(np.any(old != new) for old, new in zip(before, training.state(), strict=True))


def test_a_gradient_of_no_number_is_left_out_where_the_loss_is_one() -> None:
    training = Training(Momentum(0.1, momentum=0.9), FIRST_STAGE)
    inputs = batch(training.model, 0)
    kernel = training.model.rpn.conv.kernel
    kept = kernel.numpy()
    # The root of nothing is nothing, and it begins upright.
    training.model.add_loss(lambda: tf.reduce_sum(tf.sqrt(tf.abs(kernel - kept))))
    before = training.state()
    figures = training.step(inputs)
    assert np.isfinite(figures[TOTAL_LOSS])
    assert (figures[FINITE], figures[APPLIED]) == (0, 0)
    for old, new in zip(before, training.state(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_loss_scale_that_is_too_large_is_no_fault() -> None:
    optimizer = tf_keras.mixed_precision.LossScaleOptimizer(Momentum(0.1, momentum=0.9), initial_scale=2.0**127)
    # The scale is a float32's largest, so a loss of some hundreds is too much for it.
    training = Training(optimizer, FIRST_STAGE.replace(first_stage={"objectness_loss_weight": 1000.0}))
    inputs = batch(training.model, 0, 1)
    before = training.state()
    figures = training.step(inputs)
    assert (figures[FINITE], figures[APPLIED]) == (1, 0)
    assert float(optimizer.loss_scale) == 2.0**126
    weights = len(training.model.trainable_variables)
    for old, new in zip(before[:weights], training.state()[:weights], strict=True):
        np.testing.assert_array_equal(old, new)
    # A loss that is no number says nothing of the scale.
    figures = training.step((inputs[0] * np.nan, *inputs[1:]))
    assert (figures[FINITE], figures[APPLIED]) == (0, 0)
    assert float(optimizer.loss_scale) == 2.0**126


REPLICAS = Path(__file__).with_name("two_replicas.py")


def test_two_replicas_take_the_step_of_one_with_both_their_batches() -> None:
    done = subprocess.run([sys.executable, REPLICAS], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
