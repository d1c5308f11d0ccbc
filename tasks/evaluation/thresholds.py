"""The score from which a detection is taken for an object, for each category: chosen from an evaluation's matches, and what it does.

A detection is right where it is an object at IoU 0.5. `best-f1` is the score at which precision and recall have the greatest harmonic mean,
the higher one of two that are equal; `precision=P` the lowest at which the share of right ones is at least P. A category that has fewer
than `LEAST_OBJECTS` objects, or never reaches P, has the score that is chosen so for all categories together; where that is none either,
`DEFAULT_SCORE`. The file says which of them it is, and why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.coco.matches import Matches, bits
from tasks.coco.matching import AREAS
from tasks.coco.paste import DEFAULT_SCORE
from tasks.evaluation.slices import Slice, whole
from tasks.running.errors import UserError
from tasks.running.workspace import read_json, write_json

THRESHOLDS = "thresholds.json"
FORMAT_VERSION = 1
LEAST_OBJECTS = 10
"""Of a category, to choose a score for it."""
OWN, TOGETHER, DEFAULT = "chosen for it", "chosen for all categories together", "the default"
"""Where a category's score comes from."""
_MOST_DIGITS = 9

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rule:
    """`precision` is the least share of right detections, None for the best F1."""

    precision: float | None = None

    def __str__(self) -> str:
        return "best-f1" if self.precision is None else f"precision={self.precision:g}"


BEST_F1 = Rule()


def parse_rule(text: str) -> Rule:
    """UserError for what is neither `best-f1` nor `precision=P` with P above 0 and up to 1."""
    name, _, value = text.partition("=")
    if text == str(BEST_F1):
        return BEST_F1
    try:
        precision = float(value)
    except ValueError:
        precision = math.nan
    if name != "precision" or not 0 < precision <= 1:
        raise UserError(f"--operating-point is {text!r}", "give best-f1, or precision=P, such as precision=0.9")
    return Rule(precision)


@dataclass(frozen=True)
class Threshold:
    """Of one category: its score, how many objects it has, where the score comes from (`OWN`, `TOGETHER`, `DEFAULT`), and why not `OWN`."""

    id: int
    name: str
    score: float
    objects: int
    source: str
    reason: str = ""


@dataclass(frozen=True)
class Thresholds:
    """`chosen_on` says of which data and model: `split`, `dataset`, `dataset_digest`, and the model's digest, as an evaluation has them."""

    rule: Rule
    categories: tuple[Threshold, ...]
    chosen_on: Mapping[str, Any]

    @property
    def scores(self) -> dict[int, float]:
        """By category id."""
        return {one.id: one.score for one in self.categories}

    @property
    def fallbacks(self) -> list[Threshold]:
        return [one for one in self.categories if one.source != OWN]


def choose_thresholds(matches: Matches, rule: Rule = BEST_F1) -> Thresholds:
    """A score for every category, by masks, where there are masks."""
    found = matches.detections
    counts, right = _outcomes(matches, whole(matches))
    to_find = matches.objects.category[matches.objects.counted()]
    objects = np.bincount(to_find, minlength=len(matches.categories))
    together = _chosen(found.score[counts], right[counts], len(to_find), rule)
    chosen = []
    for index, (number, name) in enumerate(matches.categories):
        of_it = counts & (found.category == index)
        own = _chosen(found.score[of_it], right[of_it], int(objects[index]), rule)
        if isinstance(own, float):
            chosen.append(Threshold(number, name, own, int(objects[index]), OWN))
        elif isinstance(together, float):
            chosen.append(Threshold(number, name, together, int(objects[index]), TOGETHER, own))
        else:
            chosen.append(Threshold(number, name, DEFAULT_SCORE, int(objects[index]), DEFAULT, f"{own}; of all categories: {together}"))
    return Thresholds(rule, tuple(chosen), chosen_on(matches.about))


def chosen_on(about: Mapping[str, Any]) -> dict[str, Any]:
    """What of an evaluation's own words says which data and model it is of."""
    names = ("split", "dataset", "dataset_digest", "checkpoint_digest", "predictor_digest", "results_digest")
    return {name: about[name] for name in names if name in about}


def is_of_model(thresholds: Thresholds, about: Mapping[str, Any]) -> bool:
    """Whether an evaluation is of the model that the scores were chosen for; detections of another program have no model to tell by."""
    return all(thresholds.chosen_on.get(name) == about.get(name) for name in ("checkpoint_digest", "predictor_digest"))


def _outcomes(matches: Matches, part: Slice, area: str | None = None) -> tuple[Bools, Bools]:
    """Of each detection whether it counts, in the images of a part, and whether it is an object."""
    found = matches.detections
    place = list(AREAS).index(area or part.area)
    hit, out = (bits(packed[matches.kind])[:, place, 0] for packed in (found.hits, found.ignored))
    return part.images[found.image] & ~out, hit & ~out


