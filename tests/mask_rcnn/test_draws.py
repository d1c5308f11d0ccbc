"""Random draws: fair, and the same for the same image whatever is around it."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tasks.mask_rcnn import draws
from tasks.mask_rcnn.draws import dropout, random_subset

SEED = tf.constant([3, 8])


@pytest.mark.parametrize(("candidates", "count", "chosen"), [(range(3, 9), 4, 4), (range(3, 9), 7, 6), ([], 4, 0), (range(20), 0, 0)])
def test_a_subset_has_as_many_of_the_candidates_as_there_are(candidates: list[int], count: int, chosen: int) -> None:
    among = np.isin(np.arange(20), candidates)
    subset = random_subset(tf.constant(among), tf.constant(count), 9, SEED, draws.ANCHORS).numpy()
    assert subset.sum() == chosen
    assert not np.any(subset & ~among)


def test_every_candidate_is_taken_as_often_and_pairs_too() -> None:
    subset = tf.function(lambda image: random_subset(tf.fill([6], True), 2, 2, tf.stack([5, image]), draws.PROPOSALS))
    taken = np.stack([subset(tf.constant(image)).numpy() for image in range(1500)])
    # Of 1500 draws of 2 of 6 each is in 500, give or take 18, and each of the 15 pairs is 100, give or take 10.
    np.testing.assert_allclose(taken.sum(axis=0), 500, atol=75)
    pairs = np.unique(taken, axis=0, return_counts=True)[1]
    assert len(pairs) == 15
    np.testing.assert_allclose(pairs, 100, atol=40)


def test_images_and_streams_have_draws_of_their_own() -> None:
    everything = tf.fill([1000], True)

    def drawn(seed: list[int], stream: int) -> np.ndarray:
        return random_subset(everything, 500, 500, tf.constant(seed), stream).numpy()

    first = drawn([0, 0], draws.ANCHORS)
    np.testing.assert_array_equal(first, drawn([0, 0], draws.ANCHORS))
    for other in (drawn([0, 1], draws.ANCHORS), drawn([1, 0], draws.ANCHORS), drawn([0, 0], draws.PROPOSALS)):
        # Halves of 1000 that are drawn apart share 250, give or take 8.
        assert np.sum(first & other) == pytest.approx(250, abs=40)


def test_an_image_drops_the_same_features_alone_and_in_a_batch() -> None:
    features, seeds = tf.random.stateless_uniform([6, 40], [1, 1], 1.0, 2.0), tf.constant([[7, 4], [7, 5], [7, 6]])
    together = dropout(features, 0.5, seeds, draws.BOX_FEATURES)
    for image in range(3):
        rows = slice(2 * image, 2 * image + 2)
        alone = dropout(features[rows], 0.5, seeds[image : image + 1], draws.BOX_FEATURES)
        np.testing.assert_array_equal(together[rows], alone)
    kept = together.numpy() != 0
    np.testing.assert_allclose(together.numpy()[kept], 2 * features.numpy()[kept])
    assert 80 < kept.sum() < 160
