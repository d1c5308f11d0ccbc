"""Differences by category and slice, of models that are known by construction."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tasks.coco.bootstrap import drawn_again, resampled_by_category, resampled_precision
from tasks.coco.figures import accumulated, figures
from tasks.promotion.differences import by_category, by_slice
from tests.coco.drawn_matches import drawn_models


def test_precision_by_category_is_the_figure_of_each_and_their_mean_that_of_all() -> None:
    (model,) = drawn_models(40, [0.5], 2.0, 1)
    weights = np.concatenate([np.ones((1, 40), np.int64), drawn_again(40, 5)])
    found = resampled_by_category(model, weights)
    told = figures(model)
    assert found[:, 0] == pytest.approx([told[f"DetectionBoxes_PerformanceByCategory/mAP/{name}"] for name in model.names])
    np.testing.assert_allclose(found.mean(axis=0), resampled_precision(model, weights))
    # Of some images alone, and where there is no object of a size.
    some = np.arange(40) < 15
    precision = accumulated(model, images=some).precision
    expected = [precision[:, :, index, 0].mean() for index in range(2)]
    assert resampled_by_category(model, weights[:1], images=some)[:, 0] == pytest.approx(expected)
    assert np.isnan(resampled_by_category(model, weights, area="large")).all()


def test_a_model_that_lost_one_category_is_found_out() -> None:
    model, other = drawn_models(200, [0.6, 0.6], 1.0, 2)
    found = other.detections
    # Its detections of the second category are worth nothing: they are found, and on no object.
    nothing = np.where(found.category[:, np.newaxis] == 1, 0, found.hits["bbox"]).astype(np.uint8)
    worse = dataclasses.replace(other, detections=dataclasses.replace(found, hits={"bbox": nothing}))
    first, second = by_category(worse, model, 10, 200)
    assert (first.where, second.where) == ("two", "one")
    assert first.interval is not None
    assert first.interval[1] < -0.1
    assert second.interval is not None
    assert second.interval[0] < 0 < second.interval[1]
    # With too few objects nothing is judged; all the same it is told.
    (least, _) = by_category(worse, model, 10_000, 200)
    assert least.interval is None
    assert least.value == pytest.approx(first.value)


def test_slices_are_those_of_the_images() -> None:
    model, other = drawn_models(120, [0.3, 0.7], 1.0, 3)
    images = dataclasses.replace(model.images, attributes={"camera": np.where(np.arange(120) < 60, "left", "right")})
    found = {one.where: one for one in by_slice(dataclasses.replace(model, images=images), other, 10, 100)}
    assert {"camera left", "camera right"} <= found.keys()
    for side in ("camera left", "camera right"):
        assert found[side].value < 0
        assert found[side].interval is not None
        assert found[side].interval[0] < found[side].value < found[side].interval[1]
