"""All images of a data set, before they are written: on disk, so that memory does not grow with them.

An entry is what a worker needs to make one record. The order is the sources' own, so that equal inputs give equal catalogs.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import google_crc32c

from tasks.annotations.source import EmbeddedImages, ListedImage, Source
from tasks.records.checks import BadImageError, Check
from tasks.records.image_file import read_image_bytes
from tasks.running.workers import Workers
from tasks.running.workspace import named, read_bytes

# The file does not outlive the run: it need not survive a power cut, nor be rolled back.
_SCHEMA = """
    PRAGMA synchronous = OFF;
    PRAGMA journal_mode = OFF;
    CREATE TABLE IF NOT EXISTS images (
        split TEXT, source TEXT, source_id TEXT, file_name TEXT, path TEXT, height INTEGER, width INTEGER, payload TEXT, files TEXT,
        findings TEXT, sha256 TEXT, crc32c INTEGER, fault TEXT, place INTEGER
    );
"""
_IMAGE = "source_id, file_name, path, height, width, payload, files, findings"
_BATCH = 256  # images whose files are read before they are entered
_READERS = 16  # of a store, which answers many as soon as one


@dataclass(frozen=True)
class Entry:
    """An image of the catalog; `fault` is the code of what was found across images, a copy in its own split or an earlier one.

    `original` is the first image of the split that has the same content, None for that one itself. `sha256` is that of the image's file,
    None where it cannot be read or is empty, and `crc32c` its CRC-32C.
    """

    source: str
    image: ListedImage
    sha256: str | None
    crc32c: int
    fault: Check | None
    original: ListedImage | None


class Catalog:
    """An SQLite file; workers open the same one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection = sqlite3.connect(path)
        self._connection.executescript(_SCHEMA)

    def fill(
        self, name: str, source: Source, images: Iterator[ListedImage], split_of: Callable[[str], str], workers: Workers
    ) -> Iterator[str]:
        """Enters the images of the source called `name`; yields, image by image, a line that stands for all that its record is made of.

        `split_of` tells the split by the SHA-256 of the image's file. A file that cannot be read is entered all the same: the worker
        that comes to it says why.
        """
        batches = iter(lambda: list(itertools.islice(images, _BATCH)), [])
        begun = ((batch, _hashes_of(source, batch, workers)) for batch in batches)
        # While one batch is entered, the next one is read.
        for (batch, hashes), _ in itertools.pairwise(itertools.chain(begun, [([], [])])):
            rows = []
            for image, read in zip(batch, hashes, strict=True):
                split = split_of(read.sha256 or hashlib.sha256(image.source_id.encode()).hexdigest())
                height, width = image.size or (None, None)
                what = (split, image.source_id, image.file_name, height, width, json.dumps(image.payload), read.sha256)
                where = (str(image.path), json.dumps([str(file) for file in image.files]), json.dumps(image.findings))
                rows.append((name, *what, read.crc32c, *where))
                yield json.dumps([*what, read.files, image.findings])
            with self._connection:
                self._connection.executemany(
                    "INSERT INTO images"
                    " (source, split, source_id, file_name, height, width, payload, sha256, crc32c, path, files, findings)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    rows,
                )

    def arrange(self, limit: int | None) -> dict[str, int]:
        """Marks copies, the earliest entry being no copy, keeps `limit` images of each split, and returns how many there are."""
        with self._connection:
            self._connection.executescript("CREATE INDEX by_content ON images (sha256); CREATE INDEX by_place ON images (split, place);")
            self._connection.execute(
                "UPDATE images SET fault = CASE WHEN EXISTS"
                " (SELECT 1 FROM images AS other WHERE other.sha256 = images.sha256 AND other.split = images.split"
                "  AND other.rowid < images.rowid) THEN ? ELSE ? END"
                " WHERE sha256 IS NOT NULL AND EXISTS"
                " (SELECT 1 FROM images AS other WHERE other.sha256 = images.sha256 AND other.rowid < images.rowid)",
                (Check.DUPLICATE_IMAGE, Check.SPLIT_LEAKAGE),
            )
            self._connection.execute(
                "UPDATE images SET place = numbered.place FROM"
                " (SELECT rowid AS id, row_number() OVER (PARTITION BY split ORDER BY rowid) - 1 AS place FROM images) AS numbered"
                " WHERE images.rowid = numbered.id"
            )
            self._connection.execute("DELETE FROM images WHERE place >= ?", (limit if limit is not None else 2**62,))
        return dict(self._connection.execute("SELECT split, count(*) FROM images GROUP BY split"))

    def part(self, split: str, index: int, count: int) -> Iterator[Entry]:
        """Every `count`-th image of a split, from the `index`-th on: one shard's."""
        rows = self._connection.execute(
            f"SELECT source, sha256, crc32c, fault, {_IMAGE} FROM images WHERE split = ? AND place % ? = ? ORDER BY place",
            (split, count, index),
        )
        for source, sha256, crc32c, fault, *image in rows:
            original = None
            if fault == Check.DUPLICATE_IMAGE:
                same = f"SELECT {_IMAGE} FROM images WHERE split = ? AND sha256 = ? ORDER BY place LIMIT 1"
                original = _listed(*self._connection.execute(same, (split, sha256)).fetchone())
            yield Entry(source, _listed(*image), sha256, crc32c, fault and Check.of(fault), original)


