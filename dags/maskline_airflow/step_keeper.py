"""Runs one command and keeps what is left of it: `python -I step_keeper.py FOLDER GRACE_SECONDS COMMAND...`.

    FOLDER/log.txt     standard output and error of the command, as they come
    FOLDER/exit_code   written last and whole: 128 + N where signal N ended the command

The keeper outlives the Airflow task that started it: the step goes on when its task is killed, and the next try finds
both files. SIGTERM is passed on to the command and all it started; what is left after GRACE_SECONDS gets SIGKILL.
Standard library only: it starts in milliseconds and stays small beside the training it keeps.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import BinaryIO

COMMAND_NOT_FOUND = 127


class Keeper:
    """One command in a process group of its own, so that a signal reaches it and its children but not this process."""

    def __init__(self, grace_seconds: float) -> None:
        self._grace_seconds = grace_seconds
        self._child: subprocess.Popen[bytes] | None = None
        self._stop_asked = False

    def run(self, command: list[str], log: BinaryIO) -> int:
        """Returns the exit code of the command."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGALRM, self._kill)
        try:
            self._child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, process_group=0)
        except OSError as error:
            log.write(f"error: {command[0]} does not start: {error}\n".encode())
            return COMMAND_NOT_FOUND
        if self._stop_asked:  # while the command was being started
            self._stop(signal.SIGTERM, None)
        code = self._child.wait()
        return code if code >= 0 else 128 - code

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stop_asked = True
        self._signal(signal.SIGTERM)
        signal.setitimer(signal.ITIMER_REAL, self._grace_seconds)

    def _kill(self, _number: int, _frame: FrameType | None) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, number)


def main() -> None:
    folder, grace_seconds, command = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
    with (folder / "log.txt").open("ab") as log:
        code = Keeper(grace_seconds).run(command, log)
    unfinished = folder / "exit_code.part"
    unfinished.write_text(f"{code}\n")
    unfinished.replace(folder / "exit_code")


if __name__ == "__main__":
    main()
