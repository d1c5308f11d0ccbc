"""COCO's figures from stored matches: precision and recall as pycocotools accumulates them, to the last bit, and the summaries of both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.coco.matches import BOUNDARY, BOX, MASK, Matches, bits
from tasks.coco.matching import AREAS, IOU_THRESHOLDS

Floats = npt.NDArray[np.float64]

RECALLS: Floats = np.linspace(0.0, 1.00, int(np.round((1.00 - 0.0) / 0.01)) + 1, endpoint=True)
MOST_DETECTIONS = (1, 10, 100)

# In the order of `COCOeval.stats`.
SUMMARY_NAMES = (
    "Precision/mAP",
    "Precision/mAP@.50IOU",
    "Precision/mAP@.75IOU",
    "Precision/mAP (small)",
    "Precision/mAP (medium)",
    "Precision/mAP (large)",
    "Recall/AR@1",
    "Recall/AR@10",
    "Recall/AR@100",
    "Recall/AR@100 (small)",
    "Recall/AR@100 (medium)",
    "Recall/AR@100 (large)",
)
PREFIXES = {BOX: "DetectionBoxes_", MASK: "DetectionMasks_", BOUNDARY: "DetectionBoundaries_"}
_AT_50, _AT_75 = 0, 5  # of the IoU thresholds


@dataclass(frozen=True)
class Curves:
    """As `COCOeval.eval`, -1 where no object is to be found: T IoU thresholds, R recalls, K categories, A sizes, M limits of detections."""

    precision: Floats
    """[T, R, K, A]: the best at a recall of at least R, of up to 100 detections"""
    scores: Floats
    """[T, R, K, A]: the lowest score that reaches that recall"""
    recall: Floats
    """[T, K, A, M]: of all detections up to the limit"""


def accumulated(matches: Matches, kind: str | None = None, images: npt.NDArray[np.bool_] | None = None) -> Curves:
    """The curves of one kind of overlap, by default the one that ranks, over all images or those of a mask [N]."""
    kind = kind or matches.kind
    shape = (len(IOU_THRESHOLDS), len(RECALLS), len(matches.categories), len(AREAS))
    curves = Curves(-np.ones(shape), -np.ones(shape), -np.ones((shape[0], *shape[2:], len(MOST_DETECTIONS))))
    found, ranks, positives = matches.detections, matches.detections.rank, _positives(matches, images)
    for category, rows in enumerate(by_category(matches, images)):
        # [A, T, D]
        hit, out = (np.ascontiguousarray(np.moveaxis(bits(packed[rows]), 0, -1)) for packed in (found.hits[kind], found.ignored[kind]))
        for area in np.flatnonzero(positives[category]).tolist():
            right, wrong = hit[area] & ~out[area], ~hit[area] & ~out[area]
            _fill(curves, right, wrong, found.score[rows], positives[category, area], (category, area))
            for limit, most in enumerate(MOST_DETECTIONS):
                curves.recall[:, category, area, limit] = right[:, ranks[rows] < most].sum(axis=1) / positives[category, area]
    return curves


def by_category(matches: Matches, images: npt.NDArray[np.bool_] | None = None) -> list[npt.NDArray[np.intp]]:
    """The detections of each category, indices, by their scores, the surest first; of all images or those of a mask [N]."""
    found = matches.detections
    order = np.argsort(-found.score, kind="stable")
    if images is not None:
        order = order[images[found.image[order]]]
    order = order[np.argsort(found.category[order], kind="stable")]
    return np.split(order, np.searchsorted(found.category[order], np.arange(1, len(matches.categories))))


def _positives(matches: Matches, images: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.int64]:
    """How many objects of each category and size there are to find, [K, A]."""
    objects, among = matches.objects, slice(None) if images is None else images[matches.objects.image]
    counts = [np.bincount(objects.category[among][objects.counted(area)[among]], minlength=len(matches.categories)) for area in AREAS]
    return np.stack(counts, axis=1)


def _fill(
    curves: Curves,
    right: npt.NDArray[np.bool_],
    wrong: npt.NDArray[np.bool_],
    scores: Floats,
    positives: int,
    place: tuple[int, int],
) -> None:
    """The precision at one place, of detections [T, D] in the order of their scores."""
    true, false = (np.cumsum(one, axis=1).astype(np.float64) for one in (right, wrong))
    recall = true / positives
    precision = true / (false + true + np.spacing(1))
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    curves.precision[:, :, *place] = curves.scores[:, :, *place] = 0.0
    for threshold in range(len(right)):
        reached = np.searchsorted(recall[threshold], RECALLS, side="left")
        reached = reached[reached < len(scores)]
        curves.precision[threshold, : len(reached), *place] = best[threshold, reached]
        curves.scores[threshold, : len(reached), *place] = scores[reached]


def figures(matches: Matches, images: npt.NDArray[np.bool_] | None = None) -> dict[str, float]:
    """The twelve figures and the AP of every category, of each kind of overlap, under the original's names.

    A figure over objects that the ground truth has none of is -1, as pycocotools and the original have it.
    """
    found: dict[str, float] = {}
    for kind in matches.kinds:
        curves, prefix = accumulated(matches, kind, images), PREFIXES[kind]
        found |= {prefix + name: value for name, value in zip(SUMMARY_NAMES, summary(curves), strict=True)}
        for index, name in enumerate(matches.names):
            found[f"{prefix}PerformanceByCategory/mAP/{name}"] = _mean(curves.precision[:, :, index, 0])
    return found


def summary(curves: Curves) -> list[float]:
    """COCO's twelve figures, in the order of `SUMMARY_NAMES`."""
    precision, recall = curves.precision, curves.recall
    return [
        _mean(precision[..., 0]),
        _mean(precision[_AT_50, ..., 0]),
        _mean(precision[_AT_75, ..., 0]),
        *(_mean(precision[..., area]) for area in (1, 2, 3)),
        *(_mean(recall[..., 0, limit]) for limit in (0, 1, 2)),
        *(_mean(recall[..., area, -1]) for area in (1, 2, 3)),
    ]


def _mean(values: Floats) -> float:
    defined = values[values > -1]
    return float(np.mean(defined)) if defined.size else -1.0
