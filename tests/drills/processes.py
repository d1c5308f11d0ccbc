"""Real processes: commands that are watched, killed and waited for, an MLflow server, and a small file system."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

# A machine that does other work beside the drills is slow, and no promise is about that.
PATIENCE = 1800.0

# What somebody has set for their own trainings is not for those of the drills.
_OF_THIS_MACHINE = ("MLFLOW_", "MASKLINE_", "TF_CONFIG")


@dataclass(frozen=True)
class Ended:
    """A command that has come to its end."""

    code: int
    """Negative where a signal ended it"""
    output: str
    """Of both streams, in the order in which they were written"""

    def line(self, *words: str) -> str:
        """The last line that has all of the words in it; empty where there is none."""
        lines = [line.strip() for line in self.output.splitlines() if all(word in line for word in words)]
        return lines[-1] if lines else ""


class Process:
    """A command that runs in a group of its own, so that all of it can be killed."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path, folder: Path = REPOSITORY) -> None:
        self._log = log
        self.begun = time.time()
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env={name: value for name, value in os.environ.items() if not name.startswith(_OF_THIS_MACHINE)} | dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def says(self, pattern: str) -> bool:
        return re.search(pattern, self.output) is not None

    def until(self, condition: Callable[[], bool], every: float = 0.02) -> bool:
        """Waits for a condition; False where the process ended without it. TimeoutError after half an hour."""
        limit = time.monotonic() + PATIENCE
        while time.monotonic() < limit:
            if condition():
                return True
            if not self.alive:
                return condition()
            time.sleep(every)
        raise TimeoutError(f"waited {PATIENCE:.0f} s: {self.output[-300:]}")

    def rest(self, seconds: float) -> None:
        """Waits so long, or until the process ends."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def send(self, number: int) -> None:
        """A signal to this process alone, as an orchestrator sends it."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL to it and all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def end(self) -> Ended:
        """Waits for the end. TimeoutError after half an hour."""
        try:
            return Ended(self._process.wait(PATIENCE), self.output)
        except subprocess.TimeoutExpired as error:
            self.kill()
            raise TimeoutError(f"did not end in {PATIENCE:.0f} s: {self.output[-300:]}") from error


@contextmanager
def running(command: Sequence[str], environment: Mapping[str, str], log: Path, folder: Path = REPOSITORY) -> Iterator[Process]:
    """A command that does not outlive the block."""
    process = Process(command, environment, log, folder)
    try:
        yield process
    finally:
        process.kill()
        process.end()


def maskline(*arguments: str) -> list[str]:
    """The command of a step."""
    return [sys.executable, "-m", "tasks", *arguments]


def ended(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Ended:
    """Runs a command to its end."""
    with running(command, environment, log) as process:
        return process.end()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class MlflowServer:
    """An MLflow server on 127.0.0.1 whose database lies in `folder`; the same again after it was killed."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._port = free_port()
        self.database = folder / "mlflow.db"
        self.address = f"http://127.0.0.1:{self._port}"

    @contextmanager
    def serving(self) -> Iterator[Process]:
        """Within the block the server is there; it answers when the block begins."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port), "--workers", "1"]
        stores = ["--backend-store-uri", f"sqlite:///{self.database}", "--artifacts-destination", str(self._folder / "artifacts")]
        with running([*command, *stores], {}, self._folder / "server.log") as process:
            if not process.until(self._answers, every=0.2):
                raise RuntimeError(f"MLflow does not start: {process.output[-300:]}")
            yield process

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.address}/health", timeout=5.0).close()
        except (urllib.error.URLError, OSError):
            return False
        return True


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """Within the block, `folder` lies on a file system of its own of `size` bytes; PermissionError where this process may mount none."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        mount = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, text=True)
    except FileNotFoundError as error:
        raise PermissionError("there is no command `mount` here") from error
    if mount.returncode:
        raise PermissionError(mount.stderr.strip())
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
