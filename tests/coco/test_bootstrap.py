"""The resampled AP against pycocotools on ground truth in which images really stand several times."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from tasks.coco.bootstrap import drawn_again, resampled_precision
from tasks.coco.metrics import CocoEvaluator

SIDE = 96


def mask_of(box):
    mask = np.zeros((SIDE, SIDE), np.uint8, order="F")
    top, left, bottom, right = np.round(box).astype(int)
    mask[top:bottom, left:right] = 1
    return coco_mask.encode(mask)


def scenes(images, seed):
    """(boxes, ids, crowd flags), (boxes, scores, ids) of each image: objects of three categories, and what was found of them."""
    rng = np.random.default_rng(seed)
    for _ in range(images):
        count = int(rng.integers(0, 5))
        corners = rng.uniform(0, 50, (count, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(8, 40, (count, 2))], axis=1)
        ids, crowd = rng.integers(1, 4, count), rng.random(count) < 0.1
        extra = rng.uniform(0, 40, (int(rng.integers(0, 3)), 2))
        found = np.concatenate([boxes + rng.normal(0, 3, boxes.shape), np.concatenate([extra, extra + 20], axis=1)])
        found = np.clip(found, 0, SIDE)
        found_ids = np.concatenate([ids, rng.integers(1, 4, len(extra))])
        yield (boxes, ids, crowd), (found, rng.random(len(found)), found_ids)


def evaluator(images, repeated):
    made = CocoEvaluator([(1, "a"), (2, "b"), (3, "c")])
    number = 0
    for ((boxes, ids, crowd), (found, scores, found_ids)), times in zip(images, repeated, strict=True):
        for _ in range(times):
            number += 1
            made.add_groundtruth(number, SIDE, SIDE, boxes, ids, [mask_of(b) for b in boxes], is_crowd=crowd)
            made.add_detections(number, found, scores, found_ids, [mask_of(b) for b in found])
    return made


@pytest.mark.parametrize(("iou_type", "metric"), [("segm", "DetectionMasks_Precision/mAP"), ("bbox", "DetectionBoxes_Precision/mAP")])
def test_an_image_drawn_twice_counts_twice(iou_type, metric):
    images = list(scenes(14, seed=3))
    weights = np.concatenate([np.ones((1, 14), int), drawn_again(14, 12, seed=5)])
    once = evaluator(images, [1] * 14)
    resampled = resampled_precision(once.groundtruth_json(), once.detections_json(iou_type), weights, iou_type)
    repeated = [evaluator(images, row).evaluate()[metric] for row in weights]
    # Equal scores of an image's copies may stand in another order among themselves, which changes nothing.
    np.testing.assert_allclose(resampled, repeated, atol=1e-9)
    assert np.ptp(resampled) > 0.02


def test_every_resample_draws_as_many_images_as_there_are():
    weights = drawn_again(20, 4000)
    assert weights.shape == (4000, 20)
    assert (weights.sum(axis=1) == 20).all()
    # Multinomial: each count has the mean 1 and the variance 1 - 1/20.
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.06)
    np.testing.assert_allclose(weights.var(axis=0), 0.95, atol=0.12)


def test_a_resample_without_an_object_has_no_figure():
    images = [((np.zeros((0, 4)), np.zeros(0, int), np.zeros(0, bool)), (np.zeros((0, 4)), np.zeros(0), np.zeros(0, int)))]
    images.append(next(scene for scene in scenes(9, seed=1) if len(scene[0][0]) and not scene[0][2].any()))
    made = evaluator(images, [1, 1])
    resampled = resampled_precision(made.groundtruth_json(), made.detections_json("segm"), np.array([[2, 0], [0, 2]]), "segm")
    assert np.isnan(resampled[0])
    assert resampled[1] == pytest.approx(made.evaluate()["DetectionMasks_Precision/mAP"])


def test_nothing_detected_is_zero():
    made = CocoEvaluator([(1, "a")])
    made.add_groundtruth(1, SIDE, SIDE, [[0, 0, 9, 9]], [1], [mask_of((0, 0, 9, 9))])
    assert resampled_precision(made.groundtruth_json(), [], np.array([[1]]), "segm").tolist() == [0.0]
