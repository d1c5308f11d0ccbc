"""Instance masks: what COCO writes, run-length codes on the full frame, and pixels.

A mask is uint8 [height, width], 1 on the object. An `Rle` is pycocotools' compressed run-length code of such a mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
from pycocotools import mask as pycoco

from tasks.coco.image_opening import opened_image

Mask = npt.NDArray[np.uint8]

_FEWEST_POLYGON_NUMBERS = 6
_LONGEST_RUN = 7  # characters: 34 bits and a sign, so that no sum of runs passes 64 bits
_FARTHEST_COORDINATE = 100_000  # pixels; beyond any image's side
_GREY, _GREY_BITS = np.array([9798, 19235, 3735]), 15  # libpng's parts of red, green and blue, of 2^15


class Rle(TypedDict):
    """`size` is [height, width]; `counts` are the compressed runs, column by column."""

    size: list[int]
    counts: bytes


class MaskValuesError(ValueError):
    """Pixels that are not background and object; the message says how."""


class MalformedSegmentationError(ValueError):
    """A segmentation that is neither polygons nor a run-length code of the image's size; the message says how."""


def rle_from_segmentation(segmentation: object, height: int, width: int) -> Rle | None:
    """The full-frame code of a COCO `segmentation`, or None where it is polygons of which none has three points.

    Polygons (several parts are joined), uncompressed and compressed run-length codes, as pycocotools rasterizes them: polygons are
    never shifted or cropped first, which would move their edges. Parts of fewer than three points are left out: pycocotools would
    take a list of four numbers for a box. Raises MalformedSegmentationError.
    """
    if isinstance(segmentation, Mapping):
        return _rle_from_runs(segmentation, height, width)
    if not isinstance(segmentation, Sequence) or isinstance(segmentation, str):
        raise MalformedSegmentationError(f"is a {type(segmentation).__name__}, not polygons or a run-length code")
    polygons = []
    for part in segmentation:
        polygon = _polygon(part)
        if polygon.size >= _FEWEST_POLYGON_NUMBERS:
            polygons.append(polygon)
    if not polygons:
        return None
    parts: list[Rle] = pycoco.frPyObjects(polygons, height, width)
    whole: Rle = parts[0] if len(parts) == 1 else pycoco.merge(parts)
    return whole


def _polygon(part: object) -> npt.NDArray[np.float64]:
    try:
        array = np.asarray(part, dtype=np.float64)
    except (TypeError, ValueError):
        raise MalformedSegmentationError("has a polygon that is not a flat list of numbers") from None
    if array.ndim != 1 or array.size % 2:
        raise MalformedSegmentationError("has a polygon that is not a flat list of x, y pairs")
    # pycocotools walks every edge in fifths of a pixel, in C integers: a far point takes memory, then crashes the process.
    if not np.abs(array).max(initial=0) <= _FARTHEST_COORDINATE:
        reason = f"more than {_FARTHEST_COORDINATE} pixels away" if np.isfinite(array).all() else "that is not a finite number"
        raise MalformedSegmentationError(f"has a polygon with a coordinate {reason}")
    return array


def _rle_from_runs(segmentation: Mapping[str, Any], height: int, width: int) -> Rle:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(size, Sequence) or list(size) != [height, width]:
        raise MalformedSegmentationError(f"has size {size}, and its image is [{height}, {width}] (height, width)")
    if isinstance(counts, str):
        counts = counts.encode()
    if isinstance(counts, bytes):
        # The C decoder writes wherever broken runs lead; the same runs are summed here before it may see them.
        try:
            (runs,) = runs_of_compressed([counts])
        except ValueError as error:
            raise MalformedSegmentationError(f"has a broken run-length code: {error}") from error
        if runs.sum() != height * width:
            raise MalformedSegmentationError("has runs that do not add up to its image's pixels")
        return _without_empty_runs(Rle(size=[height, width], counts=counts), runs)
    if not isinstance(counts, list) or not all(isinstance(run, int) and run >= 0 for run in counts):
        raise MalformedSegmentationError("has counts that are neither a string nor a list of whole numbers")
    if sum(counts) != height * width:
        raise MalformedSegmentationError(f"has runs of {sum(counts)} pixels together; its image has {height * width}")
    compressed: Rle = pycoco.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return _without_empty_runs(compressed, counts)


