"""What stands in a file of lines after it was written, torn, filled up and read."""

from __future__ import annotations

import errno
import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.running.line_file import append_lines, whole_lines


def test_lines_are_appended_and_their_place_is_told(tmp_path: Path) -> None:
    file = tmp_path / "new" / "lines"
    assert append_lines(file, ["one", "zwölf"]) == (0, 11)
    assert append_lines(file, []) == (11, 11)
    assert append_lines(file, ["three"]) == (11, 17)
    assert file.read_bytes() == "one\nzwölf\nthree\n".encode()
    assert list(whole_lines(file)) == [("one", 4), ("zwölf", 11), ("three", 17)]
    assert list(whole_lines(file, 4)) == [("zwölf", 11), ("three", 17)]
    assert list(whole_lines(file, 4, 11)) == [("zwölf", 11)]
    assert list(whole_lines(file, 17)) == []


def test_there_is_nothing_in_no_file(tmp_path: Path) -> None:
    assert list(whole_lines(tmp_path / "missing")) == []


@pytest.mark.parametrize("torn", ["x", "half of a line", "h" * 200_000])
def test_a_torn_line_is_not_read_and_goes_before_the_next(tmp_path: Path, torn: str) -> None:
    file = tmp_path / "lines"
    append_lines(file, ["one"])
    with file.open("a") as stream:
        stream.write(torn)
    assert list(whole_lines(file)) == [("one", 4)]
    assert append_lines(file, ["two"]) == (4, 8)
    assert file.read_text() == "one\ntwo\n"


def test_a_file_that_is_all_one_torn_line_begins_anew(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    file.write_text("torn")
    assert append_lines(file, ["one"]) == (0, 4)


FULL = """
import resource, sys
from pathlib import Path
from tasks.running.line_file import append_lines
file = Path(sys.argv[1])
append_lines(file, ["one"])
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    append_lines(file, ["fits", "x" * 200])
except OSError as error:
    print(error.errno, error.filename)
append_lines(file, ["two"])
"""


def test_lines_that_there_is_no_room_for_leave_nothing(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    done = subprocess.run([sys.executable, "-c", FULL, str(file)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(errno.EFBIG), str(file)]
    assert file.read_text() == "one\ntwo\n"


def _append_many(file: Path, name: str) -> None:
    for number in range(200):
        append_lines(file, [f"{name} {number}", "x" * 50])


def test_two_processes_do_not_tear_each_other_s_lines(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    writers = [multiprocessing.get_context("spawn").Process(target=_append_many, args=(file, name)) for name in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    lines = [line for line, _ in whole_lines(file)]
    for name in "ab":
        assert [line for line in lines if line.startswith(name)] == [f"{name} {number}" for number in range(200)]
    assert lines.count("x" * 50) == 400
