"""Pasted masks against the original's own operations: crop_and_resize onto the whole image, then a threshold."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from tasks.coco.paste import paste_masks


def paste_plainly(masks, boxes_yxyx, height, width, threshold=0.5):
    """uint8 [N, height, width], pixel after pixel: the definition, in float32, as slow as it is obvious."""
    pasted = np.zeros((len(masks), height, width), np.uint8)
    boxes = boxes_yxyx.astype(np.float32) / np.float32([height, width, height, width])
    cells = np.float32([masks.shape[1] - 1, masks.shape[2] - 1])
    for n, (mask, box) in enumerate(zip(masks, boxes, strict=True)):
        extent = np.maximum(box[2:] - box[:2], np.float32(1e-4))
        start, stop = (np.float32(0) - box[:2]) / extent, (np.float32(1) - box[:2]) / extent
        size = np.float32([height - 1, width - 1])
        step = (stop - start) * cells / size
        for row in range(height):
            y = start[0] * cells[0] + np.float32(row) * step[0]
            if not 0 <= y <= cells[0]:
                continue
            for column in range(width):
                x = start[1] * cells[1] + np.float32(column) * step[1]
                if not 0 <= x <= cells[1]:
                    continue
                t, b, lft, r = int(np.floor(y)), int(np.ceil(y)), int(np.floor(x)), int(np.ceil(x))
                fraction_y, fraction_x = y - np.float32(t), x - np.float32(lft)
                upper = mask[t, lft] + (mask[t, r] - mask[t, lft]) * fraction_x
                lower = mask[b, lft] + (mask[b, r] - mask[b, lft]) * fraction_x
                pasted[n, row, column] = upper + (lower - upper) * fraction_y > threshold
    return pasted


def random_case(seed, count, mask_size, height, width):
    """Masks and boxes in pixels; some boxes reach outside, some cover the image, some are thinner than a pixel."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(0, 1, (count, 2)) * [height, width]
    size = rng.uniform(0.002, 1.2, (count, 2)) * [height, width]
    boxes = np.concatenate([centre - size / 2, centre + size / 2], axis=1).astype(np.float32)
    boxes[0] = [0, 0, height, width]
    return rng.uniform(0, 1, (count, *mask_size)).astype(np.float32), boxes


def assert_equal_codes(codes, expected):
    assert [code["size"] for code in codes] == [list(mask.shape) for mask in expected]
    for code, mask in zip(codes, expected, strict=True):
        assert code["counts"] == coco_mask.encode(np.asfortranarray(mask))["counts"]


@pytest.mark.parametrize(("mask_size", "height", "width"), [((15, 15), 37, 53), ((33, 33), 41, 29), ((7, 11), 5, 64), ((2, 2), 24, 24)])
def test_equals_the_definition_code_for_code(mask_size, height, width):
    masks, boxes = random_case(3, 12, mask_size, height, width)
    assert_equal_codes(paste_masks(masks, boxes, height, width), paste_plainly(masks, boxes, height, width))


def test_equals_tensorflow_code_for_code():
    tf = pytest.importorskip("tensorflow")
    height, width = 200, 333
    masks, boxes = random_case(5, 40, (33, 33), height, width)
    normalized = boxes / np.float32([height, width, height, width])
    extent = np.maximum(normalized[:, 2:] - normalized[:, :2], np.float32(1e-4))
    image_in_box = np.concatenate([-normalized[:, :2] / extent, (1 - normalized[:, :2]) / extent], axis=1)
    resized = tf.image.crop_and_resize(masks[..., None], image_in_box, np.arange(len(masks)), [height, width])
    assert_equal_codes(paste_masks(masks, boxes, height, width), (resized.numpy()[..., 0] > 0.5).astype(np.uint8))


def test_a_solid_mask_fills_the_pixels_between_its_corners():
    # Corner-aligned: pixel y of an image of 9 rows sits at y / 8 of its height, so a box from 9/4 to 27/4 (a quarter to
    # three quarters) holds rows 2 to 6; likewise columns 3 to 9 of 13.
    (code,) = paste_masks(np.ones((1, 5, 5)), [[9 / 4, 13 / 4, 27 / 4, 39 / 4]], 9, 13)
    expected = np.zeros((9, 13), np.uint8)
    expected[2:7, 3:10] = 1
    np.testing.assert_array_equal(coco_mask.decode(code), expected)


def test_a_mask_over_the_whole_image_is_one_run():
    (code,) = paste_masks(np.ones((1, 3, 3)), [[0, 0, 6, 4]], 6, 4)
    assert coco_mask.area(code) == 24
    assert code["counts"] == coco_mask.encode(np.ones((6, 4), np.uint8, order="F"))["counts"]


def test_the_threshold_itself_is_outside():
    (code,) = paste_masks(np.full((1, 3, 3), 0.5), [[0, 0, 6, 4]], 6, 4)
    assert coco_mask.area(code) == 0


def test_a_box_outside_the_image_is_empty():
    (code,) = paste_masks(np.ones((1, 3, 3)), [[-20, -20, -10, -10]], 6, 4)
    assert coco_mask.area(code) == 0


def test_no_detections():
    assert paste_masks(np.zeros((0, 33, 33)), np.zeros((0, 4)), 10, 10) == []


def test_masks_without_their_boxes_are_refused():
    with pytest.raises(ValueError, match=r"\[N, h, w\] and \[N, 4\]"):
        paste_masks(np.zeros((2, 33, 33)), np.zeros((1, 4)), 10, 10)
