"""Windows against masks as wholes, in both forms, through rulers that leave lines out, double them and exchange them."""

from __future__ import annotations

import io
import tracemalloc
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tasks.coco.mask_png import encode_pngs
from tasks.coco.masks import rle_from_mask
from tasks.input.mask_windows import mask_windows
from tasks.input.rulers import Rulers
from tasks.records.example_pb2 import Example
from tests.input.samples import frames, record
from tests.input.test_rulers import seen

HEIGHT, WIDTH = 40, 60
SIZE = np.array([HEIGHT, WIDTH], np.int32)


def masks() -> list[np.ndarray]:
    """A disc, a full frame, nothing, two far corners, one pixel."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    found = [(rows - 12) ** 2 + (columns - 20) ** 2 < 80, rows >= 0, rows < 0, (rows + columns == 0) | (rows + columns == 98)]
    return [*(mask.astype(np.uint8) for mask in found), ((rows == 30) & (columns == 7)).astype(np.uint8)]


def ours() -> list[bytes]:
    return encode_pngs([rle_from_mask(mask) for mask in masks()])


def pillows(mode: str = "L", value: int = 255) -> list[bytes]:
    pngs = []
    for mask in masks():
        stream = io.BytesIO()
        Image.fromarray(mask * np.uint8(value)).convert(mode).save(stream, "PNG")
        pngs.append(stream.getvalue())
    return pngs


def dense() -> list[float]:
    """What is not above 0 is no object, NaN neither."""
    values = np.stack(masks()).astype(np.float32) * 0.25
    values[0, 0, :3] = [-1.0, np.nan, -np.inf]
    return values.ravel().tolist()


FORMS = {
    "ours": ours,
    "Pillow's of 255": pillows,
    "Pillow's of 1": lambda: pillows("L", 1),
    "of one bit": lambda: pillows("1"),
    "in colours": lambda: pillows("RGB"),
    "numbers": dense,
}

RULERS = {
    "own": lambda own: own,
    "mirrored": lambda own: own.mirrored(True),
    "turned": lambda own: own.turned(True),
    "made larger": lambda own: own.stretched(tf.constant(95), tf.constant(143), align_corners=False),
    "made smaller": lambda own: own.stretched(tf.constant(13), tf.constant(17), align_corners=False),
    "cut": lambda own: own.seen_through(*map(tf.constant, (5, 15, 20, 30))),
    "beside all": lambda own: own.seen_through(*map(tf.constant, (100, 0, 20, 30))),
    "all at once": lambda own: (
        own.mirrored(True)
        .seen_through(*map(tf.constant, (-3, 10, 30, 60)))
        .turned(True)
        .stretched(tf.constant(31), tf.constant(90), align_corners=True)
    ),
}


def windows_of(form: list[Any], rulers: Rulers, wanted: list[int], count: int = 5) -> dict[str, Any]:
    pixels, windows, rows, columns = mask_windows(
        record(image__object__mask=form),
        isinstance(form[0], bytes),
        np.array(wanted, np.int32),
        count,
        SIZE,
        rulers.rows.numpy(),
        rulers.columns.numpy(),
        bool(rulers.transposed),
    )
    return {
        "mask_pixels": pixels,
        "mask_windows": windows,
        "mask_rows": rows,
        "mask_columns": columns,
        "mask_transposed": bool(rulers.transposed),
    }


@pytest.mark.parametrize("moved", RULERS.values(), ids=RULERS)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_windows_hold_the_masks_as_they_are_seen(form: Any, moved: Any) -> None:
    rulers, wanted = moved(Rulers.of(HEIGHT, WIDTH)), [3, 0, 4, 1, 2]
    found = windows_of(form(), rulers, wanted)
    np.testing.assert_array_equal(frames(found), np.stack([seen(masks()[index], rulers) for index in wanted]))


def test_windows_are_as_small_as_can_be() -> None:
    """No more pixels than the record has, though the image is four times as large; and no more than the image, though it is smaller."""
    own = Rulers.of(HEIGHT, WIDTH)
    larger = windows_of(ours(), own.stretched(tf.constant(160), tf.constant(240), align_corners=False), [0, 1, 2, 3, 4])
    # The disc's radius is below 9, so it has 17 rows and columns.
    assert larger["mask_windows"][:, 3:].tolist() == [[17, 17], [40, 60], [0, 0], [40, 60], [1, 1]]
    assert len(larger["mask_pixels"]) == 17 * 17 + 2 * 40 * 60 + 1
    assert larger["mask_windows"][:, 0].tolist() == [0, 289, 0, 2689, 5089]
    smaller = windows_of(ours(), own.stretched(tf.constant(10), tf.constant(15), align_corners=False), [1])
    assert smaller["mask_windows"].tolist() == [[0, 0, 0, 10, 15]]
    assert smaller["mask_rows"].tolist() == list(range(1, 11))


def test_only_masks_that_are_wanted_are_decoded() -> None:
    form = [b"no PNG", *ours()[1:]]
    assert windows_of(form, Rulers.of(HEIGHT, WIDTH), [1, 4])["mask_windows"][1].tolist() == [2400, 30, 7, 1, 1]
    with pytest.raises(ValueError, match="mask 0 cannot be decoded"):
        windows_of(form, Rulers.of(HEIGHT, WIDTH), [4, 0])
    assert windows_of(form, Rulers.of(HEIGHT, WIDTH), [])["mask_windows"].shape == (0, 5)


@pytest.mark.parametrize(
    ("form", "count", "words"),
    [
        (ours(), 4, "masks are not as many as boxes, 5 and 4"),
        (dense(), 4, r"dense masks are not boxes x height x width, 12000 numbers for \[4, 40, 60\]"),
        ([one[:20] for one in pillows()], 5, "mask 0 cannot be decoded"),
    ],
)
def test_what_is_wrong_is_said(form: list[Any], count: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        windows_of(form, Rulers.of(HEIGHT, WIDTH), [0], count)


def test_the_other_form_is_named() -> None:
    rulers = Rulers.of(HEIGHT, WIDTH)
    more = (np.array([0], np.int32), 5, SIZE, rulers.rows.numpy(), rulers.columns.numpy(), False)
    with pytest.raises(ValueError, match="image/object/mask holds numbers where mask_type PNG_MASKS says images"):
        mask_windows(record(image__object__mask=dense()), True, *more)
    with pytest.raises(ValueError, match="image/object/mask holds images where mask_type NUMERICAL_MASKS says numbers"):
        mask_windows(record(image__object__mask=ours()), False, *more)


def test_dense_masks_are_not_copied_to_look_at_their_objects() -> None:
    """Forty discs in frames of 300 x 400 are 19 MB of numbers; what is made of them, and held on the way, is less than one frame's."""
    rows, columns = np.mgrid[:300, :400]
    disc = ((rows - 50) ** 2 + (columns - 80) ** 2 < 400).astype(np.float32)
    example = Example()
    example.features.feature["image/object/mask"].float_list.value.extend(np.tile(disc.ravel(), 40))
    serialized, own, size = example.SerializeToString(), Rulers.of(300, 400), np.array([300, 400], np.int32)
    rulers = own.rows.numpy(), own.columns.numpy(), False
    tracemalloc.start()
    pixels, windows, *_ = mask_windows(serialized, False, np.arange(40, dtype=np.int32), 40, size, *rulers)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert windows[:, 3:].tolist() == [[39, 39]] * 40
    assert np.count_nonzero(pixels) == 40 * np.count_nonzero(disc)
    assert peak < 300 * 400 * 4
