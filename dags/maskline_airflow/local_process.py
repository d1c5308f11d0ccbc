"""A step as a process of this machine that outlives the Airflow task which started it.

MASKLINE_TRAINER      the command that takes a step's name and arguments; default `<repository>/.venv/bin/python -m tasks`
MASKLINE_LOCAL_GPUS   ids or UUIDs of the GPUs that steps may have, `0,1`; default: those that the worker sees
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import psutil

from maskline_airflow import step_runner
from maskline_airflow.form import REPOSITORY
from maskline_airflow.machine_gpus import gpus_here
from maskline_airflow.step_keeper import OUT_OF_MEMORY_FILE
from maskline_airflow.step_log import LogReader
from maskline_airflow.step_runner import LOST, OUT_OF_MEMORY, RUNNING, Outcome, StartedStep, Step, ended

KEEPER = Path(__file__).with_name("step_keeper.py")

_AIRFLOW_VARIABLES = re.compile(r"_*AIRFLOW|PYTHONPATH$|VIRTUAL_ENV$")
"""A step must not see Airflow's secrets, nor its interpreter's paths."""

log = logging.getLogger(__name__)

_SAME_START_SECONDS = 2.0
"""Start times of one process, read at two moments, differ by this much where the clock was corrected in between."""


@dataclass(frozen=True)
class LocalProcess(StartedStep):
    """Identity of a started step. The start time tells it from a later process with the same number."""

    host: str
    pid: int
    started: float

    poll_seconds: ClassVar[float] = 0.5

    def outcome(self) -> Outcome:
        # Looked at first: whoever is gone afterwards has written its exit code before.
        alive = self._keeper() is not None
        try:
            code = int((Path(self.folder) / "exit_code").read_text())
        except FileNotFoundError:
            return Outcome(RUNNING if alive else LOST)
        killed_for_memory = (Path(self.folder) / OUT_OF_MEMORY_FILE).exists()
        return ended(code, OUT_OF_MEMORY, OUT_OF_MEMORY) if killed_for_memory else ended(code)

    def new_lines(self, *, whole: bool = False) -> list[str]:
        return self._log.new_lines(whole=whole)

    def stop(self) -> None:
        keeper = self._keeper()
        if keeper is not None:
            keeper.terminate()

    def clear(self) -> None:
        """Kills what a killed keeper has left running, so that a new try does not write beside it."""
        if self.host != socket.gethostname() or psutil.pid_exists(self.pid):
            return
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) == self.pid:
                    process.kill()
            except (ProcessLookupError, psutil.NoSuchProcess):
                continue

    @cached_property
    def _log(self) -> LogReader:
        return LogReader(self.log)

    def _keeper(self) -> psutil.Process | None:
        if self.host != socket.gethostname():
            return None
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < _SAME_START_SECONDS
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


def attach(identity: Mapping[str, Any]) -> LocalProcess:
    return LocalProcess(**identity)


def start(step: Step) -> LocalProcess:
    """The step, started in a session of its own."""
    trainer = shlex.split(os.environ.get("MASKLINE_TRAINER") or f"{REPOSITORY}/.venv/bin/python -m tasks")
    command = [*trainer, *step.command]
    log.info("Running in %s: %s", REPOSITORY, shlex.join(command))
    inherited = {name: value for name, value in os.environ.items() if not _AIRFLOW_VARIABLES.match(name)}
    gpus = gpus_here() if step.gpus else []
    keeper = [sys.executable, "-I", str(KEEPER), str(step.folder), str(step_runner.GRACE_SECONDS)]
    # A machine without any trains on its processors.
    keeper += [str(step.gpus if gpus else 0), ",".join(gpus)]
    with (step.folder / "keeper.txt").open("wb") as errors:
        process = subprocess.Popen(
            [*keeper, *command],
            env=inherited | dict(step.environment),
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return LocalProcess(
        host=socket.gethostname(),
        pid=process.pid,
        started=psutil.Process(process.pid).create_time(),
        folder=str(step.folder),
    )
