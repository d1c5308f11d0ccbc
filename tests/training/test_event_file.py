"""What TensorBoard's own reader finds in the event files of a training that was resumed."""

from __future__ import annotations

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tasks.training.event_file import EventFile


def test_every_step_stands_there_once_with_the_value_of_the_last_time(tmp_path: Path) -> None:
    for start, (first, last) in ((100.0, (1, 5)), (200.0, (4, 7))):
        file = EventFile(tmp_path / "tensorboard", first)
        for step in range(first, last + 1):
            # Two of a loop, two of the next: files are written to more than once.
            file.write([(step, {"time": start + step, "Loss/total_loss": start + step / 4, "learning_rate": 0.5})])
        file.close()
    read = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert read.Tags()["scalars"] == ["Loss/total_loss", "learning_rate"]
    starts = [100.0] * 3 + [200.0] * 4
    found = [(event.step, event.wall_time, event.value) for event in read.Scalars("Loss/total_loss")]
    assert found == [(step, start + step, start + step / 4) for step, start in zip(range(1, 8), starts, strict=True)]
    assert {event.value for event in read.Scalars("learning_rate")} == {0.5}
