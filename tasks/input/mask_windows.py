"""The masks of a record as their objects' own windows, in the pixels that a training sees, and no more.

What stands outside of a window is no part of the object. Pixels that no row or column of the resized image shows, because they were cut
away or the image was made smaller, are left out; none is stored twice, as it would be where the image is made larger. So masks take at
most the room of their pixels in the record or in the resized image, whichever is less. All of it is exact: see `mask_rcnn.mask_targets`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tasks.coco.mask_png import own_rows
from tasks.records.example import MASK_KEY
from tasks.records.feature_bytes import byte_strings, floats

_Ints = npt.NDArray[np.int32]
_Block = tuple[int, npt.NDArray[Any]]
"""How many rows of a mask are empty before the first of the array's, [n, width] of any numbers, of which those above 0 are the object."""


def mask_windows(
    serialized: bytes, png: bool, wanted: _Ints, count: int, size: _Ints, rows: _Ints, columns: _Ints, transposed: bool
) -> tuple[npt.NDArray[np.bool_], _Ints, _Ints, _Ints]:
    """The masks at the indices `wanted` of a record's `count`, each of `size` (height, width), as they are seen through rulers.

    Returns:
      `pixels` bool [P], of all windows, row by row, one after the other;
      `windows` int32 [M, 5]: where its pixels begin, top, left, height, width;
      the rulers `rows` and `columns` in the pixels that are left.

    `png` tells the form of the masks. `wanted` int32 [M]; `rows` int32 [h], `columns` int32 [w] and `transposed` are those of
    `rulers.Rulers`. ValueError says what is wrong with the masks.
    """
    height, width = (int(side) for side in size)
    read = _pngs(serialized, count, height, width) if png else _dense(serialized, count, height, width)
    seen_rows, seen_columns = (columns, rows) if transposed else (rows, columns)
    kept_rows, seen_rows = _kept(seen_rows, height)
    kept_columns, seen_columns = _kept(seen_columns, width)
    windows, pixels, start = np.zeros((len(wanted), 5), np.int32), [np.zeros(0, np.bool_)], 0
    for window, index in zip(windows, wanted.tolist(), strict=True):
        above, block = read(index)
        first, last = np.searchsorted(kept_rows, (above, above + len(block))).tolist()
        seen = _taken(_taken(block, kept_rows[first:last] - above, 0), kept_columns, 1) > 0
        shown_rows, shown_columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
        if not len(shown_rows):
            continue
        (top, bottom), (left, right) = ((int(shown[0]), int(shown[-1]) + 1) for shown in (shown_rows, shown_columns))
        pixels.append(seen[top:bottom, left:right].ravel())
        window[:] = start, first + top, left, bottom - top, right - left
        start += len(pixels[-1])
    rows, columns = (seen_columns, seen_rows) if transposed else (seen_rows, seen_columns)
    return np.concatenate(pixels), windows, rows, columns


def _kept(ruler: _Ints, length: int) -> tuple[npt.NDArray[np.int64], _Ints]:
    """Which of so many lines of a mask a ruler shows, from 0, in order; and the ruler where only these are left."""
    is_shown = np.zeros(length + 1, np.bool_)
    is_shown[ruler] = True
    is_shown[0] = False
    return np.flatnonzero(is_shown) - 1, np.cumsum(is_shown, dtype=np.int32)[ruler]


def _taken(block: npt.NDArray[Any], lines: npt.NDArray[np.int64], axis: int) -> npt.NDArray[Any]:
    """The lines of a block, without a copy where they follow each other."""
    if len(lines) and lines[-1] - lines[0] + 1 != len(lines):
        return block.take(lines, axis)
    follow = slice(int(lines[0]), int(lines[-1]) + 1) if len(lines) else slice(0)
    return block[follow] if axis == 0 else block[:, follow]


def _pngs(serialized: bytes, count: int, height: int, width: int) -> Callable[[int], _Block]:
    stored = byte_strings(serialized, MASK_KEY)
    if stored is None:
        raise ValueError(f"{MASK_KEY} holds numbers where mask_type PNG_MASKS says images")
    if len(stored) != count:
        raise ValueError(f"masks are not as many as boxes, {len(stored)} and {count}")

    def read(index: int) -> _Block:
        png = bytes(stored[index])
        if (own := own_rows(png)) is not None:
            *found, above, block = own
        else:
            # TensorFlow itself, so that whatever there is of PNGs, masks are what they were in the original.
            try:
                above, block = 0, tf.io.decode_png(png, channels=1).numpy()[..., 0]
            except tf.errors.InvalidArgumentError as error:
                raise ValueError(f"mask {index} cannot be decoded: {error.message}") from error
            found = list(block.shape)
        if found != [height, width]:
            raise ValueError(f"a mask is not of its image's size, {found} and {[height, width]}")
        return above, block

    return read


def _dense(serialized: bytes, count: int, height: int, width: int) -> Callable[[int], _Block]:
    stored = floats(serialized, MASK_KEY)
    if stored is None:
        raise ValueError(f"{MASK_KEY} holds images where mask_type NUMERICAL_MASKS says numbers")
    if len(stored) != count * height * width:
        raise ValueError(f"dense masks are not boxes x height x width, {len(stored)} numbers for {[count, height, width]}")
    masks = stored.reshape(count, height, width)
    return lambda index: (0, masks[index])
