"""The figures of every step, kept beside the model while a loop of steps runs in one graph, and read once after it.

Orbit runs many steps inside one call of a `tf.function`, and its metrics are means over the loop. Here each replica keeps the figures of
the last steps in a variable of its own: a step writes there and nowhere else, and nothing waits for the host until the loop is over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf
from official.core import base_trainer

from tasks.training.step_file import TIME

SECONDS, INPUT_WAIT = "step/seconds", "step/input_wait_seconds"

_Batch = TypeVar("_Batch")


class StepLog:
    """What `train_step` answers, for each of the last `most_steps` steps, and when each asked for its batch and had it.

    Made before the trainer and outside of `strategy.scope()`. None of it is part of a checkpoint.
    """

    def __init__(self, strategy: tf.distribute.Strategy, most_steps: int, most_figures: int = 32) -> None:
        self._strategy = strategy
        self._most_steps, self._most_figures = most_steps, most_figures
        self._names: list[str] = []
        with strategy.scope():
            # Rows are moved up by one and the newest is the last: no index that a device would have to fetch from the host.
            self._figures = tf.Variable(
                tf.zeros([most_steps, most_figures]),
                trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )
        with tf.device("CPU:0"):
            self._batch_times = tf.Variable(tf.zeros([most_steps, 2], tf.float64), trainable=False)

    def write(self, figures: Mapping[str, tf.Tensor]) -> None:
        """Keeps the scalars of this step, those of the whole batch, the same on every replica; once a step, always with the same names."""
        if not self._names:
            if len(figures) > self._most_figures:
                raise ValueError(f"{len(figures)} figures, and room for {self._most_figures}")
            self._names = list(figures)
        row = tf.stack([tf.cast(figures[name], tf.float32) for name in self._names])
        row = tf.pad(row, [[0, self._most_figures - len(self._names)]])
        self._figures.assign(tf.concat([self._figures.read_value()[1:], row[tf.newaxis]], axis=0))

    def timed(self, next_batch: Callable[[], _Batch]) -> _Batch:
        """The next batch, with the times when it was asked for and when it was there; once a step, before the replicas part."""
        with tf.device("CPU:0"):
            asked = _now()
        with tf.control_dependencies([asked]):
            batch = next_batch()
        tensors = [tensor for part in tf.nest.flatten(batch) for tensor in self._strategy.experimental_local_results(part)]
        with tf.device("CPU:0"), tf.control_dependencies(tensors):
            times = tf.stack([asked, _now()])
            self._batch_times.assign(tf.concat([self._batch_times.read_value()[1:], times[tf.newaxis]], axis=0))
        return batch

    def read(self, steps: int, end: float) -> list[dict[str, float]]:
        """The figures of the last `steps` steps, oldest first; `end` is the time at which the last one was done, seconds since 1970.

        Beside what `write` was given: `time` at which the step was done, `step/seconds` since it asked for its batch, and of these
        `step/input_wait_seconds` until it had it. A step lasts until the next asks. On a GPU the host asks while the device still works on
        the step before, so the wait is an upper bound of the time that the device has nothing to do.
        """
        if steps > self._most_steps:
            raise ValueError(f"{steps} steps in a loop, and room for {self._most_steps}")
        figures = self._figures.read_value().numpy()[-steps:, : len(self._names)]
        asked, had = np.maximum.accumulate(self._batch_times.numpy()[-steps:], axis=0).T
        done = np.append(asked[1:], max(end, asked[-1]))
        return [
            {TIME: float(done[row]), SECONDS: float(done[row] - asked[row]), INPUT_WAIT: float(min(had[row], done[row]) - asked[row])}
            | dict(zip(self._names, map(_shortest, figures[row]), strict=True))
            for row in range(steps)
        ]


class LoggedTrainer(base_trainer.Trainer):
    """Model Garden's trainer, whose task has a `step_log` that times the input."""

    def next_train_inputs(self, iterator: Any) -> Any:
        return self.task.step_log.timed(lambda: super(LoggedTrainer, self).next_train_inputs(iterator))


def _now() -> tf.Tensor:
    """Seconds since 1970, float64 []; by Python, since TensorFlow's own operation refuses to run among deterministic ones."""
    return tf.ensure_shape(tf.numpy_function(lambda: np.float64(time.time()), [], tf.float64), [])


def _shortest(value: np.float32) -> float:
    """The number of the fewest digits that is still this float32."""
    return float(str(value))
