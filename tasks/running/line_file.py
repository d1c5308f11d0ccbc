"""Files that grow by whole lines: what a killed process left of its last line is taken away before the next one is written."""

from __future__ import annotations

import fcntl
from collections.abc import Iterable, Iterator
from pathlib import Path

_BLOCK = 1 << 16


def append_lines(file: Path, lines: Iterable[str]) -> tuple[int, int]:
    """Writes lines at the end of a file, which is made where it is missing; where they begin and end comes back, in bytes.

    Nothing stays of lines that the disk has no room for. Several processes may append at once.
    """
    content = "".join(f"{line}\n" for line in lines).encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+b", buffering=0) as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        start = _end_of_last_line(file, stream.seek(0, 2))
        stream.truncate(start)
        try:
            written = 0
            while written < len(content):
                written += stream.write(content[written:]) or 0
        except BaseException as error:
            stream.truncate(start)
            if isinstance(error, OSError) and error.filename is None:
                error.filename = str(file)
            raise
    return start, start + len(content)


def whole_lines(file: Path, start: int = 0, end: int | None = None) -> Iterator[tuple[str, int]]:
    """Each whole line from byte `start` up to byte `end`, and the byte behind it; nothing where there is no such file."""
    try:
        stream = file.open("rb")
    except FileNotFoundError:
        return
    with stream:
        position = stream.seek(start)
        for line in stream:
            position += len(line)
            if not line.endswith(b"\n") or (end is not None and position > end):
                return
            yield line[:-1].decode(errors="replace"), position


def _end_of_last_line(file: Path, size: int) -> int:
    """The byte behind the last newline of the first `size` bytes."""
    with file.open("rb") as stream:
        while size > 0:
            start = max(0, size - _BLOCK)
            stream.seek(start)
            newline = stream.read(size - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            size = start
    return 0
