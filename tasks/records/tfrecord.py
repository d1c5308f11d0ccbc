"""TFRecord files without TensorFlow: length and content, each behind its masked CRC-32C.

Byte-compatible with TensorFlow's uncompressed writer: little-endian uint64 length, uint32 CRC of the length, content, uint32 CRC of the
content; a CRC is rotated right by 15 bits and added to a constant.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
import secrets
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

import google_crc32c

from tasks.records.checks import Check, DataError
from tasks.running.errors import UserError
from tasks.running.pointer_file import POINTER_BYTES, pointer_in
from tasks.running.workspace import named, write_text

INDEX_FOLDER = "index"
_MASK_DELTA = 0xA282EAD8
_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
_SHARD_NUMBERS = re.compile(r"-([\d?*]+)-(of-)?([\d?*]+)$")
_SHARD_NAME = re.compile(r"(?P<stem>.*)-(?P<index>\d+)-(?P<of>of-)?(?P<count>\d{1,6})$")
_SHARD_DIGITS = 5
HEADER_BYTES = _HEADER.size
FRAMING_BYTES = _HEADER.size + _FOOTER.size
"""Of each record, beside its content"""


def _masked_crc(content: bytes) -> int:
    crc: int = google_crc32c.value(content)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


def frame(record: bytes) -> bytes:
    """One record as it stands in the file."""
    length = struct.pack("<Q", len(record))
    return b"".join((length, _FOOTER.pack(_masked_crc(length)), record, _FOOTER.pack(_masked_crc(record))))


def index_path(shard: Path) -> Path:
    """The file that tells where the records of a shard begin: a line for each, its offset and its length with framing, in bytes.

    That is the form of NVIDIA DALI's `tfrecord2idx`. It lies in a folder of its own, where no pattern over shards finds it.
    """
    return shard.parent / INDEX_FOLDER / f"{shard.name}.idx"


def print_places(places: Iterable[Sequence[int]]) -> str:
    """The text of an index, of offsets and lengths."""
    return "".join(f"{offset} {length}\n" for offset, length in places)


class ShardWriter:
    """A shard that has its name only when it is complete: written beside it, renamed at the end, removed on an error; its index first.

    Under a URL it is written under its name: an object store shows nothing before the end, and can only rename by a copy.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # By chance, not by process: machines that share the folder may number theirs alike.
        self._temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}") if isinstance(path, Path) else path
        self._stream: BinaryIO
        self._places: list[tuple[int, int]] = []

    def __enter__(self) -> Self:
        self._stream = self._temporary.open("wb")
        return self

    def write(self, record: bytes) -> None:
        self._places.append((self._stream.tell(), len(record) + FRAMING_BYTES))
        self._stream.write(frame(record))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stream.close()
        if kind is not None:
            self._temporary.unlink(missing_ok=True)
            return
        write_text(index_path(self._path), print_places(self._places))
        if self._temporary != self._path:
            self._temporary.replace(self._path)


def write_shard(path: Path, records: Iterable[bytes]) -> None:
    """Writes serialized records as they come; the file appears whole or not at all."""
    with ShardWriter(path) as shard:
        for record in records:
            shard.write(record)


def matching_files(pattern: str) -> tuple[Path, ...]:
    """The files that a path or glob pattern means, in the order of their names; none is no error.

    As far as a path is there as it is written, it is no pattern: the folder `set [1]` is that folder.
    """
    path = Path(pattern)
    there = next((one for one in (path, *path.parents) if os.path.exists(one)), Path())  # noqa: PTH110  # its own fails on long names
    # pathlib's own takes no pattern that starts at the root, and refuses some that TensorFlow takes.
    found = glob.glob(str(Path(glob.escape(str(there))) / path.relative_to(there)))  # noqa: PTH207
    return tuple(Path(name) for name in sorted(found) if Path(name).is_file())


def missing_shards(pattern: str, files: Iterable[Path]) -> tuple[Path, ...]:
    """The shards that a pattern means and that are not among its `files`, by the count in the names of these."""
    shards: dict[tuple[Path, str, str, str], set[int]] = {}
    for file in files:
        told = _SHARD_NAME.match(file.name)
        # Without `-of-` only TensorFlow's five digits are certain to count shards.
        if told and (told["of"] or len(told["index"]) == len(told["count"]) == _SHARD_DIGITS) and int(told["index"]) < int(told["count"]):
            shards.setdefault((file.parent, told["stem"], told["of"] or "", told["count"]), set()).add(int(told["index"]))
    names = (
        folder / f"{stem}-{index:0{len(count)}}-{of}{count}"
        for (folder, stem, of, count), there in shards.items()
        for index in sorted(set(range(int(count))) - there)
    )
    return tuple(path for path in names if fnmatch.fnmatchcase(path.name, pattern.rpartition("/")[2]))


def confirm_whole(pattern: str, files: Iterable[Path]) -> None:
    """DataError that names a shard which a pattern means and that is not there."""
    if missing := missing_shards(pattern, files):
        raise missing_error(missing)


