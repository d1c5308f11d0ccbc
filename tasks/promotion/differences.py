"""Where a model is better or worse than another: on each category and each slice of the images, with an interval.

Each interval stands by itself. That is no oversight: a model has to pass on all of them, so that many of them make a mistake less likely
and not more (an intersection-union test).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tasks.coco.bootstrap import drawn_again, resampled_by_category
from tasks.coco.matches import Matches
from tasks.evaluation.slices import slices_of
from tasks.evaluation.verdicts import FEWEST_IMAGES, RESAMPLES, paired_interval
from tasks.running.progress import Progress


@dataclass(frozen=True)
class Difference:
    """AP of the first minus AP of the second on a part of the data; `interval` is None where there is too little to judge."""

    where: str
    objects: int
    value: float
    interval: tuple[float, float] | None

    def __str__(self) -> str:
        between = "too few to judge" if self.interval is None else "{:+.4f} to {:+.4f}".format(*self.interval)
        return f"{self.where} {self.value:+.4f} ({between}, {self.objects} objects)"


def by_category(first: Matches, second: Matches, fewest_objects: int, resamples: int = RESAMPLES) -> list[Difference]:
    """Of each category that has an object, those of which the least is known to be good first."""
    weights = _weights(first, resamples)
    values = [resampled_by_category(one, weights) for one in (first, second)]
    counted = first.objects.counted()
    found = []
    for index, name in enumerate(first.names):
        mine = counted & (first.objects.category == index)
        if mine.any():
            images = len(np.unique(first.objects.image[mine]))
            found.append(_difference(name, values[0][index], values[1][index], int(mine.sum()), images, fewest_objects))
    return _worst_first(found)


def by_slice(first: Matches, second: Matches, fewest_objects: int, resamples: int = RESAMPLES) -> list[Difference]:
    """Of each slice that has an object; the slices are the first's."""
    return _worst_first(list(_slices(first, second, fewest_objects, resamples)))


def _slices(first: Matches, second: Matches, fewest_objects: int, resamples: int) -> Iterator[Difference]:
    weights = _weights(first, resamples)
    slices = [(attribute, one) for attribute, several in slices_of(first).items() for one in several]
    progress = Progress("slices compared", len(slices))
    for attribute, one in progress.over(slices):
        mine = first.objects.counted(one.area) & one.images[first.objects.image]
        if not mine.any():
            continue
        ours, theirs = (_mean(resampled_by_category(matches, weights, images=one.images, area=one.area)) for matches in (first, second))
        yield _difference(f"{attribute} {one.name}", ours, theirs, int(mine.sum()), int(one.images.sum()), fewest_objects)


def _difference(where: str, first: np.ndarray, second: np.ndarray, objects: int, images: int, fewest_objects: int) -> Difference:
    if objects < fewest_objects or images < FEWEST_IMAGES:
        return Difference(where, objects, float(first[0] - second[0]), None)
    return Difference(where, objects, *paired_interval(first, second, images))


def _weights(matches: Matches, resamples: int) -> np.ndarray:
    """The first row is the data itself."""
    images = len(matches.images)
    return np.concatenate([np.ones((1, images), np.int64), drawn_again(images, resamples)])


def _mean(values: np.ndarray) -> np.ndarray:
    """Over the categories that a resample holds."""
    with np.errstate(invalid="ignore"):
        means: np.ndarray = np.nansum(values, axis=0) / (~np.isnan(values)).sum(axis=0)
    return means


def _worst_first(found: list[Difference]) -> list[Difference]:
    return sorted(found, key=lambda one: (one.interval is None, one.interval[0] if one.interval else one.value))
