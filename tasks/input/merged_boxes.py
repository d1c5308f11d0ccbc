"""Objects with several classes: records that name one box once per class, as those of AVA do, and a model that learns them together."""

from __future__ import annotations

import tensorflow as tf

_BINS = 10_000


def merge_equal_boxes(objects: dict[str, tf.Tensor], num_classes: int) -> dict[str, tf.Tensor]:
    """One object for all that have the same box to a ten-thousandth of the image, in the order of their first ones.

    Args:
      objects: N rows each, among them `boxes` float32 [N, 4] normalized and `classes` int32 [N], zero-based.
      num_classes: width of the sets, above every class.

    Returns:
      The rows of the first ones, with `classes` now the lowest of each object's and `class_sets` float32 [M, num_classes], 1 for every
      class that it has. The original merges boxes and classes, and leaves masks and weights to other objects; here they are the first's.
    """
    places = tf.cast(objects["boxes"] * (_BINS - 1), tf.int64)
    keys = tf.linalg.matvec(places, tf.constant([_BINS**power for power in range(4)], tf.int64))
    unique, owners = tf.unique(keys)
    count = tf.size(unique)
    firsts = tf.math.unsorted_segment_min(tf.range(tf.size(keys)), owners, count)
    sets = tf.math.unsorted_segment_max(tf.one_hot(objects["classes"], num_classes), owners, count)
    merged = {name: tf.gather(values, firsts) for name, values in objects.items()}
    return merged | {"classes": tf.argmax(sets, axis=1, output_type=tf.int32), "class_sets": sets}
