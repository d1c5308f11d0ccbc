"""Masks against hand-drawn pixels and pycocotools' own path; the PNG against every reader that a record may meet."""

from __future__ import annotations

import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from pycocotools import mask as pycoco
from pycocotools.coco import COCO

from tasks.coco.mask_png import encode_pngs, rle_from_png
from tasks.coco.masks import (
    MalformedSegmentationError,
    MaskValuesError,
    crop_from_rle,
    decode_png,
    mask_from_rle,
    rle_area,
    rle_extent_yxyx,
    rle_from_crop,
    rle_from_mask,
    rle_from_segmentation,
    runs_of_compressed,
)

SQUARE = [1, 1, 3, 1, 3, 3, 1, 3]
"""Pixels 1 and 2 both ways."""


def drawn(*rows: str) -> np.ndarray:
    return np.array([[int(pixel == "#") for pixel in row] for row in rows], np.uint8)


def test_a_polygon_covers_the_pixels_inside_it():
    rle = rle_from_segmentation([SQUARE], 4, 5)
    np.testing.assert_array_equal(mask_from_rle(rle), drawn(".....", ".##..", ".##..", "....."))
    assert rle_area(rle) == 4
    assert rle_extent_yxyx(rle) == (1, 1, 3, 3)


def test_parts_are_joined_and_their_overlap_counted_once():
    rle = rle_from_segmentation([SQUARE, [2, 1, 5, 1, 5, 2, 2, 2]], 4, 5)
    np.testing.assert_array_equal(mask_from_rle(rle), drawn(".....", ".####", ".##..", "....."))


def test_uncompressed_and_compressed_runs_are_the_same_mask():
    mask = drawn(".#.", ".#.", "##.", "...")
    runs = [2, 1, 1, 3, 5]  # down the columns: two off, one on, one off, three on, the rest off
    compressed = rle_from_mask(mask)
    text = compressed["counts"].decode()
    for counts in (runs, text, compressed["counts"]):
        rle = rle_from_segmentation({"size": [4, 3], "counts": counts}, 4, 3)
        np.testing.assert_array_equal(mask_from_rle(rle), mask)


@pytest.mark.parametrize("polygons", [[], [[1, 1, 3, 3]], [[1, 1, 3, 3], [2, 2]]], ids=["none", "line", "line and point"])
def test_polygons_without_three_points_are_no_mask(polygons):
    assert rle_from_segmentation(polygons, 4, 5) is None


def test_a_line_beside_a_polygon_is_not_taken_for_a_box():
    # pycocotools reads a first part of four numbers as x, y, width, height, and with it all the others.
    rle = rle_from_segmentation([[0, 0, 4, 4], SQUARE], 4, 5)
    assert rle_area(rle) == 4


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ([[1, 1, 3, 1, 3]], "pairs"),
        ([["a", "b", "c", "d", "e", "f"]], "numbers"),
        ([SQUARE[:-1] + [float("nan")]], "finite"),
        ([SQUARE[:-1] + [1e9]], "100000 pixels away"),
        ([SQUARE[:-1] + [-1e30]], "100000 pixels away"),
        ("file.png", "str"),
        (None, "NoneType"),
        ({"size": [5, 4], "counts": [20]}, r"\[5, 4\].*\[4, 5\]"),
        ({"size": [4, 5], "counts": [3, 4]}, "7 pixels"),
        ({"size": [4, 5], "counts": [-3, 23]}, "whole numbers"),
        ({"size": [4, 5], "counts": {}}, "neither"),
        ({"size": [4, 5], "counts": "04"}, "do not add up"),
        ({"size": [4, 5], "counts": "0P"}, "breaks off"),
        ({"size": [4, 5], "counts": "0" + "P" * 20 + "0d0"}, "longer than any image"),
        ({"size": [4, 5], "counts": "O" + "d0"}, "negative"),
        ({"size": [4, 5], "counts": "/d0"}, "none of a run-length code"),
        ({"size": [4, 5], "counts": ""}, "do not add up"),
    ],
)
def test_what_is_no_mask_is_refused_with_the_reason(segmentation, reason):
    with pytest.raises(MalformedSegmentationError, match=reason):
        rle_from_segmentation(segmentation, 4, 5)


