"""A training's numbers as TensorBoard reads them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from tasks.running.line_file import whole_lines
from tasks.training.progress import Tracker
from tasks.training.step_file import COMPILED, STEP, TIME


class EventFile:
    """A tracker that writes what it is told to a new event file in `folder`, and tells `tracker`.

    Of the files that are there already TensorBoard leaves out the steps from `first_step` on, which come again. Where the file cannot be
    written, that is said once, and nothing else comes of it.
    """

    def __init__(self, folder: Path, first_step: int, tracker: Tracker) -> None:
        self._folder, self._first_step, self._tracker = folder, first_step, tracker
        self._writer: EventFileWriter | None = None
        self._failed = False

    def log_steps(self, file: Path, start: int, end: int) -> None:
        rows = (json.loads(line) for line, _ in whole_lines(file, start, end))
        self._write(_event(row, row[STEP], row[TIME]) for row in rows)
        self._tracker.log_steps(file, start, end)

    def log_metrics(self, metrics: Mapping[str, float], step: int, *, once: bool = False) -> None:
        self._write([_event(metrics, step, time.time())])
        self._tracker.log_metrics(metrics, step, once=once)

    def _write(self, events: Iterable[Event]) -> None:
        if self._failed:
            return
        try:
            if self._writer is None:
                # The queue is as long as a loop may be: adding waits for no disk.
                self._writer = EventFileWriter(str(self._folder), max_queue_size=1000)
                self._writer.add_event(Event(step=self._first_step, session_log=SessionLog(status=SessionLog.START)))
            for event in events:
                self._writer.add_event(event)
            self._writer.flush()
        except Exception as error:  # the disk is full, say: the training's own file will tell what that means for it
            self._failed = True
            print(f"WARNING: TensorBoard gets no more of this training: {error}", file=sys.stderr, flush=True)


def _event(figures: Mapping[str, float], step: int, at: float) -> Event:
    values = [Summary.Value(tag=name, simple_value=value) for name, value in figures.items() if name not in (STEP, TIME, COMPILED)]
    return Event(step=step, wall_time=at, summary=Summary(value=values))
