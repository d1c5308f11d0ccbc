"""Which detection is which object, by COCO's rule, of one image at every IoU threshold and for every size of objects at once.

The rule is pycocotools' own, and `tests/coco/test_matching.py` holds it to that bit for bit. Overlaps are pycocotools' too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from tasks.coco.boundary import boundaries, boundary_iou
from tasks.coco.masks import Rle

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int32]

# As `pycocotools.cocoeval.Params` makes them: their last bits decide.
IOU_THRESHOLDS: Floats = np.linspace(0.5, 0.95, int(np.round((0.95 - 0.5) / 0.05)) + 1, endpoint=True)
AREAS: dict[str, tuple[float, float]] = {"all": (0, 1e5**2), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e5**2)}
"""Of objects, square pixels, both ends included."""
MOST_DETECTIONS = 100
"""Of one category in one image, the surest ones."""

_LIMITS = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)
_AREA_LOW, _AREA_HIGH = np.array(list(AREAS.values())).T[:, :, np.newaxis]


def outside_area(areas: Floats) -> Bools:
    """Of areas [N] in square pixels, whether each is outside of each of `AREAS`: [A, N]."""
    outside: Bools = (areas < _AREA_LOW) | (areas > _AREA_HIGH)
    return outside


def ranked(categories: npt.NDArray[Any], scores: Floats) -> npt.NDArray[np.intp]:
    """The detections of an image that count, by category and then by score, surest first, those in front where scores are equal.

    Of [D] detections, indices of the first `MOST_DETECTIONS` of each category.
    """
    order = np.lexsort((-scores, categories))
    return order[place_in_run(categories[order]) < MOST_DETECTIONS]


def place_in_run(values: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """Of sorted values [N], how many equal ones stand before each: [N]."""
    places = np.arange(len(values))
    starts = np.flatnonzero(np.diff(values, prepend=values[:1] - 1))
    return places - np.repeat(starts, np.diff(starts, append=len(values)))


def matched(ious: Floats, crowd: Bools, ignored: Bools, groups: npt.NDArray[Any], limits: Floats = _LIMITS) -> Ints:
    """Which object each detection is, [D, A, T]: an index, -1 for none. T thresholds, A lanes that each ignore some objects.

    Args:
      ious: [D, G], detections in the order in which they choose; 0 for pairs that may not be one.
      crowd: [G]; several detections may be one crowd.
      ignored: [A, G]; such an object is taken only where no other is left.
      groups: [D], sorted; detections of different groups have no object in common, so that groups are worked on at once.

    Each takes the object left that it overlaps most, the later one of equals.
    """
    found = np.full((len(ious), len(ignored), len(limits)), -1, np.int32)
    if not ious.size:
        return found
    over = ious >= limits[0]
    # Whether an object is the only one that any of its detections may be, and no crowd: nothing else has to be asked of it.
    is_alone = ~(over[over.sum(axis=1) > 1].any(axis=0) | crowd)
    alone = np.flatnonzero(is_alone)
    firsts = (ious[:, alone, np.newaxis] >= limits).argmax(axis=0)
    thing, threshold = np.nonzero(ious[firsts, alone[:, np.newaxis]] >= limits)
    found[firsts[thing, threshold], :, threshold] = alone[thing, np.newaxis]
    contested = np.flatnonzero(over[:, ~is_alone].any(axis=1))
    if len(contested):
        _in_turn(found, contested, ious, crowd, ignored, groups, limits)
    return found


def _in_turn(
    found: Ints,
    able: npt.NDArray[np.intp],
    ious: Floats,
    crowd: Bools,
    ignored: Bools,
    groups: npt.NDArray[Any],
    limits: Floats,
) -> None:
    """Fills in what the detections `able` are, of each group one at a time."""
    objects = ious.shape[1]
    # From the last object on, so that of equals the first that NumPy finds is the later.
    ious, crowd, counts = ious[:, ::-1], crowd[::-1], ~ignored[:, np.newaxis, ::-1]
    free = np.ones((len(ignored), len(limits), objects), bool)
    turns = place_in_run(groups[able])
    for turn in range(turns.max() + 1):
        chosen = able[turns == turn]
        overlaps = ious[chosen, np.newaxis, np.newaxis]
        possible = free & (overlaps >= limits[:, np.newaxis])
        preferred = possible & counts
        value = np.where(np.where(preferred.any(axis=-1, keepdims=True), preferred, possible), overlaps, -1.0)
        best, hit = value.argmax(axis=-1), possible.any(axis=-1)
        found[chosen] = np.where(hit, objects - 1 - best, -1)
        _, lane, threshold = taken = np.nonzero(hit & ~crowd[best])
        free[lane, threshold, best[taken]] = False


def box_overlaps(detections_xywh: npt.ArrayLike, objects_xywh: npt.ArrayLike, crowd: Bools) -> Floats:
    """IoU of boxes [D, 4] and [G, 4], pixels: [D, G]. Of a crowd's, the share of the detection that lies on it."""
    return _overlaps(np.asarray(detections_xywh, np.float64).reshape(-1, 4), np.asarray(objects_xywh, np.float64).reshape(-1, 4), crowd)


def mask_overlaps(detections: Sequence[Rle], objects: Sequence[Rle], crowd: Bools) -> Floats:
    """The same of masks of one size."""
    return _overlaps(list(detections), list(objects), crowd)


def boundary_overlaps(detections: Sequence[Rle], objects: Sequence[Rle], crowd: Bools, masks: Floats) -> Floats:
    """The smaller of the masks' overlap, `masks` [D, G], and their boundaries': [D, G], 0 where the former is below every threshold.

    Cheng et al. 2021, "Boundary IoU": a boundary is what of the mask is near its contour.
    """
    overlaps = np.zeros_like(masks)
    able = masks >= _LIMITS[0]
    near = {
        axis: dict(zip(chosen, boundaries([rles[index] for index in chosen]), strict=True))
        for axis, rles in enumerate((detections, objects))
        for chosen in [np.flatnonzero(able.any(axis=1 - axis)).tolist()]
    }
    for detection, thing in np.argwhere(able).tolist():
        inner = boundary_iou(near[0][detection], near[1][thing], crowd[thing])
        overlaps[detection, thing] = min(inner, masks[detection, thing])
    return overlaps


def _overlaps(detections: Any, objects: Any, crowd: Bools) -> Floats:
    if not len(detections) or not len(objects):
        return np.zeros((len(detections), len(objects)))
    overlaps: Floats = coco_mask.iou(detections, objects, crowd.astype(np.uint8).tolist())
    return overlaps
