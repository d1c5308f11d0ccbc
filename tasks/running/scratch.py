"""Folders for what a run needs only itself; what a killed run leaves of them, the next one removes."""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_NEW, _IN_USE = "maskline-new-", "maskline-run-"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder on the machine's own disk for as long as the block runs."""
    _remove_left()
    folder = Path(tempfile.mkdtemp(prefix=_NEW))
    with _locked(folder):
        # Without its lock, no folder has the name by which those left are found.
        folder = folder.rename(folder.with_name(folder.name.replace(_NEW, _IN_USE)))
        try:
            yield folder
        finally:
            shutil.rmtree(folder)


@contextmanager
def without_pattern(folder: Path) -> Iterator[Path]:
    """The folder, under a name that is no pattern for as long as the block runs.

    TensorFlow restores checkpoints by pattern, finds none in the folder `set [1]`, and knows no way to write it otherwise.
    """
    if not glob.has_magic(str(folder)):
        yield folder
        return
    with scratch_folder() as scratch:
        link = scratch / "folder"
        link.symlink_to(folder.absolute(), target_is_directory=True)
        yield link


def _remove_left() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_IN_USE}*"):
        # One that is locked, or another person's, stays.
        with suppress(OSError), _locked(folder):
            shutil.rmtree(folder)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """OSError where another process has the lock, which ends with its process, however that ends."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
