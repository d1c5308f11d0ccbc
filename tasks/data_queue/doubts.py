"""Labels that all models contradict, in one image. A model is sure of a detection from a given score on.

Detections of several models are one thing where each model is sure of it under one class, and all overlap each other by `SAME` or more. It
says, of the object that it overlaps most:

- `wrong class`: all overlap it by `SAME` or more, it has another class, and no model is sure of that one there;
- `missing label`: none overlaps any object by `NEAR`, nor lies on a crowd;
- `loose outline`: it has that class, and the models overlap each other by `MARGIN` more than any of them overlaps it.

`seen by no model` is an object that no detection overlaps by `NEAR`, whatever its class, from a score of `SEEN` on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.coco.masks import Rle
from tasks.coco.matching import box_overlaps, mask_overlaps
from tasks.data_queue.evaluated import Things
from tasks.evaluation.analysis import MIN_SCORE

Floats = npt.NDArray[np.float64]

WRONG_CLASS, MISSING, LOOSE, UNSEEN = "wrong class", "missing label", "loose outline", "seen by no model"
KINDS = (WRONG_CLASS, MISSING, LOOSE, UNSEEN)
SAME, NEAR, MARGIN, SEEN = 0.5, 0.1, 0.2, MIN_SCORE


@dataclass(frozen=True)
class Doubt:
    """What the models say against the labels of an image, and how sure it is, from 0 to 1.

    `object` is the index among the image's objects, None for what is missing. `category_id`, `box_xywh` and `mask` are what is proposed,
    None where nothing is. `scores` are the models' for it.
    """

    kind: str
    score: float
    object: int | None
    category_id: int | None
    box_xywh: tuple[float, float, float, float] | None
    mask: Rle | None
    scores: Mapping[str, float]
    agreement: float | None
    """The least overlap of two models"""
    overlap: float | None
    """The most with the object"""
    expected: float | None = None
    """Of an unseen object, how often the models find one of its class and size"""


def find_doubts(objects: Things, found: Mapping[str, Things], sure: float, expected: Sequence[float]) -> list[Doubt]:
    """The doubts in an image, from each model's detections of `SEEN` or more. `expected`: see `Doubt`, of each object.

    The score is, of a thing, the least of the models' scores, times the least overlap of two of them, times 1 less the greatest score of
    a detection of the object's own class on it (`wrong class`), or the least score times what the models agree more among themselves
    (`loose outline`); of an unseen object, how often the models find one of its class and size.
    """
    overlaps = {name: _overlaps(one, objects) for name, one in found.items()}
    doubts = [doubt for thing in _things(found, sure) if (doubt := _contradiction(thing, objects, found, overlaps, sure)) is not None]
    for index in np.flatnonzero(~objects.crowd).tolist():
        if not any((one[:, index] >= NEAR).any() for one in overlaps.values()):
            often = float(expected[index])
            doubts.append(Doubt(UNSEEN, often, index, None, None, None, dict.fromkeys(found, 0.0), None, None, often))
    return doubts


@dataclass(frozen=True)
class _Thing:
    """What all models see: the place of each model's detection, its class, and how far they agree. `middle` is the model nearest to all."""

    places: Mapping[str, int]
    category_id: int
    least_score: float
    agreement: float
    middle: str


def _things(found: Mapping[str, Things], sure: float) -> Iterator[_Thing]:
    (first, of_first), *others = found.items()
    places = {name: np.flatnonzero(one.scores >= sure) for name, one in found.items()}
    surest_first = places[first][np.argsort(-of_first.scores[places[first]], kind="stable")]
    taken: set[tuple[str, int]] = set()
    for place in surest_first.tolist():
        group = {first: place}
        for name, one in others:
            able = [
                other
                for other in places[name].tolist()
                if one.category_ids[other] == of_first.category_ids[place] and (name, other) not in taken
            ]
            overlap = _overlaps(of_first.some([place]), one.some(able))[0] if able else np.zeros(0)
            if not overlap.size or overlap.max() < SAME:
                break
            group[name] = able[int(overlap.argmax())]
        if len(group) < len(found):
            continue
        members = [found[name].some([index]) for name, index in group.items()]
        each = np.array([[_overlaps(one, other)[0, 0] for other in members] for one in members])
        if each.min() >= SAME:
            taken |= set(group.items())
            least = min(float(one.scores[0]) for one in members)
            middle = list(group)[int(each.sum(axis=1).argmax())]
            yield _Thing(group, int(of_first.category_ids[place]), least, float(each.min()), middle)


def _contradiction(
    thing: _Thing, objects: Things, found: Mapping[str, Things], overlaps: Mapping[str, Floats], sure: float
) -> Doubt | None:
    on = np.stack([overlaps[name][place] for name, place in thing.places.items()])
    scores = {name: float(found[name].scores[place]) for name, place in thing.places.items()}
    middle, place = found[thing.middle], thing.places[thing.middle]
    box, mask = tuple(middle.boxes_xywh[place].tolist()), None if middle.masks is None else middle.masks[place]
    told: dict[str, Any] = {"category_id": thing.category_id, "scores": scores, "agreement": thing.agreement}
    on_crowd = bool((on[:, objects.crowd] >= SAME).any())
    on = np.where(objects.crowd, 0.0, on)
    if on.max(initial=0.0) < NEAR:
        if on_crowd:
            return None
        return Doubt(MISSING, thing.least_score * thing.agreement, None, box_xywh=box, mask=mask, overlap=None, **told)
    best = int(on.mean(axis=0).argmax())
    overlap = float(on[:, best].max())
    if objects.category_ids[best] != thing.category_id:
        labelled = (objects.category_ids == thing.category_id) & ~objects.crowd
        if on[:, best].min() < SAME or (on[:, labelled] >= SAME).any():
            return None
        own = max((_best_of_class(found[name], overlaps[name], objects, best) for name in found), default=0.0)
        if own >= sure:
            return None
        score = thing.least_score * thing.agreement * (1 - own)
        return Doubt(WRONG_CLASS, score, best, box_xywh=None, mask=None, overlap=overlap, **told)
    if overlap > thing.agreement - MARGIN or not _is_nearest(thing, found, overlaps, best, sure):
        return None
    return Doubt(LOOSE, thing.least_score * (thing.agreement - overlap), best, box_xywh=box, mask=mask, overlap=overlap, **told)


def _best_of_class(found: Things, overlaps: Floats, objects: Things, index: int) -> float:
    """The greatest score of a detection of an object's class on it."""
    there = (found.category_ids == objects.category_ids[index]) & (overlaps[:, index] >= SAME)
    return float(found.scores[there].max(initial=0.0))


def _is_nearest(thing: _Thing, found: Mapping[str, Things], overlaps: Mapping[str, Floats], index: int, sure: float) -> bool:
    """Whether in each model no other sure detection of the class overlaps the object more, and this one overlaps no other more."""
    for name, place in thing.places.items():
        able = (found[name].category_ids == thing.category_id) & (found[name].scores >= sure)
        of_object = np.where(able, overlaps[name][:, index], -1.0)
        if of_object.argmax() != place or overlaps[name][place].argmax() != index:
            return False
    return True


def _overlaps(found: Things, objects: Things) -> Floats:
    """IoU by masks, where there are masks on both sides: [found, objects]; of a crowd the share of what is found that lies on it."""
    if not len(found) or not len(objects):
        return np.zeros((len(found), len(objects)))
    if found.masks is not None and objects.masks is not None:
        return mask_overlaps(found.masks, objects.masks, objects.crowd)
    return box_overlaps(found.boxes_xywh, objects.boxes_xywh, objects.crowd)
