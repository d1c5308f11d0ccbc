"""What stored matches alone tell: in which images models may contradict the labels, and which images would teach most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.coco.matches import Matches, bits
from tasks.coco.matching import AREAS, outside_area
from tasks.comparison.disagreement import outcome
from tasks.evaluation.analysis import MIN_SCORE

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

_TIGHT = 0.8  # overlap from which a label's outline is not in doubt


@dataclass(frozen=True)
class Teaching:
    """What an image would teach: of how many objects and of how many detections on nothing the models are in doubt, and how much in all."""

    image: int
    score: float
    objects: int
    detections: int


def may_contradict(matches: Mapping[str, Matches], sure: float) -> Bools:
    """The images, bool [N], in which a doubt of `doubts.find_doubts` may be: the others have none."""
    first = next(iter(matches.values()))
    images = len(first.images)
    contradicted, tight, found_by_some = np.ones(images, bool), np.zeros(len(first.objects), bool), np.zeros(len(first.objects), bool)
    near_all = np.ones(len(first.objects), bool)
    for one in matches.values():
        detections = one.detections
        hit, out = (bits(packed[one.kind])[:, 0, 0] for packed in (detections.hits, detections.ignored))
        is_sure = detections.score >= sure
        contradicted &= np.bincount(detections.image[is_sure & ~hit & ~out], minlength=images) > 0
        found_by_some |= outcome(one).found
        near = np.zeros(len(first.objects))
        about = is_sure & (detections.own >= 0)
        np.maximum.at(near, detections.own[about], detections.own_iou[about])
        tight |= near >= _TIGHT
        near_all &= near > 0
    doubtful = first.objects.counted() & (~found_by_some | (near_all & ~tight))
    return contradicted | (np.bincount(first.objects.image[doubtful], minlength=images) > 0)


def often_found(matches: Mapping[str, Matches]) -> Floats:
    """Of each object, how often the models find an object of its class and of COCO's size: [G]."""
    objects = next(iter(matches.values())).objects
    shares = np.mean([outcome(one).found for one in matches.values()], axis=0)
    small, medium = (~outside_area(objects.area)[list(AREAS).index(size)] for size in ("small", "medium"))
    kinds = objects.category.astype(np.int64) * 3 + np.where(small, 0, np.where(medium, 1, 2))
    counted = objects.counted()
    sums = np.bincount(kinds[counted], weights=shares[counted], minlength=int(kinds.max(initial=0)) + 1)
    numbers = np.bincount(kinds[counted], minlength=len(sums))
    means: Floats = (sums / np.maximum(numbers, 1))[kinds]
    return means


def most_teaching(matches: Mapping[str, Matches], but: Bools, most: int) -> list[Teaching]:
    """The images that would teach most, the first most, those of a mask [N] left out.

    p is the mean over the models of the score with which each finds an object, 0 for one that does not, or the score of a detection on
    nothing, from `MIN_SCORE` on, over the number of models. 4 p (1 - p) is how much they are in doubt: 1 where half of them are sure, or
    all are half sure, 0 where all agree. An image's score is the sum.
    """
    first = next(iter(matches.values()))
    images, models = len(first.images), len(matches)
    sums, scores, in_doubt = np.zeros(len(first.objects)), np.zeros(images), np.zeros(images, np.int64)
    for one in matches.values():
        detections = one.detections
        hit, out = (bits(packed[one.kind])[:, 0, 0] for packed in (detections.hits, detections.ignored))
        best = np.zeros(len(first.objects))
        right = hit & ~out & (detections.object >= 0)
        np.maximum.at(best, detections.object[right], detections.score[right])
        sums += best
        wrong = ~hit & ~out & (detections.score >= MIN_SCORE)
        shares = detections.score[wrong] / models
        scores += np.bincount(detections.image[wrong], weights=4 * shares * (1 - shares), minlength=images)
        in_doubt += np.bincount(detections.image[wrong], minlength=images)
    means = sums / models
    doubt = np.where(first.objects.counted(), 4 * means * (1 - means), 0.0)
    scores += np.bincount(first.objects.image, weights=doubt, minlength=images)
    doubted = np.bincount(first.objects.image[doubt >= 0.5], minlength=images)
    scores[but] = 0.0
    order = np.argsort(-scores, kind="stable")
    return [
        Teaching(int(image), float(scores[image]), int(doubted[image]), int(in_doubt[image])) for image in order[:most] if scores[image] > 0
    ]
