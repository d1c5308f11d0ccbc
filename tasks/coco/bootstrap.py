"""COCO's AP over images drawn again with repetition: how far a figure, and the difference of two, depends on the images that were at hand.

An image that a resample draws twice counts twice. Each image is matched once, by pycocotools; a resample is a row of weights over them.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools.cocoeval import COCOeval

from tasks.coco.metrics import indexed

Weights = npt.NDArray[np.int64]

_MOST_DETECTIONS = 100
"""Of one category in one image, as in COCO's main figure."""
_MOST_NUMBERS = 4_000_000
"""In an array of resamples and detections, which bounds the memory."""


def drawn_again(images: int, resamples: int, seed: int = 0) -> Weights:
    """How often each resample draws each image: int [resamples, images], rows that sum to `images`."""
    return np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=resamples)


def resampled_precision(
    groundtruth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]], weights: Weights, iou_type: str
) -> npt.NDArray[np.float64]:
    """AP of every resample, float [resamples]: the mean over IoU 0.5 to 0.95, recalls and the categories that the resample holds.

    Args:
      groundtruth, detections: in COCO's dataset and results formats, as an evaluation stores them.
      weights: int [resamples, images], in the order of the images' ids; a row of ones gives the figure itself.
      iou_type: `segm` or `bbox`.

    NaN for a resample without an object.
    """
    evaluation = _matched(groundtruth, detections, iou_type)
    parameters = evaluation.params
    images = len(parameters.imgIds)
    sums, counts = np.zeros(len(weights)), np.zeros(len(weights))
    for number in range(len(parameters.catIds)):
        matches = evaluation.evalImgs[number * images : (number + 1) * images]
        precision = _category_precision(matches, weights, parameters.recThrs)
        if precision is not None:
            defined = ~np.isnan(precision)
            sums[defined] += precision[defined]
            counts += defined
    with np.errstate(invalid="ignore"):
        return sums / counts


def _matched(groundtruth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]], iou_type: str) -> COCOeval:
    # Objects of all sizes are looked at, so that no area decides anything.
    numbered = [{**detection, "area": 0.0, "iscrowd": 0, "id": number} for number, detection in enumerate(detections, start=1)]
    # pycocotools prints as it goes.
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(indexed(groundtruth, groundtruth["annotations"]), indexed(groundtruth, numbered), iou_type)
        evaluation.params.areaRng, evaluation.params.areaRngLbl = evaluation.params.areaRng[:1], evaluation.params.areaRngLbl[:1]
        evaluation.params.maxDets = [_MOST_DETECTIONS]
        evaluation.evaluate()
    return evaluation


def _category_precision(
    matches: Sequence[Mapping[str, Any] | None], weights: Weights, recalls: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64] | None:
    """AP of one category in every resample, NaN where that draws none of its objects; None where no image has one."""
    found = [(image, match) for image, match in enumerate(matches) if match is not None]
    objects = np.zeros(weights.shape[1])
    for image, match in found:
        objects[image] = np.count_nonzero(np.asarray(match["gtIgnore"]) == 0)
    positives = weights @ objects
    if not objects.any():
        return None
    scores = np.concatenate([match["dtScores"] for _, match in found])
    order = np.argsort(-scores, kind="mergesort")
    image_of = np.repeat([image for image, _ in found], [len(match["dtScores"]) for _, match in found])[order]
    matched, ignored = (np.concatenate([match[name] for _, match in found], axis=1)[:, order] != 0 for name in ("dtMatches", "dtIgnore"))
    precision = np.full(len(weights), np.nan)
    several = max(1, _MOST_NUMBERS // max(1, len(order)))
    drawing = np.flatnonzero(positives)
    for start in range(0, len(drawing), several):
        rows = drawing[start : start + several]
        precision[rows] = _mean_precision(weights[rows][:, image_of], positives[rows], matched & ~ignored, ~matched & ~ignored, recalls)
    return precision


def _mean_precision(
    drawn: Weights,
    positives: npt.NDArray[np.float64],
    right: npt.NDArray[np.bool_],
    wrong: npt.NDArray[np.bool_],
    recalls: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Float [rows], over IoU thresholds and recalls.

    Of detections in order of their scores, surest first: `drawn` int [rows, detections], how often each counts; `right` and `wrong`
    bool [thresholds, detections]. `positives` [rows], how many objects there are, more than none.
    """
    total = np.zeros(len(drawn))
    for true, false in zip(right, wrong, strict=True):
        hits = np.cumsum(drawn * true, axis=1)
        precision = hits / np.maximum(hits + np.cumsum(drawn * false, axis=1), 1)
        # As if it only fell: at each recall the best that any lower score still reaches.
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        recall = hits / positives[:, None]
        for row in range(len(drawn)):
            reached = np.searchsorted(recall[row], recalls, side="left")
            total[row] += precision[row, reached[reached < recall.shape[1]]].sum()
    means: npt.NDArray[np.float64] = total / (len(right) * len(recalls))
    return means
