"""Pasted masks against the original's own operations: crop_and_resize onto the whole image, then a threshold."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from tasks.coco.paste import paste_masks


def paste_plainly(masks, boxes, height, width, threshold=0.5):
    """uint8 [N, height, width], pixel after pixel: the definition, in float32, as slow as it is obvious."""
    pasted = np.zeros((len(masks), height, width), np.uint8)
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


def paste_by_tensorflow(masks, boxes, height, width):
    """uint8 [N, height, width]: the original's own operations."""
    tf = pytest.importorskip("tensorflow")
    extent = np.maximum(boxes[:, 2:] - boxes[:, :2], np.float32(1e-4))
    image_in_box = np.concatenate([(0 - boxes[:, :2]) / extent, (1 - boxes[:, :2]) / extent], axis=1)
    resized = tf.image.crop_and_resize(masks[..., None], image_in_box, np.arange(len(masks)), [height, width])
    return (resized.numpy()[..., 0] > 0.5).astype(np.uint8)


def random_case(seed, count, mask_size):
    """Masks and normalized boxes; some boxes reach outside, some cover the image, some are thinner than a pixel."""
    rng = np.random.default_rng(seed)
    centre, size = rng.uniform(0, 1, (count, 2)), rng.uniform(0.002, 1.2, (count, 2))
    boxes = np.concatenate([centre - size / 2, centre + size / 2], axis=1).astype(np.float32)
    boxes[0] = [0, 0, 1, 1]
    return rng.uniform(0, 1, (count, *mask_size)).astype(np.float32), boxes


def assert_equal_codes(codes, expected):
    assert [code["size"] for code in codes] == [list(mask.shape) for mask in expected]
    for code, mask in zip(codes, expected, strict=True):
        assert code["counts"] == coco_mask.encode(np.asfortranarray(mask))["counts"]


@pytest.mark.parametrize(("mask_size", "height", "width"), [((15, 15), 37, 53), ((33, 33), 41, 29), ((7, 11), 5, 64), ((2, 2), 24, 24)])
def test_equals_the_definition_code_for_code(mask_size, height, width):
    masks, boxes = random_case(3, 12, mask_size)
    assert_equal_codes(paste_masks(masks, boxes, height, width), paste_plainly(masks, boxes, height, width))


def test_equals_tensorflow_code_for_code():
    masks, boxes = random_case(5, 40, (33, 33))
    assert_equal_codes(paste_masks(masks, boxes, 200, 333), paste_by_tensorflow(masks, boxes, 200, 333))


@pytest.mark.parametrize(("height", "width"), [(131, 173), (97, 250), (480, 640)])
def test_objects_at_the_border_keep_their_last_row_and_column(height, width):
    """Boxes that end at 1, or a hair beside it, as clipping and normalizing leave them."""
    rng = np.random.default_rng(height)
    boxes = np.concatenate([rng.uniform(0, 0.9, (200, 2)), np.ones((200, 2))], axis=1).astype(np.float32)
    boxes[50:150, 2:] += rng.integers(-2, 3, (100, 2)) * np.spacing(np.float32(1))
    boxes[100:, :2] = 1 - boxes[100:, 2:]
    masks = np.ones((200, 15, 15), np.float32)
    expected = paste_by_tensorflow(masks, boxes, height, width)
    assert_equal_codes(paste_masks(masks, boxes, height, width), expected)
    # The way to pixels and back is what must not be taken.
    size = np.float32([height, width, height, width])
    assert (expected != paste_by_tensorflow(masks, boxes * size / size, height, width)).any()


def test_a_solid_mask_fills_the_pixels_between_its_corners():
    # Corner-aligned: pixel y of an image of 9 rows sits at y / 8 of its height, so a box from a quarter to
    # three quarters holds rows 2 to 6; likewise columns 3 to 9 of 13.
    (code,) = paste_masks(np.ones((1, 5, 5)), [[0.25, 0.25, 0.75, 0.75]], 9, 13)
    expected = np.zeros((9, 13), np.uint8)
    expected[2:7, 3:10] = 1
    np.testing.assert_array_equal(coco_mask.decode(code), expected)


def test_a_mask_over_the_whole_image_is_one_run():
    (code,) = paste_masks(np.ones((1, 3, 3)), [[0, 0, 1, 1]], 6, 4)
    assert coco_mask.area(code) == 24
    assert code["counts"] == coco_mask.encode(np.ones((6, 4), np.uint8, order="F"))["counts"]


def test_the_threshold_itself_is_outside():
    (code,) = paste_masks(np.full((1, 3, 3), 0.5), [[0, 0, 1, 1]], 6, 4)
    assert coco_mask.area(code) == 0


def test_a_box_outside_the_image_is_empty():
    (code,) = paste_masks(np.ones((1, 3, 3)), [[-2, -2, -1, -1]], 6, 4)
    assert coco_mask.area(code) == 0


def test_no_detections():
    assert paste_masks(np.zeros((0, 33, 33)), np.zeros((0, 4)), 10, 10) == []


def test_masks_without_their_boxes_are_refused():
    with pytest.raises(ValueError, match=r"\[N, h, w\] and \[N, 4\]"):
        paste_masks(np.zeros((2, 33, 33)), np.zeros((1, 4)), 10, 10)