def _without_empty_runs(rle: Rle, runs: Sequence[int] | npt.NDArray[np.int64]) -> Rle:
    """The code of the same mask that pycocotools itself would write; of others it finds wrong boxes."""
    return rle_from_mask(mask_from_rle(rle)) if 0 in runs[1:] else rle


def runs_of_compressed(codes: Sequence[bytes]) -> list[npt.NDArray[np.int64]]:
    """The runs int64 [n] in each of COCO's compressed strings. ValueError where one breaks off, or a run is negative or too long.

    Five bits a character, little end first, from '0' on; the sixth bit says that more follows, and the last character's fifth bit is
    the sign. From the fourth run on, a run is stored as its difference from the run two before. All codes are read at once: of each
    alone, NumPy's calls would take longer than its numbers.
    """
    characters = np.frombuffer(b"".join(codes), np.uint8) - np.uint8(48)  # those before '0' come out above all that are valid
    if not characters.size:
        return [np.zeros(0, np.int64) for _ in codes]
    is_end = characters < 0x20
    code_ends = np.cumsum([len(code) for code in codes])
    if characters.max() >= 0x40 or not is_end[code_ends - 1].all():
        raise ValueError("a character is none of a run-length code, or one breaks off")
    ends = np.flatnonzero(is_end)
    starts = np.zeros_like(ends)
    starts[1:] = ends[:-1] + 1
    lengths = ends + 1 - starts
    if lengths.max() > _LONGEST_RUN:
        raise ValueError("a run is longer than any image")
    places = np.arange(characters.size) - np.repeat(starts, lengths)
    stored = np.add.reduceat((characters & 0x1F).astype(np.int64) << 5 * places, starts)
    stored -= (characters[ends] >> 4).astype(np.int64) << 5 * lengths
    runs = np.split(stored, np.searchsorted(starts, code_ends[:-1]))
    for own in runs:
        for alternate in (own[1::2], own[2::2]):
            alternate.cumsum(out=alternate)
    if stored.min() < 0:
        raise ValueError("a run is negative")
    return runs


def rle_from_mask(mask: Mask) -> Rle:
    """The code of a mask uint8 [height, width] of zeros and ones."""
    rows = np.flatnonzero(mask.max(axis=1, initial=0))
    if not rows.size:
        return rle_from_crop(mask[:0], 0, 0, mask.shape)
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[top:bottom].max(axis=0))
    left, right = int(columns[0]), int(columns[-1]) + 1
    return rle_from_crop(mask[top:bottom, left:right], top, left, mask.shape)


def rle_from_crop(crop: Mask, top: int, left: int, size: tuple[int, ...]) -> Rle:
    """The code of a mask of `size` (height, width) whose pixels outside `crop`, uint8 [h, w] with its corner at (top, left), are 0.

    The runs are found in the crop alone: most of a large frame is not the object.
    """
    height, width = size
    rows, columns = crop.shape
    # Column by column, each between two zeros, so that every run begins and ends within its column.
    framed = np.zeros((columns, rows + 2), np.uint8)
    framed[:, 1:-1] = crop.T
    column, row = np.divmod(np.flatnonzero(np.diff(framed.ravel())), rows + 2)
    changes = (left + column) * height + top + row
    # What ends with the frame's last row and goes on with the next column's first is one run.
    joined = np.flatnonzero(changes[1:] == changes[:-1])
    changes = np.delete(changes, np.concatenate([joined, joined + 1]))
    runs = np.diff(changes, prepend=0, append=height * width)
    if changes.size and not runs[-1]:
        runs = runs[:-1]
    rle: Rle = pycoco.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)
    return rle


