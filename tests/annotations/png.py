"""PNG files of a few pixels, as annotation tools write them."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def png(pixels: np.ndarray, mode: str | None = None) -> bytes:
    """The file of pixels [height, width] or [height, width, channels]; mode `P` writes them as palette indices."""
    image = Image.fromarray(pixels)
    if mode == "P":
        image.putpalette([128, 0, 64] * 256)  # all of one colour, so that only indices tell anything
    elif mode is not None:
        image = image.convert(mode)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