def test_a_polygon_far_past_the_border_fills_what_is_inside():
    assert rle_area(rle_from_segmentation([[-1e5, -1e5, 1e5, -1e5, 1e5, 1e5, -1e5, 1e5]], 4, 5)) == 4 * 5


def test_long_and_many_runs_survive_the_check_of_compressed_codes():
    rng = np.random.default_rng(0)
    for density in (0.0, 1e-4, 0.01, 0.5, 1.0):
        mask = (rng.random((300, 700)) < density).astype(np.uint8)
        rle = rle_from_mask(mask)
        again = rle_from_segmentation({"size": [300, 700], "counts": rle["counts"].decode()}, 300, 700)
        np.testing.assert_array_equal(mask_from_rle(again), mask)


def test_codes_that_are_read_together_are_each_their_own():
    runs = [[2, 1, 1, 3, 5], [], [300, 10, 20, 4000, 7, 1], [0, 12], [33]]
    codes = [pycoco.frPyObjects({"size": [sum(own), 1], "counts": own}, sum(own), 1)["counts"] for own in runs]
    assert [found.tolist() for found in runs_of_compressed(codes)] == runs
    with pytest.raises(ValueError, match="breaks off"):
        runs_of_compressed([codes[0] + b"P", codes[2]])


@pytest.mark.parametrize("counts", [[0, 0, 5, 3, 4], [5, 0, 0, 3, 4], [2, 0, 3, 3, 4], [5, 3, 4, 0]])
@pytest.mark.parametrize("compress", [False, True])
def test_runs_of_no_pixel_change_nothing(counts, compress):
    segmentation = {"size": [3, 4], "counts": counts}
    if compress:
        segmentation = pycoco.frPyObjects(segmentation, 3, 4)
    rle = rle_from_segmentation(segmentation, 3, 4)
    np.testing.assert_array_equal(mask_from_rle(rle), drawn("..#.", "..#.", ".#.."))
    assert rle_extent_yxyx(rle) == (0, 1, 3, 3)
    np.testing.assert_array_equal(decode_png(encode_pngs([rle])[0]), mask_from_rle(rle))


MASKS = {
    "one pixel": np.ones((1, 1), np.uint8),
    "odd width": (np.random.default_rng(1).random((37, 53)) < 0.5).astype(np.uint8),
    "empty": np.zeros((20, 30), np.uint8),
    "full": np.ones((20, 30), np.uint8),
    "first pixel": drawn("#...", "...."),
    "last pixel": drawn("....", "...#"),
    "two corners": drawn("#...", "....", "...#"),
    "wide disc": (np.hypot(*np.mgrid[-240:240, -320:320]) < 200).astype(np.uint8),
    "column-major": np.asfortranarray((np.random.default_rng(2).random((40, 24)) < 0.1).astype(np.uint8)),
}


@pytest.fixture(params=MASKS.values(), ids=MASKS.keys())
def mask(request):
    return request.param


def test_png_is_zero_and_one_to_pillow_opencv_and_us(mask):
    (png,) = encode_pngs([rle_from_mask(mask)])
    with Image.open(io.BytesIO(png)) as image:
        assert image.mode == "L"
        np.testing.assert_array_equal(np.asarray(image), mask)
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED), mask)
    np.testing.assert_array_equal(decode_png(png), mask)


@pytest.mark.parametrize("channels", [0, 1])
def test_png_is_zero_and_one_to_tensorflow(mask, channels):
    import tensorflow as tf

    np.testing.assert_array_equal(tf.io.decode_png(encode_pngs([rle_from_mask(mask)])[0], channels=channels).numpy()[..., 0], mask)


@pytest.mark.parametrize("value", [1, 7, 255])
def test_any_value_above_zero_of_another_tools_png_is_the_object(value):
    stream = io.BytesIO()
    mask = drawn("#..", ".##")
    Image.fromarray(mask * np.uint8(value)).save(stream, "PNG")
    np.testing.assert_array_equal(decode_png(stream.getvalue()), mask)


@pytest.mark.parametrize("colours", [[0, 0, 0, 1, 1, 1], [0, 0, 0, 255, 255, 255], [0, 0, 0, 0, 128, 0], [9, 9, 9, 0, 0, 0]])
def test_a_palettes_colours_count_as_they_do_to_tensorflow(colours):
    import tensorflow as tf

    image = Image.fromarray(drawn("#..", ".##"))
    image.putpalette(colours)
    stream = io.BytesIO()
    image.save(stream, "PNG", bits=1)
    mask = tf.io.decode_png(stream.getvalue(), channels=1).numpy()[..., 0] > 0
    assert 0 < mask.sum() < mask.size
    np.testing.assert_array_equal(decode_png(stream.getvalue()), mask)


