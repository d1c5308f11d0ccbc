"""A step as a process of this machine that outlives the Airflow task which started it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

KEEPER = Path(__file__).with_name("step_keeper.py")
GRACE_SECONDS = 60.0
"""Time after SIGTERM for a training to finish its loop of steps and write a checkpoint, before SIGKILL."""

RUNNING = "running"
SUCCEEDED = "succeeded"
FAILED = "failed"
LOST = "lost"
"""Gone without an exit code: its keeper was killed, or the machine was restarted."""

_SAME_START_SECONDS = 2.0
"""Start times of one process, read at two moments, differ by this much where the clock was corrected in between."""


@dataclass(frozen=True)
class LocalProcess:
    """Identity of a started step. The start time tells it from a later process with the same number."""

    host: str
    pid: int
    started: float
    folder: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def log(self) -> Path:
        return Path(self.folder) / "log.txt"

    @property
    def result(self) -> Path:
        return Path(self.folder) / "result.json"

    @property
    def exit_code(self) -> int | None:
        """The step's exit code, or None while it runs and when it was lost."""
        try:
            return int((Path(self.folder) / "exit_code").read_text())
        except FileNotFoundError:
            return None

    @property
    def status(self) -> str:
        """One of RUNNING, SUCCEEDED, FAILED and LOST."""
        # Looked at first: whoever is gone afterwards has written its exit code before.
        alive = self._keeper() is not None
        code = self.exit_code
        if code is None:
            return RUNNING if alive else LOST
        return SUCCEEDED if code == 0 else FAILED

    def stop(self) -> None:
        """Asks the step to end; its keeper ends it by force after GRACE_SECONDS. Returns at once."""
        keeper = self._keeper()
        if keeper is not None:
            keeper.terminate()

    def kill_orphans(self) -> None:
        """Kills what a killed keeper has left running, so that a new try does not write beside it."""
        if self.host != socket.gethostname() or psutil.pid_exists(self.pid):
            return
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) == self.pid:
                    process.kill()
            except (ProcessLookupError, psutil.NoSuchProcess):
                continue

    def _keeper(self) -> psutil.Process | None:
        if self.host != socket.gethostname():
            return None
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < _SAME_START_SECONDS
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


def start(command: Sequence[str], folder: Path, environment: Mapping[str, str], working_directory: Path) -> LocalProcess:
    """Returns the identity of `command`, started in its own session; log and exit code go to the empty `folder`."""
    keeper = [sys.executable, "-I", str(KEEPER), str(folder), str(GRACE_SECONDS)]
    with (folder / "keeper.txt").open("wb") as errors:
        process = subprocess.Popen(
            [*keeper, *command],
            env=dict(environment),
            cwd=working_directory,
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return LocalProcess(
        host=socket.gethostname(),
        pid=process.pid,
        started=psutil.Process(process.pid).create_time(),
        folder=str(folder),
    )
