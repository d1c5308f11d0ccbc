"""TensorFlow's own log, in a file instead of between a step's lines."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tasks.running.workspace import address

_FILTER = Path(__file__).with_name("log_filter.py")
_STANDARD_ERROR = 2
_SECONDS_TO_END = 10.0


@contextlib.contextmanager
def tensorflow_log(file: Path | None) -> Iterator[None]:
    """Within the block, what C++ writes to standard error is appended to `file`, and its errors are shown too.

    Python's standard error stays where it was. Enter it before TensorFlow is imported, which reads then how much to log: all. Where
    `file` is None all of it is shown.
    """
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "0"
    if file is None:
        yield
        return
    sys.stderr.flush()
    python_stream, shown = sys.stderr, os.dup(_STANDARD_ERROR)
    # -S and -I: nothing of an environment, which costs the start and could be in the way.
    command = [sys.executable, "-I", "-S", str(_FILTER), str(file), address(file)]
    filtering = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=shown)
    assert filtering.stdin is not None, "it was asked for"
    os.dup2(filtering.stdin.fileno(), _STANDARD_ERROR)
    filtering.stdin.close()
    # Never closed: Python's loggers keep it until the process ends.
    stream = os.fdopen(shown, "w", buffering=1, errors="backslashreplace")
    if _is_standard_error(python_stream):
        sys.stderr = stream
    try:
        yield
    finally:
        sys.stderr = python_stream
        os.dup2(shown, _STANDARD_ERROR)
        with contextlib.suppress(subprocess.TimeoutExpired):
            # A process that the block left running still holds the pipe; the filter ends with it.
            filtering.wait(_SECONDS_TO_END)


def _is_standard_error(stream: object) -> bool:
    """False for a stream of a test's that catches what is printed."""
    try:
        return bool(stream.fileno() == _STANDARD_ERROR)  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return False
