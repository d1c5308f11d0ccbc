"""Image files as records hold them: bytes that `tf.io.decode_image(channels=3)` reads as the annotator saw them."""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from tasks.coco.image_opening import PILLOW_ERRORS, ImageTooLargeError, opened_image
from tasks.records.checks import BadImageError, Check
from tasks.records.jpeg import decoding_sample
from tasks.running.pointer_file import pointer_in
from tasks.running.workspace import read_bytes

_UNCOMPRESSED, _BY_BIT_FIELDS = 0, 3  # of a BMP
_ORIENTATION_TAG = 0x0112
_UPRIGHT = 1
_QUARTER_TURNS = range(5, 9)
# MPO is a JPEG with more images behind the first, which decoders of JPEG do not look at.
_KEPT_FORMATS = {("JPEG", "L"), ("JPEG", "RGB"), ("MPO", "RGB"), ("PNG", "L"), ("PNG", "RGB")}
_SIXTEEN_BIT_GREY = ("I;16", "I;16B", "I;16L", "I;16N")
_REASONS = {
    "1": Check.IMAGE_PALETTE,
    "P": Check.IMAGE_PALETTE,
    "PA": Check.IMAGE_ALPHA,
    "LA": Check.IMAGE_ALPHA,
    "RGBA": Check.IMAGE_ALPHA,
    "RGBX": Check.IMAGE_ALPHA,
    "CMYK": Check.IMAGE_CMYK,
}
"""Why a mode is not kept; all others that can be converted are kept but for their format."""
_CONVERTED_MODES = (*_REASONS, "L", "RGB", "YCbCr")
_SUFFIXES = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".bmp": "BMP", ".gif": "GIF", ".tif": "TIFF", ".tiff": "TIFF", ".webp": "WEBP"}
_REPLACE = "replace the file, or remove the image and its annotations from the source"


@dataclass(frozen=True)
class EncodedImage:
    """`content` in `format` (`jpeg` or `png`), `height` and `width` in pixels as decoders see them, SHA-256 of the content."""

    content: bytes
    format: str
    height: int
    width: int
    sha256: str
    findings: tuple[Check, ...]


def encode_image(where: str, content: bytes, size: tuple[int, int] | None, sha256: str | None = None) -> EncodedImage:
    """The image in a file's bytes as a record holds it, decoded once to prove that it is whole.

    `where` names the file, and its suffix is held against the content. `size` is (height, width) as annotated, or None where the
    annotations do not say; `sha256` is the content's where it is known already. JPEG and PNG in 8-bit grey or RGB are kept byte for byte;
    all else is written anew as RGB PNG. BadImageError where the file is empty, unreadable, animated, of another size than its annotations
    say, or asks to be turned in a way the size cannot confirm.
    """
    with _opened(where, content) as image:
        return _encoded(where, content, image, size, sha256)


def upright_pixels(where: str, content: bytes) -> npt.NDArray[np.uint8]:
    """The image in a file's bytes as viewers show it, uint8 [height, width, 3], RGB: turned as EXIF asks, the first of several frames.

    BadImageError where the file is empty, unreadable or too large.
    """
    with _opened(where, content) as image:
        return np.array(_as_rgb(where, ImageOps.exif_transpose(image)))


@contextmanager
def _opened(where: str, content: bytes) -> Iterator[Image.Image]:
    """The image, not decoded yet; what Pillow raises within the block becomes a BadImageError that names it."""
    if not content:
        raise BadImageError(Check.IMAGE_EMPTY, f"{where}: the image file is empty", _REPLACE)
    try:
        with opened_image(content) as image:
            yield image
    except ImageTooLargeError as error:
        raise BadImageError(Check.IMAGE_TOO_LARGE, f"{where}: the image is too large: {error}", error.fix) from error
    except PILLOW_ERRORS as error:
        if pointer := pointer_in(content):
            raise BadImageError(Check.IMAGE_UNREADABLE, f"{where}: {pointer.problem}", pointer.fix) from error
        # Pillow's own words for an unknown format hold an address in memory.
        reason = "it is of no known format" if isinstance(error, UnidentifiedImageError) else str(error)
        raise BadImageError(Check.IMAGE_UNREADABLE, f"{where}: the image cannot be read: {reason}", _REPLACE) from error


def is_misread_bmp(content: bytes) -> bool:
    """Whether TensorFlow decodes a BMP to other pixels, or not at all: it reads uncompressed colours of 24 or 32 bits, and grey."""
    if not content.startswith(b"BM"):
        return False
    first, header = struct.unpack_from("<II", content.ljust(34, b"\0"), 10)
    bits, compression = struct.unpack_from("<HI", content.ljust(34, b"\0"), 28)
    is_grey = content[14 + header : first] == bytes(value for grey in range(256) for value in (grey, grey, grey, 0))
    return not (bits in (24, 32) or (bits == 8 and is_grey)) or compression not in (_UNCOMPRESSED, _BY_BIT_FIELDS)


def read_image_bytes(path: Path) -> bytes:
    """The bytes of a file or URL; BadImageError where it cannot be opened."""
    try:
        return read_bytes(path)
    except OSError as error:
        raise BadImageError(
            Check.IMAGE_MISSING,
            f"{path}: the image file cannot be opened: {error.strerror or error}",
            "correct `images` in the dataset's YAML or the image's file_name in the annotations, or bring the file there",
        ) from error


