"""Sizes worked out by hand; pixels are compared with the original's in `tests/parity`."""

from __future__ import annotations

import pytest
import tensorflow as tf

from tasks.errors import UserError
from tasks.mask_rcnn import config
from tasks.mask_rcnn.image_resizer import resized_shape


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (480, 640, (800, 1067)),  # 640 * 800 / 480 = 1066.7
        (400, 800, (682, 1365)),  # 1600 would pass 1365; 400 * 1365 / 800 = 682.5, half to even
    ],
)
def test_the_short_side_fits_unless_the_long_side_passes(height: int, width: int, expected: tuple[int, int]) -> None:
    assert tuple(resized_shape(tf.constant(height), tf.constant(width), config.ImageResizer()).numpy()) == expected


def test_an_unknown_resizer_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="'cubic' is unknown"):
        resized_shape(tf.constant(4), tf.constant(4), config.ImageResizer(kind="cubic"))
