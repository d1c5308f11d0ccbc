"""Who may write to a folder: one process, for as long as it lives."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.running import lease
from tasks.running.errors import UserError
from tasks.running.lease import leased

HOLDER = """
import pathlib, sys, time
from tasks.running.lease import leased
with leased(pathlib.Path(sys.argv[1]) / "lock", "is trained"):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "MASKLINE_AIRFLOW_RUN_ID": "manual__1"}
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, folder], stdout=subprocess.PIPE, text=True, env=environment)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def test_second_process_is_refused_and_a_dead_holder_has_lost_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lease, "_SECONDS_TO_WAIT", 0.2)
    monkeypatch.setattr(lease, "_SECONDS_BETWEEN_TRIES", 0.05)
    holder = hold(tmp_path)
    try:
        with (
            pytest.raises(UserError, match=rf"is trained by process {holder.pid} on .* for the Airflow run manual__1\n  fix: wait until"),
            leased(tmp_path / "lock", "is trained"),
        ):
            pytest.fail("two processes have the folder")
        assert capsys.readouterr().out.count("waiting up to") == 1
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with leased(tmp_path / "lock", "is trained"):
        assert f"by process {os.getpid()} on " in (tmp_path / "lock").read_text()


def test_holder_that_is_about_to_end_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_SECONDS_BETWEEN_TRIES", 0.05)
    holder = hold(tmp_path)
    waits = iter(range(3))

    def kill_at_last(_seconds: float) -> None:
        if next(waits) == 2:
            holder.kill()
            holder.wait()

    monkeypatch.setattr(lease.time, "sleep", kill_at_last)
    with leased(tmp_path / "lock", "is trained"):
        assert holder.returncode == -signal.SIGKILL


def test_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with leased(tmp_path / "missing" / "lock", "is trained"):
        assert list(tmp_path.iterdir()) == []


def test_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with leased(tmp_path / "lock", "is trained"):
        assert "nothing keeps another process out" in capsys.readouterr().out
