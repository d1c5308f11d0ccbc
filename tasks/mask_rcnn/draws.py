"""What training draws at random, as functions of one seed for each image.

An image's draws follow from its seed and nothing else: not from the step before, the number of replicas, or the device. So a training that
was killed goes on with the draws that it would have made.
"""

from __future__ import annotations

import tensorflow as tf

# What an image's draws are for: each is a stream of its own.
ANCHORS, PROPOSALS, BOX_FEATURES, CLASS_FEATURES = range(4)

# Named, since TensorFlow would choose one by the device.
_ALGORITHM = "philox"


def random_subset(candidates: tf.Tensor, count: tf.Tensor | int, most: int, seed: tf.Tensor, stream: int) -> tf.Tensor:
    """A random subset of `count` of the `candidates`, bool [N], or all where they are fewer; bool [N].

    `count` is `most` or less. `seed` is the image's, int32 [2]. The best of random numbers are taken: unlike a shuffled list of candidates
    these have a size that is known before, so that no device has to wait until it is counted.
    """
    size = tf.size(candidates)
    numbers = tf.random.stateless_uniform([size], _stream(seed, stream), 0, tf.int32.max, tf.int32, alg=_ALGORITHM)
    # As int64, on which a GPU computes by itself; truth values it could not scatter.
    best, indices = (tf.cast(found, tf.int64) for found in tf.math.top_k(tf.where(candidates, numbers, -1), tf.minimum(most, size)))
    chosen = (best >= 0) & (tf.cast(tf.range(tf.size(best)), tf.int64) < tf.cast(count, tf.int64))
    return tf.tensor_scatter_nd_update(tf.zeros([size]), indices[:, tf.newaxis], tf.cast(chosen, tf.float32)) > 0.0


def dropout(features: tf.Tensor, rate: float, seeds: tf.Tensor, stream: int) -> tf.Tensor:
    """`features` [B * P, C], P rows for each image, of which a share of `rate` is zero and the rest made up for it.

    `seeds` int32 [B, 2].
    """
    rows = tf.shape(features)[0] // tf.shape(seeds)[0]
    shape = [rows, features.shape[-1]]

    def drawn(seed: tf.Tensor) -> tf.Tensor:
        return tf.random.stateless_uniform(shape, _stream(seed, stream), alg=_ALGORITHM)

    numbers = tf.map_fn(drawn, seeds, fn_output_signature=tf.TensorSpec([None, features.shape[-1]], tf.float32))
    kept = tf.reshape(numbers, tf.shape(features)) >= rate
    return tf.where(kept, features / (1.0 - rate), tf.zeros_like(features))


def _stream(seed: tf.Tensor, stream: int) -> tf.Tensor:
    return tf.random.fold_in(seed, stream, alg=_ALGORITHM)
