"""Statistics of a handful of images, counted by hand, and their sums in any order."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.coco.masks import rle_from_mask
from tasks.records.annotated_image import AnnotatedImage, Instance
from tasks.records.statistics import Statistics, bucket, bucket_bounds

HEIGHT, WIDTH = 100, 200


def instance(category_id: int, rows: int, columns: int, area: float, is_crowd: bool = False) -> Instance:
    """A box in the upper left corner, of which the mask is the upper row."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[0, :columns] = 1
    return Instance(category_id, (0.0, 0.0, float(rows), float(columns)), rle_from_mask(mask), area, is_crowd)


IMAGES = (
    AnnotatedImage("1", "a.jpg", HEIGHT, WIDTH, ()),
    AnnotatedImage("2", "b.jpg", HEIGHT, WIDTH, (instance(3, 10, 100, 1023.9), instance(3, 32, 32, 1024.0), instance(7, 1, 1, 9216.0))),
    AnnotatedImage("3", "c.jpg", WIDTH, HEIGHT, (instance(3, 100, 100, 9215.9, is_crowd=True),)),
)


def counted(images: tuple[AnnotatedImage, ...]) -> Statistics:
    statistics = Statistics()
    for image in images:
        statistics.add(image)
    return statistics


def test_what_is_counted() -> None:
    found = counted(IMAGES)
    assert (found.images, found.empty_images, found.objects, found.crowds) == (3, 1, 4, 1)
    assert found.to_json() == {
        "objects_per_image": {"0": 1, "1": 1, "3": 1},
        "objects_per_category": {"3": 3, "7": 1},
        "crowds_per_category": {"3": 1},
        "images_per_category": {"3": 2, "7": 1},
        # Boxes of 1, 1000, 1024 and 10000 pixels; masks of 1, 32, 100 and 100.
        "box_areas": {"1": 1, "10": 1, "11": 1, "14": 1},
        "mask_areas": {"1": 1, "6": 1, "7": 2},
        "sizes": {"large": 1, "medium": 2, "small": 1},
        "image_sizes": {"100 x 200": 2, "200 x 100": 1},
    }


@pytest.mark.parametrize(
    ("number", "place", "bounds"),
    [(0, 0, (0, 0)), (0.4, 0, (0, 0)), (1, 1, (1, 1)), (3, 2, (2, 3)), (4, 3, (4, 7)), (1023.9999, 11, (1024, 2047))],
)
def test_buckets(number: float, place: int, bounds: tuple[int, int]) -> None:
    assert bucket(number) == place
    assert bucket_bounds(place) == bounds


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(IMAGES), st.integers(0, 3))), st.permutations(range(4)))
def test_shards_add_up_in_any_order(images: list[tuple[AnnotatedImage, int]], order: list[int]) -> None:
    total = Statistics()
    for shard in order:
        total.merge(counted(tuple(image for image, place in images if place == shard)))
    assert total == counted(tuple(image for image, _ in images))


def test_json_and_back() -> None:
    found = counted(IMAGES)
    assert Statistics.from_json(json.loads(json.dumps(found.to_json()))) == found
    assert Statistics.from_json(Statistics().to_json()) == Statistics()


@pytest.mark.parametrize("broken", [{}, {**Statistics().to_json(), "sizes": 3}, {**Statistics().to_json(), "sizes": {"small": "many"}}])
def test_what_is_no_statistics(broken: dict) -> None:
    with pytest.raises((KeyError, TypeError, AttributeError)):
        Statistics.from_json(broken)
