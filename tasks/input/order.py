"""Which record stands where in a training: a function of seed and position, so that any step can be sought.

A position counts the images of a training from 0, row by row of each global batch, whatever the number of replicas that share it.
"""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf


def positions(batch_size: int, context: tf.distribute.InputContext | None, first_step: int) -> tf.data.Dataset:
    """The positions, int64 scalars, that an input pipeline has to fill from `first_step` on, without end.

    Each of its replicas takes `batch_size` of them at each step, one replica after the other.
    """
    replicas, pipelines, pipeline = 1, 1, 0
    if context is not None:
        replicas, pipelines, pipeline = context.num_replicas_in_sync, context.num_input_pipelines, context.input_pipeline_id
    global_batch, rows = batch_size * replicas, batch_size * replicas // pipelines

    def position(count: tf.Tensor) -> tf.Tensor:
        return count // rows * global_batch + pipeline * rows + count % rows

    return tf.data.Dataset.range(first_step * rows, tf.int64.max).map(position)


@dataclass(frozen=True)
class RecordOrder:
    """Every epoch has each of `count` records once: in the order of their numbers, or shuffled anew by (`seed`, epoch).

    Where one stands that is `left_out`, by its number, the next of the epoch that is not stands once more.
    """

    count: int
    seed: int
    shuffled: bool = True
    left_out: frozenset[int] = frozenset()

    def __call__(self, position: tf.Tensor) -> tf.Tensor:
        """The record's number at a position, both int64 scalars."""
        place, epoch = position % self.count, position // self.count
        seed = tf.stack([tf.constant(self.seed, tf.int64), epoch])

        def number(place: tf.Tensor) -> tf.Tensor:
            if not self.shuffled:
                return place
            return tf.random.experimental.index_shuffle(place, seed, tf.constant(self.count - 1, tf.int64))

        if not self.left_out:
            return number(place)
        left_out = tf.constant(sorted(self.left_out), tf.int64)
        (place,) = tf.while_loop(lambda place: tf.reduce_any(number(place) == left_out), lambda place: [(place + 1) % self.count], [place])
        return number(place)
