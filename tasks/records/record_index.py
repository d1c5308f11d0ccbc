"""Where the records of a file lie: read from the index beside a shard of ours, or found by one pass over the headers of any file.

Places are int64 [records, 2]: offset and length with framing, in bytes. They follow each other without a gap and end where the file does. A
stretch that holds no whole record, because a header is damaged or the file is cut off, is a place too: reading it fails, and what lies
behind it is not lost.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tasks.records.checks import DataError
from tasks.records.tfrecord import FRAMING_BYTES, HEADER_BYTES, content_length, opened, unframed

Places = npt.NDArray[np.int64]
Read = Callable[[int, int], bytes]
"""The bytes of a file from an offset on, so many or as many as there are."""

_CHUNK = 1 << 20
_HEADERS_LOOKED_AT = 5


@dataclass(frozen=True)
class Scan:
    """What is found in a file; `whole` bool [records] tells places with a sound header from stretches without one."""

    places: Places
    whole: npt.NDArray[np.bool_]

    def confirms(self, places: Places) -> bool:
        """Whether an index is of the file: it knows every record that is whole. Damage alone takes nothing from it."""
        known = set(map(tuple, places.tolist()))
        return all(tuple(place) in known for place in self.places[self.whole].tolist())


def parse_places(text: str, size: int) -> Places | None:
    """The places in an index; None where it is none, or cannot be one of a file of so many bytes."""
    try:
        places = np.array(text.split(), np.int64).reshape(-1, 2)
    except ValueError:
        return None
    ends = np.cumsum(places[:, 1])
    follow = np.array_equal(places[:, 0], ends - places[:, 1]) and bool(np.all(places[:, 1] > 0))
    return places if follow and size == (int(ends[-1]) if len(ends) else 0) else None


def is_likely_of(read: Read, places: Places) -> bool:
    """Whether a record begins, with the length that is told, at the first place, the last, and some between."""
    some = {int(place) for place in np.linspace(0, len(places) - 1, _HEADERS_LOOKED_AT)} if len(places) else set()
    return all(content_length(read(int(offset), HEADER_BYTES)) == length - FRAMING_BYTES for offset, length in places[sorted(some)])


def scan(read: Read, size: int, advance: Callable[[], None] = lambda: None) -> Scan:
    """All places of a file of `size` bytes, from its headers alone; calls `advance` at each."""
    places: list[tuple[int, int]] = []
    whole: list[bool] = []
    offset = 0
    while offset < size:
        length = content_length(read(offset, HEADER_BYTES))
        is_whole = length is not None and offset + length + FRAMING_BYTES <= size
        end = offset + (length or 0) + FRAMING_BYTES if is_whole else _next_record(read, offset + 1, size)
        places.append((offset, end - offset))
        whole.append(is_whole)
        offset = end
        advance()
    return Scan(np.array(places, np.int64).reshape(-1, 2), np.array(whole, np.bool_))


def records_and_damage(path: Path) -> Iterator[bytes | DataError]:
    """The records of a file, one by one, and in the place of one that is damaged the error about it; UserError if it cannot be opened."""
    with opened(path) as stream:

        def read(offset: int, length: int) -> bytes:
            stream.seek(offset)
            return stream.read(length)

        for index, (offset, length) in enumerate(scan(read, stream.seek(0, os.SEEK_END)).places.tolist()):
            try:
                yield unframed(read(offset, length), f"{path}: record {index}")
            except DataError as error:
                yield error


def _next_record(read: Read, start: int, size: int) -> int:
    """Where, from `start` on, the next sound header of a record that ends within the file is; the file's end where there is none."""
    for base in itertools.count(start, _CHUNK):
        content = read(base, _CHUNK + HEADER_BYTES - 1)
        if len(content) < HEADER_BYTES:
            return size
        # A length of 8 bytes, little end first, of which no record fills more than four; an empty record holds nothing to come back for.
        filled = np.frombuffer(content, np.uint8) != 0
        of_four = filled[:-3] | filled[1:-2] | filled[2:-1] | filled[3:]
        for index in np.flatnonzero(of_four[:-4] & ~of_four[4:]).tolist():
            length = content_length(content[index : index + HEADER_BYTES])
            if length is not None and base + index + length + FRAMING_BYTES <= size:
                return int(base + index)
    raise AssertionError("the counter has no end")
