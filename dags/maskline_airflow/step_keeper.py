"""Runs one command and keeps what is left of it: `python -I step_keeper.py FOLDER GRACE_SECONDS COUNT GPUS COMMAND...`.

    FOLDER/log.txt     standard output and error of the command, as they come
    FOLDER/exit_code   written last and whole: 128 + N where signal N ended the command
    FOLDER/out_of_memory   there where the kernel killed it for its memory, as far as the control group tells

The keeper outlives the Airflow task that started it: the step goes on when its task is killed, and the next try finds
both files. SIGTERM is passed on to the command and all it started; what is left after GRACE_SECONDS gets SIGKILL.
With a COUNT above 0 the command waits until so many of the GPUS (ids, commas between) are free, and has them in `CUDA_VISIBLE_DEVICES`.
Standard library only: it starts in milliseconds and stays small beside the training it keeps.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import BinaryIO

COMMAND_NOT_FOUND = 127
TOO_FEW_GPUS = 2
"""The code of a step that a person has to mend something for"""
SECONDS_BETWEEN_TRIES = 1.0
OUT_OF_MEMORY_FILE = "out_of_memory"
_KILLED = 128 + signal.SIGKILL
_CONTROL_GROUPS = Path("/sys/fs/cgroup")


class Keeper:
    """One command in a process group of its own, so that a signal reaches it and its children but not this process."""

    def __init__(self, grace_seconds: float) -> None:
        self._grace_seconds = grace_seconds
        self._child: subprocess.Popen[bytes] | None = None
        self._stop_asked = False

    def run(self, command: list[str], log: BinaryIO, gpus: Sequence[str] = (), count: int = 0) -> int:
        """Returns the exit code of the command, which gets `count` of the `gpus`."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGALRM, self._kill)
        if count > len(gpus):
            log.write(
                f"error: the step takes {count} GPUs, and the worker has {len(gpus)}: {', '.join(gpus)}\n"
                "  fix: lower MASKLINE_GPUS_PER_TRAINING, or name more in MASKLINE_LOCAL_GPUS\n".encode()
            )
            return TOO_FEW_GPUS
        leases = self._lease(gpus, count, log) if count else {}
        if self._stop_asked:
            return 128 + signal.SIGTERM
        environment = os.environ | ({"CUDA_VISIBLE_DEVICES": ",".join(leases)} if leases else {})
        try:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
                env=environment,
                # A command that outlives its keeper, which was killed, keeps its GPUs.
                pass_fds=tuple(leases.values()),
            )
        except OSError as error:
            log.write(f"error: {command[0]} does not start: {error}\n".encode())
            return COMMAND_NOT_FOUND
        if self._stop_asked:  # while the command was being started
            self._stop(signal.SIGTERM, None)
        code = self._child.wait()
        return code if code >= 0 else 128 - code

    def _lease(self, gpus: Sequence[str], count: int, log: BinaryIO) -> dict[str, int]:
        """GPUs that no other step of this user has, each with the open file whose lock keeps it; none where it was told to stop."""
        told = False
        while not self._stop_asked:
            leases, holders = free_gpus(gpus, count)
            if len(leases) == count:
                return leases
            if not told:
                log.write(f"waiting for {count} of the GPUs {', '.join(gpus)}; held: {'; '.join(holders)}\n".encode())
                log.flush()
                told = True
            time.sleep(SECONDS_BETWEEN_TRIES)
        return {}

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


def free_gpus(gpus: Sequence[str], count: int) -> tuple[dict[str, int], list[str]]:
    """`count` of them, each with the open file whose lock keeps it; or none, and who holds the others.

    A lock of the system ends with the last process that has the file open, however that dies. It holds for one user on one machine.
    """
    folder = Path(tempfile.gettempdir()) / f"maskline-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    leases: dict[str, int] = {}
    holders = []
    with (folder / "choosing.lock").open("w") as choosing:
        # Two that want two of three each do not take one from the other.
        fcntl.flock(choosing, fcntl.LOCK_EX)
        for gpu in gpus:
            lock = os.open(folder / f"{gpu.replace('/', '_')}.lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holders.append(f"{gpu} by {os.pread(lock, 500, 0).decode(errors='replace')}")
                os.close(lock)
                continue
            leases[gpu] = lock
            if len(leases) == count:
                for held in leases.values():
                    os.truncate(held, 0)
                    os.pwrite(held, f"process {os.getpid()} ({' '.join(sys.argv[5:])[:200]})".encode(), 0)
                return leases, holders
        for lock in leases.values():
            os.close(lock)
    return {}, holders


def killed_for_memory(groups: Path = _CONTROL_GROUPS, own: Path = Path("/proc/self/cgroup")) -> int:
    """How many processes of this control group the kernel has killed for memory so far; 0 where nothing tells."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        group = next(line.split("::", 1)[1] for line in own.read_text().splitlines() if "::" in line)
        events = dict(line.split() for line in (groups / group.strip("/") / "memory.events").read_text().splitlines())
        return int(events.get("oom_kill", 0))
    return 0


def main() -> None:
    folder, grace_seconds, count, gpus, command = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5:]
    before = killed_for_memory()
    with (folder / "log.txt").open("ab") as log:
        code = Keeper(grace_seconds).run(command, log, [gpu for gpu in gpus.split(",") if gpu], count)
    if code == _KILLED and killed_for_memory() > before:
        (folder / OUT_OF_MEMORY_FILE).touch()
    unfinished = folder / "exit_code.part"
    unfinished.write_text(f"{code}\n")
    unfinished.replace(folder / "exit_code")


if __name__ == "__main__":
    main()
