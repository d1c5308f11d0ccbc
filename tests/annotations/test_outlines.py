"""Polygons against areas and points of geometry."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tasks.annotations.outlines import coordinates, ellipse, rectangle
from tasks.coco.masks import rle_area, rle_extent_yxyx, rle_from_segmentation
from tasks.records.checks import BadImageError, Check


def test_a_rectangle_covers_the_pixels_between_its_corners():
    rle = rle_from_segmentation([rectangle(5, 1, 2, 3)], 6, 8)
    assert (rle_area(rle), rle_extent_yxyx(rle)) == (2 * 3, (1, 2, 3, 5))


def test_an_ellipse_keeps_its_outline_to_a_tenth_of_a_pixel():
    points = np.reshape(ellipse(0, 0, 1300, 1300), (-1, 2))
    middles = (points + np.roll(points, 1, axis=0)) / 2
    assert np.hypot(*points.T) == pytest.approx(1300)
    assert np.hypot(*middles.T).min() > 1300 - 0.1


def test_an_ellipse_is_turned_clockwise_as_seen():
    points = np.reshape(ellipse(10, 20, 5, 3, math.pi / 6), (-1, 2))
    farthest = points[np.hypot(*(points - [10, 20]).T).argmax()]
    assert farthest == pytest.approx([10 + 5 * math.cos(math.pi / 6), 20 + 5 / 2])  # right, and down
    assert np.hypot(*(points - [10, 20]).T).min() == pytest.approx(3)


@pytest.mark.parametrize("value", ["3", None, True, float("nan"), float("inf"), 10**400])
def test_what_is_no_coordinate_is_told(value):
    with pytest.raises(BadImageError, match=r"a\.json: shapes\[0\]: it has the coordinate") as caught:
        coordinates("a.json: shapes[0]", [1, 2.5, value])
    assert caught.value.check == Check.ANNOTATION_MALFORMED


@pytest.mark.parametrize("values", [None, 3, "12", {"x": 1}])
def test_what_is_no_list_of_coordinates_is_told(values):
    with pytest.raises(BadImageError, match="a: its coordinates are"):
        coordinates("a", values)
