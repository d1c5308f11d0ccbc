"""Trains nothing, but runs loops of steps whose figures can be told beforehand, and prints what the step log read: JSON, by strategy.

A process of its own, since TensorFlow takes a second virtual device only before it is first used.
"""

from __future__ import annotations

import json
import os
import sys
import time

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

import orbit
import tensorflow as tf
from tensorflow.python.data.experimental.ops.testing import sleep

from tasks.training.step_log import StepLog

LOOPS = (1, 3, 5)
SLOW_BATCH = 0.03


class Trainer(orbit.StandardTrainer):
    """The nth step's batch is (2n, 2n + 1), a row for each of two replicas."""

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        self.strategy = strategy
        self.log = StepLog(strategy, most_steps=max(LOOPS))
        data = tf.data.Dataset.range(1000).batch(2, drop_remainder=True).apply(sleep(int(SLOW_BATCH * 1_000_000)))
        options = tf.data.Options()
        options.experimental_optimization.inject_prefetch = False
        super().__init__(strategy.experimental_distribute_dataset(data.with_options(options)))

    def train_step(self, iterator: object) -> None:
        def step(rows: tf.Tensor) -> None:
            mean = tf.reduce_mean(tf.cast(rows, tf.float32))
            mean = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, mean)
            self.log.write({"mean_row": mean, "third": mean / 3.0, "constant": tf.constant(7)})

        self.strategy.run(step, args=(self.log.timed(lambda: next(iterator)),))


def read(strategy: tf.distribute.Strategy) -> list[dict[str, object]]:
    with strategy.scope():
        trainer = Trainer(strategy)
        loops = []
        for steps in LOOPS:
            start = time.time()
            trainer.train(tf.constant(steps))
            end = time.time()
            loops.append({"start": start, "end": end, "rows": trainer.log.read(steps, end)})
    return loops


def main() -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategies = {
        "one": tf.distribute.get_strategy(),
        "one_device": tf.distribute.OneDeviceStrategy("CPU:0"),
        "mirrored": tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]),
    }
    json.dump({name: read(strategy) for name, strategy in strategies.items()}, sys.stdout)


if __name__ == "__main__":
    main()
