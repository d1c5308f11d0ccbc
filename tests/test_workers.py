"""Work that is shared by processes: its order, its count, and its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.progress import Progress
from tasks.workers import Workers


def square(number: int) -> int:
    return number * number


def fail_or_write(file: Path | None, advance: Callable[[], None]) -> None:
    """Writes a file a while after it has begun, or fails at once."""
    if file is None:
        raise ValueError("there is no file")
    file.with_suffix(".begun").touch()
    time.sleep(0.5)
    file.touch()
    advance()


@pytest.mark.parametrize("count", [1, 2])
def test_results_come_in_the_order_of_the_values(count):
    with Workers(count, __name__) as workers:
        assert list(workers.map(square, range(100))) == [number * number for number in range(100)]


def test_after_an_error_no_process_goes_on_writing(tmp_path):
    file = tmp_path / "shard"
    with Workers(2, __name__) as workers:
        with pytest.raises(ValueError, match="no file"):
            list(workers.run(fail_or_write, [file, None], Progress("writing")))
        workers.stop()
        assert file.exists() == file.with_suffix(".begun").exists()
        file.unlink(missing_ok=True)
        time.sleep(1)
        assert not file.exists()
