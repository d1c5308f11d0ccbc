"""What stored matches alone tell: no doubt is overlooked, and the images in doubt are those that a person would name."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.data_queue.doubts import find_doubts
from tasks.data_queue.evaluated import Things
from tasks.data_queue.screening import may_contradict, most_teaching, often_found
from tests.coco.scenes import found_of, matches_of, scenes, truth_of

HERE, THERE = [20, 20, 60, 60], [100, 100, 140, 140]


def one_image(number, boxes, found, scores):
    return truth_of(number, boxes, [0] * len(boxes)), found_of(found, scores, [0] * len(found))


def models(*images):
    """Matches of two models, from the objects of each image and what each of the two finds there: boxes and scores."""
    return {
        name: matches_of([one_image(number, boxes, *both[place]) for number, (boxes, *both) in enumerate(images, start=1)])
        for place, name in enumerate("ab")
    }


SURE, UNSURE, NONE = ([HERE], [1.0]), ([HERE], [0.5]), ([], [])


def test_doubt_is_greatest_where_models_differ_or_none_is_sure() -> None:
    matches = models(
        ([HERE], SURE, NONE),
        ([HERE], UNSURE, UNSURE),
        ([HERE], SURE, SURE),
        ([HERE], NONE, NONE),
        ([], ([THERE], [0.8]), NONE),
        ([], ([THERE], [0.2]), NONE),
        ([HERE, THERE], SURE, ([HERE, THERE], [1.0, 1.0])),
    )
    found = most_teaching(matches, np.zeros(7, bool), 10)
    # On nothing, 0.8 of one of two models is 0.4; below 0.3 a detection counts for nothing.
    assert [(one.image, one.score, one.objects, one.detections) for one in found] == [
        (0, 1.0, 1, 0),
        (1, 1.0, 1, 0),
        (6, 1.0, 1, 0),
        (4, pytest.approx(4 * 0.4 * 0.6), 0, 1),
    ]
    but = np.zeros(7, bool)
    but[0] = True
    assert [one.image for one in most_teaching(matches, but, 2)] == [1, 6]


def test_how_often_objects_of_a_class_and_size_are_found() -> None:
    small = [5, 5, 25, 25]
    matches = models(([HERE, small], SURE, NONE), ([THERE], NONE, ([THERE], [0.9])), ([small], ([small], [0.4]), ([small], [0.4])))
    # Of two medium ones each model finds one; of two small ones both find the second.
    assert often_found(matches).tolist() == [0.5, 0.5, 0.5, 0.5]
    assert often_found(models(([HERE, small], SURE, SURE))).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("seed", range(4))
def test_no_doubt_is_in_an_image_that_is_passed_over(seed: int) -> None:
    images = list(scenes(60, seed=seed))
    # The same model twice, which is of one mind, and a third that has lost some of it.
    random = np.random.default_rng(seed)
    fewer = []
    for truth, found in images:
        kept = random.random(len(found.scores)) < 0.9
        masks = [mask for mask, keep in zip(found.masks or (), kept, strict=True) if keep]
        fewer.append((truth, found_of(np.zeros((kept.sum(), 4)), found.scores[kept], found.categories[kept], masks=masks)))
    matches = {"a": matches_of(images), "b": matches_of(images), "c": matches_of(fewer)}
    able = may_contradict(matches, 0.5)
    doubted = []
    for number, ((truth, found), (_, less)) in enumerate(zip(images, fewer, strict=True)):
        objects = Things(truth.categories + 1, truth.boxes_xywh, truth.masks, np.ones(len(truth.categories)), truth.crowd)
        things = []
        for one in (found, found, less):
            kept = np.flatnonzero(one.scores >= 0.3).tolist()
            masks = [mask for place, mask in enumerate(one.masks or ()) if place in kept]
            crowd = np.zeros(len(kept), bool)
            things.append(Things(one.categories[kept] + 1, one.boxes_xywh[kept], masks, one.scores[kept], crowd))
        if find_doubts(objects, dict(zip("abc", things, strict=True)), 0.5, [0.5] * len(objects)):
            doubted.append(number)
    assert len(doubted) > 10
    assert able[doubted].all()
    assert not able.all()
