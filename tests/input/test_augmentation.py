"""Augmentations by hand: what each does to an image, a box and a mask, and that it does it again with the same seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tasks.input import augmentation_options as options
from tasks.input.augmentation import augment, augment_all
from tasks.input.scene import Scene
from tasks.running.errors import UserError

HEIGHT, WIDTH = 40, 60
SEEDS = range(8)
ALL = [kind() for kind in options.OPTIONS.values()]


def seed_of(number: int) -> tf.Tensor:
    return tf.constant([7, number], tf.int64)


def scene(image: Any, *boxes: list[float]) -> Scene:
    found = tf.reshape(tf.constant(boxes, tf.float32), [-1, 4])
    return Scene.of(tf.constant(image, tf.float32), {"boxes": found, "category_ids": tf.range(1, len(boxes) + 1)})


def positions(height: int, width: int) -> np.ndarray:
    """An image whose pixels tell their place: row and column, plus 1 each, so that 0 is outside."""
    rows, columns = np.mgrid[1 : height + 1, 1 : width + 1]
    return np.stack([rows, columns, np.full_like(rows, 200)], axis=-1).astype(np.float32)


def moved(mask: Any, scene: Scene) -> np.ndarray:
    """The mask as the scene's rulers show it."""
    rows, columns = scene.rulers.rows.numpy(), scene.rulers.columns.numpy()
    # Lines count from 1; line 0 shows nothing.
    pixels = np.pad(np.array(mask, np.uint8), [(1, 0), (1, 0)])
    return pixels[columns][:, rows].T if scene.rulers.transposed else pixels[rows][:, columns]


