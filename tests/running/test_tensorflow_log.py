"""Where TensorFlow's own lines go, and that no last word of a program is lost."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.running.log_filter import part

INFORMATION = b"I0000 00:00:1795655865.488581   12135 cpu_feature_guard.cc:210] This TensorFlow binary is optimized ...\n"
SECOND_LINE = b"To enable the following instructions: AVX2 FMA, in other operations, rebuild TensorFlow ...\n"
WARNING = b"2026-11-26 01:15:00.123456: W tensorflow/core/grappler/costs/op_level_cost_estimator.cc:699] Error in PredictCost()\n"
ERROR = b"E0000 00:00:1795655865.488581   12135 cuda_driver.cc:266] no device was found\n"
FATAL = b"2026-11-26 01:15:00.123456: F tensorflow/core/framework/tensor.cc:852] Check failed: dtype() == expected\n"
ABOUT = b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
UNNAMED = b"terminate called after throwing an instance of 'std::bad_alloc'\n"


def parted(lines: list[bytes], file: Path) -> bytes:
    shown = io.BytesIO()
    part(io.BytesIO(b"".join(lines)), file, shown, str(file))
    return shown.getvalue()


def test_information_and_warnings_stay_in_the_file_and_all_else_is_shown(tmp_path: Path) -> None:
    lines = [ABOUT, INFORMATION, SECOND_LINE, ERROR, WARNING, UNNAMED, FATAL]
    assert parted(lines, tmp_path / "log") == ERROR + UNNAMED + FATAL
    assert (tmp_path / "log").read_bytes() == b"".join(lines)


def test_file_is_continued_and_not_made_for_nothing(tmp_path: Path) -> None:
    assert parted([], tmp_path / "log") == b""
    assert not (tmp_path / "log").exists()
    parted([INFORMATION], tmp_path / "log")
    parted([WARNING], tmp_path / "log")
    assert (tmp_path / "log").read_bytes() == INFORMATION + WARNING


def test_long_error_is_cut_where_it_is_shown_and_whole_in_the_file(tmp_path: Path) -> None:
    error = ERROR.rstrip() + b"x" * 2000 + b"\n"
    shown = parted([error], tmp_path / "log")
    assert len(shown) < 600
    assert shown.endswith(f"(whole in {tmp_path / 'log'})\n".encode())
    assert (tmp_path / "log").read_bytes() == error


def test_nothing_is_lost_where_the_file_cannot_be_written(tmp_path: Path) -> None:
    assert parted([INFORMATION, ERROR], tmp_path / "no folder" / "log") == INFORMATION + ERROR


BLOCK = """
import os, sys
from pathlib import Path
from tasks.running.tensorflow_log import tensorflow_log
with tensorflow_log(Path(sys.argv[1])):
    os.write(2, {lines!r})
    print("from python", file=sys.stderr)
    {then}
print("after", file=sys.stderr)
"""


def run(tmp_path: Path, lines: bytes, then: str = "pass") -> subprocess.CompletedProcess[bytes]:
    code = BLOCK.format(lines=lines, then=then)
    return subprocess.run([sys.executable, "-c", code, str(tmp_path / "log")], capture_output=True, timeout=60)


def test_python_keeps_its_standard_error(tmp_path: Path) -> None:
    done = run(tmp_path, INFORMATION)
    assert (done.returncode, done.stderr) == (0, b"from python\nafter\n")
    assert (tmp_path / "log").read_bytes() == INFORMATION


@pytest.mark.parametrize("end", ["os.abort()", "os.kill(os.getpid(), 9)"])
def test_last_words_of_a_program_that_crashes_are_shown(tmp_path: Path, end: str) -> None:
    done = run(tmp_path, INFORMATION + FATAL, end)
    assert done.returncode < 0
    assert FATAL in done.stderr
    assert INFORMATION not in done.stderr


def test_exception_leaves_standard_error_as_it_was(tmp_path: Path) -> None:
    done = run(tmp_path, INFORMATION, "raise ValueError('broken off')")
    assert done.returncode == 1
    assert done.stderr.endswith(b"ValueError: broken off\n")


def test_process_that_the_block_leaves_running_holds_nobody_up(tmp_path: Path) -> None:
    then = "import subprocess, tasks.running.tensorflow_log as t; t._SECONDS_TO_END = 0.2; subprocess.Popen(['sleep', '30'])"
    command = [sys.executable, "-c", BLOCK.format(lines=ERROR, then=then), str(tmp_path / "log")]
    started = time.monotonic()
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        assert process.wait(25) == 0
        os.killpg(process.pid, signal.SIGKILL)
    assert time.monotonic() - started < 25
