"""What TensorBoard's own reader finds in the event files of a training that was resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tasks.training.event_file import EventFile


def test_every_step_stands_there_once_with_the_value_of_the_last_time(tmp_path: Path) -> None:
    for start, (first, last) in ((100.0, (1, 5)), (200.0, (4, 7))):
        file = EventFile(tmp_path / "tensorboard", first)
        for step in range(first, last + 1):
            # Two of a loop, two of the next: files are written to more than once.
            file.write([{"step": step, "time": start + step, "compiled": True, "Loss/total_loss": start + step / 4, "learning_rate": 0.5}])
        file.close()
    read = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert read.Tags()["scalars"] == ["Loss/total_loss", "learning_rate"]
    starts = [100.0] * 3 + [200.0] * 4
    found = [(event.step, event.wall_time, event.value) for event in read.Scalars("Loss/total_loss")]
    assert found == [(step, start + step, start + step / 4) for step, start in zip(range(1, 8), starts, strict=True)]
    assert {event.value for event in read.Scalars("learning_rate")} == {0.5}


def test_a_file_that_cannot_be_written_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = EventFile(tmp_path, 1)

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(file._writer, "add_event", full)
    for step in (1, 2):
        file.write([{"step": step, "time": 1.0, "compiled": True, "Loss/total_loss": 1.0}])
    file.close()
    assert capsys.readouterr().err == "WARNING: TensorBoard gets no more of this training: No space left on device\n"
