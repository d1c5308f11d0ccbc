"""Files of annotations, on disk or in memory, as tools write them."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from upath import UPath


def png(pixels: np.ndarray, mode: str | None = None) -> bytes:
    """A file of pixels [height, width] or [height, width, channels]; mode `P` writes them as palette indices."""
    image = Image.fromarray(pixels)
    if mode == "P":
        image.putpalette([128, 0, 64] * 256)  # all of one colour, so that only indices tell anything
    elif mode is not None:
        image = image.convert(mode)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def write(path: UPath, content: bytes = b"") -> None:
    """The file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
