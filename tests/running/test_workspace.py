"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import resource
from pathlib import Path

import pytest

from tasks.running.errors import UserError
from tasks.running.workspace import read_settings, write_bytes


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


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"a: [1,\n", r"writes: while parsing a flow node"), (b"\xff\xfe\x00", "writes: "), (b"", r"writes\n"), (b"- 1\n", r"writes\n")],
    ids=["cut off", "no text", "empty", "no mapping"],
)
def test_settings_that_are_damaged_are_named(tmp_path: Path, content: bytes, told: str) -> None:
    file = tmp_path / "experiment.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError, match=f"experiment.yaml is not what a step of maskline {told}"):
        read_settings(file)
    file.unlink()
    with pytest.raises(UserError, match=r"experiment.yaml does not exist"):
        read_settings(file)
