"""Errors, confusion and calibration of detections whose mistakes are known."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.coco.figures import figures
from tasks.coco.matches import Matches
from tasks.evaluation.analysis import calibration, confusion
from tasks.evaluation.error_split import KINDS, error_split
from tasks.evaluation.slices import Slice, whole
from tests.coco.scenes import box_mask, found_of, matches_of, scenes, truth_of

APPLE, PEAR = 0, 1
FIRST, SECOND, THIRD, PEAR_BOX = [0, 0, 40, 40], [0, 60, 40, 100], [0, 120, 40, 160], [60, 0, 100, 40]


def mistakes() -> Matches:
    """Three apples and a pear, and a detection of each kind of error, surest first.

    The first apple is found, and again (duplicate). The second is found with a right box and a mask of a quarter (mask). The third is
    overlapped by 400 of 2800 pixels (localization). On the pear is an apple (class), and one that overlaps it little
    (class and localization). One is on nothing (background).
    """
    boxes = [FIRST, FIRST, SECOND, [0, 150, 40, 190], PEAR_BOX, [90, 0, 130, 40], [180, 180, 200, 200]]
    masks = [box_mask(box) for box in boxes]
    masks[2] = box_mask([0, 60, 20, 80])
    truth = truth_of(1, [FIRST, SECOND, THIRD, PEAR_BOX], [APPLE] * 3 + [PEAR])
    return matches_of([(truth, found_of(boxes, [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.35], [APPLE] * 7, masks=masks))])


def test_each_kind_of_error_is_told() -> None:
    matches = mistakes()
    found = error_split(matches, whole(matches), 0.3)
    errors = {kind: one["errors"] for kind, one in found["kinds"].items()}
    # The second and third apple and the pear were not found, but there is an error about each.
    assert errors == dict.fromkeys(KINDS, 1) | {"missed": 0}
    assert (found["right"], found["objects"]) == (1, 4)
    # Above a score of 0.55 the pear is missed: no detection is about it.
    found = error_split(matches, whole(matches), 0.55)
    assert {kind for kind, one in found["kinds"].items() if one["errors"]} == {"duplicate", "mask", "localization", "missed"}


def test_costs_are_what_ap50_gains_without_the_error() -> None:
    """One of three apples is found by the surest detection: precision 1 up to a recall of 1/3, which are 34 of 101 points. No pear is."""
    matches = mistakes()
    found = error_split(matches, whole(matches), 0.3)
    ap50 = (34 / 101 + 0) / 2
    assert found["ap50"] == pytest.approx(ap50) == pytest.approx(figures(matches)["DetectionMasks_Precision/mAP@.50IOU"])
    costs = {kind: one["cost"] for kind, one in found["kinds"].items()}
    # Two of three apples, the second by the third-surest: 2/3 precision from 1/3 to 2/3, which are the points 0.34 to 0.66.
    assert costs["mask"] == pytest.approx(33 * 2 / 3 / 101 / 2)
    # By the fourth-surest.
    assert costs["localization"] == pytest.approx(33 * 2 / 4 / 101 / 2)
    # All pears are found, by the surest of their category; the apples' precision stands at the first.
    assert costs["class"] == pytest.approx(1 / 2)
    for kind in ("duplicate", "background", "class and localization"):
        assert costs[kind] == pytest.approx(0)
    assert costs["missed"] == pytest.approx(0)


def test_missed_objects_cost_what_they_would_not_be_asked_for() -> None:
    """Of two apples one is found, and nothing is about the other: the recall of 1/2 would be all, 50 of 101 points more."""
    matches = matches_of([(truth_of(1, [FIRST, SECOND], [APPLE] * 2), found_of([FIRST], [0.9], [APPLE]))])
    found = error_split(matches, whole(matches), 0.3)
    assert found["kinds"]["missed"] == {"errors": 1, "cost": pytest.approx(50 / 101)}


def test_a_box_without_masks_has_no_mask_error() -> None:
    truth, detected = truth_of(1, [FIRST], [APPLE]), found_of([[0, 0, 40, 15]], [0.9], [APPLE])
    matches = matches_of([(_boxes_only(truth), _boxes_only(detected))])
    errors = {kind: one["errors"] for kind, one in error_split(matches, whole(matches), 0.3)["kinds"].items()}
    assert errors == dict.fromkeys(KINDS, 0) | {"localization": 1}


def _boxes_only(one):
    return type(one)(**{**vars(one), "masks": None})


def test_nothing_to_find_has_no_cost() -> None:
    matches = matches_of([(truth_of(1, [], []), found_of([FIRST], [0.9], [APPLE]))])
    found = error_split(matches, whole(matches), 0.3)
    assert found["kinds"]["background"] == {"errors": 1, "cost": None}
    assert found["ap50"] is None


def test_detections_on_crowds_are_no_errors() -> None:
    truth = truth_of(1, [FIRST, [100, 100, 200, 200]], [APPLE] * 2, crowd=[0, 1])
    matches = matches_of([(truth, found_of([FIRST, [120, 120, 140, 140]], [0.9, 0.8], [APPLE] * 2))])
    found = error_split(matches, whole(matches), 0.3)
    assert {one["errors"] for one in found["kinds"].values()} == {0}
    counts = np.array(confusion(matches, whole(matches))["counts"])
    assert counts.sum() == counts[APPLE, APPLE] == 1
    assert sum(one["detections"] for one in calibration(matches, whole(matches))["bins"]) == 1


def test_confusion_tells_what_is_called_what() -> None:
    """Rows: apple, pear, plum, nothing; columns: apple, pear, plum, missed. The second of two detections on an apple is on nothing."""
    matches = mistakes()
    counts = confusion(matches, whole(matches))["counts"]
    assert counts == [[1, 0, 0, 2], [1, 0, 0, 0], [0, 0, 0, 0], [5, 0, 0, 0]]


def test_confusion_leaves_out_what_is_not_sure() -> None:
    matches = matches_of([(truth_of(1, [FIRST], [APPLE]), found_of([FIRST, FIRST], [0.9, 0.2], [PEAR, APPLE]))])
    assert np.argwhere(confusion(matches, whole(matches))["counts"]).tolist() == [[APPLE, PEAR]]


def test_calibration_by_hand() -> None:
    """Scores 0.95 right, 0.85 wrong, 0.15 wrong and 0.05 wrong; those on one object are right once."""
    detected = found_of([FIRST, *[[100, 100, 120, 120]] * 3], [0.95, 0.85, 0.15, 0.05], [APPLE] * 4)
    matches = matches_of([(truth_of(1, [FIRST], [APPLE]), detected)])
    found = calibration(matches, whole(matches))
    held = {one["from"]: (one["detections"], one["score"], one["right"]) for one in found["bins"] if one["detections"]}
    assert held == {0.9: (1, 0.95, 1), 0.8: (1, 0.85, 0), 0.1: (1, 0.15, 0), 0.0: (1, 0.05, 0)}
    assert found["error"] == pytest.approx((0.05 + 0.85 + 0.15 + 0.05) / 4)
    assert found["largest"] == pytest.approx(0.85)


def test_a_score_of_one_is_in_the_last_bin() -> None:
    matches = matches_of([(truth_of(1, [FIRST], [APPLE]), found_of([FIRST], [1.0], [APPLE]))])
    assert calibration(matches, whole(matches))["bins"][-1]["detections"] == 1


def test_numbers_of_parts_sum_to_the_whole() -> None:
    matches = matches_of(list(scenes(12, seed=3)))
    first = np.arange(12) < 5
    parts = [Slice("first", first), Slice("others", ~first)]
    everything = error_split(matches, whole(matches), 0.3)
    for kind in KINDS:
        assert sum(error_split(matches, part, 0.3)["kinds"][kind]["errors"] for part in parts) == everything["kinds"][kind]["errors"]
    together = np.sum([confusion(matches, part)["counts"] for part in parts], axis=0)
    np.testing.assert_array_equal(together, confusion(matches, whole(matches))["counts"])
    # Of objects of each size, whether called right or wrong, each is in one row once.
    sizes = [Slice(size, np.ones(12, bool), size) for size in ("small", "medium", "large")]
    rows = np.sum([np.array(confusion(matches, part)["counts"])[:-1].sum(axis=1) for part in sizes], axis=0)
    np.testing.assert_array_equal(rows, np.array(confusion(matches, whole(matches))["counts"])[:-1].sum(axis=1))
