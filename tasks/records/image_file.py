"""Image files as records hold them: bytes that `tf.io.decode_image(channels=3)` reads as the annotator saw them."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from tasks.errors import UserError
from tasks.records.annotated_image import Finding

_ORIENTATION_TAG = 0x0112
_UPRIGHT = 1
_QUARTER_TURNS = range(5, 9)
# MPO is a JPEG with more images behind the first, which decoders of JPEG do not look at.
_KEPT_FORMATS = {("JPEG", "L"), ("JPEG", "RGB"), ("MPO", "RGB"), ("PNG", "L"), ("PNG", "RGB")}
_SIXTEEN_BIT_GREY = ("I;16", "I;16B", "I;16L", "I;16N")
_CONVERTED_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")


@dataclass(frozen=True)
class EncodedImage:
    """`content` in `format` (`jpeg` or `png`), `height` and `width` in pixels as decoders see them, SHA-256 of the content."""

    content: bytes
    format: str
    height: int
    width: int
    sha256: str
    findings: tuple[Finding, ...]


def read_image(path: Path, height: int, width: int) -> EncodedImage:
    """The image file of an annotated `height` x `width`, decoded once to prove that it is whole.

    JPEG and PNG in 8-bit grey or RGB are kept byte for byte; all else is written anew as RGB PNG. UserError where the file is missing,
    unreadable, animated, of another size than its annotations say, or asks to be turned in a way the size cannot confirm.
    """
    content = read_image_bytes(path)
    try:
        with Image.open(io.BytesIO(content)) as image:
            return _encoded(path, content, image, height, width)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{path}: the image cannot be read: {error}".replace(repr(content), "the file"),
            "replace the file, or remove the image and its annotations from the JSON",
        ) from error


def read_image_bytes(path: Path) -> bytes:
    """The file's bytes; UserError where it is missing or empty."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: the image file cannot be opened: {error.strerror}",
            "correct `images` in the dataset's YAML or the image's file_name in the JSON, or bring the file there",
        ) from error
    if not content:
        raise UserError(f"{path}: the image file is empty", "replace the file, or remove the image and its annotations from the JSON")
    return content


def _encoded(path: Path, content: bytes, image: Image.Image, height: int, width: int) -> EncodedImage:
    stored = (image.height, image.width)
    orientation = image.getexif().get(_ORIENTATION_TAG, _UPRIGHT)
    turned = orientation in range(_UPRIGHT + 1, 9)
    seen = stored[::-1] if orientation in _QUARTER_TURNS else stored
    if turned:
        _confirm_turn(path, orientation, stored, seen, (height, width))
    elif seen != (height, width):
        swapped = " (height and width are swapped)" if seen == (width, height) else ""
        raise UserError(
            f"{path}: the image is {seen[0]} x {seen[1]} (height x width), and its annotations say {height} x {width}{swapped}",
            "correct the image's height and width in the JSON, or bring back the image that was annotated",
        )
    frames = getattr(image, "n_frames", 1)
    if image.format != "MPO" and frames > 1:
        raise UserError(f"{path}: the file holds {frames} images", "write the annotated one to a file of its own")

    if not turned and (image.format, image.mode) in _KEPT_FORMATS and not _is_sixteen_bit_png(content):
        if image.format != "PNG":
            image.draft(image.mode, (max(1, width // 8), max(1, height // 8)))  # every byte is still read, at a fraction of the work
        image.load()
        kept_format = "png" if image.format == "PNG" else "jpeg"
        return EncodedImage(content, kept_format, height, width, hashlib.sha256(content).hexdigest(), ())

    rgb = _as_rgb(path, ImageOps.exif_transpose(image) if turned else image)
    stream = io.BytesIO()
    rgb.save(stream, "PNG", compress_level=6)
    content = stream.getvalue()
    finding = Finding.IMAGE_TURNED if turned else Finding.IMAGE_REENCODED
    return EncodedImage(content, "png", height, width, hashlib.sha256(content).hexdigest(), (finding,))


def _confirm_turn(path: Path, orientation: int, stored: tuple[int, int], seen: tuple[int, int], annotated: tuple[int, int]) -> None:
    """UserError unless the annotated size proves that the annotator saw the image turned."""
    if seen == annotated and seen != stored:
        return
    raise UserError(
        f"{path}: EXIF orientation {orientation} asks viewers to turn this image of {stored[0]} x {stored[1]} (height x width),"
        f" and the annotations' size {annotated[0]} x {annotated[1]} does not show that they are of the turned one",
        "turn the pixels themselves (`mogrify -auto-orient FILE`) if the annotations were drawn on the upright picture,"
        " or remove the tag (`exiftool -Orientation= FILE`) if they were drawn on the stored pixels",
    )


def _is_sixteen_bit_png(content: bytes) -> bool:
    """Whether a PNG has 16 bits a channel, which Pillow's mode hides; the depth is byte 24 of the file."""
    return content[:4] == b"\x89PNG" and content[24] == 16


def _as_rgb(path: Path, image: Image.Image) -> Image.Image:
    """8-bit RGB: alpha is dropped, as TensorFlow and OpenCV do; 16-bit grey keeps its upper byte, as 16-bit RGB does."""
    if image.mode in _SIXTEEN_BIT_GREY:
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode not in _CONVERTED_MODES:
        raise UserError(
            f"{path}: pixels of mode {image.mode} have no set range to bring to 8 bits",
            "write the image as 8-bit or 16-bit grey or colour",
        )
    return image.convert("RGB")
