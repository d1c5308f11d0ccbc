"""Which lines of a training's numbers count after it was resumed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.training.step_file import StepFile


@pytest.mark.parametrize(
    ("written", "counting"),
    [
        ([], []),
        ([(1, "a"), (2, "a"), (3, "a")], [(1, "a"), (2, "a"), (3, "a")]),
        # Resumed from the checkpoint of step 1.
        ([(1, "a"), (2, "a"), (3, "a"), (2, "b"), (3, "b"), (4, "b")], [(1, "a"), (2, "b"), (3, "b"), (4, "b")]),
        # Killed again before it had come as far: what it has left behind does not count.
        ([(1, "a"), (2, "a"), (3, "a"), (2, "b")], [(1, "a"), (2, "b")]),
        # Twice from the same one.
        ([(1, "a"), (2, "a"), (3, "a"), (3, "b"), (2, "c"), (3, "c")], [(1, "a"), (2, "c"), (3, "c")]),
        ([(1, "a"), (2, "a"), (1, "b")], [(1, "b")]),
    ],
)
def test_the_last_time_of_a_step_counts(tmp_path: Path, written: list[tuple[int, str]], counting: list[tuple[int, str]]) -> None:
    file = StepFile(tmp_path / "metrics.jsonl")
    for step, attempt in written:
        file.append([{"step": step, "attempt": attempt}])
    assert [(row["step"], row["attempt"]) for row in file.rows()] == counting
