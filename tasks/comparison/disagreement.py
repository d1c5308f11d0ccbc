"""Where models disagree: which of them find an object that others miss, and which see objects where none are."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.coco.matches import Matches, bits
from tasks.evaluation.analysis import MIN_SCORE

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Outcome:
    """What a model makes of the images, with detections of at least `MIN_SCORE` at IoU 0.5.

    `found`: whether it finds each object under its name, bool [G]; `false`: how many detections of each image are no object, int [N].
    """

    found: Bools
    false: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Disagreement:
    """An image, by its index: for each model how many of its objects it finds and how many of its detections are none.

    `told`: for a group of models, what they find and all the others miss, as counts by category.
    """

    image: int
    objects: int
    found: Mapping[str, int]
    false: Mapping[str, int]
    told: Mapping[tuple[str, ...], Mapping[str, int]]


def outcome(matches: Matches) -> Outcome:
    """By masks, where there are masks."""
    detections = matches.detections
    sure = detections.score >= MIN_SCORE
    hit, out = (bits(packed[matches.kind])[:, 0, 0] for packed in (detections.hits, detections.ignored))
    found = np.zeros(len(matches.objects), bool)
    found[detections.object[sure & hit & (detections.object >= 0)]] = True
    false = np.bincount(detections.image[sure & ~hit & ~out], minlength=len(matches.images))
    return Outcome(found & matches.objects.counted(), false)


def right_where_wrong(outcomes: Mapping[str, Outcome]) -> dict[str, dict[str, int]]:
    """For each model and each other one, how many objects the first finds and the second misses."""
    return {
        first: {second: int((one.found & ~other.found).sum()) for second, other in outcomes.items() if second != first}
        for first, one in outcomes.items()
    }


def most_disputed(matches: Matches, outcomes: Mapping[str, Outcome], most: int) -> list[Disagreement]:
    """The images on which the models disagree most, the most disputed first; images on which all agree are none.

    For each ordered pair of models, the image with most objects that the one finds and the other misses is among them, as far as `most`
    allows. Disputed is an object by how many of the models are of the smaller party, an image by its objects, and by how far the counts
    of detections on nothing lie apart.
    """
    owner, images = matches.objects.image, len(matches.images)
    finders = np.sum([one.found for one in outcomes.values()], axis=0)
    parties = np.minimum(finders, len(outcomes) - finders)
    false = np.stack([one.false for one in outcomes.values()])
    dispute = np.bincount(owner, weights=parties, minlength=images) + false.max(axis=0) - false.min(axis=0)
    order = np.argsort(-dispute, kind="stable")
    order = order[dispute[order] > 0]
    chosen: dict[int, None] = {}
    for first, second in itertools.permutations(outcomes.values(), 2):
        counts = np.bincount(owner[first.found & ~second.found], minlength=images)
        if counts.max(initial=0):
            chosen[int(max(range(images), key=lambda image: (counts[image], dispute[image])))] = None
    chosen = dict.fromkeys(list(chosen)[:most])
    for image in order.tolist():
        if len(chosen) >= most:
            break
        chosen[image] = None
    return [_of_image(matches, outcomes, image) for image in sorted(chosen, key=lambda image: (-dispute[image], image))]


def _of_image(matches: Matches, outcomes: Mapping[str, Outcome], image: int) -> Disagreement:
    objects = np.flatnonzero((matches.objects.image == image) & matches.objects.counted())
    told: dict[tuple[str, ...], Counter[str]] = {}
    for index in objects.tolist():
        finders = tuple(name for name, one in outcomes.items() if one.found[index])
        if 0 < len(finders) < len(outcomes):
            told.setdefault(finders, Counter())[matches.names[matches.objects.category[index]]] += 1
    return Disagreement(
        image,
        len(objects),
        {name: int(one.found[objects].sum()) for name, one in outcomes.items()},
        {name: int(one.false[image]) for name, one in outcomes.items()},
        {finders: dict(counts) for finders, counts in told.items()},
    )


def sentences(disagreement: Disagreement, names: Sequence[str], short: Callable[[str], str] = str) -> list[str]:
    """What a person is told of it: `2 apple, pear: found by a, missed by b and c`."""
    lines = []
    for finders, counts in disagreement.told.items():
        things = ", ".join(f"{count} {category}" if count > 1 else category for category, count in counts.items())
        others = [short(name) for name in names if name not in finders]
        lines.append(f"{things}: found by {_listed([short(name) for name in finders])}, missed by {_listed(others)}")
    return lines


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
