"""What goes wrong, and what each kind of error costs: the split of Bolya et al. 2020 (TIDE), with masks that are wrong in a right box.

At an IoU of 0.5, of the detections that count and are no object:

- `localization`: it lies on an object of its category, by 0.1 to 0.5;
- `mask`: its box is right, by 0.5 or more, and its mask is not;
- `class`: it lies right on an object of another category;
- `duplicate`: it lies right on an object of its category that a surer detection has;
- `background`: it overlaps no object by 0.1;
- `class and localization`: it lies on an object of another category, by 0.1 to 0.5.

An object that nobody found is `missed`, unless one of the first three is about it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.coco.figures import RECALLS
from tasks.coco.matches import MASK, Matches, bits
from tasks.coco.matching import AREAS
from tasks.evaluation.slices import Slice

Bools = npt.NDArray[np.bool_]

KINDS = ("class", "localization", "mask", "class and localization", "duplicate", "background", "missed")
_RIGHT, _NEAR = 0.5, 0.1
_CONCERNED = {"class": "other", "localization": "own", "mask": "own"}
"""The object that a detection is about which would be right but for this error."""


@dataclass(frozen=True)
class _State:
    """Detections: category, score, whether they are an object and whether they count; and how many objects of each category there are."""

    category: npt.NDArray[np.int32]
    score: npt.NDArray[np.float64]
    right: Bools
    counts: Bools
    positives: npt.NDArray[np.int64]

    def ap50(self) -> float | None:
        """The mean over categories with objects, None where there are none."""
        values = []
        order = np.argsort(-self.score, kind="stable")
        order = order[self.counts[order]]
        for category in np.flatnonzero(self.positives > 0):
            right = self.right[order[self.category[order] == category]]
            hits = np.cumsum(right)
            precision = np.maximum.accumulate((hits / np.arange(1, len(right) + 1))[::-1])[::-1]
            reached = np.searchsorted(hits / self.positives[category], RECALLS)
            values.append(precision[reached[reached < len(right)]].sum() / len(RECALLS))
        return float(np.mean(values)) if values else None


def error_split(matches: Matches, part: Slice, min_score: float) -> dict[str, Any]:
    """For each of `KINDS` the number of `errors` among detections of at least `min_score`, and its `cost`: how much AP50 rises without it.

    Without an error of the first three, the surest detection about an object that nobody has is that object, and the others are gone; so
    are all of the rest, and missed objects need not be found. Costs overlap, and do not sum to what is missing; they are None where no
    object is to be found. Beside `kinds` there are `right`, detections that are objects, `objects` and `ap50`.
    """
    found, objects = matches.detections, matches.objects
    area = list(AREAS).index(part.area)
    hit, out = (bits(packed[matches.kind])[:, area, 0] for packed in (found.hits, found.ignored))
    counts = part.images[found.image] & ~out
    right, to_find = hit & counts, objects.counted(part.area) & part.images[objects.image]
    positives = np.bincount(objects.category[to_find], minlength=len(matches.categories))
    state = _State(found.category, found.score, right, counts, positives)
    wrong = _kinds_of(matches, counts & ~hit)
    sure = found.score >= min_score
    errors = {kind: int((chosen & sure).sum()) for kind, chosen in wrong.items()}
    errors["missed"] = int(_missed(matches, to_find, right & sure, {kind: chosen & sure for kind, chosen in wrong.items()}).sum())
    better = {kind: _without(matches, state, kind, chosen, to_find) for kind, chosen in wrong.items()}
    never = objects.category[_missed(matches, to_find, right, wrong)]
    better["missed"] = replace(state, positives=positives - np.bincount(never, minlength=len(positives)))
    ap50 = state.ap50()
    kinds = {}
    for kind in KINDS:
        reached = better[kind].ap50()
        kinds[kind] = {"errors": errors[kind], "cost": reached - ap50 if ap50 is not None and reached is not None else None}
    return {"kinds": kinds, "right": int((right & sure).sum()), "objects": int(to_find.sum()), "ap50": ap50}


def _kinds_of(matches: Matches, wrong: Bools) -> dict[str, Bools]:
    """By kind the detections, bool [D], among those that are wrong."""
    found = matches.detections
    near_own = (found.own_iou >= _NEAR) & (found.own_iou < _RIGHT)
    right_box = (found.own_box_iou >= _RIGHT) & (found.own_iou < _RIGHT) if matches.kind == MASK else np.zeros(len(found), bool)
    tests = {
        "mask": right_box,
        "localization": near_own,
        "class": found.other_iou >= _RIGHT,
        "duplicate": found.own_iou >= _RIGHT,
        "class and localization": found.other_iou >= _NEAR,
        "background": np.ones(len(found), bool),
    }
    kinds, left = {}, wrong.copy()
    for kind, test in tests.items():
        kinds[kind] = left & test
        left &= ~test
    return kinds


def _missed(matches: Matches, to_find: Bools, right: Bools, wrong: dict[str, Bools]) -> Bools:
    """Objects that nobody found, and that no detection is about."""
    missed = to_find.copy()
    missed[matches.detections.object[right]] = False
    for kind, name in _CONCERNED.items():
        missed[getattr(matches.detections, name)[wrong[kind]]] = False
    return missed


def _without(matches: Matches, state: _State, kind: str, wrong: Bools, to_find: Bools) -> _State:
    """The detections as if no error of a kind were among them."""
    gone = replace(state, counts=state.counts & ~wrong)
    if kind not in _CONCERNED:
        return gone
    concerned = getattr(matches.detections, _CONCERNED[kind])
    free = to_find.copy()
    free[matches.detections.object[state.right]] = False
    able = np.flatnonzero(wrong)
    able = able[free[concerned[able]]]
    able = able[np.argsort(-state.score[able], kind="stable")]
    _, first = np.unique(concerned[able], return_index=True)
    mended = able[first]
    category, right, counts = state.category.copy(), state.right.copy(), gone.counts.copy()
    category[mended] = matches.objects.category[concerned[mended]]
    right[mended] = counts[mended] = True
    return replace(state, category=category, right=right, counts=counts)
