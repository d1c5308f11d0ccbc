"""Sizes and small pictures worked out by hand; larger ones are compared with the original's in `tests/parity`."""

from __future__ import annotations

import pytest
import tensorflow as tf

from tasks.input.image_resizer import resize_image, resize_rulers, resized_shape
from tasks.input.rulers import Rulers
from tasks.mask_rcnn import config
from tasks.running.errors import UserError


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (480, 640, (800, 1067)),  # 640 * 800 / 480 = 1066.7
        (400, 800, (682, 1365)),  # 1600 would pass 1365; 400 * 1365 / 800 = 682.5, half to even
        (1, 3000, (1, 1365)),  # 0.455: never no pixel at all
        (9000, 2, (1365, 1)),
    ],
)
def test_the_short_side_fits_unless_the_long_side_passes(height: int, width: int, expected: tuple[int, int]) -> None:
    assert tuple(resized_shape(tf.constant(height), tf.constant(width), config.ImageResizer()).numpy()) == expected


def test_an_unknown_resizer_or_method_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="'cubic' is unknown"):
        resized_shape(tf.constant(4), tf.constant(4), config.ImageResizer(kind="cubic"))
    with pytest.raises(UserError, match="'LANCZOS' is unknown"):
        resize_image(gray([[0]]), config.ImageResizer(resize_method="LANCZOS"))


def gray(rows: list[list[int]]) -> tf.Tensor:
    return tf.repeat(tf.constant(rows, tf.uint8)[..., tf.newaxis], 3, axis=-1)


@pytest.mark.parametrize(
    ("method", "width", "expected"),
    [
        # Output pixel i reads input i / 2.
        ("BILINEAR", 8, [0, 5, 10, 5, 0, 0, 0, 0]),
        ("NEAREST_NEIGHBOR", 8, [0, 0, 10, 10, 0, 0, 0, 0]),
        # Keys' kernel of TensorFlow 1, a = -0.75, is 0.59375 half a pixel away and -0.09375 one and a half.
        ("BICUBIC", 8, [0, 5.9375, 10, 5.9375, 0, -0.9375, 0, 0]),
        ("AREA", 2, [5, 0]),
    ],
)
def test_methods_sample_the_legacy_grid(method: str, width: int, expected: list[float]) -> None:
    resizer = config.ImageResizer(kind="fixed_shape", height=1, width=width, resize_method=method)
    image, size = resize_image(gray([[0, 10, 0, 0]]), resizer)
    assert size.numpy().tolist() == [1, width]
    assert image.dtype == tf.float32
    assert image[0, :, 1].numpy().tolist() == pytest.approx(expected, abs=1e-5)


def test_padding_has_a_value_per_channel_and_no_mask() -> None:
    resizer = config.ImageResizer(min_dimension=1, max_dimension=2, pad_to_max_dimension=True, per_channel_pad_value=(1.0, 2.0, 3.0))
    image, size = resize_image(gray([[7, 7]]), resizer)
    assert size.numpy().tolist() == [1, 2]
    assert image.numpy().tolist() == [[[7.0] * 3] * 2, [[1.0, 2.0, 3.0]] * 2]
    rulers = resize_rulers(Rulers.of(1, 2), resizer)
    assert (rulers.rows.numpy().tolist(), rulers.columns.numpy().tolist()) == ([1, 0], [1, 2])
