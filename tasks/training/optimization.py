"""The original's optimizers and learning rates where Keras and Model Garden have none that is equal, offered to Model Garden's factory.

Keras multiplies a gradient by the learning rate before it enters the momentum, TensorFlow 1 the momentum when it is applied: the two part
when the rate changes. TensorFlow 1's RMSProp starts from a mean square of one, and adds epsilon under the root. Adam is the same in both.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf
import tf_keras
from official.modeling import optimization
from official.modeling.hyperparams import base_config
from official.modeling.optimization import optimizer_factory
from official.modeling.optimization.configs import optimization_config, optimizer_config

_ApplyState = dict[tuple[str, tf.DType], dict[str, tf.Tensor]]


def _state(optimizer: tf_keras.optimizers.legacy.Optimizer, var: tf.Variable, apply_state: _ApplyState) -> dict[str, tf.Tensor]:
    """Learning rate and constants on the variable's device, which Keras computes once per step."""
    key = var.device, var.dtype.base_dtype
    return apply_state.get(key) or optimizer._fallback_apply_state(*key)


def create_state(optimizer: tf_keras.optimizers.Optimizer, variables: list[tf.Variable]) -> None:
    """Makes the optimizer's count of steps and what it remembers of each variable's gradients, which it would make in its first step.

    So a checkpoint is restored whole before that, and no replica makes variables in a branch of the step.
    """
    optimizer._create_all_weights(variables)


class Momentum(tf_keras.optimizers.legacy.SGD):
    """a = momentum * a + g; w -= rate * a."""

    momentum_holds_gradients = True
    """Keras's own holds steps"""

    def _create_slots(self, var_list: list[tf.Variable]) -> None:
        for variable in var_list:
            self.add_slot(variable, "momentum")

    def _resource_apply_dense(self, grad: tf.Tensor, var: tf.Variable, apply_state: _ApplyState) -> tf.Operation:
        state = _state(self, var, apply_state)
        return tf.raw_ops.ResourceApplyMomentum(
            var=var.handle, accum=self.get_slot(var, "momentum").handle, lr=state["lr_t"], grad=grad, momentum=state["momentum"]
        )


class RMSProp(tf_keras.optimizers.legacy.RMSprop):
    """s = rho * s + (1 - rho) * g^2, from 1; a = momentum * a + rate * g / sqrt(s + epsilon); w -= a."""

    def _create_slots(self, var_list: list[tf.Variable]) -> None:
        for variable in var_list:
            self.add_slot(variable, "rms", "ones")
            self.add_slot(variable, "momentum")

    def _resource_apply_dense(self, grad: tf.Tensor, var: tf.Variable, apply_state: _ApplyState) -> tf.Operation:
        state = _state(self, var, apply_state)
        return tf.raw_ops.ResourceApplyRMSProp(
            var=var.handle,
            ms=self.get_slot(var, "rms").handle,
            mom=self.get_slot(var, "momentum").handle,
            lr=state["lr_t"],
            grad=grad,
            **{name: state[name] for name in ("rho", "momentum", "epsilon")},
        )


class Stepwise(tf_keras.optimizers.schedules.PiecewiseConstantDecay):
    """Keras's, without its branches: for each of them a GPU would have to tell the host first which one is taken."""

    def __init__(self, offset: int = 0, **decay: Any) -> None:
        super().__init__(**decay)
        self._offset = offset

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        step = tf.cast(step - self._offset, tf.float32)
        first, *later = self.values
        rate = tf.constant(first, tf.float32)
        for boundary, value in zip(self.boundaries, later, strict=True):
            rate = tf.where(step > float(boundary), value, rate)
        return rate


class ExponentialAfterBurnIn(tf_keras.optimizers.schedules.ExponentialDecay):
    """A rate of its own for `burnin_steps`, then an exponential decay from the initial one; at no time below `min_learning_rate`."""

    def __init__(self, burnin_learning_rate: float, burnin_steps: int, min_learning_rate: float, **decay: Any) -> None:
        super().__init__(**decay)
        self._burnin_learning_rate = burnin_learning_rate
        self._burnin_steps = burnin_steps
        self._min_learning_rate = min_learning_rate

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        late = tf.cast(step, tf.float32) - self._burnin_steps
        rate = tf.where(late < 0.0, self._burnin_learning_rate, super().__call__(tf.maximum(late, 0.0)))
        return tf.maximum(rate, self._min_learning_rate)


class CosineAfterHold(tf_keras.optimizers.schedules.CosineDecay):
    """The initial rate for `hold_steps`, then half a cosine down to zero in `decay_steps`."""

    def __init__(self, hold_steps: int, **decay: Any) -> None:
        super().__init__(**decay)
        self._hold_steps = hold_steps

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        return super().__call__(tf.maximum(tf.cast(step, tf.float32) - self._hold_steps, 0.0))


@dataclasses.dataclass
class MomentumConfig(optimizer_config.BaseOptimizerConfig):
    """Arguments of `Momentum`."""

    name: str = "Momentum"
    momentum: float = 0.9


@dataclasses.dataclass
class RMSPropConfig(optimizer_config.BaseOptimizerConfig):
    """Arguments of `RMSProp`."""

    name: str = "RMSProp"
    rho: float = 0.9
    momentum: float = 0.9
    epsilon: float = 1.0


@dataclasses.dataclass
class ExponentialAfterBurnInConfig(base_config.Config):
    """Arguments of `ExponentialAfterBurnIn`."""

    name: str = "ExponentialAfterBurnIn"
    initial_learning_rate: float = 0.002
    decay_steps: int = 4000000
    decay_rate: float = 0.95
    staircase: bool = True
    burnin_learning_rate: float = 0.002
    burnin_steps: int = 0
    min_learning_rate: float = 0.0


@dataclasses.dataclass
class CosineAfterHoldConfig(base_config.Config):
    """Arguments of `CosineAfterHold`."""

    name: str = "CosineAfterHold"
    initial_learning_rate: float = 0.002
    decay_steps: int = 4000000
    hold_steps: int = 0


@dataclasses.dataclass
class OptimizerConfig(optimization_config.OptimizerConfig):
    """Model Garden's choices, and ours."""

    momentum: MomentumConfig = dataclasses.field(default_factory=MomentumConfig)
    rms_prop: RMSPropConfig = dataclasses.field(default_factory=RMSPropConfig)


@dataclasses.dataclass
class LearningRateConfig(optimization_config.LrConfig):
    """Model Garden's choices, and ours."""

    exponential_after_burn_in: ExponentialAfterBurnInConfig = dataclasses.field(default_factory=ExponentialAfterBurnInConfig)
    cosine_after_hold: CosineAfterHoldConfig = dataclasses.field(default_factory=CosineAfterHoldConfig)


@dataclasses.dataclass
class OptimizationConfig(optimization.OptimizationConfig):
    """Model Garden's, over these choices; `moving_average_decay` above 0 keeps `Averages`, which its own `ema` is not."""

    moving_average_decay: float = 0.0
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    learning_rate: LearningRateConfig = dataclasses.field(default_factory=LearningRateConfig)


optimizer_factory.register_optimizer_cls("momentum", Momentum)
optimizer_factory.register_optimizer_cls("rms_prop", RMSProp)
optimizer_factory.LR_CLS |= {
    "stepwise": Stepwise,
    "exponential_after_burn_in": ExponentialAfterBurnIn,
    "cosine_after_hold": CosineAfterHold,
}