# A box over the two left pixels of the upper row, of 2 x 4.
CORNER = [0.0, 0.0, 0.5, 0.5]
CORNER_MASK = [[1, 1, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("option", "rows", "box", "mask"),
    [
        (options.RandomHorizontalFlip(1.0), [[4, 3, 2, 1]] * 2, [0.0, 0.5, 0.5, 1.0], [[0, 0, 1, 1], [0, 0, 0, 0]]),
        (options.RandomVerticalFlip(1.0), [[1, 2, 3, 4]] * 2, [0.5, 0.0, 1.0, 0.5], [[0, 0, 0, 0], [1, 1, 0, 0]]),
        # Counter-clockwise the upper left corner becomes the lower left one.
        (options.RandomRotation90(1.0), [[4, 4], [3, 3], [2, 2], [1, 1]], [0.5, 0.0, 1.0, 0.5], [[0, 0], [0, 0], [1, 0], [1, 0]]),
        (options.RandomHorizontalFlip(0.0), [[1, 2, 3, 4]] * 2, CORNER, CORNER_MASK),
        (options.RandomRotation90(0.0), [[1, 2, 3, 4]] * 2, CORNER, CORNER_MASK),
        # One row and two columns are left, and corners stay corners: of the columns the first and the last.
        (options.RandomImageScale(0.5, 0.5), [[1, 4]], CORNER, [[1, 0]]),
    ],
)
def test_columns_boxes_and_masks_move_together(
    option: options.Option, rows: list[list[int]], box: list[float], mask: list[list[int]]
) -> None:
    found = augment(option, scene(positions(2, 4), CORNER), seed_of(0))
    np.testing.assert_array_equal(found.image[..., 1], rows)
    np.testing.assert_allclose(found.boxes, [box])
    np.testing.assert_array_equal(moved(CORNER_MASK, found), mask)


def test_a_stretched_image_is_interpolated_and_its_mask_is_not() -> None:
    row = [[[0.0] * 3, [10.0] * 3]]
    corners = scene(row).scaled(tf.constant(1), tf.constant(3), align_corners=True)
    assert corners.image[0, :, 0].numpy().tolist() == [0, 5, 10]
    # Output pixel i reads input i / 2.
    legacy = scene(row).scaled(tf.constant(1), tf.constant(4), align_corners=False)
    assert legacy.image[0, :, 0].numpy().tolist() == [0, 5, 10, 10]
    assert moved([[0, 1]], legacy).tolist() == [[0, 0, 1, 1]]


def test_a_window_may_reach_over_the_image() -> None:
    found = scene(positions(2, 4), CORNER).seen_through(-1, 1, 2, 4, fill=9.0)
    assert found.image[..., 1].numpy().tolist() == [[9, 9, 9, 9], [2, 3, 4, 9]]
    assert found.image[..., 2].numpy().tolist() == [[9, 9, 9, 9], [200, 200, 200, 9]]
    assert moved(CORNER_MASK, found).tolist() == [[0, 0, 0, 0], [1, 0, 0, 0]]
    # In pixels the box ran from (0, 0) to (1, 2); seen from (-1, 1), from (1, -1) to (2, 1), of 2 x 4.
    np.testing.assert_allclose(found.boxes, [[0.5, -0.25, 1.0, 0.25]])


def window_of(found: Scene) -> list[int]:
    """Top, left, bottom and right of the part of a `positions` image that is there still."""
    inside = found.image.numpy()[(found.image[..., 2] == 200).numpy()]
    return [*(inside[:, :2].min(0).astype(int) - 1), *inside[:, :2].max(0).astype(int)]


BOXES = np.array([[0.0, 0.0, 0.3, 0.3], [0.2, 0.1, 0.9, 0.5], [0.5, 0.5, 1.0, 1.0], [0.0, 0.9, 1.0, 1.0]], np.float32)


def inside(window: list[int], pad: tuple[int, int] = (0, 0), size: tuple[int, int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """`BOXES` cut to a window of the image, in the frame of a canvas of `size` it lies on at `pad`; and how much of each is inside."""
    top, left, bottom, right = window
    height, width = size or (bottom - top, right - left)
    pixels = BOXES * [HEIGHT, WIDTH, HEIGHT, WIDTH]
    cut = np.clip(pixels, [top, left, top, left], [bottom, right, bottom, right])
    share = np.prod(cut[:, 2:] - cut[:, :2], axis=1) / np.prod(pixels[:, 2:] - pixels[:, :2], axis=1)
    return (cut - [top - pad[0], left - pad[1]] * 2) / [height, width, height, width], share


@pytest.mark.parametrize("number", SEEDS)
@pytest.mark.parametrize(
    "option",
    [options.RandomCropImage(min_object_covered=0.5, min_area=0.2, max_area=0.5), options.RandomCropToAspectRatio(0.5)],
    ids=lambda option: type(option).__name__,
)
def test_a_crop_keeps_what_is_mostly_inside(option: Any, number: int) -> None:
    found = augment(option, scene(positions(HEIGHT, WIDTH), *BOXES.tolist()), seed_of(number))
    window = window_of(found)
    boxes, share = inside(window)
    kept = share >= 0.3
    assert found.objects["category_ids"].numpy().tolist() == (np.flatnonzero(kept) + 1).tolist()
    np.testing.assert_allclose(found.boxes, boxes[kept], atol=1e-5)
    height, width = window[2] - window[0], window[3] - window[1]
    if isinstance(option, options.RandomCropToAspectRatio):
        assert (height, width) == (40, 20)
    else:
        assert share.max() > 0.49
        assert 0.19 < height * width / (HEIGHT * WIDTH) < 0.51


def test_a_crop_may_leave_the_image_whole() -> None:
    before = scene(positions(HEIGHT, WIDTH), *BOXES.tolist())
    found = augment(options.RandomCropImage(random_coef=1.0, overlap_thresh=1.0), before, seed_of(0))
    np.testing.assert_array_equal(found.image, before.image)
    np.testing.assert_allclose(found.boxes, BOXES, atol=1e-6)


@pytest.mark.parametrize("number", SEEDS)
def test_a_canvas_is_larger_and_of_one_colour(number: int) -> None:
    image = np.full((HEIGHT, WIDTH, 3), [10.0, 20.0, 30.0], np.float32)
    image[:, : WIDTH // 2] = 0.0
    for option, fill in ((options.RandomPadImage(), [5, 10, 15]), (options.RandomPadImage(50, 0, 55, 60, (1.0, 2.0, 3.0)), [1, 2, 3])):
        found = augment(option, scene(image, [0.0, 0.0, 1.0, 1.0]), seed_of(number))
        height, width = found.image.shape[:2]
        top, left, bottom, right = np.rint(found.boxes.numpy()[0] * [height, width, height, width]).astype(int)
        assert (bottom - top, right - left) == (HEIGHT, WIDTH)
        np.testing.assert_allclose(found.image[top:bottom, left:right], image, atol=1e-4)
        outside = np.ones((height, width), bool)
        outside[top:bottom, left:right] = False
        assert outside.any()
        np.testing.assert_allclose(found.image.numpy()[outside], np.broadcast_to(fill, (outside.sum(), 3)), atol=1e-3)
        assert HEIGHT <= height < 2 * HEIGHT
        assert WIDTH <= width < 2 * WIDTH
        if option.min_image_height:
            assert 50 <= height < 55
            assert width == WIDTH


@pytest.mark.parametrize("number", SEEDS)
def test_a_crop_on_a_canvas_is_measured_by_the_whole_image(number: int) -> None:
    option = options.RandomCropPadImage(
        max_area=0.5, min_padded_size_ratio=(1.0, 1.0), max_padded_size_ratio=(1.0, 1.5), pad_color=(0.0, 0.0, 0.0)
    )
    found = augment(option, scene(positions(HEIGHT, WIDTH), *BOXES.tolist()), seed_of(number))
    height, width = found.image.shape[:2]
    assert height == HEIGHT
    assert WIDTH <= width < 1.5 * WIDTH
    rows, columns = np.nonzero(found.image[..., 2] == 200)
    boxes, share = inside(window_of(found), (rows.min(), columns.min()), (height, width))
    np.testing.assert_allclose(found.boxes, boxes[share >= 0.3], atol=1e-5)


@pytest.mark.parametrize("number", SEEDS)
def test_a_square_by_scale_is_filled_with_zeros(number: int) -> None:
    """A border of 32 pixels is more than half of 40 and of 60, so it is halved, to 16."""
    found = augment(options.RandomSquareCropByScale(32, 0.5, 1.0, 2), scene(positions(HEIGHT, WIDTH), *BOXES.tolist()), seed_of(number))
    side = found.image.shape[0]
    assert found.image.shape == (side, side, 3)
    assert side in (30, 60)
    window = window_of(found)
    rows, columns = np.nonzero(found.image[..., 2] == 200)
    top, left = window[0] - rows.min(), window[1] - columns.min()
    assert 16 <= top + side // 2 <= HEIGHT - 16
    assert 16 <= left + side // 2 <= WIDTH - 16
    boxes, share = inside(window, (rows.min(), columns.min()), (side, side))
    np.testing.assert_allclose(found.boxes, boxes[share > 0], atol=1e-5)


def test_a_scaled_down_image_is_padded_to_a_square() -> None:
    """4 x 6 pixels to a long side of 8: 5.33, so 5 x 8; of the square's 8 rows 3 are black."""
    before = scene(np.full((4, 6, 3), 9.0), [0.0, 0.5, 1.0, 1.0])
    found = augment(options.RandomScaleCropAndPadToSquare(8, 1.0, 1.0), before, seed_of(0))
    assert found.image[:, :, 0].numpy().tolist() == [[9.0] * 8] * 5 + [[0.0] * 8] * 3
    np.testing.assert_allclose(found.boxes, [[0.0, 0.5, 0.625, 1.0]])
    # The right half: columns 3 to 5 of 6 are read by columns 4 to 7 of 8.
    mask = moved(np.tile([0, 0, 0, 1, 1, 1], (4, 1)), found)
    assert mask.tolist() == [[0, 0, 0, 0, 1, 1, 1, 1]] * 5 + [[0] * 8] * 3


@pytest.mark.parametrize("number", SEEDS)
def test_of_a_scaled_up_image_a_square_is_seen(number: int) -> None:
    """4 x 6 pixels to 10 x 16, of which 8 x 8 are seen: the box begins at 5 and 7 less the offset."""
    found = augment(options.RandomScaleCropAndPadToSquare(8, 2.0, 2.0), scene(positions(4, 6), [0.5, 7 / 16, 1.0, 1.0]), seed_of(number))
    ymin, xmin, ymax, xmax = (found.boxes.numpy()[0] * 8).tolist()
    assert found.image.shape == (8, 8, 3)
    assert ymin in (4, 5)
    assert xmin in range(8)
    assert (ymax, xmax) == (8, 8)
    # Column j of the scaled image reads column j * 6 / 16 of the image.
    assert float(found.image[0, 0, 1]) == pytest.approx(1 + (7 - xmin) * 6 / 16)


COLOURS = np.array([[[100.0, 50.0, 0.0], [60.0, 60.0, 60.0]]], np.float32)


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        (options.RGBToGray(), [[[29.89 + 29.35] * 3, [60.0] * 3]]),
        (options.RandomRGBToGray(1.0), [[[29.89 + 29.35] * 3, [60.0] * 3]]),
        (options.RandomRGBToGray(0.0), COLOURS),
        # The means are 80, 55 and 30.
        (options.RandomAdjustContrast(0.5, 0.5), [[[90.0, 52.5, 15.0], [70.0, 57.5, 45.0]]]),
        (options.RandomAdjustContrast(10.0, 10.0), [[[255.0, 5.0, 0.0], [0.0, 105.0, 255.0]]]),
        # Saturation (max - min) / max falls from 1 to 0.5: the hue keeps the middle in the middle.
        (options.RandomAdjustSaturation(0.5, 0.5), [[[100.0, 75.0, 50.0], [60.0] * 3]]),
        (options.RandomAdjustBrightness(0.0), COLOURS),
        (options.RandomAdjustHue(0.0), COLOURS),
    ],
)
def test_colours_by_hand(option: options.Option, expected: Any) -> None:
    np.testing.assert_allclose(augment(option, scene(COLOURS), seed_of(0)).image, expected, atol=0.05)


def test_every_value_of_every_pixel_has_a_factor_of_its_own() -> None:
    image = np.full((20, 30, 3), 200.0)
    image[0] = 0.0
    found = augment(options.RandomPixelValueScale(0.5, 1.5), scene(image), seed_of(1)).image.numpy()
    assert found.max() == 255.0  # 200 * 1.5 and all beyond 255 end there
    assert found[1:].min() >= 100.0
    assert (found[0] == 0).all()
    below = found[found < 255]
    assert len(np.unique(below)) > 0.9 * (len(below) - found[0].size)


@pytest.mark.parametrize("number", SEEDS)
def test_brightness_is_one_amount_and_hue_touches_no_gray(number: int) -> None:
    added = augment(options.RandomAdjustBrightness(0.1), scene(np.full((2, 2, 3), 128.0)), seed_of(number)).image.numpy() - 128.0
    assert np.ptp(added) < 1e-4
    assert 0 < abs(added[0, 0, 0]) <= 25.5
    turned = augment(options.RandomAdjustHue(0.5), scene(COLOURS), seed_of(number)).image.numpy()
    np.testing.assert_allclose(turned[0, 1], COLOURS[0, 1], atol=0.05)
    assert (turned[0, 0].max(), turned[0, 0].min()) == pytest.approx((100.0, 0.0), abs=0.05)


@pytest.mark.parametrize(
    ("kind", "parameters", "message"),
    [
        ("random_zoom", {}, "'random_zoom' is not supported"),
        ("random_adjust_hue", {"min_delta": 0.1}, "no parameters .*min_delta"),
        ("random_crop_image", {"min_area": 0.5, "max_area": 0.4}, "min_area 0.5 is above max_area 0.4"),
        ("random_square_crop_by_scale", {"scale_min": 2.0}, "scale_min 2.0 is above scale_max 1.3"),
        ("random_crop_pad_image", {"min_padded_size_ratio": [1, 3], "max_padded_size_ratio": [2, 2]}, "is above max_padded_size_ratio"),
        ("random_pad_image", {"pad_color": [1.0]}, "pad_color has 1 values"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(kind: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        options.option(kind, parameters)


def test_a_least_size_without_a_greatest_is_not_an_interval() -> None:
    assert options.option("random_pad_image", {"min_image_height": 50, "min_image_width": 50}) == options.RandomPadImage(50, 50)


def disc() -> tuple[Scene, np.ndarray]:
    """A white disc on black, its box and its mask."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    mask = ((rows - 17) ** 2 + (columns - 25) ** 2 < 12**2).astype(np.uint8)
    box = [6 / HEIGHT, 14 / WIDTH, 29 / HEIGHT, 37 / WIDTH]
    return scene(np.repeat(mask[..., None] * 255.0, 3, axis=-1), box), mask


@pytest.mark.parametrize("number", SEEDS)
@pytest.mark.parametrize("option", ALL, ids=options.OPTIONS)
def test_every_option_moves_masks_with_their_image(option: options.Option, number: int) -> None:
    before, mask = disc()
    if isinstance(option, options.RandomCropPadImage | options.RandomPadImage):
        option = type(option)(pad_color=(0.0, 0.0, 0.0))
    found = augment(option, before, seed_of(number))
    white = found.image.numpy().max(-1) > 127
    after = moved(mask, found).astype(bool)
    assert after.shape == white.shape
    # Along its edge a scaled disc is gray.
    assert (white != after).sum() <= 0.15 * max(after.sum(), 20)
    for ymin, xmin, ymax, xmax in found.boxes.numpy() * np.tile(after.shape, 2):
        rows, columns = np.nonzero(after)
        np.testing.assert_allclose([rows.min(), columns.min(), rows.max() + 1, columns.max() + 1], [ymin, xmin, ymax, xmax], atol=2.1)


def test_the_same_seed_does_the_same_again() -> None:
    before, _ = disc()
    first, again, other = (augment_all(before, ALL, seed_of(number)) for number in (1, 1, 2))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.boxes, again.boxes)
    assert first.image.shape != other.image.shape or not np.array_equal(first.image, other.image)


def test_options_draw_apart_from_each_other() -> None:
    """Two flips in a row would always cancel each other if they drew the same."""
    flips = [options.RandomHorizontalFlip(), options.RandomHorizontalFlip()]
    columns = [float(augment_all(scene(positions(1, 2)), flips, seed_of(number)).image[0, 0, 1]) for number in range(40)]
    assert 8 < columns.count(1.0) < 32
