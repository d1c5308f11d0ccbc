"""What the pictures show, read back pixel by pixel."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from tasks.coco.pictures import PictureObjects, category_color, draw_comparison, draw_objects

NAMES = {1: "apple", 2: "pear"}
GREY = 100


def square(box_yxyx, height, width):
    mask = np.zeros((height, width), np.uint8, order="F")
    top, left, bottom, right = box_yxyx
    mask[top:bottom, left:right] = 1
    return coco_mask.encode(mask)


def objects(boxes, category_ids, height, width, scores=None):
    masks = [square(box, height, width) for box in boxes]
    return PictureObjects(np.array(boxes, float).reshape(-1, 4), category_ids, masks, scores)


def drawn(height, width, groundtruth, detections, **more):
    """The two panels, float [h, w, 3], cut from the picture of a grey image."""
    picture = draw_comparison(np.full((height, width, 3), GREY, np.uint8), groundtruth, detections, NAMES, **more)
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"), float)


def tinted(category_id):
    return 0.42 * np.array(category_color(category_id)) + 0.58 * GREY


def contains(sheet, color, tolerance=3):
    """How many pixels of the left and of the right half have the colour."""
    near = np.abs(sheet - color).max(axis=2) <= tolerance
    middle = near.shape[1] // 2
    return int(near[:, :middle].sum()), int(near[:, middle:].sum())


def test_masks_are_tinted_in_their_category_s_colour_on_their_side():
    # The longer side, 800 pixels, is kept, so a pixel of the image is a pixel of the panel.
    apple = objects([[100, 100, 300, 300]], [1], 400, 800)
    pear = objects([[100, 100, 200, 200]], [2], 400, 800, [0.9])
    sheet = drawn(400, 800, apple, pear)
    left, right = contains(sheet, tinted(1))
    # All of the square of 200 x 200 but its outline (line width 2) and label, at most 30 rows of 90 pixels.
    assert 200 * 200 * 0.9 < left < 200 * 200
    assert right == 0
    left, right = contains(sheet, tinted(2))
    assert left == 0
    assert 100 * 100 * 0.7 < right < 100 * 100


def test_unsure_detections_are_left_out():
    boxes = [[100, 100, 200, 200], [250, 100, 350, 200]]
    nothing = objects([], [], 400, 800)
    sheet = drawn(400, 800, nothing, objects(boxes, [1, 2], 400, 800, [0.29, 0.3]), min_score=0.3)
    assert contains(sheet, tinted(1)) == (0, 0)
    assert contains(sheet, tinted(2))[1] > 5000


def test_a_category_keeps_its_colour_and_no_two_of_ninety_share_one():
    colors = [category_color(category_id) for category_id in range(1, 91)]
    assert len(set(colors)) == 90
    assert all(0 <= channel <= 255 for color in colors for channel in color)


@pytest.mark.parametrize(
    ("height", "width", "panel"),
    [(128, 160, (512, 640)), (3000, 4000, (825, 1100)), (700, 500, (700, 500)), (1, 1, (640, 640)), (600, 8, (640, 9))],
)
def test_every_image_size_gives_panels_that_labels_fit(height, width, panel):
    box = [[0, 0, height, width]]
    sheet = drawn(height, width, objects(box, [1], height, width), objects(box, [2], height, width, [1.0]))
    unit = max(panel) / 640
    margin, size = round(14 * unit), round(16 * unit)
    assert sheet.shape[0] == margin + round(1.7 * size) + panel[0] + margin
    assert sheet.shape[1] >= 2 * panel[1] + 3 * margin
    left, right = contains(sheet, category_color(1))[0], contains(sheet, category_color(2))[1]
    assert left > 0
    assert right > 0


def test_an_image_without_anything():
    nothing = objects([], [], 400, 800)
    sheet = drawn(400, 800, nothing, objects([], [], 400, 800, []))
    assert contains(sheet, np.array([GREY] * 3))[0] >= 400 * 800


def test_the_picture_itself_is_not_changed():
    image = np.full((50, 60, 3), GREY, np.uint8)
    draw_comparison(image, objects([[5, 5, 20, 20]], [1], 50, 60), objects([], [], 50, 60, []), NAMES)
    assert (image == GREY).all()


def test_objects_alone_are_drawn_as_in_a_comparison():
    picture = draw_objects(np.full((400, 800, 3), GREY, np.uint8), objects([[100, 100, 300, 300]], [1], 400, 800), NAMES)
    image = Image.open(io.BytesIO(picture))
    assert (image.format, image.size) == ("JPEG", (800, 400))
    pixels = np.asarray(image, float)
    # Inside the square, away from its outline and label, and outside of it.
    assert np.abs(pixels[200:280, 120:280] - tinted(1)).max() <= 5
    assert np.abs(pixels[320:, 320:] - GREY).max() <= 5
