"""One service of the cluster as processes of this machine: started, waited for, killed as a machine that dies, and started again."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).resolve().parents[2]

PATIENCE = 300.0
"""Seconds for a cold start on a slow and busy machine; half a minute is usual."""
MARK = "MASKLINE_CLUSTER"
"""In the environment of every process of a service: its log, of which there is one for each"""
_TAIL_LINES = 40
# What somebody has set for their own deployment is not for this one.
_OF_THIS_MACHINE = ("AIRFLOW", "AWS_", "MASKLINE_", "MLFLOW_", "PYTHONPATH", "TF_CONFIG", "VIRTUAL_ENV")


class ClusterError(Exception):
    """What keeps the cluster from running, and what a person can do about it."""


def own_environment() -> dict[str, str]:
    """Our environment without the settings of other deployments."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_OF_THIS_MACHINE)}


class Service:
    """A command that serves until it is killed. Its output is one log, of all its starts."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        ready: Callable[[Service], bool],
        user: str | None = None,
    ) -> None:
        """`user` is whom it runs as, where that is another one than ours."""
        self.name = name
        self.log = log
        self._command = list(command)
        self._ready = ready
        self._user = user
        # With SPT_NOENV a process that changes its title leaves the mark readable.
        self._environment = own_environment() | dict(environment) | {MARK: f"{log}", "SPT_NOENV": "1"}
        self._process: subprocess.Popen[bytes] | None = None
        self._log_begins = 0
        self.begun = 0.0
        """When it was last started, in seconds since 1970"""

    def start(self) -> None:
        """Starts it, and does not wait for it."""
        self._log_begins = self.log.stat().st_size if self.log.exists() else 0
        self.begun = time.time()
        with self.log.open("ab") as stream:
            self._process = subprocess.Popen(
                self._command,
                cwd=REPOSITORY if self._user is None else "/",
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **({} if self._user is None else {"user": self._user, "group": self._user, "extra_groups": []}),
            )

    def wait(self) -> None:
        """Returns when it serves. ClusterError, with the end of its log, where it ends instead, or takes too long."""
        deadline = time.monotonic() + PATIENCE
        while not self._ready(self):
            self.confirm()
            if time.monotonic() > deadline:
                raise ClusterError(f"{self.name} does not serve after {PATIENCE:.0f} s\n{self.tail()}")
            time.sleep(0.5)

    def complete(self) -> None:
        """Returns when it has done what it was started for. ClusterError, with the end of its log, where it failed or takes too long."""
        assert self._process is not None, f"{self.name} was not started"
        try:
            code = self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise ClusterError(f"{self.name} has not ended after {PATIENCE:.0f} s\n{self.tail()}") from None
        if code:
            raise ClusterError(f"{self.name} ended with code {code}\n{self.tail()}")
        self._process = None

    def confirm(self) -> None:
        """ClusterError where it was started, and has ended by itself."""
        if self.has_ended():
            assert self._process is not None
            raise ClusterError(f"{self.name} ended with code {self._process.returncode}\n{self.tail()}")

    def has_ended(self) -> bool:
        """Whether it was started, and has ended by itself."""
        return self._process is not None and self._process.poll() is not None

    @property
    def pid(self) -> int:
        """Of the process that was started last."""
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    def kill(self) -> int:
        """SIGKILL to it and to all that it has started, steps too; returns how many processes that were."""
        killed = set()
        while found := self.processes() - killed:
            # At one moment, as when a machine dies: nobody is left to tell of the others' end.
            for number in (signal.SIGSTOP, signal.SIGKILL):
                for process in found:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.send_signal(number)
            killed |= found
        if self._process is not None:
            self._process.wait()
            self._process = None
        while any(_runs(process) for process in killed):
            time.sleep(0.05)
        return len(killed)

    def end(self, seconds: float = 10.0) -> None:
        """Asks it to end, and kills what is left after so many seconds."""
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
        self.kill()

    def processes(self) -> set[psutil.Process]:
        """All of it that run, those too that have lost their parents."""
        found = set(self._marked())
        if self._process is not None:
            # PostgreSQL's have lost the mark, and have sessions of their own.
            with contextlib.suppress(psutil.NoSuchProcess):
                parent = psutil.Process(self._process.pid)
                found |= {parent, *parent.children(recursive=True)}
        return {process for process in found if _runs(process)}

    def says(self, pattern: str) -> bool:
        """Whether it has printed this since it was last started."""
        with self.log.open("rb") as stream:
            stream.seek(self._log_begins)
            return re.search(pattern, stream.read().decode(errors="replace")) is not None

    def tail(self) -> str:
        """The end of its log, and where that is."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join([f"--- {self.log}", *lines[-_TAIL_LINES:]])

    def _marked(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if process.environ().get(MARK) == f"{self.log}":
                    yield process


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