def _chosen(scores: Floats, right: Bools, objects: int, rule: Rule) -> float | str:
    """The score, or why there is none."""
    if objects < LEAST_OBJECTS:
        return f"{objects} objects, fewer than {LEAST_OBJECTS}"
    order = np.argsort(-scores, kind="stable")
    scores = scores[order]
    # Those of one score are taken together or not at all.
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)) if len(scores) else np.zeros(0, np.intp)
    taken, hits = last + 1, np.cumsum(right[order])[last]
    if not hits.size or not hits[-1]:
        return "no object is found"
    if rule.precision is None:
        place = int(np.argmax(2 * hits / (taken + objects)))
    else:
        # A share such as 9 of 10 is no less than 0.9 for its last bit.
        precise = np.flatnonzero(hits >= rule.precision * taken - 1e-9)
        if not precise.size:
            return f"precision {rule.precision:g} is never reached, {float((hits / taken).max()):.3g} at most"
        place = int(precise[-1])
    score = float(scores[last[place]])
    # Below the last one no score was ever seen: its first two digits say as much.
    return _between(float(scores[last[place + 1]]), score) if place + 1 < len(last) else math.floor(100 * score) / 100


def _between(low: float, high: float) -> float:
    """A number above `low` and not above `high`, near their middle and short; as float32 too, in which models score."""
    for digits in range(2, _MOST_DIGITS):
        middle = round((low + high) / 2, digits)
        if np.float32(low) < np.float32(middle) <= np.float32(high):
            return middle
    return high


def operating(matches: Matches, part: Slice, thresholds: Thresholds | None) -> dict[str, Any]:
    """Precision, recall and F1 of a part, at the default score and at the chosen ones, of each category and of all detections together.

    Each is `detections`, `right`, `precision`, `recall`, `f1`; None for a share of nothing. Without thresholds only those at the default
    are there.
    """
    counts, right = _outcomes(matches, part)
    chosen = matches.objects.counted(part.area) & part.images[matches.objects.image]
    objects = np.bincount(matches.objects.category[chosen], minlength=len(matches.categories))
    found = matches.detections
    scores = {"default": np.full(len(matches.categories), DEFAULT_SCORE)}
    if thresholds is not None:
        own = thresholds.scores
        scores["chosen"] = np.array([own.get(number, DEFAULT_SCORE) for number, _ in matches.categories])
    # In float32, as the exported model's post-processing compares.
    taken = {name: counts & (found.score.astype(np.float32) >= least.astype(np.float32)[found.category]) for name, least in scores.items()}
    categories: dict[str, Any] = {}
    for index, (number, category) in enumerate(matches.categories):
        of_it = found.category == index
        told = {name: _figures(right[one & of_it], int(objects[index])) for name, one in taken.items()}
        categories[category] = {"objects": int(objects[index]), **told}
        if thresholds is not None:
            categories[category]["threshold"] = thresholds.scores.get(number, DEFAULT_SCORE)
    together = {name: _figures(right[one], int(objects.sum())) for name, one in taken.items()}
    return {"default_threshold": DEFAULT_SCORE, "objects": int(objects.sum()), **together, "categories": categories}


def _figures(right: Bools, objects: int) -> dict[str, Any]:
    """Of the detections that are taken."""
    taken, hits = len(right), int(right.sum())
    return {
        "detections": taken,
        "right": hits,
        "precision": hits / taken if taken else None,
        "recall": hits / objects if objects else None,
        "f1": 2 * hits / (taken + objects) if taken + objects else None,
    }


def write_thresholds(file: Path, thresholds: Thresholds) -> None:
    write_json(
        file,
        {
            "format_version": FORMAT_VERSION,
            "rule": str(thresholds.rule),
            "iou": 0.5,
            "least_objects": LEAST_OBJECTS,
            "default": DEFAULT_SCORE,
            "chosen_on": dict(thresholds.chosen_on),
            "categories": [asdict(one) for one in thresholds.categories],
        },
    )


def read_thresholds(file: Path) -> Thresholds:
    """What `write_thresholds` wrote; UserError where the file is missing or something else."""
    again = "run `maskline evaluate` on the model, which writes it"
    stored = read_json(file)
    try:
        if stored["format_version"] != FORMAT_VERSION:
            raise UserError(f"{file}: format_version is {stored['format_version']}, this program reads {FORMAT_VERSION}", again)
        categories = tuple(Threshold(**one) for one in stored["categories"])
        if not all(isinstance(one.id, int) and 0 <= one.score <= 1 for one in categories):
            raise ValueError("a category's `id` is a whole number, its `score` from 0 to 1")
        return Thresholds(parse_rule(stored["rule"]), categories, stored["chosen_on"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file} is no file of operating thresholds: {error}", again) from error
