"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import resource
from pathlib import Path

import pytest

from tasks.running.workspace import write_bytes


def test_what_the_disk_does_not_take_leaves_the_file_as_it_was_and_is_told_by_its_name(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_bytes(file, b"before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match=str(file)) as error:
            write_bytes(file, bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.value.errno == errno.EFBIG
    assert (file.read_bytes(), list(tmp_path.iterdir())) == (b"before", [file])
