"""Operating thresholds: chosen as by hand, held to all others when all is matched anew, and said where there is nothing to choose."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tasks.coco.matches import Matches, bits
from tasks.coco.paste import class_thresholds
from tasks.evaluation.slices import whole
from tasks.evaluation.thresholds import (
    DEFAULT,
    OWN,
    TOGETHER,
    Rule,
    Threshold,
    Thresholds,
    _between,
    choose_thresholds,
    is_of_model,
    operating,
    parse_rule,
    read_thresholds,
    write_thresholds,
)
from tasks.running.errors import UserError
from tests.coco.scenes import found_of, matches_of, scenes, truth_of

ABOUT = {"split": "val", "dataset": "fruits", "dataset_digest": "d", "checkpoint_digest": "c", "format_version": 4}
APPLE, PEAR = 0, 1


def matches(objects: int, right: Sequence[float], wrong: Sequence[float], category: int = APPLE) -> Matches:
    """An image for each object, with a detection on it of a score as long as there are some, and one with all that are on nothing."""
    images = []
    for number in range(objects):
        scores = right[number : number + 1]
        images.append(
            (truth_of(number + 1, [[0, 0, 50, 50]], [category]), found_of([[0, 0, 50, 50]] * len(scores), scores, [category] * len(scores)))
        )
    boxes = [[0, 9 * place, 8, 9 * place + 8] for place in range(len(wrong))]
    images.append((truth_of(objects + 1, [], []), found_of(boxes, wrong, [category] * len(wrong))))
    return dataclasses.replace(matches_of(images), about=ABOUT)


RIGHT, WRONG = [0.95, 0.94, 0.93, 0.92, 0.91, 0.90, 0.80, 0.79, 0.30], [0.85, 0.50, 0.45, 0.40]


@pytest.mark.parametrize(
    ("rule", "above", "up_to"),
    [
        # Of 12 objects: 8 right of 9 have F1 16 / 21, which is more than 12 / 18 before and 18 / 25 with all.
        ("best-f1", 0.50, 0.79),
        ("precision=1", 0.85, 0.90),
        ("precision=0.85", 0.50, 0.79),  # 8 of 9
        ("precision=0.7", 0.40, 0.45),  # 8 of 11; of 12 or 13 it is less
        ("precision=0.69", 0.0, 0.30),  # 9 of 13
    ],
)
def test_scores_are_those_that_a_person_would_choose(rule: str, above: float, up_to: float) -> None:
    apple, *others = choose_thresholds(matches(12, RIGHT, WRONG), parse_rule(rule)).categories
    assert above < apple.score <= up_to
    assert (apple.objects, apple.source, apple.reason) == (12, OWN, "")
    if above:
        assert apple.score == pytest.approx((above + up_to) / 2, abs=0.0051)
    # The others have no object, and what is chosen for all of them is what is chosen for the apples.
    assert {(one.score, one.source) for one in others} == {(apple.score, TOGETHER)}


def test_where_there_is_nothing_to_choose_the_file_says_why() -> None:
    few = choose_thresholds(matches(9, RIGHT, WRONG)).categories
    assert {(one.score, one.source) for one in few} == {(0.5, DEFAULT)}
    assert few[APPLE].reason == "9 objects, fewer than 10; of all categories: 9 objects, fewer than 10"
    never = choose_thresholds(matches(12, [0.5] * 12, [0.9]), Rule(0.95)).categories[APPLE]
    assert (never.source, never.reason.split(";")[0]) == (DEFAULT, "precision 0.95 is never reached, 0.923 at most")
    lost = choose_thresholds(matches(12, [], [0.9])).categories[APPLE]
    assert lost.reason.startswith("no object is found")
    assert choose_thresholds(matches(12, [], [])).categories[PEAR].score == 0.5


@pytest.mark.parametrize("seed", [1, 2])
def test_no_other_score_has_a_better_f1_when_all_is_matched_anew(seed: int) -> None:
    """Crowds, copies and equal scores among them."""
    images = list(scenes(30, seed=seed))
    chosen = choose_thresholds(matches_of(images)).categories

    def anew(score: float, category: int) -> float:
        """F1 of what is left when lower scores are thrown away before matching."""
        left = []
        for truth, found in images:
            kept = found.scores >= score
            masks = [mask for mask, keep in zip(found.masks or (), kept, strict=True) if keep]
            left.append((truth, found_of(np.zeros((kept.sum(), 4)), found.scores[kept], found.categories[kept], masks=masks)))
        again = matches_of(left)
        hit, out = (bits(packed["segm"])[:, 0, 0] for packed in (again.detections.hits, again.detections.ignored))
        counts = (again.detections.category == category) & ~out
        objects = (again.objects.counted() & (again.objects.category == category)).sum()
        return 2 * (hit & counts).sum() / (counts.sum() + objects)

    told = operating(matches_of(images), whole(matches_of(images)), Thresholds(Rule(), chosen, {}))["categories"]
    for category, one in enumerate(chosen):
        assert one.source == OWN
        best = anew(one.score, category)
        assert best == pytest.approx(told[one.name]["chosen"]["f1"])
        assert anew(0.5, category) == pytest.approx(told[one.name]["default"]["f1"])
        scores = {score for _, found in images for score in found.scores[found.categories == category].tolist()}
        assert best >= max(anew(score, category) for score in scores) - 1e-12


def test_effect_is_counted_by_category_and_together() -> None:
    held = matches(12, RIGHT, WRONG)
    told = operating(held, whole(held), choose_thresholds(held))
    apples = told["categories"]["apple"]
    # At 0.5 and above: 8 right and two wrong, one of them at just 0.5.
    assert apples["default"] == {"detections": 10, "right": 8, "precision": 0.8, "recall": 8 / 12, "f1": pytest.approx(16 / 22)}
    assert apples["chosen"] == {"detections": 9, "right": 8, "precision": 8 / 9, "recall": 8 / 12, "f1": pytest.approx(16 / 21)}
    assert {key: told[key] for key in ("default", "chosen")} == {key: apples[key] for key in ("default", "chosen")}
    assert told["categories"]["pear"]["chosen"] == {"detections": 0, "right": 0, "precision": None, "recall": None, "f1": None}
    assert "chosen" not in operating(held, whole(held), None)


def test_a_file_says_on_which_data_it_was_chosen_and_is_read_without_this_project(tmp_path: Path) -> None:
    thresholds = choose_thresholds(matches(12, RIGHT, WRONG), Rule(0.85))
    write_thresholds(tmp_path / "thresholds.json", thresholds)
    assert read_thresholds(tmp_path / "thresholds.json") == thresholds
    stored = json.loads((tmp_path / "thresholds.json").read_text())
    assert stored["chosen_on"] == {"split": "val", "dataset": "fruits", "dataset_digest": "d", "checkpoint_digest": "c"}
    assert stored["rule"] == "precision=0.85"
    assert class_thresholds(tmp_path / "thresholds.json") == thresholds.scores == dict.fromkeys((1, 2, 7), thresholds.categories[0].score)
    assert is_of_model(thresholds, ABOUT)
    assert not is_of_model(thresholds, ABOUT | {"checkpoint_digest": "other"})


@pytest.mark.parametrize("change", [{"format_version": 9}, {"categories": [{"id": 1}]}, {"categories": [{"score": 2}]}, {"rule": "guess"}])
def test_what_is_no_file_of_thresholds_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    file = tmp_path / "thresholds.json"
    write_thresholds(file, Thresholds(Rule(), (Threshold(1, "apple", 0.5, 12, OWN),), {}))
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError):
        read_thresholds(file)


@pytest.mark.parametrize("text", ["", "f1", "precision", "precision=0", "precision=1.01", "precision=nan", "best-f1=1", "recall=0.5"])
def test_a_rule_is_one_of_two(text: str) -> None:
    with pytest.raises(UserError, match=r"--operating-point is"):
        parse_rule(text)


def test_scores_that_are_neighbours_are_told_apart() -> None:
    high = np.float32(0.7)
    low = np.nextafter(high, np.float32(0))
    assert np.float32(_between(float(low), float(high))) == high
    assert _between(0.5, 0.79) in (0.64, 0.65)