def missing_error(missing: Sequence[Path]) -> DataError:
    """The error about shards that are not there."""
    more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
    return DataError(
        Check.SOURCE_MISSING,
        f"{missing[0]} is not there{more}; the names of the other shards count it",
        "bring the file back, or write the records again",
    )


def record_files(pattern: Path) -> tuple[Path, ...]:
    """The files that a path or pattern means, as `matching_files`, under URLs too; UserError where there is none, or one
    of their shards is missing.

    Of the two ways to number shards, `name-00000-of-00010` and `name-00000-00010`, a pattern of one finds files of the other.
    """
    renumbered = _SHARD_NUMBERS.sub(lambda match: f"-{match[1]}-{'' if match[2] else 'of-'}{match[3]}", pattern.name)
    for one in (pattern, pattern.with_name(renumbered)):
        if found := _matching(one):
            confirm_whole(str(one), found)
            return found
    raise DataError(Check.SOURCE_MISSING, f"{pattern}: no file of records matches", "correct the path or pattern of the records")


def _matching(pattern: Path) -> tuple[Path, ...]:
    if isinstance(pattern, Path):
        return matching_files(str(pattern))
    remote = cast(Any, pattern)
    there = next((one for one in (remote, *remote.parents) if not glob.has_magic(one.path) or one.exists()), remote)
    rest = remote.path[len(there.path) :]
    found = remote.fs.glob(glob.escape(there.path) + rest, detail=True)
    return tuple(named(f"{remote.protocol}://{name.lstrip('/')}") for name in sorted(found) if found[name]["type"] == "file")


def shard_family(name: str) -> str:
    """What shards of one split have in common: their file name without the numbers, and without `.record` or `.tfrecord`."""
    return re.sub(r"\.(tf)?records?$", "", _SHARD_NUMBERS.sub("", name))


def read_shard(path: Path) -> Iterator[bytes]:
    """The serialized records of a file, one by one; UserError where the file is missing, cut off or damaged."""
    return (record for _, record in located_records(path))


def located_records(path: Path) -> Iterator[tuple[int, bytes]]:
    """The records of a file as `read_shard` gives them, each after its offset, at which `record_at` finds it."""
    with opened(path) as stream:
        index = offset = 0
        while header := stream.read(_HEADER.size):
            record = _record(f"{path}: record {index}", header, stream)
            yield offset, record
            index += 1
            offset += _HEADER.size + len(record) + _FOOTER.size


def record_offsets(path: Path) -> list[int]:
    """Where each record of a file begins, in bytes; the contents are passed over, unread and unchecked."""
    offsets: list[int] = []
    with opened(path) as stream:
        while header := stream.read(_HEADER.size):
            offsets.append(stream.tell() - len(header))
            stream.seek(_length(f"{path}: record {len(offsets) - 1}", header) + _FOOTER.size, os.SEEK_CUR)
    return offsets


def record_at(path: Path, offset: int) -> bytes:
    """The record that begins at a byte of a file."""
    with opened(path) as stream:
        stream.seek(offset)
        return _record(f"{path}: the record at byte {offset}", stream.read(_HEADER.size), stream)


def content_length(header: bytes) -> int | None:
    """How long the content behind a header is, which are the first `HEADER_BYTES` of a record; None where it is none, or damaged."""
    if len(header) < _HEADER.size:
        return None
    length, length_crc = _HEADER.unpack(header)
    return int(length) if length_crc == _masked_crc(header[:8]) else None


def unframed(framed: bytes, where: str) -> bytes:
    """The record in the bytes that it takes in its file; DataError, naming it by `where`, if they are not what they were."""
    content = framed[_HEADER.size : -_FOOTER.size]
    if content_length(framed[: _HEADER.size]) != len(content) or framed[-_FOOTER.size :] != _FOOTER.pack(_masked_crc(content)):
        raise _damage(where)
    return content


def opened(path: Path) -> BinaryIO:
    """A file of records; UserError where it cannot be opened, or stands for one that was not fetched."""
    try:
        stream = path.open("rb")
        start = stream.read(POINTER_BYTES)
        stream.seek(0)
    except OSError as error:
        raise UserError(
            f"{path}: the shard cannot be opened: {error.strerror or error}", "correct the path, or bring the file back"
        ) from error
    if pointer := pointer_in(start):
        stream.close()
        raise DataError(Check.RECORD_DAMAGED, f"{path}: {pointer.problem}", pointer.fix)
    return stream


def _record(where: str, header: bytes, stream: BinaryIO) -> bytes:
    record, footer = stream.read(_length(where, header)), stream.read(_FOOTER.size)
    if len(footer) < _FOOTER.size or _FOOTER.unpack(footer)[0] != _masked_crc(record):
        raise _damage(where)
    return record


def _length(where: str, header: bytes) -> int:
    length = content_length(header)
    if length is None:
        raise _damage(where)
    return length


def _damage(where: str) -> DataError:
    return DataError(
        Check.RECORD_DAMAGED, f"{where} is cut off or damaged", "remove the file, and copy it or materialize the dataset again"
    )
