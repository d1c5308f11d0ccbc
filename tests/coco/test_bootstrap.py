"""The resampled AP against pycocotools on ground truth in which images really stand several times."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tasks.coco.bootstrap import drawn_again, resampled_precision
from tasks.coco.figures import accumulated, summary
from tests.coco.scenes import coco_files, found_of, matches_of, pycocotools_evaluation, scenes, truth_of


def distinct(images):
    """With no two scores alike: copies of an image may set its own equal scores in another order."""
    rng = np.random.default_rng(0)
    return [(truth, dataclasses.replace(found, scores=rng.random(len(found.scores)))) for truth, found in images]


@pytest.mark.parametrize("kind", ["segm", "bbox"])
def test_an_image_drawn_twice_counts_twice(kind):
    images = distinct(scenes(14, seed=3))
    weights = np.concatenate([np.ones((1, 14), int), drawn_again(14, 12, seed=5)])
    resampled = resampled_precision(matches_of(images), weights, kind)
    repeated = []
    for row in weights:
        copies = [image for image, times in zip(images, row, strict=True) for _ in range(times)]
        numbered = [(dataclasses.replace(truth, image_id=str(n)), found) for n, (truth, found) in enumerate(copies, start=1)]
        repeated.append(pycocotools_evaluation(*coco_files(numbered, kind), kind).stats[0])
    np.testing.assert_allclose(resampled, repeated, atol=1e-12)
    assert np.ptp(resampled) > 0.02


def test_many_resamples_are_worked_on_by_parts(monkeypatch):
    matches = matches_of(list(scenes(14, seed=4)))
    weights = drawn_again(14, 50, seed=1)
    whole = resampled_precision(matches, weights)
    monkeypatch.setattr("tasks.coco.bootstrap._FEWEST_RESAMPLES", 1)
    monkeypatch.setattr("tasks.coco.bootstrap._MOST_NUMBERS", 100)
    np.testing.assert_array_equal(resampled_precision(matches, weights), whole)
    assert summary(accumulated(matches))[0] == pytest.approx(resampled_precision(matches, np.ones((1, 14), int))[0], abs=1e-12)


def test_every_resample_draws_as_many_images_as_there_are():
    weights = drawn_again(20, 4000)
    assert weights.shape == (4000, 20)
    assert (weights.sum(axis=1) == 20).all()
    # Multinomial: each count has the mean 1 and the variance 1 - 1/20.
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.06)
    np.testing.assert_allclose(weights.var(axis=0), 0.95, atol=0.12)


def test_a_resample_without_an_object_has_no_figure():
    images = [(truth_of(1, [], []), found_of([], [], []))]
    images.append((truth_of(2, [[0, 0, 40, 40]], [1]), found_of([[0, 0, 40, 30], [0, 0, 40, 40]], [0.9, 0.8], [1, 1])))
    matches = matches_of(images)
    resampled = resampled_precision(matches, np.array([[2, 0], [0, 2]]))
    assert np.isnan(resampled[0])
    assert resampled[1] == pytest.approx(summary(accumulated(matches))[0])


def test_nothing_detected_is_zero():
    matches = matches_of([(truth_of(1, [[0, 0, 9, 9]], [0]), found_of([], [], []))])
    assert resampled_precision(matches, np.array([[1]])).tolist() == [0.0]
