"""TFRecord files without TensorFlow: length and content, each behind its masked CRC-32C.

Byte-compatible with TensorFlow's uncompressed writer: little-endian uint64 length, uint32 CRC of the length, content, uint32 CRC of the
content; a CRC is rotated right by 15 bits and added to a constant.
"""

from __future__ import annotations

import glob
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import google_crc32c

from tasks.errors import UserError

_MASK_DELTA = 0xA282EAD8
_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")


def _masked_crc(content: bytes) -> int:
    crc: int = google_crc32c.value(content)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


def frame(record: bytes) -> bytes:
    """One record as it stands in the file."""
    length = struct.pack("<Q", len(record))
    return b"".join((length, _FOOTER.pack(_masked_crc(length)), record, _FOOTER.pack(_masked_crc(record))))


class ShardWriter:
    """A shard that has its name only when it is complete: written beside it, renamed at the end, removed on an error."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}")
        self._stream: BinaryIO

    def __enter__(self) -> Self:
        self._stream = self._temporary.open("wb")
        return self

    def write(self, record: bytes) -> None:
        self._stream.write(frame(record))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stream.close()
        if kind is None:
            self._temporary.replace(self._path)
        else:
            self._temporary.unlink(missing_ok=True)


def write_shard(path: Path, records: Iterable[bytes]) -> None:
    """Writes serialized records as they come; the file appears whole or not at all."""
    with ShardWriter(path) as shard:
        for record in records:
            shard.write(record)


def matching_files(pattern: str) -> tuple[Path, ...]:
    """The files that a path or glob pattern means, in the order of their names; none is no error."""
    # pathlib's own takes no pattern that starts at the root, and refuses some that TensorFlow takes.
    return tuple(Path(name) for name in sorted(glob.glob(pattern)) if Path(name).is_file())  # noqa: PTH207


def read_shard(path: Path) -> Iterator[bytes]:
    """The serialized records of a file, one by one; UserError where the file is missing, cut off or damaged."""
    try:
        stream = path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: the shard cannot be opened: {error.strerror}", "materialize the dataset again") from error
    with stream:
        index = 0
        while header := stream.read(_HEADER.size):
            yield _record(path, index, header, stream)
            index += 1


def _record(path: Path, index: int, header: bytes, stream: BinaryIO) -> bytes:
    damage = UserError(f"{path}: record {index} is cut off or damaged", "remove the file and materialize the dataset again")
    if len(header) < _HEADER.size:
        raise damage
    length, length_crc = _HEADER.unpack(header)
    if length_crc != _masked_crc(header[:8]):
        raise damage
    record, footer = stream.read(length), stream.read(_FOOTER.size)
    if len(footer) < _FOOTER.size or _FOOTER.unpack(footer)[0] != _masked_crc(record):
        raise damage
    return record