def _listed(
    source_id: str, file_name: str, path: str, height: int | None, width: int | None, payload: str, files: str, findings: str
) -> ListedImage:
    size = None if height is None or width is None else (height, width)
    found = tuple(map(Check.of, json.loads(findings)))
    return ListedImage(source_id, file_name, named(path), size, json.loads(payload), tuple(map(named, json.loads(files))), found)


def image_bytes(source: Source, image: ListedImage) -> bytes:
    """The encoded image, from its file or from where the source has it; BadImageError where it cannot be opened."""
    return source.image_bytes(image) if isinstance(source, EmbeddedImages) else read_image_bytes(image.path)


def read_ahead(entries: Iterator[Entry], sources: Mapping[str, Source]) -> Iterator[tuple[Entry, Callable[[], bytes]]]:
    """Entries, each with what gives its image's bytes as `image_bytes` does; of a store, the next ones are on their way already."""
    waiting: deque[tuple[Entry, Callable[[], bytes]]] = deque()
    with ThreadPoolExecutor(_READERS) as pool:
        for entry in entries:
            read = partial(image_bytes, sources[entry.source], entry.image)
            waiting.append((entry, pool.submit(read).result if _is_remote(entry.image) else read))
            if len(waiting) > _READERS:
                yield waiting.popleft()
        yield from waiting


def _hashes_of(source: Source, images: Sequence[ListedImage], workers: Workers) -> Iterable[_Hashes]:
    """`_hashes` of each."""
    hashes = partial(_hashes, source)
    if not _is_remote(images[0]):
        return workers.map(hashes, images)
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(hashes, images))


def _is_remote(image: ListedImage) -> bool:
    return not isinstance(image.path, Path)


@dataclass(frozen=True)
class _Hashes:
    """Of an image, and SHA-256 of its further files; no SHA-256 of what cannot be opened or is empty."""

    sha256: str | None
    crc32c: int
    files: list[str | None]


def _hashes(source: Source, image: ListedImage) -> _Hashes:
    content = _content(partial(image_bytes, source, image))
    files = (_content(partial(read_bytes, file)) for file in image.files)
    return _Hashes(_sha256(content), google_crc32c.value(content), [_sha256(file) for file in files])


def _content(read: Callable[[], bytes]) -> bytes:
    """What is read, empty where that fails."""
    try:
        return read()
    except (OSError, BadImageError):
        return b""


def _sha256(content: bytes) -> str | None:
    return hashlib.sha256(content).hexdigest() if content else None
