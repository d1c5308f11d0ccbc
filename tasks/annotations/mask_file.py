"""PNG files of masks, read strictly: a grey level or a colour between object and background is a fault, not a threshold."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tasks.coco.masks import Mask
from tasks.pointer_file import pointer_in
from tasks.records.checks import BadImageError, Check
from tasks.workspace import read_bytes

Ids = npt.NDArray[np.integer[Any]]
"""Grey levels or palette indices [height, width], uint8 or uint16."""

_OBJECT_VALUES = (1, 255)
_OPAQUE = 255
_SHOWN_VALUES = 5


def read_mask(path: Path, size: tuple[int, int]) -> Mask:
    """The one object of a PNG file, of an image of this (height, width): see `mask_from_png`."""
    return mask_from_png(_content(path), str(path), size)


def mask_from_png(content: bytes, where: str, size: tuple[int, int]) -> Mask:
    """uint8 [height, width] of zeros and ones from a PNG whose pixels are 0 and 255, or 0 and 1.

    Those are its grey levels or palette indices; colours count as grey where they are equal and opaque. BadImageError, naming `where`,
    for any other value or another size, and for what is no whole PNG.
    """
    pixels = _grey(_pixels(content, where, size), where)
    covered = pixels > 0
    greatest = int(pixels.max())
    if greatest and (greatest not in _OBJECT_VALUES or not np.array_equal(covered, pixels == greatest)):
        raise _wrong_values(where, f"it has the values {_some(np.unique(pixels))}", "write 0 for background, and 1 or 255 for the object")
    return covered.view(np.uint8)


def read_ids(path: Path, size: tuple[int, int]) -> Ids:
    """The pixels of a PNG in grey (8 or 16 bits) or by palette, whose colours do not count, for an image of this (height, width).

    BadImageError for colours without a palette, another size, and what is no whole PNG.
    """
    pixels = _pixels(_content(path), str(path), size)
    if pixels.ndim != 2:
        raise _wrong_values(str(path), "its pixels are colours", "write numbers: a grey PNG of 8 or 16 bits, or one with a palette")
    return pixels


def _content(path: Path) -> bytes:
    try:
        return read_bytes(path)
    except OSError as error:
        raise BadImageError(
            Check.MASK_MISSING,
            f"{path}: the mask file cannot be opened: {error.strerror or error}",
            "bring the file there, or remove the image",
        ) from error


def _pixels(content: bytes, where: str, size: tuple[int, int]) -> npt.NDArray[Any]:
    """[height, width] or [height, width, channels]; the size is checked before a pixel is decoded."""
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            found = (image.height, image.width)
            if found == size:
                pixels = np.asarray(image)
                return pixels.view(np.uint8) if pixels.dtype == np.bool_ else pixels
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if pointer := pointer_in(content):
            raise BadImageError(Check.MASK_MALFORMED, f"{where}: {pointer.problem}", pointer.fix) from error
        reason = "it is no PNG" if not content.startswith(b"\x89PNG") else str(error)
        raise BadImageError(
            Check.MASK_MALFORMED, f"{where}: the mask cannot be read: {reason}", "write it as a PNG again, or remove the image"
        ) from error
    swapped = found == size[::-1]
    raise BadImageError(
        Check.MASK_SIZE_SWAPPED if swapped else Check.MASK_SIZE,
        f"{where}: the mask is {found[0]} x {found[1]} (height x width) in a place of {size[0]} x {size[1]}",
        "swap the mask's height and width" if swapped else "bring back the mask that belongs there",
    )


def _grey(pixels: npt.NDArray[Any], where: str) -> npt.NDArray[Any]:
    """[height, width] of one channel or of equal and opaque ones."""
    if pixels.ndim == 2:
        return pixels
    has_alpha = pixels.shape[2] in (2, 4)
    if has_alpha and (pixels[..., -1] != _OPAQUE).any():
        raise _wrong_values(where, "it is transparent in places", "write it without an alpha channel")
    colours = pixels[..., :-1] if has_alpha else pixels
    if (colours != colours[..., :1]).any():
        raise _wrong_values(where, "it has colours", "write 0 for background, and 1 or 255 for the object, in grey")
    return pixels[..., 0]


def _wrong_values(where: str, what: str, fix: str) -> BadImageError:
    return BadImageError(Check.MASK_VALUES, f"{where}: {what}", fix)


def _some(values: Ids) -> str:
    shown = ", ".join(str(value) for value in values[:_SHOWN_VALUES])
    return shown + (f" and {values.size - _SHOWN_VALUES} more" if values.size > _SHOWN_VALUES else "")
