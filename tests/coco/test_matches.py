"""Matches joined in any order, stored and read back."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tasks.coco.matches import NotMatchesError, bits, joined, match_image, read_matches, write_matches
from tests.coco.scenes import CATEGORIES, found_of, matches_of, scenes, truth_of


def assert_equal(one, other):
    assert (one.categories, one.kinds, one.about) == (other.categories, other.kinds, other.about)
    for name in ("images", "objects", "detections"):
        for field in dataclasses.fields(getattr(one, name)):
            values, others = (getattr(getattr(matches, name), field.name) for matches in (one, other))
            for key in values if isinstance(values, dict) else [None]:
                pair = (values, others) if key is None else (values[key], others[key])
                np.testing.assert_array_equal(*pair, err_msg=f"{name}.{field.name}")
                assert pair[0].dtype == pair[1].dtype


def test_images_come_in_the_order_of_their_ids_whatever_the_parts():
    images = list(scenes(12, seed=1))
    ids = [2**63 + 12345, 17, *range(20, 30)]
    parts = [match_image(*image, CATEGORIES) for image in images]
    expected = joined(parts, ids, {"split": "val"})
    assert expected.images.ids.tolist() == ["17", *map(str, range(20, 30)), str(2**63 + 12345)]
    halves = [joined(parts[:5], range(5), {}), joined(parts[5:], range(7), {})]
    assert_equal(joined(halves, ids, {"split": "val"}), expected)
    assert_equal(joined(halves[::-1], [*ids[5:], *ids[:5]], {"split": "val"}), expected)
    # Who is whose object is kept.
    plain = matches_of(images)
    pairs = (
        {
            (matches.images.file_names[matches.objects.image[one]], matches.objects.area[one])
            for one in matches.detections.object
            if one >= 0
        }
        for matches in (plain, expected)
    )
    assert next(pairs) == next(pairs) != set()


def test_what_is_stored_is_read_back_and_the_same_bytes(tmp_path):
    images = [(dataclasses.replace(truth, attributes={"camera": f"c{truth.height % 2}"}), found) for truth, found in scenes(5, seed=2)]
    matches = matches_of(images, dataset="d", digest="ab")
    write_matches(tmp_path / "one.npz", matches)
    write_matches(tmp_path / "two.npz", matches)
    assert_equal(read_matches(tmp_path / "one.npz"), matches)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 and no more", b"\x93NUMPY\x01\x00v\x00{}"])
def test_another_file_is_no_matches(tmp_path, content):
    if content is not None:
        (tmp_path / "matches.npz").write_bytes(content)
    with pytest.raises(NotMatchesError, match=r"matches.npz"):
        read_matches(tmp_path / "matches.npz")


def test_each_detection_knows_its_objects():
    """Two apples and a pear. The pear's place is called an apple, an apple is found twice, and one detection is on nothing."""
    apples, pear = [[0, 0, 40, 40], [100, 100, 140, 140]], [60, 60, 80, 80]
    truth = truth_of(1, [*apples, pear], [0, 0, 1])
    boxes = [apples[0], [0, 0, 40, 30], pear, [180, 180, 200, 200]]
    matches = matches_of([(truth, found_of(boxes, [0.9, 0.8, 0.7, 0.6], [0, 0, 0, 0]))])
    found = matches.detections
    assert found.object.tolist() == [0, -1, -1, -1]
    assert found.own.tolist() == [0, 0, -1, -1]
    np.testing.assert_allclose(found.own_iou, [1, 0.75, 0, 0])
    np.testing.assert_allclose(found.own_box_iou, [1, 0.75, 0, 0])
    assert found.other.tolist() == [-1, -1, 2, -1]
    np.testing.assert_allclose(found.other_iou, [0, 0, 1, 0])
    assert found.paired.tolist() == [0, -1, 2, -1]
    hit = bits(found.hits["segm"])
    assert hit[:, 0].sum(axis=1).tolist() == [10, 0, 0, 0]
    # The second one may be nothing at 0.5, where the apple is taken; 40 * 30 pixels are no small object, and 20 * 20 are.
    assert bits(found.ignored["segm"])[:, :, 0].tolist() == [
        [False, True, False, True],
        [False, True, False, True],
        [False, False, True, True],
        [False, False, True, True],
    ]
