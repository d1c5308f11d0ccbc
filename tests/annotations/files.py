"""Files of annotations, on disk or in memory, as tools write them."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from upath import UPath

LFS_POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n"
"""What a checkout holds in place of a file that `git lfs pull` would bring"""


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


def voc_xml(*objects: tuple[str, tuple, bool]) -> bytes:
    """Pascal VOC's XML of objects, each a name, a box (xmin, ymin, xmax, ymax) with pixels counted from 1, and whether difficult."""
    text = "<annotation><filename>a.jpg</filename>"
    for name, (xmin, ymin, xmax, ymax), is_difficult in objects:
        box = f"<xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax>"
        text += f"<object><name>{name}</name><difficult>{int(is_difficult)}</difficult><bndbox>{box}</bndbox></object>"
    return f"{text}</annotation>".encode()
