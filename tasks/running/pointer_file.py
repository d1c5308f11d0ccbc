"""Small texts that stand in for a large file which was not fetched, as Git LFS and git-annex leave them in a checkout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Pointer:
    """What the text is, for a message after a file's name, and the way to the file itself."""

    problem: str
    fix: str


_KINDS = {
    b"version https://git-lfs.github.com/spec/": Pointer(
        "it is a Git LFS pointer, and the file itself was not fetched", "fetch it: run `git lfs pull` in its repository"
    ),
    b"version https://hawser.github.com/spec/": Pointer(
        "it is an old Git LFS pointer, and the file itself was not fetched", "fetch it: run `git lfs pull` in its repository"
    ),
    b"/annex/objects/": Pointer(
        "it is a git-annex pointer, and the file itself was not fetched", "fetch it: run `git annex get .` in its repository"
    ),
}
POINTER_BYTES = max(map(len, _KINDS))
"""Of a file's start, as many as tell."""


def pointer_in(content: bytes) -> Pointer | None:
    """The pointer that a file's content is, None where it is something else. The first `POINTER_BYTES` are enough."""
    return next((pointer for start, pointer in _KINDS.items() if content.startswith(start)), None)


def pointer_at(path: Path) -> Pointer | None:
    """The same of a file or URL; None where it cannot be opened, too."""
    try:
        with path.open("rb") as stream:
            return pointer_in(stream.read(POINTER_BYTES))
    except OSError:
        return None
