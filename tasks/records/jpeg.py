"""Whether a JPEG is whole, found out without decoding all of it."""

from __future__ import annotations

import numpy as np

_START, _END, _SCAN = b"\xff\xd8", b"\xff\xd9", 0xDA
_SEQUENTIAL = {0xC0, 0xC1}  # frames of one scan: baseline and extended
_OTHER_SEGMENTS = {0xC4, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE}  # tables, restart interval, applications' own, comment
_HEIGHT = slice(5, 7)  # of a frame's segment: marker, length, bits a channel, then the height
_ENOUGH_BYTES, _ENOUGH_ROWS = 2048, 16  # for the decoder to build its tables and use them


def decoding_sample(content: bytes) -> bytes | None:
    """A shortened JPEG that can be decoded exactly where the whole one can; None where only decoding all of it shows that.

    It exists for sequential JPEGs of one scan that reaches the end marker. Such a scan's bits, right or wrong, give pixels: libjpeg warns
    of impossible ones and goes on. What it does refuse is in the headers, which the sample has, and an end too early, which is excluded.
    """
    frame, scan = _frame_and_scan(content)
    end = _first_marker(content, scan) if frame and scan else len(content)
    if content[end : end + 2] != _END:
        return None
    sample = bytearray(content[: min(end, scan + _ENOUGH_BYTES)] + _END)
    height = slice(frame + _HEIGHT.start, frame + _HEIGHT.stop)
    sample[height] = min(int.from_bytes(sample[height]), _ENOUGH_ROWS).to_bytes(2)
    return bytes(sample)


def _first_marker(content: bytes, start: int) -> int:
    """Where the first marker from `start` on is: a byte 255 that is not followed by 0, as those of a scan's bits are."""
    values = np.frombuffer(content, np.uint8)[start:]
    places = np.flatnonzero(values[:-1] == 0xFF)
    markers = places[values[places + 1] != 0]
    return start + int(markers[0]) if markers.size else len(content)


def _frame_and_scan(content: bytes) -> tuple[int, int]:
    """Where the frame's segment and the bits of the only scan begin; 0 where the headers hold none, or something unusual."""
    frame = 0
    place = len(_START) if content.startswith(_START) else len(content)
    while content[place : place + 1] == b"\xff" and len(content) >= place + 4:
        kind, end = content[place + 1], place + 2 + int.from_bytes(content[place + 2 : place + 4])
        if kind == _SCAN:
            return frame, end
        if kind in _SEQUENTIAL and not frame:
            frame = place
        elif kind not in _OTHER_SEGMENTS:
            break
        place = end
    return 0, 0
