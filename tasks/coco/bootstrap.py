"""COCO's AP over images drawn again with repetition: how far a figure, and the difference of two, depends on the images that were at hand.

An image that a resample draws twice counts twice. Each image was matched once; a resample is a row of weights over them.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from tasks.coco.figures import RECALLS, by_category
from tasks.coco.matches import Matches, bits
from tasks.coco.matching import AREAS

Weights = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_MOST_NUMBERS, _FEWEST_RESAMPLES = 2_000_000, 250
"""In an array of detections and resamples, which bounds the memory; and as many resamples at least, as each row of them is a call."""

_Numbers = TypeVar("_Numbers", npt.NDArray[np.int32], npt.NDArray[np.float64])


def drawn_again(images: int, resamples: int, seed: int = 0) -> Weights:
    """How often each resample draws each image: int [resamples, images], rows that sum to `images`."""
    return np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=resamples)


def resampled_precision(matches: Matches, weights: Weights, kind: str | None = None) -> Floats:
    """AP of every resample, float [resamples]: the mean over IoU 0.5 to 0.95, recalls and the categories that the resample holds.

    `weights`: int [resamples, images], in the order of the matches' images; a row of ones gives the figure itself. `kind`: of overlap, by
    default the one that ranks. NaN for a resample without an object.

    It is what the resampled images would be evaluated to, if each stood there as often as it was drawn. Only where an image has several
    detections of one category and one score, a copy of it might set them in another order.
    """
    values = resampled_by_category(matches, weights, kind)
    counts = (~np.isnan(values)).sum(axis=0)
    with np.errstate(invalid="ignore"):
        means: Floats = np.nansum(values, axis=0) / counts
    return means


def resampled_by_category(
    matches: Matches, weights: Weights, kind: str | None = None, images: npt.NDArray[np.bool_] | None = None, area: str = "all"
) -> Floats:
    """The same of each category, float [categories, resamples], NaN where a resample holds no object of it.

    Of all images or those of a mask [N], and of objects of one of COCO's sizes.
    """
    kind = kind or matches.kind
    found, objects, size = matches.detections, matches.objects, list(AREAS).index(area)
    to_find = objects.counted(area)
    if images is not None:
        to_find &= images[objects.image]
    by_image = np.ascontiguousarray(weights.T.astype(np.int32))
    values = np.full((len(matches.categories), len(weights)), np.nan)
    for category, rows in enumerate(by_category(matches, images)):
        positives = by_image[objects.image[to_find & (objects.category == category)]].sum(axis=0)
        drawing = np.flatnonzero(positives)
        hit, out = (bits(packed[rows])[:, size] for packed in (found.hits[kind], found.ignored[kind]))
        several = max(_FEWEST_RESAMPLES, _MOST_NUMBERS // max(1, len(rows)))
        for start in range(0, len(drawing), several):
            some = drawing[start : start + several]
            values[category, some] = _mean_precision(by_image[:, some], found.image[rows], positives[some], hit & ~out, out)
    return values


def _mean_precision(
    weights: npt.NDArray[np.int32],
    image: npt.NDArray[np.int32],
    positives: npt.NDArray[np.int32],
    right: npt.NDArray[np.bool_],
    ignored: npt.NDArray[np.bool_],
) -> Floats:
    """Of one category, over IoU thresholds and recalls: [r].

    Of detections in order of their scores, surest first: `image` [D], `right` and `ignored` [D, T]; `weights` [images, r], how often each
    resample draws each image, and `positives` [r], how many objects it has, more than none.
    """
    drawn = weights[image]
    seen = _running(np.add, drawn)
    # How many of the recalls are reached when so many objects are found, [objects, r].
    reached = np.searchsorted(RECALLS, np.arange(positives.max() + 1)[:, np.newaxis] / positives, side="right")
    total = np.zeros(len(positives))
    for threshold in range(right.shape[1]):
        # Only where an object is found does the precision at some recall stand.
        places = np.flatnonzero(right[:, threshold])
        if not len(places):
            continue
        true = _running(np.add, drawn[places])
        counted = seen[places] - _before(drawn, np.flatnonzero(ignored[:, threshold]), places)
        precision = true / np.maximum(counted, 1)
        # As if it only fell: at each recall the best that any lower score still reaches.
        best = _running(np.maximum, precision[::-1])[::-1]
        recalls = np.take_along_axis(reached, true, axis=0)
        recalls[1:] -= recalls[:-1].copy()
        total += np.einsum("pr,pr->r", best, recalls)
    means: Floats = total / (right.shape[1] * len(RECALLS))
    return means


def _before(drawn: npt.NDArray[np.int32], ignored: npt.NDArray[np.intp], places: npt.NDArray[np.intp]) -> npt.NDArray[np.int32] | int:
    """How much of what is ignored comes before each place: [places, r]."""
    if not len(ignored):
        return 0
    sums = _running(np.add, drawn[ignored])
    before = np.searchsorted(ignored, places)
    counts: npt.NDArray[np.int32] = np.where(before[:, np.newaxis] > 0, sums[before - 1], 0)
    return counts


def _running(operation: np.ufunc, rows: _Numbers) -> _Numbers:
    """`operation.accumulate(rows, axis=0)`, which NumPy takes five times as long for: it goes column by column."""
    running = np.empty_like(rows)
    running[:1] = rows[:1]
    for index in range(1, len(rows)):
        operation(running[index - 1], rows[index], out=running[index])
    return running
