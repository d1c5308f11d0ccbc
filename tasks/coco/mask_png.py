"""The PNG that records hold of a mask: 8-bit grey of exactly 0 and 1. Why this format: docs/decisions/0003-mask-png.md

Most of a frame is rows without the object. They are neither drawn nor compressed: the codes of 1, 2, 4, ... such rows are kept.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from zlib_ng import zlib_ng

from tasks.coco.masks import Rle, rle_extents_yxyx, runs_of_compressed

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_EIGHT_BIT_GREY = (8, 0, 0, 0, 0)  # bit depth, colour type, compression, filter, interlace
_ZLIB_HEADER, _LAST_BLOCK = b"\x78\x01", b"\x03\x00"
_ADLER_MODULUS = 65521
_RAW = -zlib.MAX_WBITS  # no header of its own
_ROWS_KEPT = 1024  # stretches of empty rows, compressed: some ten for each width of image


def encode_pngs(masks: Sequence[Rle]) -> list[bytes]:
    """For each mask a single-channel PNG whose pixels decode to exactly its 0 and 1 in TensorFlow, Pillow and OpenCV.

    One-bit grey would be smaller, but TensorFlow decodes it to 0 and 255.
    """
    return list(map(_encode_png, masks, rle_extents_yxyx(masks), runs_of_compressed([mask["counts"] for mask in masks])))


def _encode_png(mask: Rle, extent_yxyx: tuple[float, float, float, float], runs: npt.NDArray[np.int64]) -> bytes:
    height, width = mask["size"]
    top, left, bottom, right = map(int, extent_yxyx)
    rows = np.zeros((bottom - top, width + 1), np.uint8)  # each row is led by its filter, 0 for none
    if rows.size:
        # Of the columns without the object, all pixels are in the first run and in the last.
        runs[0] -= left * height
        runs[-1] -= (width - right) * height
        columns = np.repeat((np.arange(runs.size) & 1).astype(np.uint8), runs).reshape(right - left, height)
        rows[:, 1 + left : 1 + right] = columns[:, top:bottom].T
    return _png(height, width, top, rows)


def _png(height: int, width: int, top: int, rows: npt.NDArray[np.uint8]) -> bytes:
    """The PNG whose `rows`, uint8 [n, width + 1] with their filters, begin at row `top`; all others are empty."""
    rows_below, stride = height - top - len(rows), width + 1
    # Adler-32 is two sums: the bytes', to which zeros add nothing, and that of the first after each byte.
    checksum = zlib_ng.adler32(rows.data, top * stride % _ADLER_MODULUS << 16 | 1)
    first, second = checksum & 0xFFFF, checksum >> 16
    checksum = (second + rows_below * stride * first) % _ADLER_MODULUS << 16 | first
    blocks = (
        _empty(top, stride) + _deflated(zlib_ng.compressobj(1, strategy=zlib.Z_RLE, wbits=_RAW), rows.data) + _empty(rows_below, stride)
    )
    pixels = _ZLIB_HEADER + blocks + _LAST_BLOCK + struct.pack(">I", checksum)
    header = struct.pack(">II5B", width, height, *_EIGHT_BIT_GREY)
    return _PNG_SIGNATURE + _png_chunk(b"IHDR", header) + _png_chunk(b"IDAT", pixels) + _png_chunk(b"IEND", b"")


def _empty(rows: int, stride: int) -> bytes:
    """So many rows of `stride` zeros, as `_deflated`."""
    return b"".join(_zeros(stride << power) for power in range(rows.bit_length()) if rows >> power & 1)


@lru_cache(_ROWS_KEPT)
def _zeros(size: int) -> bytes:
    # Not as runs: those would be smaller still, and take inflating half as long again, in every epoch.
    return _deflated(zlib.compressobj(1, wbits=_RAW), bytes(size))


def _deflated(deflate: Any, content: bytes | memoryview) -> bytes:
    """Deflate blocks that end with a byte and refer to none before them, so that others may follow."""
    blocks: bytes = deflate.compress(content) + deflate.flush(zlib.Z_SYNC_FLUSH)
    return blocks


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))