def test_several_values_above_zero_are_no_mask():
    stream = io.BytesIO()
    Image.fromarray(np.array([[0, 1, 2]], np.uint8)).save(stream, "PNG")
    with pytest.raises(MaskValuesError, match="other values than 0 and one above it"):
        decode_png(stream.getvalue())


@pytest.mark.parametrize("split", ["train", "val"])
def test_coco_masks_equal_pycocotools_own(shared_data: Path, split):
    path = shared_data / "coco_tiny" / "annotations" / f"instances_{split}2017.json"
    coco = COCO()
    coco.dataset = json.loads(path.read_text())
    coco.createIndex()
    differing = []
    for annotation in coco.dataset["annotations"]:
        image = coco.imgs[annotation["image_id"]]
        rle = rle_from_segmentation(annotation["segmentation"], image["height"], image["width"])
        if not np.array_equal(mask_from_rle(rle), pycoco.decode(coco.annToRLE(annotation))):
            differing.append(annotation["id"])
    assert len(coco.dataset["annotations"]) == {"train": 705, "val": 815}[split]
    assert differing == []


def test_codes_of_crops_are_those_that_pycocotools_writes_of_the_whole_frame():
    """Objects anywhere, touching every border, with holes, and none at all; runs that go on in the next column are one."""
    random = np.random.default_rng(0)
    for _ in range(500):
        height, width = random.integers(1, 40, 2)
        (top, bottom), (left, right) = np.sort(random.integers(0, height + 1, 2)), np.sort(random.integers(0, width + 1, 2))
        mask = np.zeros((height, width), np.uint8)
        mask[top:bottom, left:right] = random.random((bottom - top, right - left)) < random.choice([0.1, 0.5, 1.0])
        expected = pycoco.encode(np.asfortranarray(mask))
        assert rle_from_mask(mask) == expected
        assert rle_from_crop(mask[top:bottom, left:right], top, left, mask.shape) == expected
        np.testing.assert_array_equal(crop_from_rle(expected, (top, left, bottom, right)), mask[top:bottom, left:right])
        assert rle_from_png(*encode_pngs([expected])) == expected


@pytest.mark.parametrize("spoil", [30, -20])
def test_a_damaged_png_is_not_taken_for_one_of_ours(spoil):
    mask = np.zeros((60, 50), np.uint8)
    mask[20:30, 10:40] = 1
    (png,) = encode_pngs([rle_from_mask(mask)])
    damaged = bytearray(png)
    damaged[spoil] ^= 1
    with pytest.raises((OSError, SyntaxError)):
        rle_from_png(bytes(damaged))


@pytest.mark.parametrize("mode", ["L", "1", "LA", "RGB", "RGBA", "P"])
def test_masks_of_every_mode_are_what_tensorflow_reads(mode):
    mask = np.zeros((6, 9), np.uint8)
    mask[2:5, 3:8] = 255
    stream = io.BytesIO()
    Image.fromarray(mask).convert(mode).save(stream, "PNG")
    np.testing.assert_array_equal(decode_png(stream.getvalue()), tf.io.decode_png(stream.getvalue(), channels=1)[..., 0] > 0)


@pytest.mark.parametrize(
    ("pixels", "seen"),
    [
        (np.array([255, 0, 0], np.uint8), True),
        (np.array([0, 0, 9], np.uint8), True),
        (np.array([0, 0, 1], np.uint8), False),  # its grey is 0.11
        (np.uint16(1), False),  # the upper eight bits are 0
        (np.uint16(256), True),
    ],
)
def test_colours_and_sixteen_bits_that_tensorflow_does_not_see_are_not_seen(pixels, seen):
    stream = io.BytesIO()
    Image.fromarray(np.ones((4, 5, *pixels.shape), pixels.dtype) * pixels).save(stream, "PNG")
    assert (tf.io.decode_png(stream.getvalue(), channels=1).numpy() > 0).all() == seen
    assert decode_png(stream.getvalue()).all() == seen
