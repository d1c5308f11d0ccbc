"""Materialization that is killed and run again, or that several processes share: the bytes are those of one undisturbed run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.materialize import Effort, materialize
from tests.small_dataset import files_of, write_source

SHARDS, SPLITS = 3, 2
IMAGES = 600


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_source(tmp_path / "in")
    return tmp_path / "in"


def start(source: Path, out: Path, workers: int) -> subprocess.Popen[bytes]:
    """The command in a process group of its own."""
    options = ["--output", str(out), "--shards", str(SHARDS), "--workers", str(workers)]
    command = [sys.executable, "-m", "tasks", "materialize", str(source / "dataset.yaml"), *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)


def seconds_of_writing(source: Path, out: Path, workers: int) -> float:
    """How long the command takes from its first file in `out` to its end."""
    with start(source, out, workers) as process:
        wait_for_files(out, process)
        started = time.monotonic()
        assert process.wait() == 0
    return time.monotonic() - started


def wait_for_files(out: Path, process: subprocess.Popen[bytes]) -> None:
    while not out.exists() and process.poll() is None:
        time.sleep(0.001)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_killed_at_any_time_is_completed_by_the_next(tmp_path, workers):
    source = tmp_path / "in"
    write_source(source, IMAGES)
    undisturbed = tmp_path / "undisturbed"
    seconds = seconds_of_writing(source, undisturbed, workers)
    expected = files_of(undisturbed)
    moments = random.Random(workers)
    incomplete = 0
    for kill in range(10):
        out = tmp_path / f"killed-{kill}"
        with start(source, out, workers) as process:
            wait_for_files(out, process)
            time.sleep(moments.uniform(0, seconds))
            os.killpg(process.pid, signal.SIGKILL)
        left = files_of(out)
        # A shard has its name, and a dataset its manifest, only when whole.
        assert {name: content for name, content in left.items() if ".record-" in name and "/" not in name}.items() <= expected.items()
        if "manifest.json" in left:
            assert expected.items() <= left.items()
        else:
            incomplete += 1
        materialize(source / "dataset.yaml", out, effort=Effort(shards=SHARDS, workers=workers))
        assert files_of(out) == expected, kill
    assert incomplete, "every kill came too late"


def test_a_shard_that_is_there_is_not_written_again(source, tmp_path, capsys):
    out = tmp_path / "out"
    materialize(source / "dataset.yaml", out, effort=Effort(shards=SHARDS, shard_range=(0, 2)))
    before = {path.name: path.stat() for path in out.rglob("*.record-*-of-*") if path.suffix not in (".json", ".idx")}
    assert len(before) == 2
    materialize(source / "dataset.yaml", out, effort=Effort(shards=SHARDS))
    for name, stat in before.items():
        assert ((out / name).stat().st_ino, (out / name).stat().st_mtime_ns) == (stat.st_ino, stat.st_mtime_ns)
    assert f"2 of {SHARDS * SPLITS} shards are there already" in capsys.readouterr().out


def test_two_workers_write_and_tell_what_one_does(source, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tasks.running.progress._SECONDS_BETWEEN_LINES", 0.0)
    written, told = [], []
    for workers in (1, 2):
        materialize(source / "dataset.yaml", tmp_path / str(workers), effort=Effort(shards=SHARDS, workers=workers))
        written.append(files_of(tmp_path / str(workers)))
        lines = capsys.readouterr().out.splitlines()
        progress = [line for line in lines if line.startswith("writing: ")]
        assert progress[-1].startswith("writing: 12 of 12 images, ")
        told.append([line for line in lines if " images/s" not in line])
    assert written[0] == written[1]
    assert told[0] == told[1]
