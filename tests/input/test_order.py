"""The order of records: every one once an epoch, other orders for other epochs and seeds, and the same rows however work is shared."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tasks.input.order import RecordOrder, positions


def numbers(order: RecordOrder, first: int, end: int) -> list[int]:
    return [int(order(tf.constant(position, tf.int64))) for position in range(first, end)]


def test_every_record_is_there_once_an_epoch() -> None:
    order = RecordOrder(7, seed=3)
    epochs = [numbers(order, 7 * epoch, 7 * (epoch + 1)) for epoch in range(4)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(7))
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert numbers(RecordOrder(7, seed=4), 0, 7) != epochs[0]


def test_all_places_are_about_equally_likely() -> None:
    """Of 600 epochs of 3 records, each of the six orders is drawn about 100 times; 60 and 140 are four deviations away."""
    order = tf.function(RecordOrder(3, seed=0), input_signature=[tf.TensorSpec([], tf.int64)])
    drawn = [tuple(int(order(tf.constant(3 * epoch + place, tf.int64))) for place in range(3)) for epoch in range(600)]
    _, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(counts) == 6
    assert 60 < counts.min() <= counts.max() < 140


def test_not_shuffled_is_the_files_order() -> None:
    assert numbers(RecordOrder(3, seed=1, shuffled=False), 2, 8) == [2, 0, 1, 2, 0, 1]


def context(pipelines: int, pipeline: int, replicas: int) -> tf.distribute.InputContext:
    return tf.distribute.InputContext(pipelines, pipeline, replicas)


def taken(dataset: tf.data.Dataset, count: int) -> list[int]:
    return [int(value) for value in dataset.take(count)]


@pytest.mark.parametrize("first_step", [0, 5])
def test_pipelines_share_the_rows_of_one_global_batch(first_step: int) -> None:
    """Twelve rows a step: by one replica, by four on one machine, and by four on two machines, where each batch of three goes to one."""
    start = 12 * first_step
    assert taken(positions(12, None, first_step), 24) == list(range(start, start + 24))
    assert taken(positions(3, context(1, 0, 4), first_step), 24) == list(range(start, start + 24))
    first, second = (taken(positions(3, context(2, number, 4), first_step), 12) for number in range(2))
    assert first == [start + row for row in (0, 1, 2, 3, 4, 5, 12, 13, 14, 15, 16, 17)]
    assert second == [start + row for row in (6, 7, 8, 9, 10, 11, 18, 19, 20, 21, 22, 23)]
