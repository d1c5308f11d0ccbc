"""The masks of a record in the two forms that the original reads: a PNG for each object, or one list of numbers for all of them."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from tasks.coco.image_opening import ImageTooLargeError
from tasks.coco.mask_png import encode_pngs, rle_from_png
from tasks.coco.masks import MaskValuesError, Rle, mask_from_pixels, mask_from_rle, rle_from_mask
from tasks.records.checks import BadImageError, Check
from tasks.records.example_pb2 import Feature, FloatList

_FLOAT = np.dtype("<f4")
_PACKED_VALUES = b"\x0a"  # field 1, of counted bytes
_AGAIN = "write the record's masks again"


def put_png_masks(feature: Feature, masks: Iterable[Rle]) -> None:
    """Adds a whole-image PNG of zeros and ones for each mask."""
    feature.bytes_list.value.extend(encode_pngs(list(masks)))


def put_dense_masks(feature: Feature, masks: Iterable[Rle]) -> None:
    """Adds the pixels of each mask, row by row, as 0.0 and 1.0."""
    for mask in masks:
        # A float for each pixel: as bytes they are moved by the block, as Python numbers one by one.
        pixels = mask_from_rle(mask).astype(_FLOAT, order="C").tobytes()
        feature.float_list.MergeFromString(_PACKED_VALUES + _varint(len(pixels)) + pixels)


def stored_masks(feature: Feature, count: int, size: tuple[int, int], where: str, any_values: bool = False) -> Iterator[Rle]:
    """The codes of the `count` masks in either form, one by one, whatever value above 0 the object has there.

    `size` is the image's (height, width); `where` names the record. BadImageError where there are fewer or more, or one is of another
    size, is no image, or has several values above 0; with `any_values` all of these are the object, as training has it.
    """
    dense = feature.WhichOneof("kind") == "float_list"
    stored = len(feature.float_list.value if dense else feature.bytes_list.value)
    if count and not stored:
        raise BadImageError(Check.MASK_MISSING, f"{where}: {count} objects and no mask", "write the records with masks")
    masks = (_dense_masks if dense else _png_masks)(feature, count, size, where, any_values)
    for index in range(count):
        try:
            yield next(masks)
        except MaskValuesError as error:
            raise BadImageError(Check.MASK_VALUES, f"{where}: mask {index} {error}", _AGAIN) from error


def _png_masks(feature: Feature, count: int, size: tuple[int, int], where: str, any_values: bool) -> Iterator[Rle]:
    pngs = feature.bytes_list.value
    if len(pngs) != count:
        raise BadImageError(Check.RECORD_MALFORMED, f"{where}: {len(pngs)} masks for {count} boxes", _AGAIN)
    for index, png in enumerate(pngs):
        try:
            mask = rle_from_png(png, any_values)
        except ImageTooLargeError as error:
            raise BadImageError(Check.IMAGE_TOO_LARGE, f"{where}: mask {index}: {error}", error.fix) from error
        except (OSError, SyntaxError) as error:
            raise BadImageError(Check.MASK_MALFORMED, f"{where}: mask {index} is no PNG", _AGAIN) from error
        found = tuple(mask["size"])
        if found != size:
            swapped = found == size[::-1]
            raise BadImageError(
                Check.MASK_SIZE_SWAPPED if swapped else Check.MASK_SIZE,
                f"{where}: mask {index} is {found[0]} x {found[1]} (height x width), its image {size[0]} x {size[1]}",
                _AGAIN,
            )
        yield mask


def _dense_masks(feature: Feature, count: int, size: tuple[int, int], where: str, any_values: bool) -> Iterator[Rle]:
    numbers = _numbers(feature.float_list)
    pixels = size[0] * size[1]
    if len(numbers) != count * pixels:
        whole = bool(pixels) and len(numbers) % pixels == 0
        raise BadImageError(
            Check.RECORD_MALFORMED if whole else Check.MASK_SIZE,
            f"{where}: the masks are {len(numbers)} numbers, not {count} x {size[0]} x {size[1]} (boxes x height x width)",
            _AGAIN,
        )
    for mask in numbers.reshape(count, *size):
        yield rle_from_mask(mask_from_pixels(mask, any_values))


def _numbers(values: FloatList) -> npt.NDArray[np.float32]:
    """All numbers of a list, float32 [n]."""
    count = len(values.value)
    start = len(_PACKED_VALUES + _varint(count * _FLOAT.itemsize))
    return np.frombuffer(values.SerializeToString(), _FLOAT, count, start) if count else np.zeros(0, _FLOAT)


def _varint(number: int) -> bytes:
    """Seven bits a byte, little end first; the eighth bit says that more follows."""
    groups = [number >> shift & 0x7F for shift in range(0, max(number.bit_length(), 1), 7)]
    return struct.pack(f"{len(groups)}B", *(group | 0x80 for group in groups[:-1]), groups[-1])
