"""The numbers of steps as TensorBoard reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from tasks.training.step_log import TIME


class EventFile:
    """A new event file in `folder`; of the files before it TensorBoard leaves out the steps from `first_step` on, which come again."""

    def __init__(self, folder: Path, first_step: int) -> None:
        # The queue is as long as a loop may be: adding waits for no disk.
        self._writer = EventFileWriter(str(folder), max_queue_size=1000)
        start = SessionLog(status=SessionLog.START)
        self._writer.add_event(Event(step=first_step, session_log=start))

    def write(self, rows: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        """Adds steps and their figures by name, among them the time at which each was done."""
        for step, figures in rows:
            values = [Summary.Value(tag=name, simple_value=value) for name, value in figures.items() if name != TIME]
            self._writer.add_event(Event(step=step, wall_time=figures[TIME], summary=Summary(value=values)))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
