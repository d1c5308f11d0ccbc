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

from tasks.coco.masks import Rle, decode_png, rle_extents_yxyx, rle_from_crop, rle_from_mask, runs_of_compressed

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.Struct(">II5B")
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


def rle_from_png(png: bytes, any_values: bool = False) -> Rle:
    """The run-length code of what `decode_png` gives. Of a PNG of `encode_pngs`, only the rows with the object are looked at."""
    own = own_rows(png)
    if own is None:
        return rle_from_mask(decode_png(png, any_values))
    height, width, top, rows = own
    columns = np.flatnonzero(rows.max(axis=0, initial=0))
    left, right = (int(columns[0]), int(columns[-1]) + 1) if columns.size else (0, 0)
    return rle_from_crop(rows[:, left:right], top, left, (height, width))


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
    blocks = (
        _empty(top, stride) + _deflated(zlib_ng.compressobj(1, strategy=zlib.Z_RLE, wbits=_RAW), rows.data) + _empty(rows_below, stride)
    )
    pixels = _ZLIB_HEADER + blocks + _LAST_BLOCK + _checksum(rows, top, rows_below, stride)
    header = _HEADER.pack(width, height, *_EIGHT_BIT_GREY)
    return _PNG_SIGNATURE + _png_chunk(b"IHDR", header) + _png_chunk(b"IDAT", pixels) + _png_chunk(b"IEND", b"")


def own_rows(png: bytes) -> tuple[int, int, int, npt.NDArray[np.uint8]] | None:
    """Of a PNG of `encode_pngs`: height, width, the number of empty rows above, and the rows from there to the empty ones below.

    The rows are uint8 [n, width] of 0 and 1. None for a PNG of another kind, and for a damaged one.

    The empty rows before and behind are told by the codes that are kept of them, not inflated; the checksum confirms that they are what
    they seem.
    """
    start = len(_PNG_SIGNATURE) + 12 + _HEADER.size  # a chunk's length, kind and CRC take 12 bytes
    if png[:8] != _PNG_SIGNATURE or png[12:16] != b"IHDR" or len(png) < start + 12:
        return None
    width, height, *kind = _HEADER.unpack(png[16 : 16 + _HEADER.size])
    pixels = png[start + 8 : start + 8 + int.from_bytes(png[start : start + 4])]
    chunks = _png_chunk(b"IHDR", png[16 : 16 + _HEADER.size]) + _png_chunk(b"IDAT", pixels) + _png_chunk(b"IEND", b"")
    if tuple(kind) != _EIGHT_BIT_GREY or png[8:] != chunks or pixels[:2] != _ZLIB_HEADER or pixels[-6:-4] != _LAST_BLOCK:
        return None
    blocks, stride, top, below = pixels[2:-6], width + 1, 0, 0
    begin, end = 0, len(blocks)
    powers = range(height.bit_length())
    for power in powers:
        if blocks.startswith(empty := _zeros(stride << power), begin):
            begin, top = begin + len(empty), top + (1 << power)
    for power in reversed(powers):
        if blocks.endswith(empty := _zeros(stride << power), begin, end):
            end, below = end - len(empty), below + (1 << power)
    try:
        content = zlib_ng.decompressobj(_RAW).decompress(blocks[begin:end])
    except zlib_ng.error:  # type: ignore[misc]  # its stub has a constructor instead of the class
        return None
    if len(content) != (height - top - below) * stride:
        return None
    rows = np.frombuffer(content, np.uint8).reshape(-1, stride)
    if rows[:, 0].any() or rows.max(initial=0) > 1 or pixels[-4:] != _checksum(rows, top, below, stride):
        return None
    return height, width, top, rows[:, 1:]


def _checksum(rows: npt.NDArray[np.uint8], rows_above: int, rows_below: int, stride: int) -> bytes:
    """Adler-32 of rows between empty ones: two sums, the bytes', to which zeros add nothing, and that of the first after each byte."""
    checksum = zlib_ng.adler32(rows.data, rows_above * stride % _ADLER_MODULUS << 16 | 1)
    first, second = checksum & 0xFFFF, checksum >> 16
    return struct.pack(">I", (second + rows_below * stride * first) % _ADLER_MODULUS << 16 | first)


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
