"""Contradictions of labels, on boxes that are laid by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.data_queue.doubts import LOOSE, MISSING, UNSEEN, WRONG_CLASS, find_doubts
from tasks.data_queue.evaluated import Things
from tests.coco.scenes import box_mask, xywh

APPLE, PEAR = 1, 2
HERE, THERE, HALF = [20, 20, 60, 60], [100, 100, 140, 140], [20, 20, 60, 40]  # ymin, xmin, ymax, xmax
SHIFTED = [20, 24, 60, 64]  # overlaps HERE by 36 / 44


def things(boxes: list[list[int]], categories: list[int], scores: list[float] | None = None, crowd: list[bool] | None = None) -> Things:
    return Things(
        np.array(categories, np.int64),
        xywh(boxes),
        [box_mask(box) for box in boxes],
        np.array([1.0] * len(boxes) if scores is None else scores),
        np.array([False] * len(boxes) if crowd is None else crowd, bool),
    )


def found(objects: Things, *models: Things, expected: float = 0.9):
    named = {f"model {number}": one for number, one in enumerate(models)}
    return [
        (one.kind, one.object, one.category_id, round(one.score, 4)) for one in find_doubts(objects, named, 0.5, [expected] * len(objects))
    ]


def test_all_models_call_it_something_else() -> None:
    label = things([HERE, THERE], [APPLE, APPLE])
    models = [things([HERE, THERE], [PEAR, APPLE], [0.9, 0.9]), things([SHIFTED, THERE], [PEAR, APPLE], [0.8, 0.9])]
    # 0.8 times the overlap of the two.
    assert found(label, *models) == [(WRONG_CLASS, 0, PEAR, round(0.8 * 36 / 44, 4))]
    # A model that sees the labelled class there too takes as much from it as it is sure, and all of it where it is sure.
    unsure = things([HERE, SHIFTED, THERE], [PEAR, APPLE, APPLE], [0.9, 0.4, 0.9])
    assert found(label, models[1], unsure) == [(WRONG_CLASS, 0, PEAR, round(0.8 * 36 / 44 * 0.6, 4))]
    sure = things([HERE, SHIFTED, THERE], [PEAR, APPLE, APPLE], [0.9, 0.5, 0.9])
    assert found(label, models[1], sure) == []
    # Not where one model is unsure, calls it right, or where the object is labelled twice, under both names.
    assert found(label, models[0], things([HERE, THERE], [PEAR, APPLE], [0.45, 0.9])) == []
    assert found(label, models[0], things([HERE, THERE], [APPLE, APPLE])) == []
    assert found(things([HERE, HERE, THERE], [APPLE, PEAR, APPLE]), *models) == []


def test_all_models_see_what_is_not_labelled() -> None:
    models = [things([HERE, THERE], [PEAR, APPLE], [0.9, 0.7]), things([HERE, THERE], [PEAR, APPLE], [0.8, 0.9])]
    label = things([HERE], [PEAR])
    assert found(label, *models) == [(MISSING, None, APPLE, 0.7)]
    assert found(things([], []), *models) == [(MISSING, None, PEAR, 0.8), (MISSING, None, APPLE, 0.7)]
    # Not on a crowd, not where they see different classes, and not what one model of three misses.
    assert found(things([HERE, [90, 90, 200, 200]], [PEAR, APPLE], crowd=[False, True]), *models) == []
    assert found(label, models[0], things([HERE, THERE], [PEAR, PEAR])) == []
    assert found(label, *models, things([HERE], [PEAR])) == []


def test_two_things_of_a_class_are_two() -> None:
    both = things([HERE, THERE], [APPLE, APPLE], [0.9, 0.8])
    assert found(things([], []), both, both.some([1, 0])) == [(MISSING, None, APPLE, 0.9), (MISSING, None, APPLE, 0.8)]


def test_all_models_agree_on_another_outline() -> None:
    models = [things([HERE], [APPLE], [0.9]), things([SHIFTED], [APPLE], [0.8])]
    # The half of it overlaps the first by 1 / 2, the second, shifted, by 16 / 44; both overlap each other by 36 / 44.
    assert found(things([HALF], [APPLE]), *models) == [(LOOSE, 0, APPLE, round(0.8 * (36 / 44 - 0.5), 4))]
    assert found(things([HERE], [APPLE]), *models) == []
    # A label about two things is loose about the nearer one alone; one beside another that is right is not in doubt.
    assert found(things([HALF, HERE], [APPLE, APPLE]), *models) == []


def test_an_object_that_no_model_sees() -> None:
    label = things([HERE, THERE], [APPLE, PEAR], crowd=[False, False])
    one, other = things([HERE], [APPLE]), things([HERE], [APPLE])
    assert found(label, one, other, expected=0.75) == [(UNSEEN, 1, None, 0.75)]
    # Whatever class it is seen as, by one model, a little overlapping.
    assert found(label, one, things([HERE, [100, 130, 140, 170]], [APPLE, APPLE], [0.9, 0.3])) == []
    assert found(things([HERE, THERE], [APPLE, PEAR], crowd=[False, True]), one, other) == []


def test_boxes_alone_do() -> None:
    label, model = (things([box], [category]) for box, category in ((HERE, APPLE), (HERE, PEAR)))
    plain = [Things(one.category_ids, one.boxes_xywh, None, one.scores, one.crowd) for one in (label, model)]
    (doubt,) = find_doubts(plain[0], {"a": plain[1], "b": plain[1]}, 0.5, [0.9])
    assert (doubt.kind, doubt.mask, doubt.agreement) == (WRONG_CLASS, None, pytest.approx(1.0))
