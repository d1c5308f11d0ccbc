"""Where a step runs is a setting of the deployment: what the operator asks of each place, and which one is chosen.

    MASKLINE_RUNNER   `local` (the default), `docker` or `kubernetes`

The settings of each are in docs/runners.md. All are read when a task runs, and what only one place needs is imported only there.
"""

from __future__ import annotations

import importlib
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast

from airflow.sdk.exceptions import AirflowFailException

RUNNER_VARIABLE = "MASKLINE_RUNNER"
GRACE_SECONDS = 60.0
"""Time after SIGTERM for a training to finish its loop of steps and write a checkpoint, before SIGKILL."""

RUNNING = "running"
SUCCEEDED = "succeeded"
FAILED = "failed"
LOST = "lost"
"""Gone without an exit code: its keeper was killed, its container or pod removed, or the machine was restarted."""

REFUSED = 3
"""Exit code of a step that has answered, with its result: no. It is no failure, and another try would say the same."""

PREEMPTED = "preempted"
"""What a step ended of that somebody else needed its place, or told it to go: begun again, it goes on from what it has."""
OUT_OF_MEMORY = "out of memory"
"""What a step ended of that would happen to it again."""

_TOLD_TO_GO = (128 + signal.SIGTERM, os.EX_TEMPFAIL)
"""Exit codes of a training that wrote its checkpoint and left, by itself or after another worker of it."""

_MODULES = {"local": "local_process", "docker": "docker_container", "kubernetes": "kubernetes_pod"}


@dataclass(frozen=True)
class Step:
    """One try of a step: what to run, and for whom."""

    command: Sequence[str]
    """The step's name, arguments and options, as the trainer's parser gets them"""
    folder: Path
    """New and empty, on the workspace: log and result go there"""
    environment: Mapping[str, str]
    """What the step is told of its task; no secret is among it"""
    task: Mapping[str, str]
    """`dag_id`, `run_id`, `task_id`, `map_index` (-1 where the task is not mapped) and `try_number`"""
    gpus: int


@dataclass(frozen=True)
class Outcome:
    """How a step stands: RUNNING, SUCCEEDED, FAILED or LOST, and what is known of its end, or of what it waits for."""

    status: str
    exit_code: int | None = None
    reason: str = ""
    cause: str = ""
    """PREEMPTED or OUT_OF_MEMORY, where a failure is known to be of one of them"""


def ended(code: int, reason: str = "", cause: str = "") -> Outcome:
    """The outcome of a step that has ended with an exit code."""
    if code in (0, REFUSED):
        return Outcome(SUCCEEDED, code, reason)
    return Outcome(FAILED, code, reason, cause or (PREEMPTED if code in _TOLD_TO_GO else ""))


class UnreachableError(Exception):
    """The engine or cluster does not answer, which says nothing of the step."""


@dataclass(frozen=True)
class StartedStep(ABC):
    """A step that runs or has run, wherever that is; its fields are its identity."""

    folder: str

    poll_seconds: ClassVar[float]
    """Time between two looks at it"""

    def identity(self) -> dict[str, Any]:
        """What the place's `attach` needs to find it again; JSON."""
        return asdict(self)

    @property
    def result(self) -> Path:
        """The file with its result, once it has succeeded."""
        return Path(self.folder) / "result.json"

    @property
    def log(self) -> Path:
        return Path(self.folder) / "log.txt"

    @abstractmethod
    def outcome(self) -> Outcome:
        """UnreachableError where nobody can tell just now."""

    @abstractmethod
    def new_lines(self, *, whole: bool = False) -> list[str]:
        """The lines that it printed since the last call; with `whole`, also what stands after the last line break."""

    @abstractmethod
    def stop(self) -> None:
        """Asks it to end, and has it ended by force after GRACE_SECONDS. Returns at once."""

    @abstractmethod
    def clear(self) -> None:
        """Leaves nothing of it running, nor anything but its folder behind; its log is in the folder."""


class Runner(Protocol):
    """A place, which is a module."""

    def start(self, step: Step) -> StartedStep:
        """The step, started; or the one of an earlier try of the same task that was left running."""

    def attach(self, identity: Mapping[str, Any]) -> StartedStep: ...


def start(step: Step) -> tuple[StartedStep, dict[str, Any]]:
    """The step, started where the deployment says, and its identity for `attach`."""
    name = os.environ.get(RUNNER_VARIABLE) or "local"
    started = _runner(name).start(step)
    return started, {"runner": name, **started.identity()}


def attach(identity: Mapping[str, Any]) -> StartedStep:
    """The step with this identity, where it was started, whatever the deployment says by now."""
    rest = dict(identity)
    return _runner(rest.pop("runner", "local")).attach(rest)


def _runner(name: str) -> Runner:
    if name not in _MODULES:
        raise AirflowFailException(f"{RUNNER_VARIABLE} is {name!r}\n  fix: set it to one of {', '.join(_MODULES)}")
    try:
        return cast(Runner, importlib.import_module(f"maskline_airflow.{_MODULES[name]}"))
    except ModuleNotFoundError as error:
        raise AirflowFailException(
            f"{RUNNER_VARIABLE} is {name}, whose package {error.name} is not installed\n"
            f"  fix: give the worker's environment the extra: uv sync --project dags --extra {name}"
        ) from error
