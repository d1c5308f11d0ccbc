"""Work that is shared by processes: its order, its count, and its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.running.errors import UserError
from tasks.running.progress import Progress
from tasks.running.workers import Workers


def square(number: int) -> int:
    return number * number


def process_id(_: int) -> int:
    time.sleep(0.01)  # so that no process takes all
    return os.getpid()


def fail_or_write(file: Path, advance: Callable[[], None]) -> None:
    """Writes a file a while after it has begun; a bad one fails as soon as the other has begun."""
    begun = file.with_suffix(".begun")
    if file.suffix == ".bad":
        while not begun.exists():
            time.sleep(0.01)
        raise ValueError("a bad file")
    begun.touch()
    time.sleep(0.5)
    file.touch()
    advance()


@pytest.mark.parametrize("count", [1, 2])
def test_results_come_in_the_order_of_the_values(count):
    with Workers(count, __name__) as workers:
        assert list(workers.map(square, range(100))) == [number * number for number in range(100)]


@pytest.mark.parametrize("count", [1, 2])
def test_a_stream_takes_values_as_results_are_taken(count):
    taken = []

    def values():
        for number in range(40):
            taken.append(number)
            yield number

    with Workers(count, __name__) as workers:
        results = []
        for result in workers.stream(square, values(), ahead=3):
            results.append(result)
            # At most three of each process under way or waiting, and the one that was just taken.
            assert len(taken) <= len(results) + 3 * count
    assert results == [number * number for number in range(40)]


def test_after_an_error_no_process_goes_on_writing(tmp_path):
    file = tmp_path / "shard"
    with Workers(2, __name__) as workers:
        with pytest.raises(ValueError, match="a bad file"):
            list(workers.run(fail_or_write, [file, file.with_suffix(".bad")], Progress("writing")))
        workers.stop()
        assert file.exists()


def kill_own_process(_: object, __: object = None) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


GONE = "a worker process ended before its work was done"


def test_a_process_that_is_killed_is_told():
    with Workers(2, __name__) as workers:
        with pytest.raises(UserError, match=GONE):
            list(workers.run(kill_own_process, [1, 2], Progress("writing")))
        with pytest.raises(UserError, match=GONE):
            workers.map(square, [1, 2])
    with Workers(2, __name__) as workers:
        with pytest.raises(UserError, match=GONE):
            list(workers.map(kill_own_process, [1, 2]))
        with pytest.raises(UserError, match=GONE):
            workers.run(kill_own_process, [1, 2], Progress("writing"))
    with Workers(2, __name__) as workers, pytest.raises(UserError, match=GONE):
        list(workers.stream(kill_own_process, [1, 2, 3], ahead=2))


def test_the_processes_end_with_the_one_that_started_them():
    with subprocess.Popen([sys.executable, "-m", __name__], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert len(set(parent.stdout.readline().split())) == 2
        parent.kill()
        # They hold the pipe, too: it ends when the last of them does.
        parent.communicate(timeout=10)


if __name__ == "__main__":
    with Workers(2, "time") as pool:
        seen: set[int] = set()
        while len(seen) < 2:  # on a busy machine the first one may do all before the second one is there
            seen |= set(pool.map(process_id, range(20)))
        print(*seen, flush=True)
        time.sleep(60)
