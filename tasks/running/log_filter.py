"""Parts a log from its errors: `python -I -S log_filter.py FILE NAME < log` shows the errors on standard error; FILE gets every line.

NAME is what people are told of FILE. A process of its own, so that the last words of a program that crashes are shown too. Standard library
only: it starts in milliseconds. Signals that are meant for the program that writes the log are ignored; it ends when nobody writes any
more.
"""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path
from typing import BinaryIO

_LONGEST = 400

# `W0000 00:00:1795655865.488581   12135 file.cc:699] text`, `2026-11-26 01:15:00.123456: W file.cc:699] text`, the second line of what
# TensorFlow says of the processor, and what the log says of itself. E and F are errors.
_CHATTER = re.compile(
    rb"[IW]\d{4} \d\d:\d\d|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IW] "
    rb"|To enable the following instructions: |WARNING: All log messages before absl::InitializeLog"
)


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    part(sys.stdin.buffer, Path(sys.argv[1]), sys.stderr.buffer, sys.argv[2])


def part(log: BinaryIO, file: Path, shown: BinaryIO, name: str) -> None:
    """Appends all of `log` to `file`, which is not made where there is nothing to write, and shows all but information and warnings.

    A line that states no level, such as the last words of a C library, is shown. Long lines are cut where they are shown, and `name`
    is said to have them whole. Where `file` cannot be written all lines are shown, whole.
    """
    kept = None
    for line in iter(log.readline, b""):
        try:
            kept = kept or file.open("ab", buffering=0)
            kept.write(line)
        except OSError:
            _show(line, shown)
            continue
        if not _CHATTER.match(line):
            _show(_cut(line, name), shown)
    if kept is not None:
        kept.close()


def _show(line: bytes, shown: BinaryIO) -> None:
    shown.write(line)
    shown.flush()


def _cut(line: bytes, name: str) -> bytes:
    text = line.rstrip(b"\n")
    return line if len(text) <= _LONGEST else text[:_LONGEST] + f" ... (whole in {name})\n".encode()


if __name__ == "__main__":
    main()
