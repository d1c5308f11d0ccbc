"""Figures of single steps out of loops that run in one graph, on one device and on two."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tasks.training.step_log import StepLog
from tests.training.steps_of_two_devices import LOOPS, SLOW_BATCH


@pytest.fixture(scope="module")
def read() -> dict[str, Any]:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-m", "tests.training.steps_of_two_devices"], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("strategy", ["one", "one_device", "mirrored"])
def test_each_step_has_the_figures_of_its_whole_batch_once_and_in_order(read: dict[str, Any], strategy: str) -> None:
    loops = [loop["rows"] for loop in read[strategy]]
    assert [len(rows) for rows in loops] == list(LOOPS)
    rows = list(itertools.chain(*loops))
    # The nth batch is rows 2n and 2n + 1, whichever replicas had them.
    means = [2 * step + 0.5 for step in range(sum(LOOPS))]
    assert [row["mean_row"] for row in rows] == means
    assert [row["third"] for row in rows] == pytest.approx([mean / 3 for mean in means], rel=2e-7)
    assert {row["constant"] for row in rows} == {7.0}


@pytest.mark.parametrize("strategy", ["one", "one_device", "mirrored"])
def test_steps_fill_their_loop_and_the_wait_is_a_part_of_them(read: dict[str, Any], strategy: str) -> None:
    for loop in read[strategy]:
        rows = loop["rows"]
        assert all(0 <= row["step/input_wait_seconds"] <= row["step/seconds"] for row in rows)
        if strategy == "one":
            # A sleep lasts at least as long as it was told, and nobody fetches ahead.
            assert all(row["step/input_wait_seconds"] >= SLOW_BATCH for row in rows)
        assert sum(row["step/seconds"] for row in rows) <= loop["end"] - loop["start"] + 1e-3
        times = [row["time"] for row in rows]
        assert times == sorted(times)
        assert loop["start"] < times[0]
        assert times[-1] == loop["end"]


def test_a_float32_is_told_in_its_own_digits() -> None:
    log = StepLog(tf.distribute.get_strategy(), most_steps=2)
    log.timed(lambda: tf.constant(0))
    log.write({"tenth": tf.constant(0.1), "none": tf.constant(np.nan)})
    (row,) = log.read(1, end=2e9)
    assert (row["tenth"], row["time"]) == (0.1, 2e9)
    assert np.isnan(row["none"])


def test_more_than_there_is_room_for_is_refused() -> None:
    log = StepLog(tf.distribute.get_strategy(), most_steps=2, most_figures=1)
    with pytest.raises(ValueError, match="2 figures, and room for 1"):
        log.write({"a": tf.constant(0.0), "b": tf.constant(0.0)})
    with pytest.raises(ValueError, match="3 steps in a loop, and room for 2"):
        log.read(3, end=0.0)
