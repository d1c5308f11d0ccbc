"""A training of the original goes on here: its step, and its optimizer's next step by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tasks.checkpoints.keras_names import VALUE
from tasks.checkpoints.original_names import original_variables
from tasks.checkpoints.training_state import stored_training_state, take_over
from tasks.running.errors import UserError
from tasks.training.optimization import Momentum, RMSProp, create_state
from tests.checkpoints.keras_checkpoint import write_keras_checkpoint
from tests.checkpoints.test_importing import TinyModel, arbitrary_for
from tests.checkpoints.tf1_checkpoint import write_checkpoint

Optimizer = tf_keras.optimizers.Optimizer
KERNEL = "SecondStageBoxPredictor/ClassPredictor/weights"


def trained(model: TinyModel) -> list[str]:
    variables = {variable.ref(): name for name, variable in original_variables(model).items()}
    return [variables[variable.ref()] for variable in model.trainable_variables]


def slots_of(model: TinyModel, **values: float) -> dict[str, np.ndarray]:
    """TF1's slots of all trained variables, each filled with a value."""
    shapes = {name: variable.shape for name, variable in original_variables(model).items()}
    return {f"{name}/{slot}": np.full(shapes[name], value, np.float32) for name in trained(model) for slot, value in values.items()}


def step_after(model: TinyModel, optimizer: Optimizer, checkpoint: Path, gradient: float, train_steps: int = 500) -> tuple[str, float]:
    """What is said, and by how much a first step along one gradient everywhere moves a weight of a training that was taken over."""
    create_state(optimizer, model.trainable_variables)
    state = stored_training_state(model, checkpoint)
    assert state is not None
    global_step = tf.Variable(0, dtype=tf.int64)
    said = take_over(state, model, optimizer, global_step, train_steps)
    assert (global_step.numpy(), optimizer.iterations.numpy()) == (state.step, state.step)
    before = original_variables(model)[KERNEL].numpy()
    optimizer.apply_gradients([(tf.fill(variable.shape, gradient), variable) for variable in model.trainable_variables])
    moved = original_variables(model)[KERNEL].numpy() - before
    assert np.ptp(moved) < 1e-6
    return said, float(moved.mean())


def test_momentum_of_tf1_holds_gradients(tmp_path: Path) -> None:
    model = TinyModel(2)
    stored = arbitrary_for(model) | slots_of(model, Momentum=2.0) | {"global_step": np.int64(300)}
    checkpoint = write_checkpoint(tmp_path / "model.ckpt-300", stored)
    said, moved = step_after(model, Momentum(0.1, 0.9), checkpoint, 0.5)
    assert said == f"goes on from step 300 with the optimizer's state of {len(trained(model))} variables"
    # 0.9 * 2 + 0.5 = 2.3, times a rate of 0.1.
    assert moved == pytest.approx(-0.23, rel=1e-5)


def test_rmsprop_of_tf1(tmp_path: Path) -> None:
    model = TinyModel(2)
    stored = arbitrary_for(model) | slots_of(model, RMSProp=4.0, RMSProp_1=1.0) | {"global_step": np.int64(3)}
    _, moved = step_after(model, RMSProp(0.1, 0.5, 0.9, 0.0), write_checkpoint(tmp_path / "model.ckpt", stored), 2.0)
    # Mean square 0.5 * 4 + 0.5 * 2 * 2 = 4; 0.9 * 1 + 0.1 * 2 / 2 = 1.
    assert moved == pytest.approx(-1.0, rel=1e-5)


def keras_checkpoint(model: TinyModel, folder: Path, momentum: float) -> Path:
    """As TensorFlow 2 writes it: of this model's layers only heads have keys there, so that these stand for all."""
    layers = "model/_mask_rcnn_box_predictor/_class_prediction_head/_class_predictor_layers/1"
    values: dict[str, np.ndarray] = {f"step{VALUE}": np.array(40)}
    for leaf, name in (("kernel", "weights"), ("bias", "biases")):
        shape = original_variables(model)[f"SecondStageBoxPredictor/ClassPredictor/{name}"].shape
        values[f"{layers}/{leaf}{VALUE}"] = np.ones(shape, np.float32)
        values[f"{layers}/{leaf}/.OPTIMIZER_SLOT/optimizer/momentum{VALUE}"] = np.full(shape, momentum, np.float32)
    return write_keras_checkpoint(folder / "ckpt-4", values)


def test_momentum_of_tensorflow_2_holds_steps(tmp_path: Path) -> None:
    model = TinyModel(2)
    for part in model.parts:
        part.trainable = part.name == "SecondStageBoxPredictor/ClassPredictor"
    said, moved = step_after(model, tf_keras.optimizers.legacy.SGD(0.1, 0.9), keras_checkpoint(model, tmp_path, -0.2), 0.5)
    assert said == "goes on from step 40 with the optimizer's state of 2 variables"
    # 0.9 * -0.2 - 0.1 * 0.5.
    assert moved == pytest.approx(-0.23, rel=1e-5)


def test_momentum_of_the_other_kind_is_not_taken_and_that_is_said(tmp_path: Path) -> None:
    model = TinyModel(2)
    for part in model.parts:
        part.trainable = part.name == "SecondStageBoxPredictor/ClassPredictor"
    said, moved = step_after(model, Momentum(0.1, 0.9), keras_checkpoint(model, tmp_path, -0.2), 0.5)
    assert said == "goes on from step 40 with an optimizer that starts anew"
    assert moved == pytest.approx(-0.05, rel=1e-5)


def test_state_of_some_variables_only_is_not_taken(tmp_path: Path) -> None:
    model = TinyModel(2)
    slots = slots_of(model, Momentum=2.0)
    del slots[f"{KERNEL}/Momentum"]
    stored = arbitrary_for(model) | slots | {"global_step": np.int64(9)}
    said, moved = step_after(model, Momentum(0.1, 0.9), write_checkpoint(tmp_path / "model.ckpt", stored), 0.5)
    assert said == "goes on from step 9 with an optimizer that starts anew"
    assert moved == pytest.approx(-0.05, rel=1e-5)


def test_an_export_has_no_training_to_go_on_with(tmp_path: Path) -> None:
    model = TinyModel(2)
    assert stored_training_state(model, write_checkpoint(tmp_path / "model.ckpt", arbitrary_for(model))) is None


def test_a_training_that_is_over_is_refused_with_the_way_out(tmp_path: Path) -> None:
    model = TinyModel(2)
    checkpoint = write_checkpoint(tmp_path / "model.ckpt", arbitrary_for(model) | {"global_step": np.int64(500)})
    with pytest.raises(UserError, match=r"trained for 500 steps, and training is to end after 500\s+fix: raise train_config.num_steps"):
        step_after(model, Momentum(0.1, 0.9), checkpoint, 0.5, train_steps=500)