def crop_from_rle(rle: Rle, extent_yxyx: tuple[int, int, int, int]) -> Mask:
    """The mask's pixels in the rectangle (top, left, bottom, right) of its frame, uint8 [bottom - top, right - left]."""
    (runs,) = runs_of_compressed([rle["counts"]])
    return _crop_from_runs(runs, rle["size"][0], extent_yxyx)


def crops_from_rles(rles: Sequence[Rle]) -> list[tuple[Mask, int, int]]:
    """The pixels of each mask in the tight rectangle around its object, uint8 [h, w] in row-major memory, and its top and left."""
    if not rles:
        return []
    crops = []
    for rle, extent, runs in zip(rles, rle_extents_yxyx(rles), runs_of_compressed([rle["counts"] for rle in rles]), strict=True):
        top, left, bottom, right = map(int, extent)
        crops.append((np.ascontiguousarray(_crop_from_runs(runs, rle["size"][0], (top, left, bottom, right))), top, left))
    return crops


def _crop_from_runs(runs: npt.NDArray[np.int64], height: int, extent_yxyx: tuple[int, int, int, int]) -> Mask:
    top, left, bottom, right = extent_yxyx
    ends = np.cumsum(runs)
    values = (np.arange(runs.size) & 1).astype(np.uint8)
    # Of the columns before and behind the rectangle, no pixel is drawn.
    inside = np.diff(ends.clip(left * height, right * height), prepend=left * height)
    return np.repeat(values, inside).reshape(right - left, height)[:, top:bottom].T


def mask_from_rle(rle: Rle) -> Mask:
    """The mask uint8 [height, width] of a code, in column-major memory."""
    mask: Mask = pycoco.decode(rle)
    return mask


def rle_area(rle: Rle) -> int:
    """Pixels on the object."""
    return int(pycoco.area(rle))


def rle_areas(rles: Sequence[Rle]) -> npt.NDArray[np.float64]:
    """That of each: [N]."""
    # Of more than 255 at once pycocotools fails.
    parts = [pycoco.area(list(rles[start : start + 255])) for start in range(0, len(rles), 255)]
    return np.concatenate([np.zeros(0), *parts])


def rle_extents_yxyx(rles: Sequence[Rle]) -> list[tuple[float, float, float, float]]:
    """The tight box (ymin, xmin, ymax, xmax) around each code's pixels; pixel edges, so a single pixel is one wide."""
    return [(y, x, y + height, x + width) for x, y, width, height in pycoco.toBbox(list(rles)).tolist()]


def rle_extent_yxyx(rle: Rle) -> tuple[float, float, float, float]:
    """That of one."""
    return rle_extents_yxyx([rle])[0]


def decode_png(png: bytes, any_values: bool = False) -> Mask:
    """The mask uint8 [height, width] of a PNG, ours or another tool's, as training sees it: 1 where `tf.io.decode_png` finds grey above 0.

    Colours, a palette's too, are taken for their grey, alpha is passed over, and of 16 bits the upper eight count. MaskValuesError where
    there are several values above 0, unless `any_values` may be there.
    """
    with opened_image(png) as image:
        if image.mode.startswith("I;16"):
            pixels = np.asarray(image) >> 8
        elif image.mode in ("1", "L"):
            pixels = np.asarray(image)
        else:
            pixels = np.asarray(image.convert("RGB")) @ _GREY >> _GREY_BITS
    return mask_from_pixels(pixels, any_values)


def mask_from_pixels(pixels: npt.NDArray[np.generic], any_values: bool = False) -> Mask:
    """The mask of pixels of any type [height, width]: 1 where they have their one value above 0. MaskValuesError where there are more,
    unless `any_values` may be there."""
    mask: Mask = (pixels > 0).view(np.uint8)  # type: ignore[operator]  # of numbers or bools
    if not any_values and not np.array_equal(pixels, mask * pixels.max(initial=0)):
        raise MaskValuesError("has other values than 0 and one above it")
    return mask
