"""Which models find what others miss, on images whose objects and detections are written down."""

from __future__ import annotations

from tasks.comparison.disagreement import most_disputed, outcome, right_where_wrong, sentences
from tests.coco.scenes import found_of, matches_of, truth_of

LEFT, MIDDLE, RIGHT = [10, 10, 60, 60], [10, 80, 60, 130], [10, 150, 60, 200]


def matches(*found):
    """Three images: an apple and a pear, a pear, nothing; `found` are boxes, scores and categories on each."""
    truths = [truth_of(1, [LEFT, RIGHT], [0, 1]), truth_of(2, [MIDDLE], [1]), truth_of(3, [], [])]
    return matches_of([(truth, found_of(*one)) for truth, one in zip(truths, found, strict=True)])


NOTHING = ([], [], [])
ALL = matches(([LEFT, RIGHT], [0.9, 0.8], [0, 1]), ([MIDDLE], [0.9], [1]), NOTHING)
# The pear on the first image is called an apple, and what is on the second is not sure enough.
SOME = matches(([LEFT, RIGHT], [0.9, 0.8], [0, 0]), ([MIDDLE], [0.29], [1]), NOTHING)
WRONG = matches(NOTHING, ([MIDDLE], [0.9], [1]), ([LEFT, RIGHT], [0.5, 0.5], [0, 0]))


def test_objects_are_found_under_their_name_by_what_is_sure_enough():
    assert outcome(ALL).found.tolist() == [True, True, True]
    assert outcome(SOME).found.tolist() == [True, False, False]
    assert outcome(SOME).false.tolist() == [1, 0, 0]
    assert outcome(WRONG).false.tolist() == [0, 0, 2]
    outcomes = {"all": outcome(ALL), "some": outcome(SOME), "wrong": outcome(WRONG)}
    assert right_where_wrong(outcomes) == {"all": {"some": 2, "wrong": 2}, "some": {"all": 0, "wrong": 1}, "wrong": {"all": 0, "some": 1}}


def test_the_most_disputed_come_first_and_all_pairs_are_shown():
    outcomes = {"all": outcome(ALL), "some": outcome(SOME), "wrong": outcome(WRONG)}
    # Each object of the first image has a party of one, and one has a detection too many: 3. The third differs by two detections.
    first, third, second = most_disputed(ALL, outcomes, 3)
    assert (first.image, third.image, second.image) == (0, 2, 1)
    assert (first.objects, first.found, first.false) == (2, {"all": 2, "some": 1, "wrong": 0}, {"all": 0, "some": 1, "wrong": 0})
    assert sentences(first, list(outcomes)) == [
        "apple: found by all and some, missed by wrong",
        "pear: found by all, missed by some and wrong",
    ]
    assert (third.objects, third.told) == (0, {})
    # The first shows three of the pairs, the second that `wrong` finds what `some` misses; there is no room for the third.
    assert [one.image for one in most_disputed(ALL, outcomes, 2)] == [0, 1]


def test_models_that_agree_dispute_nothing():
    assert most_disputed(ALL, {"one": outcome(ALL), "other": outcome(ALL)}, 5) == []
