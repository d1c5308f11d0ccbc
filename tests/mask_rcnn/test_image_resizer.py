"""The resizer against the original's own results, and sizes worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tasks.errors import UserError
from tasks.mask_rcnn import config
from tasks.mask_rcnn.image_resizer import resize_image, resize_masks, resized_shape
from tests.parity.comparison import REFERENCES


@pytest.mark.parametrize("case", range(4))
def test_pixels_and_masks_are_the_originals(case: int) -> None:
    stored = np.load(REFERENCES / "ops.npz")
    _, _, shortest, longest, pad = stored[f"resize/{case}/args"].tolist()
    resizer = config.ImageResizer(min_dimension=shortest, max_dimension=longest, pad_to_max_dimension=bool(pad))
    image, size = resize_image(tf.constant(stored[f"resize/{case}/image_in"]), resizer)
    np.testing.assert_allclose(image, stored[f"resize/{case}/image"], atol=1e-3)
    np.testing.assert_array_equal(size, stored[f"resize/{case}/true_shape"][:2])
    masks = resize_masks(tf.constant(stored[f"resize/{case}/masks_in"]), resizer)
    np.testing.assert_array_equal(masks, stored[f"resize/{case}/masks"])


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
