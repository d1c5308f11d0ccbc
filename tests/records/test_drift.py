"""Drift between statistics that are small enough for pencil and paper."""

from __future__ import annotations

from collections import Counter

import pytest

from tasks.records.drift import Drift, Share, compare_statistics, jensen_shannon_distance
from tasks.records.statistics import Statistics

NAMES = {1: "cat", 2: "dog"}


@pytest.mark.parametrize(
    ("before", "after", "distance"),
    [
        ((0.5, 0.5), (0.5, 0.5), 0.0),
        ((1.0, 0.0), (0.0, 1.0), 1.0),
        # The middle is 3/4, 1/4. In bits: (1/2 log(2/3) + 1/2 log 2) / 2 + (log(4/3)) / 2 = 0.1038 + 0.2075.
        ((0.5, 0.5), (1.0, 0.0), 0.31128**0.5),
        ((1.0, 0.0), (0.5, 0.5), 0.31128**0.5),
    ],
)
def test_distance(before: tuple[float, float], after: tuple[float, float], distance: float) -> None:
    shares = [Share("", *pair) for pair in zip(before, after, strict=True)]
    assert jensen_shannon_distance(shares) == pytest.approx(distance, abs=1e-4)


def objects(by_category: dict[int, int], sizes: dict[str, int], per_image: dict[int, int]) -> Statistics:
    return Statistics(objects_per_image=Counter(per_image), objects_per_category=Counter(by_category), sizes=Counter(sizes))


def test_a_split_against_its_earlier_self() -> None:
    before = objects({1: 600, 2: 400}, {"small": 500, "large": 500}, {0: 10, 2: 50, 3: 300})
    # The same categories under other ids, fewer cats, some of a new category, all the large objects gone.
    after = objects({5: 500, 7: 440, 9: 60}, {"small": 1000}, {0: 10, 3: 350})
    categories, sizes, numbers = compare_statistics(before, after, NAMES, {5: "cat", 7: "dog", 9: "eel"})

    assert categories.what == "objects by category"
    assert categories.shares == (Share("cat", 0.6, 0.5), Share("dog", 0.4, 0.44), Share("eel", 0.0, 0.06))
    assert (categories.gone, categories.new, categories.farthest.group) == ((), ("eel",), "cat")
    # Chance: sqrt(2 x (1/1000 + 1/1000) / (8 x 0.6931)) = 0.0269, of which twice is less than 0.1.
    assert categories.threshold == 0.1

    assert sizes.what == "objects by size"
    assert sizes.shares == (Share("small", 0.5, 1.0), Share("large", 0.5, 0.0))
    assert sizes.distance == pytest.approx(0.5579, abs=1e-4)
    assert sizes.gone == ("large",)
    assert sizes.is_worth_telling

    # Two and three objects are one group.
    assert numbers.what == "images by number of objects"
    assert [share.group for share in numbers.shares] == ["0", "2 to 3"]
    assert numbers.distance == 0.0
    assert not numbers.is_worth_telling


def test_few_objects_are_apart_by_chance() -> None:
    before = objects({1: 2, 2: 2}, {"small": 4}, {2: 2})
    after = objects({1: 3, 2: 1}, {"small": 4}, {2: 2})
    categories = compare_statistics(before, after, NAMES, NAMES)[0]
    assert categories.distance > 0.1
    # 2 sqrt(1 x (1/4 + 1/4) / (8 x 0.6931)) = 0.6006
    assert categories.threshold == pytest.approx(0.6006, abs=1e-4)
    assert not categories.is_worth_telling


def test_a_category_that_is_gone_is_told_however_rare() -> None:
    shares = (Share("cat", 0.999, 1.0), Share("dog", 0.001, 0.0))
    assert Drift("objects by category", shares, 0.02, 0.1).is_worth_telling
    assert not Drift("objects by size", shares, 0.02, 0.1).is_worth_telling


def test_nothing_is_compared_with_nothing() -> None:
    some = objects({1: 1}, {"small": 1}, {1: 1})
    assert compare_statistics(Statistics(), some, NAMES, NAMES) == ()
    empty_images = objects({}, {}, {0: 3})
    assert [drift.what for drift in compare_statistics(empty_images, some, NAMES, NAMES)] == ["images by number of objects"]
