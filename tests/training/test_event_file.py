"""What TensorBoard's own reader finds in the event files of a training that was resumed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tasks.running.line_file import append_lines
from tasks.training.event_file import EventFile
from tests.training.trackers import Told


def log_step(tracker: EventFile, file: Path, step: int, start: float) -> None:
    """A loop of one step."""
    row = {"step": step, "time": start + step, "compiled": True, "Loss/total_loss": start + step / 4, "learning_rate": 0.5}
    tracker.log_steps(file, *append_lines(file, [json.dumps(row)]))


def test_every_step_stands_there_once_with_the_value_of_the_last_time(tmp_path: Path) -> None:
    told = Told()
    for start, (first, last) in ((100.0, (1, 5)), (200.0, (4, 7))):
        tracker = EventFile(tmp_path / "tensorboard", first, told)
        for step in range(first, last + 1):
            log_step(tracker, tmp_path / "metrics.jsonl", step, start)
        # It measures step 5 again.
        tracker.log_metrics({"val/mask_ap": start}, 5, once=True)
    read = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert read.Tags()["scalars"] == ["Loss/total_loss", "learning_rate", "val/mask_ap"]
    starts = [100.0] * 3 + [200.0] * 4
    found = [(event.step, event.wall_time, event.value) for event in read.Scalars("Loss/total_loss")]
    assert found == [(step, start + step, start + step / 4) for step, start in zip(range(1, 8), starts, strict=True)]
    assert {event.value for event in read.Scalars("learning_rate")} == {0.5}
    assert [(event.step, event.value) for event in read.Scalars("val/mask_ap")] == [(5, 200.0)]
    # And the next tracker is told all of it.
    assert told.steps == [1, 2, 3, 4, 5, 4, 5, 6, 7]
    assert told.metrics == [({"val/mask_ap": 100.0}, 5), ({"val/mask_ap": 200.0}, 5)]


def test_a_file_that_cannot_be_written_stops_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = Told()
    (tmp_path / "tensorboard").write_text("a file where a folder is needed")
    tracker = EventFile(tmp_path / "tensorboard", 1, told)
    for step in (1, 2):
        log_step(tracker, tmp_path / "metrics.jsonl", step, 0.0)
    assert told.steps == [1, 2]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("WARNING: TensorBoard gets no more of this training: ")
