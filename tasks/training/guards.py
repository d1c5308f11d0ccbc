"""What stands between a bad batch and the weights: a step along gradients that are no numbers is not taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras

from tasks.training.averages import Averages


def is_finite(values: Sequence[tf.Tensor]) -> tf.Tensor:
    """Whether no value of any tensor is infinite or NaN, bool []."""
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(value)) for value in values])


def scales_dynamically(optimizer: tf_keras.optimizers.Optimizer) -> bool:
    """Whether the optimizer looks for the largest loss scale by itself: then gradients that are infinite now and then are its way."""
    return isinstance(optimizer, tf_keras.mixed_precision.LossScaleOptimizer) and optimizer.dynamic


def step_if(
    finite: tf.Tensor,
    optimizer: tf_keras.optimizers.Optimizer,
    gradients: Sequence[tf.Tensor],
    variables: Sequence[tf.Variable],
    averages: Averages | None = None,
) -> None:
    """Takes the optimizer's step along `gradients`, summed over the replicas, where `finite`; else only counts it.

    Both are the same on every replica. A step that is only counted changes neither weights nor their averages nor what the optimizer
    remembers of earlier gradients, and the learning rate goes on by it.
    """

    def take(gradients: Sequence[tf.Tensor]) -> None:
        optimizer.apply_gradients(zip(gradients, variables, strict=True), experimental_aggregate_gradients=False)
        if averages is not None:
            averages.update(optimizer.iterations)

    def count() -> None:
        optimizer.iterations.assign_add(1, read_value=False)

    if tf.__internal__.distribute.strategy_supports_no_merge_call():
        tf.cond(finite, lambda: take(gradients), count)
        return

    # Replicas that meet for an update cannot do so in a branch of each: the branch is one of all, as in Keras's LossScaleOptimizer.
    def together(strategy: tf.distribute.Strategy, finite: Any, gradients: Any) -> None:
        first, *_ = strategy.experimental_local_results(finite)
        tf.cond(first, lambda: strategy.extended.call_for_each_replica(take, args=(gradients,)), count)

    tf.distribute.get_replica_context().merge_call(together, args=(finite, list(gradients)))
