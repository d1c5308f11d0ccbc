"""Matches of models that are known by construction, drawn at random without any image.

An image has objects of two categories, four on average. A model finds an object with a given probability, harder ones for all models less
often; how well decides up to which IoU threshold, each as likely. So many other detections are wrong. Scores of what is found have the
density 2 s, of what is wrong 2 (1 - s).
"""

from __future__ import annotations

import numpy as np

from tasks.coco.figures import RECALLS
from tasks.coco.matches import BOX, Detections, Images, Matches, Objects

CATEGORIES = ((1, "one"), (2, "two"))
_OBJECTS, _THRESHOLDS, _AREAS = 4.0, 10, 4


def drawn_models(images: int, found: list[float], wrong: float, seed: int, **about) -> list[Matches]:
    """A model for each probability of finding an object, all on the same images."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(images), rng.poisson(_OBJECTS, images))
    category, hardness = rng.integers(0, 2, len(owner)), rng.random(len(owner))
    numbers = np.arange(images).astype(str)
    size = np.full(images, 500, np.int32)
    objects = Objects(owner.astype(np.int32), category.astype(np.int32), np.full(len(owner), 5000.0), np.zeros(len(owner), bool))
    return [
        Matches(
            CATEGORIES,
            (BOX,),
            Images(numbers, numbers, size, size),
            objects,
            _detections(objects, images, one, wrong, hardness, rng),
            about,
        )
        for one in found
    ]


def expected_precision(found: float, wrong: float) -> float:
    """AP on endless images, from the densities."""
    scores = np.linspace(1, 0, 20001)
    total = 0.0
    for threshold in range(_THRESHOLDS):
        right = (_THRESHOLDS - threshold) / _THRESHOLDS
        hits = _OBJECTS * found * (1 - scores**2)
        others = wrong * (1 - scores) ** 2
        with np.errstate(invalid="ignore"):
            precision = np.nan_to_num(right * hits / (hits + others), nan=right)
        best = np.maximum.accumulate(precision[::-1])[::-1]
        reached = np.searchsorted(found * right * (1 - scores**2), RECALLS)
        total += best[reached[reached < len(scores)]].sum() / len(RECALLS)
    return total / _THRESHOLDS


def _detections(objects: Objects, images: int, found: float, wrong: float, hardness, rng) -> Detections:
    # The mean of two uniform numbers is below this with the probability `found`.
    limit = np.sqrt(found / 2) if found <= 0.5 else 1 - np.sqrt((1 - found) / 2)
    hit = (hardness + rng.random(len(hardness))) / 2 < limit
    other_image = np.repeat(np.arange(images), rng.poisson(wrong, images))
    image = np.concatenate([objects.image[hit], other_image]).astype(np.int32)
    category = np.concatenate([objects.category[hit], rng.integers(0, 2, len(other_image))]).astype(np.int32)
    score = np.concatenate([np.sqrt(rng.random(hit.sum())), 1 - np.sqrt(rng.random(len(other_image)))])
    best = np.concatenate([rng.integers(1, _THRESHOLDS + 1, hit.sum()), np.zeros(len(other_image), int)])
    order = np.lexsort((-score, category, image))
    hits = np.repeat((np.arange(_THRESHOLDS) < best[order, np.newaxis])[:, np.newaxis], _AREAS, axis=1)
    packed = np.packbits(hits.reshape(len(order), -1), axis=1)
    none, nothing = np.full(len(order), -1, np.int32), np.zeros(len(order), np.float32)
    return Detections(
        image[order], category[order], score[order], {BOX: packed}, {BOX: np.zeros_like(packed)},
        none, none, nothing, nothing, none, nothing, none,
    )  # fmt: skip
