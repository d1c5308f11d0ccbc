"""Records by number: where each lies in its file, and its bytes, read by any number of threads at once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tensorflow as tf

from tasks.records.record_index import Places, Read, is_likely_of, parse_places, scan
from tasks.records.tfrecord import index_path, print_places, unframed
from tasks.running.errors import UserError
from tasks.running.pointer_file import POINTER_BYTES, pointer_in
from tasks.running.progress import Progress
from tasks.running.workspace import record_index_file, write_text


class RecordReader:
    """The records of several files, paths or URLs that TensorFlow reads, numbered from 0 in the order of the files.

    Of a shard of ours the index beside it tells where they lie. A file without one is scanned once, and what is found is kept in the
    workspace until the file changes. An index that is not of its file is told, and the file scanned.
    """

    def __init__(self, files: Sequence[str]) -> None:
        progress = Progress("looking for records")
        self.files = tuple(files)
        self._places = [_places_in(file, progress) for file in self.files]
        self._starts = np.cumsum([0, *map(len, self._places)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def place(self, number: int) -> tuple[str, int]:
        """The file of a record, and its number there, from 0."""
        file, index = self._find(number)
        return self.files[file], index

    def where(self, number: int) -> str:
        """The same in words."""
        file, index = self.place(number)
        return f"{file}: record {index}"

    def number(self, file: str, index: int) -> int | None:
        """The number of a file's record, None where there is none such."""
        if file not in self.files or index >= len(self._places[self.files.index(file)]):
            return None
        return int(self._starts[self.files.index(file)] + index)

    def confirm_index(self, file: str) -> None:
        """UserError where the places of a file's records are not what a look through all its headers finds: it has changed meanwhile."""
        with _reading(file) as read:
            found = scan(read, _stamp(file)[0])
        if not found.confirms(self._places[self.files.index(file)]):
            raise UserError(f"{file} is not what it was when its records were looked for", "run again when nothing else writes there")

    def read(self, number: int) -> bytes:
        """A record as it was serialized; DataError where it is damaged, OSError or TensorFlow's own where its file cannot be read."""
        file, index = self._find(number)
        offset, length = self._places[file][index].tolist()
        with _reading(self.files[file]) as read:
            return unframed(read(offset, length), f"{self.files[file]}: record {index}")

    def _find(self, number: int) -> tuple[int, int]:
        file = int(np.searchsorted(self._starts, number, side="right")) - 1
        return file, int(number - self._starts[file])


def _places_in(file: str, progress: Progress) -> Places:
    size, changed = _stamp(file)
    stamp = f"{file} {size} {changed}"
    with _reading(file) as read:
        if pointer := pointer_in(read(0, POINTER_BYTES)):
            raise UserError(f"{file}: {pointer.problem}", pointer.fix)
        beside = _text(str(index_path(Path(file))) if "://" not in file else _url_index(file))
        kept = None if beside is None else parse_places(beside, size)
        if kept is not None and is_likely_of(read, kept):
            return kept
        cache = record_index_file(file)
        first, _, rest = (_text(str(cache)) or "").partition("\n")
        scanned = parse_places(rest, size) if first == stamp else None
        if scanned is not None:
            return scanned
        found = scan(read, size, progress.advance)
    if kept is not None and found.confirms(kept):
        return kept
    if beside is not None:
        print(f"{file}: the index beside it is of another file; its records are looked for anew", flush=True)
    try:
        write_text(cache, f"{stamp}\n{print_places(found.places.tolist())}")
    except OSError as error:
        print(f"{cache} cannot be written ({error.strerror}): {file} will be looked through again next time", flush=True)
    return found.places


def _url_index(url: str) -> str:
    folder, _, name = url.rpartition("/")
    return f"{folder}/{index_path(Path(name))}"


def _text(file: str) -> str | None:
    """A small file's content; None where there is none."""
    try:
        with tf.io.gfile.GFile(file, "rb") as stream:
            return bytes(stream.read()).decode()
    except (tf.errors.NotFoundError, tf.errors.FailedPreconditionError, UnicodeDecodeError):
        return None


def _stamp(file: str) -> tuple[int, int]:
    """The size in bytes, and the time of the last change."""
    try:
        found = tf.io.gfile.stat(file)
    except tf.errors.OpError as error:
        raise UserError(f"{file} cannot be read: {error.message}", "correct the path, or bring the file back") from error
    return int(found.length), int(found.mtime_nsec)


@contextmanager
def _reading(file: str) -> Iterator[Read]:
    """Bytes of a file at offsets; of a file on a disk without a copy more than needed."""
    if "://" in file:
        with tf.io.gfile.GFile(file, "rb") as stream:

            def read(offset: int, length: int) -> bytes:
                stream.seek(offset)
                return bytes(stream.read(length))

            yield read
        return
    descriptor = os.open(file, os.O_RDONLY)
    try:
        yield lambda offset, length: os.pread(descriptor, length, offset)
    finally:
        os.close(descriptor)
