"""Rulers against masks that are moved as wholes, in both directions at once."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tasks.input.image_resizer import resize_rulers, resized_shape
from tasks.input.rulers import Rulers
from tasks.mask_rcnn.config import ImageResizer

HEIGHT, WIDTH = 37, 53
MASK = np.random.default_rng(0).integers(0, 2, (HEIGHT, WIDTH), np.uint8)


def seen(mask: np.ndarray, rulers: Rulers) -> np.ndarray:
    """What is seen of a mask through rulers, whose lines count from 1: line 0 shows nothing."""
    rows, columns = rulers.rows.numpy(), rulers.columns.numpy()
    pixels = np.pad(mask, [(1, 0), (1, 0)])
    return pixels[columns][:, rows].T if rulers.transposed else pixels[rows][:, columns]


def nearest(mask: np.ndarray, height: int, width: int, *, align_corners: bool) -> np.ndarray:
    resize = tf.raw_ops.ResizeNearestNeighbor
    image = tf.constant(mask[np.newaxis, ..., np.newaxis])
    return resize(images=image, size=[height, width], align_corners=align_corners, half_pixel_centers=False)[0, ..., 0].numpy()


def own() -> Rulers:
    return Rulers.of(HEIGHT, WIDTH)


def test_flips_and_turns() -> None:
    np.testing.assert_array_equal(seen(MASK, own()), MASK)
    np.testing.assert_array_equal(seen(MASK, own().mirrored(True)), MASK[:, ::-1])
    np.testing.assert_array_equal(seen(MASK, own().mirrored(tf.constant(False))), MASK)
    np.testing.assert_array_equal(seen(MASK, own().mirrored(True, upside_down=True)), MASK[::-1])
    turned, expected = own(), MASK
    for _ in range(5):
        turned, expected = turned.turned(tf.constant(True)), np.rot90(expected)
        np.testing.assert_array_equal(seen(MASK, turned), expected)
        np.testing.assert_array_equal(seen(MASK, turned.mirrored(True)), expected[:, ::-1])
        np.testing.assert_array_equal(seen(MASK, turned.turned(tf.constant(False))), expected)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(37, 53), (74, 106), (80, 137), (9, 14), (1, 60), (100, 1)])
def test_stretching_is_nearest_neighbour_of_the_whole(size: tuple[int, int], align_corners: bool) -> None:
    height, width = size
    stretched = own().stretched(tf.constant(height), tf.constant(width), align_corners=align_corners)
    np.testing.assert_array_equal(seen(MASK, stretched), nearest(MASK, height, width, align_corners=align_corners))


@pytest.mark.parametrize("window", [(3, 4, 20, 30), (-5, -6, 20, 20), (20, 30, 40, 40), (-3, -4, 60, 70), (50, 0, 5, 5), (-9, 0, 5, 5)])
def test_a_window_may_reach_over_the_image(window: tuple[int, int, int, int]) -> None:
    top, left, height, width = window
    frame = np.pad(MASK, 100)
    expected = frame[100 + top : 100 + top + height, 100 + left : 100 + left + width]
    np.testing.assert_array_equal(seen(MASK, own().seen_through(*map(tf.constant, window))), expected)


@pytest.mark.parametrize(
    "resizer",
    [
        ImageResizer(min_dimension=24, max_dimension=1000),
        ImageResizer(min_dimension=600, max_dimension=1024),
        ImageResizer(min_dimension=800, max_dimension=1365, pad_to_max_dimension=True),
        ImageResizer(kind="fixed_shape", height=101, width=33),
        ImageResizer(kind="identity"),
    ],
)
def test_resizing_after_all_else_is_that_of_the_whole(resizer: ImageResizer) -> None:
    moved = own().turned(True).mirrored(True).seen_through(*map(tf.constant, (-2, 5, 50, 30)))
    expected = np.pad(np.rot90(MASK)[:, ::-1], [(2, 0), (0, 0)])[:50, 5:35]
    height, width = resized_shape(tf.constant(50), tf.constant(30), resizer).numpy()
    expected = nearest(expected, height, width, align_corners=False)
    if resizer.pad_to_max_dimension:
        expected = np.pad(expected, [(0, 1365 - height), (0, 1365 - width)])
    np.testing.assert_array_equal(seen(MASK, resize_rulers(moved, resizer)), expected)
