"""Exponential moving averages of the trained weights, beside them."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


class Averages(tf.Module):
    """An average of each variable, which begins with the variable's value and follows it: average += (1 - decay) * (variable - average).

    At step t, from 1 on, the decay is (1 + t) / (10 + t), up to `decay`: the rule of the original on TensorFlow 2, which forgets soon what
    it began with. Made in `strategy.scope()`; every replica has its own, and all are the same.
    """

    def __init__(self, variables: Sequence[tf.Variable], decay: float) -> None:
        super().__init__(name="averages")
        self._variables = list(variables)
        self._decay = decay
        self.values = [
            tf.Variable(
                tf.zeros(variable.shape, variable.dtype),
                trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )
            for variable in variables
        ]

    def begin(self) -> None:
        """Sets every average to its variable's value; before the first step."""
        for average, variable in zip(self.values, self._variables, strict=True):
            average.assign(variable)

    def update(self, step: tf.Tensor) -> None:
        """Moves every average towards its variable, in each replica after step `step`, int []."""
        step = tf.cast(step, tf.float32)
        decay = tf.minimum(self._decay, (1.0 + step) / (10.0 + step))
        for average, variable in zip(self.values, self._variables, strict=True):
            average.assign_sub((1.0 - decay) * (average - variable))