def _encoded(where: str, content: bytes, image: Image.Image, size: tuple[int, int] | None, sha256: str | None) -> EncodedImage:
    stored = (image.height, image.width)
    orientation = image.getexif().get(_ORIENTATION_TAG, _UPRIGHT)
    turned = orientation in range(_UPRIGHT + 1, 9)
    height, width = seen = stored[::-1] if orientation in _QUARTER_TURNS else stored
    if turned:
        _confirm_turn(where, orientation, stored, seen, size)
    elif size is not None and size != seen:
        _refuse_size(where, seen, size)
    frames = getattr(image, "n_frames", 1)
    if image.format != "MPO" and frames > 1:
        raise BadImageError(Check.IMAGE_FRAMES, f"{where}: the file holds {frames} images", "write the annotated one to a file of its own")

    findings = [*_misnamed(where, image)]
    sixteen_bit = image.mode in _SIXTEEN_BIT_GREY or _is_sixteen_bit(image, content)
    if not turned and (image.format, image.mode) in _KEPT_FORMATS and not sixteen_bit:
        if image.mode == "L":
            findings.append(Check.IMAGE_GREY)
        if image.format == "PNG":
            image.load()
        else:
            _decode_jpeg(decoding_sample(content) or content)
        kept_format = "png" if image.format == "PNG" else "jpeg"
        return EncodedImage(content, kept_format, height, width, sha256 or hashlib.sha256(content).hexdigest(), tuple(findings))

    reasons = [Check.IMAGE_TURNED] * turned + [Check.IMAGE_SIXTEEN_BIT] * sixteen_bit
    reasons += [_REASONS[image.mode]] if image.mode in _REASONS else []
    findings += reasons or [Check.IMAGE_REENCODED]
    stream = io.BytesIO()
    _as_rgb(where, ImageOps.exif_transpose(image) if turned else image).save(stream, "PNG", compress_level=6)
    content = stream.getvalue()
    return EncodedImage(content, "png", height, width, hashlib.sha256(content).hexdigest(), tuple(findings))


def _decode_jpeg(content: bytes) -> None:
    """Fails as a decoder of all its pixels does, at a fraction of the work."""
    with Image.open(io.BytesIO(content)) as image:
        image.draft(image.mode, (max(1, image.width // 8), max(1, image.height // 8)))
        image.load()


def _confirm_turn(where: str, orientation: int, stored: tuple[int, int], seen: tuple[int, int], annotated: tuple[int, int] | None) -> None:
    """BadImageError unless the annotated size proves that the annotator saw the image turned."""
    if seen == annotated and seen != stored:
        return
    said = f"the annotations' size {annotated[0]} x {annotated[1]} does" if annotated else "the annotations do"
    raise BadImageError(
        Check.IMAGE_ORIENTATION,
        f"{where}: EXIF orientation {orientation} asks viewers to turn this image of {stored[0]} x {stored[1]} (height x width),"
        f" and {said} not show that they are of the turned one",
        "turn the pixels themselves (`mogrify -auto-orient FILE`) if the annotations were drawn on the upright picture,"
        " or remove the tag (`exiftool -Orientation= FILE`) if they were drawn on the stored pixels",
    )


def _refuse_size(where: str, seen: tuple[int, int], annotated: tuple[int, int]) -> None:
    swapped = seen == annotated[::-1]
    raise BadImageError(
        Check.IMAGE_SIZE_SWAPPED if swapped else Check.IMAGE_SIZE,
        f"{where}: the image is {seen[0]} x {seen[1]} (height x width), and its annotations say {annotated[0]} x {annotated[1]}"
        + " (height and width are swapped)" * swapped,
        "correct the image's height and width in the annotations, or bring back the image that was annotated",
    )


def _misnamed(where: str, image: Image.Image) -> tuple[Check, ...]:
    promised = _SUFFIXES.get(PurePosixPath(where).suffix.lower())
    found = "JPEG" if image.format == "MPO" else image.format
    return (Check.IMAGE_MISNAMED,) if promised not in (None, found) else ()


def _is_sixteen_bit(image: Image.Image, content: bytes) -> bool:
    """Whether a PNG or TIFF has 16 bits a channel, which Pillow's mode hides: byte 24 of a PNG, tag 258 of a TIFF."""
    if image.format == "PNG":
        return content[24] == 16
    return image.format == "TIFF" and 16 in image.tag_v2.get(258, ())  # type: ignore[attr-defined]  # of Pillow's TIFF images only


def _as_rgb(where: str, image: Image.Image) -> Image.Image:
    """8-bit RGB: alpha is dropped, as TensorFlow and OpenCV do; 16-bit grey keeps its upper byte, as 16-bit RGB does."""
    if image.mode in _SIXTEEN_BIT_GREY:
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode not in _CONVERTED_MODES:
        raise BadImageError(
            Check.IMAGE_MODE,
            f"{where}: pixels of mode {image.mode} have no set range to bring to 8 bits",
            "write the image as 8-bit or 16-bit grey or colour",
        )
    return image.convert("RGB")
