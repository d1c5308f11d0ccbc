"""One size of images for all replicas of a step: what is padded around an image is seen by the network, so that size changes its losses."""

from __future__ import annotations

import tensorflow as tf

from tasks.mask_rcnn.model import Tensors


def padded_alike(images: tf.Tensor, groundtruth: Tensors) -> tuple[tf.Tensor, Tensors]:
    """A replica's images, and what of the ground truth has their size, padded with zeros to the largest of all replicas' batches.

    To be called in a replica; `images` and `groundtruth` are as `training_dataset` makes them. One input pipeline pads alike what it feeds,
    so this is for several.
    """
    replica = tf.distribute.get_replica_context()
    size = tf.cast(tf.shape(images)[1:3], tf.float32)
    # A sum of rows, of which each replica fills its own: there is no maximum over replicas.
    rows = tf.one_hot(replica.replica_id_in_sync_group, replica.num_replicas_in_sync)[:, tf.newaxis] * size
    largest = tf.reduce_max(replica.all_reduce(tf.distribute.ReduceOp.SUM, rows), axis=0)
    down, across = tf.unstack(tf.cast(largest, tf.int32) - tf.shape(images)[1:3])
    padding = {"mask_rows": [[0, 0], [0, down]], "mask_columns": [[0, 0], [0, across]]}
    padded = {name: tf.pad(value, padding[name]) for name, value in groundtruth.items() if name in padding}
    return tf.pad(images, [[0, 0], [0, down], [0, across], [0, 0]]), groundtruth | padded
