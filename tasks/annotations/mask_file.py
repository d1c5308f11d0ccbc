"""PNG files of masks, read strictly: a grey level or a colour between object and background is a fault, not a threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tasks.coco.image_opening import PILLOW_ERRORS, ImageTooLargeError, opened_image
from tasks.coco.masks import Mask
from tasks.records.checks import BadImageError, Check
from tasks.running.pointer_file import pointer_in
from tasks.running.workspace import read_bytes

Ids = npt.NDArray[np.integer[Any]]
"""Numbers [height, width]: grey levels or palette indices uint8 or uint16, or colours as uint32."""

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


def read_numbers(path: Path, size: tuple[int, int]) -> Ids:
    """As `read_ids`; colours stand for their places in Pascal VOC's palette, and those that it lacks for numbers of their own above 255."""
    pixels = _pixels(_content(path), str(path), size)
    if pixels.ndim == 2:
        return pixels
    codes = _colour_codes(pixels, str(path))
    found = np.unique(codes)
    numbers = [_PALETTE_PLACES.get(code, 256 + place) for place, code in enumerate(found.tolist())]
    return np.array(numbers, np.int64)[np.searchsorted(found, codes)]


def read_classes(path: Path, size: tuple[int, int], colours: Mapping[int, int], indices: Sequence[int]) -> Ids:
    """The pixels of a PNG as numbers of classes, int64 [height, width]: 0 background, 255 none.

    `colours` has the class of a colour (red * 65536 + green * 256 + blue), `indices` that of a number, -1 where it is none; both are empty
    where nothing is said of them: colours are then those of Pascal VOC's palette, and numbers stay. Of a PNG with a palette, the colours
    count where `colours` has any of them. BadImageError for a colour or number without a class, and as `read_ids`.
    """
    where = str(path)
    pixels, palette = _decoded(_content(path), where, size)
    if pixels.ndim == 3:
        return _looked_up(_colour_codes(pixels, where), {**_PALETTE_PLACES, **colours} if not colours else _with_void(colours), where)
    if palette and colours and any(palette.get(value) in colours for value in np.unique(pixels).tolist() if value not in (0, _VOID)):
        by_index = {value: _with_void(colours).get(code, None) for value, code in palette.items()}
        return _looked_up(pixels, {0: 0, _VOID: _VOID} | {value: one for value, one in by_index.items() if one is not None}, where)
    if indices:
        return _looked_up(pixels, {_VOID: -1} | dict(enumerate(indices)), where)
    return pixels


def read_ids(path: Path, size: tuple[int, int]) -> Ids:
    """The pixels of a PNG in grey (8 or 16 bits) or by palette, whose colours do not count, for an image of this (height, width).

    BadImageError for colours without a palette, another size, and what is no whole PNG.
    """
    pixels = _pixels(_content(path), str(path), size)
    if pixels.ndim != 2:
        raise _wrong_values(
            str(path),
            "its pixels are colours",
            "write numbers: a grey PNG of 8 or 16 bits, or one with a palette; CVAT's `Segmentation mask` export is `format: voc`",
        )
    return pixels


def read_colour_ids(path: Path, size: tuple[int, int]) -> Ids:
    """The numbers uint32 [height, width] that a PNG in RGB holds for an image of this (height, width): R + 256 G + 65536 B.

    BadImageError for one that is not in 8-bit RGB, another size, and what is no whole PNG.
    """
    pixels = _pixels(_content(path), str(path), size)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise _wrong_values(str(path), "its pixels are not in RGB", "write the numbers of segments as R + 256 G + 65536 B")
    ids: Ids = pixels @ np.array([1, 256, 65536], np.uint32)
    return ids


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
    return _decoded(content, where, size)[0]


def _decoded(content: bytes, where: str, size: tuple[int, int]) -> tuple[npt.NDArray[Any], dict[int, int]]:
    """Those, and the colour of each index where there is a palette."""
    try:
        with opened_image(content, ("PNG",)) as image:
            found = (image.height, image.width)
            if found == size:
                pixels = np.asarray(image)
                return pixels.view(np.uint8) if pixels.dtype == np.bool_ else pixels, _palette(image)
    except ImageTooLargeError as error:
        raise BadImageError(Check.IMAGE_TOO_LARGE, f"{where}: the mask cannot be read: {error}", error.fix) from error
    except PILLOW_ERRORS as error:
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


def _palette(image: Image.Image) -> dict[int, int]:
    values = (image.getpalette("RGB") or []) if image.mode == "P" else []
    return {place: red << 16 | green << 8 | blue for place, (red, green, blue) in enumerate(zip(*[iter(values)] * 3, strict=True))}


def _colour_codes(pixels: npt.NDArray[Any], where: str) -> Ids:
    """int64 [height, width], red * 65536 + green * 256 + blue, of opaque colours."""
    if pixels.dtype != np.uint8 or pixels.shape[2] < 3:
        raise _wrong_values(where, "it is neither of numbers nor of 8-bit colours", "write a PNG of 8 bits, grey, by palette or in RGB")
    if pixels.shape[2] == 4 and (pixels[..., 3] != _OPAQUE).any():
        raise _wrong_values(where, "it is transparent in places", "write it without an alpha channel")
    red, green, blue = np.moveaxis(pixels[..., :3].astype(np.int64), 2, 0)
    codes: Ids = red << 16 | green << 8 | blue
    return codes


def _looked_up(values: Ids, classes: Mapping[int, int], where: str) -> Ids:
    """The class of each value, 255 for none."""
    found = np.unique(values)
    unknown = [value for value in found.tolist() if value not in classes]
    if unknown:
        shown = ", ".join(
            str(value) if value < 256 else f"({value >> 16}, {value >> 8 & 255}, {value & 255})" for value in unknown[:_SHOWN_VALUES]
        )
        raise _wrong_values(
            where,
            f"it has {shown}, which no class has",
            "put the `labelmap.txt` of the same export beside the folders of masks, or add its line for that colour",
        )
    numbers = [_VOID if classes[value] < 0 else classes[value] for value in found.tolist()]
    return np.array(numbers, np.int64)[np.searchsorted(found, values)]


def _with_void(colours: Mapping[int, int]) -> dict[int, int]:
    """With black for the background, and the palette's last colour for the border, unless a class has them."""
    return {0: 0, _VOC_PALETTE[_VOID]: _VOID, **colours}


def _voc_colour(place: int) -> int:
    """Pascal VOC's: the bits of a number go round red, green and blue, from the highest bit of each down."""
    red, green, blue = (sum((place >> 3 * bit + channel & 1) << 7 - bit for bit in range(3)) for channel in range(3))
    return red << 16 | green << 8 | blue


_VOID = 255
_VOC_PALETTE = [_voc_colour(place) for place in range(256)]
_PALETTE_PLACES = {colour: place for place, colour in enumerate(_VOC_PALETTE)}


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
