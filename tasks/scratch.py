"""Folders for what a run needs only itself; what a killed run leaves of them, the next one removes."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_NEW, _IN_USE = "maskline-new-", "maskline-run-"
_LOCK = "lock"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder on the machine's own disk for as long as the block runs, empty but for its lock."""
    _remove_left()
    folder = Path(tempfile.mkdtemp(prefix=_NEW))
    with (folder / _LOCK).open("w") as lock:
        # The lock ends with the process, however that ends. Without it, no folder has the name by which those left are found.
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = folder.rename(folder.with_name(folder.name.replace(_NEW, _IN_USE)))
        try:
            yield folder
        finally:
            shutil.rmtree(folder)


def _remove_left() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_IN_USE}*"):
        # One that is locked, or another person's, stays.
        with suppress(OSError), (folder / _LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
