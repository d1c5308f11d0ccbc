"""Verdicts on models that are known by construction, their words, and what is refused."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from tasks.coco.bootstrap import resampled_precision
from tasks.coco.matches import Matches
from tasks.evaluation.verdicts import Contender, Verdicts, incomparable, verdicts
from tasks.running.errors import UserError
from tests.coco.drawn_matches import drawn_models, expected_precision
from tests.coco.scenes import found_of, matches_of, scenes, truth_of

WRONG = 1.5


def compared(models: list[Matches], **options: int) -> Verdicts:
    return verdicts([Contender(name, (model,)) for name, model in zip("abcdefgh", models, strict=False)], **options)


def test_drawn_models_have_the_precision_that_is_expected_of_them() -> None:
    (model,) = drawn_models(40_000, [0.6], WRONG, seed=1)
    assert resampled_precision(model, np.ones((1, 40_000), int))[0] == pytest.approx(expected_precision(0.6, WRONG), abs=0.002)


def test_verdicts_cover_the_truth_and_claim_no_difference_of_equal_models() -> None:
    """In at least 93 of 100 data sets, and in at most 7: 95 % and 5 %, with room for one standard error of 100 draws."""
    truth = expected_precision(0.66, WRONG) - expected_precision(0.6, WRONG)
    assert truth == pytest.approx(0.0213, abs=0.0005)
    covered = claimed = shown = 0
    for seed in range(200):
        pair = compared(drawn_models(100, [0.66, 0.6], WRONG, seed), resamples=300, seed=seed).between("a", "b")
        sign = 1 if pair.first == "a" else -1
        covered += pair.interval[0] <= sign * truth <= pair.interval[1]
        shown += pair.shown
        claimed += compared(drawn_models(100, [0.6, 0.6], WRONG, 1000 + seed), resamples=300, seed=seed).pairs[0].shown
    assert covered >= 2 * 93
    assert claimed <= 2 * 7
    # It is not that nothing is ever shown.
    assert shown > 2 * 10


def test_of_several_equal_models_none_is_called_better() -> None:
    """Six pairs, each at 5 % of its own, would be called different in a fifth of all data sets."""
    claimed = sum(
        any(pair.shown for pair in compared(drawn_models(60, [0.6] * 4, WRONG, seed), resamples=200, seed=seed).pairs) for seed in range(60)
    )
    assert claimed <= 6


def test_a_difference_that_is_shown_in_words() -> None:
    found = compared(drawn_models(1500, [0.5, 0.7], WRONG, seed=1), resamples=300)
    assert [one.name for one in found.standings] == ["b", "a"]
    (pair,) = found.pairs
    assert (pair.first, pair.second, pair.shown, pair.probability) == ("b", "a", True, 1.0)
    truth = expected_precision(0.7, WRONG) - expected_precision(0.5, WRONG)
    assert pair.interval[0] < truth < pair.interval[1]
    low, high = (f"{100 * end:.1f}" for end in pair.interval)
    assert pair.sentence() == f"b is better than a by {low} to {high} points"
    assert found.figure == "box AP"


def test_what_is_not_shown_comes_with_what_it_would_take() -> None:
    few, many = (compared(drawn_models(images, [0.6, 0.61], WRONG, seed=3), resamples=400).pairs[0] for images in (120, 1080))
    assert not few.shown
    told = re.fullmatch(
        r"no difference shown between \w and \w; with these 120 images (.*) points can be shown; label about (\d+) more to show 1",
        few.sentence(),
    )
    assert told is not None
    assert float(told[1]) == pytest.approx(100 * few.detectable, abs=0.05)
    assert int(told[2]) == few.more_images
    # Nine times the images show a third of the difference; as many as are asked for show one point.
    assert many.detectable == pytest.approx(few.detectable / 3, rel=0.2)
    assert few.more_images is not None
    assert few.detectable * np.sqrt(120 / (120 + few.more_images)) == pytest.approx(0.01, rel=0.02)


def test_equal_models_are_alike() -> None:
    (model,) = drawn_models(40, [0.6], WRONG, seed=1)
    (pair,) = compared([model, model], resamples=50).pairs
    assert (pair.difference, pair.interval, pair.probability, pair.shown) == (0, (0, 0), 0.5, False)
    assert pair.sentence() == "no difference shown between a and b: they are alike on every image"


def test_fewer_than_ten_images_show_nothing() -> None:
    box = [[4, 4, 60, 60]]
    everything, nothing = (
        matches_of([(truth_of(image, box, [0]), found_of(*found)) for image in range(1, 10)]) for found in ((box, [0.9], [0]), ([], [], []))
    )
    (pair,) = compared([everything, nothing], resamples=50).pairs
    assert (pair.difference, pair.shown) == (pytest.approx(1), False)
    assert "fewer than 10 images show none" in pair.sentence()


def test_seeds_widen_the_interval_by_their_own_spread() -> None:
    """The variance of the difference is that of the images, plus the seeds' over the number of trainings of each model."""
    trainings = [drawn_models(200, [found], WRONG, seed=1)[0] for found in (0.56, 0.64, 0.56, 0.64)]
    values = np.array([resampled_precision(one, np.ones((1, 200), int))[0] for one in trainings])
    spread = np.sqrt(((values[:2] - values[:2].mean()) ** 2).sum() + ((values[2:] - values[2:].mean()) ** 2).sum()) / np.sqrt(2)
    one = verdicts([Contender("a", (trainings[0],)), Contender("b", (trainings[3],))], resamples=1000)
    many = verdicts([Contender("a", tuple(trainings[:2])), Contender("b", tuple(trainings[2:]))], resamples=1000)
    (pair,) = many.pairs
    assert pair.detectable > one.pairs[0].detectable
    assert {standing.trainings for standing in many.standings} == {2}
    assert [standing.spread for standing in many.standings] == pytest.approx([np.std(values[:2], ddof=1), np.std(values[2:], ddof=1)])
    # Student's with two degrees of freedom has no variance, so that the ends are held against its quantile: 4.3 standard errors.
    assert pair.interval[1] - pair.difference == pytest.approx(4.303 * spread, rel=0.2)
    assert pair.sentence().endswith("and no number of images shows 1: train more seeds")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda one: dataclasses.replace(one, about={"dataset_digest": "cd" * 32}), "another state of the data set: None and cdcdcdcdcdcd"),
        (lambda one: dataclasses.replace(one, about={"split": "test"}), "another split: None and test"),
        (lambda one: dataclasses.replace(one, categories=(*one.categories[:2], (9, "fig"))), "other categories: fig, plum"),
        (lambda one: dataclasses.replace(one, categories=(*one.categories[:2], (9, "plum"))), "the same names under other ids"),
        (lambda one: matches_of(list(scenes(5, seed=1))), "other images"),
        (lambda one: matches_of(list(scenes(6, seed=2))), "other objects on the same images"),
    ],
)
def test_what_was_measured_on_something_else_is_refused(change, reason) -> None:
    one = matches_of(list(scenes(6, seed=1)))
    assert incomparable(one, one) is None
    assert reason in str(incomparable(one, change(one)))
    with pytest.raises(UserError, match=re.escape(reason)):
        compared([one, change(one)])


def test_nothing_to_compare_is_refused() -> None:
    empty = matches_of([(truth_of(1, [], []), found_of([], [], []))])
    with pytest.raises(UserError, match="no object to find"):
        compared([empty, empty])
    with pytest.raises(UserError, match="no two evaluated models"):
        compared([empty])
