"""Whether a JPEG is whole, found out without decoding all of it."""

from __future__ import annotations

import re

_START, _END, _SCAN = b"\xff\xd8", b"\xff\xd9", 0xDA
_SEQUENTIAL = {0xC0, 0xC1}  # frames of one scan: baseline and extended
_OTHER_SEGMENTS = {0xC4, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE}  # tables, restart interval, applications' own, comment
_MARKER = re.compile(rb"\xff[^\x00\xff]")
_ENOUGH = 2048  # bytes, for the decoder to build its tables and use them


def decoding_sample(content: bytes) -> bytes | None:
    """A shortened JPEG that can be decoded exactly where the whole one can; None where only decoding all of it shows that.

    It exists for sequential JPEGs of one scan that reaches the end marker. Such a scan's bits, right or wrong, give pixels: libjpeg warns
    of impossible ones and goes on. What it does refuse is in the headers, which the sample has, and an end too early, which is excluded.
    """
    scan = _scan(content)
    marker = _MARKER.search(content, scan) if scan is not None else None
    if marker is None or marker[0] != _END:
        return None
    return content[: min(marker.start(), scan + _ENOUGH)] + _END


def _scan(content: bytes) -> int | None:
    """Where the bits of the only scan begin, or None where the headers hold something unusual."""
    if not content.startswith(_START):
        return None
    place = len(_START)
    while content[place : place + 1] == b"\xff" and len(content) >= place + 4:
        kind, end = content[place + 1], place + 2 + int.from_bytes(content[place + 2 : place + 4])
        if kind == _SCAN:
            return end
        if kind not in _SEQUENTIAL | _OTHER_SEGMENTS:
            return None
        place = end
    return None
