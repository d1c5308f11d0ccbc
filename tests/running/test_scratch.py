"""A run's own folder goes with it, and one that a kill has left goes with the next run, but none that is in use."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tasks.running.scratch import scratch_folder

KILLED = "import os, signal; from tasks.running.scratch import scratch_folder\nwith scratch_folder(): os.kill(os.getpid(), signal.SIGKILL)"


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_the_folder_is_there_for_the_block_alone(temporary):
    with scratch_folder() as folder:
        (folder / "catalog").touch()
        assert [*temporary.iterdir()] == [folder]
    assert [*temporary.iterdir()] == []


def test_what_a_killed_run_left_is_removed_and_what_another_uses_is_not(temporary):
    with scratch_folder() as used:
        subprocess.run([sys.executable, "-c", KILLED], check=False)
        assert len([*temporary.iterdir()]) == 2
        with scratch_folder() as own:
            assert {*temporary.iterdir()} == {used, own}
