"""Images and masks opened by Pillow, whatever their size up to a limit that a person can set."""

from __future__ import annotations

import io
import os

from PIL import Image

from tasks.running.errors import UserError

LIMIT_VARIABLE = "MASKLINE_MAX_IMAGE_PIXELS"
PILLOW_LIMIT = 178_956_970
"""Pixels; half a gigabyte in RGB. Pillow takes what is larger for an attack on the memory."""
TENSORFLOW_LIMIT = 2**29 - 1
"""Pixels of the largest image that TensorFlow decodes."""
PILLOW_ERRORS = (OSError, SyntaxError, ValueError)
"""What Pillow raises for bytes that are no whole image."""


class ImageTooLargeError(Exception):
    """More pixels than the limit; the message names both, `fix` the ways out."""

    def __init__(self, height: int, width: int, limit: int) -> None:
        super().__init__(f"it has {height} x {width} = {height * width} pixels (height x width), and the limit is {limit}")
        self.fix = "cut it, and its annotations, into tiles"
        if height * width <= TENSORFLOW_LIMIT:
            self.fix = (
                f"set {LIMIT_VARIABLE}={height * width} if the memory is there, {3 * height * width / 1e9:.1f} GB a copy; or {self.fix}"
            )


def opened_image(content: bytes, formats: tuple[str, ...] | None = None) -> Image.Image:
    """The image in a file's bytes, not decoded yet. Pillow's errors, and ImageTooLargeError."""
    limit = pixel_limit()
    # Pillow's own check knows no other way to be told its limit, and says nothing of how to set it.
    Image.MAX_IMAGE_PIXELS = None
    image = Image.open(io.BytesIO(content), formats=formats)
    if image.width * image.height > limit:
        image.close()
        raise ImageTooLargeError(image.height, image.width, limit)
    return image


def pixel_limit() -> int:
    """The most pixels of an image: `$MASKLINE_MAX_IMAGE_PIXELS`, else Pillow's own limit. UserError for what is no such number."""
    text = os.environ.get(LIMIT_VARIABLE, str(PILLOW_LIMIT))
    if not text.isdecimal() or not 0 < int(text) <= TENSORFLOW_LIMIT:
        raise UserError(
            f"{LIMIT_VARIABLE} is {text!r}", f"give a number of pixels up to {TENSORFLOW_LIMIT}, beyond which TensorFlow decodes nothing"
        )
    return int(text)
