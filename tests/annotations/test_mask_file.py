"""The strict reading of mask files, each way of writing the same 2 x 3 pixels by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.annotations.mask_file import mask_from_png, read_ids
from tasks.records.checks import BadImageError, Check
from tests.annotations.files import png

MASK = np.array([[0, 1, 1], [0, 0, 1]], np.uint8)
GREY = np.dstack([MASK * 255] * 3)
OPAQUE = np.full((2, 3), 255, np.uint8)


@pytest.mark.parametrize(
    "content",
    [
        png(MASK),
        png(MASK * 255),
        png(MASK * 255, "1"),
        png(MASK, "P"),
        png(GREY),
        png(np.dstack([GREY, OPAQUE])),
        png(np.dstack([MASK, OPAQUE])),
        png(MASK.astype(np.uint16)),
    ],
    ids=["0/1", "0/255", "one bit", "palette", "RGB", "RGBA", "grey and alpha", "16 bits"],
)
def test_however_it_is_written_it_is_the_same_mask(content):
    mask = mask_from_png(content, "a.png", (2, 3))
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, MASK)


@pytest.mark.parametrize("value", [0, 1])
def test_an_object_may_cover_nothing_or_everything(value):
    assert mask_from_png(png(np.full((2, 3), value * 255, np.uint8)), "a.png", (2, 3)).tolist() == [[value] * 3] * 2


@pytest.mark.parametrize(
    ("content", "check", "reason"),
    [
        (png(MASK * 254), Check.MASK_VALUES, "it has the values 0, 254"),
        (png(MASK + OPAQUE - 1), Check.MASK_VALUES, "it has the values 254, 255"),
        (png(np.arange(6, dtype=np.uint8).reshape(2, 3) + 250), Check.MASK_VALUES, "it has the values 250, 251, 252, 253, 254 and 1 more"),
        (png(MASK * 2, "P"), Check.MASK_VALUES, "it has the values 0, 2"),
        (png(MASK * np.uint16(65535)), Check.MASK_VALUES, "it has the values 0, 65535"),
        (png(np.dstack([MASK, MASK, OPAQUE])), Check.MASK_VALUES, "it has colours"),
        (png(np.dstack([GREY, OPAQUE - MASK])), Check.MASK_VALUES, "it is transparent in places"),
        (png(MASK.T), Check.MASK_SIZE_SWAPPED, r"the mask is 3 x 2 \(height x width\) in a place of 2 x 3"),
        (png(MASK[:1]), Check.MASK_SIZE, r"the mask is 1 x 3 \(height x width\) in a place of 2 x 3"),
        (b"", Check.MASK_MALFORMED, "it is no PNG"),
        (b"\xff\xd8\xff\xe0 a photograph", Check.MASK_MALFORMED, "it is no PNG"),
        (png(MASK)[:45], Check.MASK_MALFORMED, "the mask cannot be read"),
    ],
)
def test_a_fault_is_told_with_its_code(content, check, reason):
    with pytest.raises(BadImageError, match=rf"a\.png: .*{reason}") as caught:
        mask_from_png(content, "a.png", (2, 3))
    assert caught.value.check == check


@pytest.mark.parametrize("content", [png(MASK * 200), png(MASK * 200, "P"), png(MASK.astype(np.uint16) * 200)])
def test_ids_are_grey_levels_or_indices(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    assert read_ids(path, (2, 3)).tolist() == [[0, 200, 200], [0, 0, 200]]


def test_sixteen_bits_hold_large_ids(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(MASK.astype(np.uint16) * 26_003))
    assert read_ids(path, (2, 3)).tolist() == [[0, 26_003, 26_003], [0, 0, 26_003]]


def test_colours_are_no_ids(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(GREY))
    with pytest.raises(BadImageError, match=r"a\.png: its pixels are colours"):
        read_ids(path, (2, 3))
