"""The numbers of steps as TensorBoard reads them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from tasks.training.step_file import COMPILED, STEP, TIME


class EventFile:
    """A new event file in `folder`; of the files before it TensorBoard leaves out the steps from `first_step` on, which come again."""

    def __init__(self, folder: Path, first_step: int) -> None:
        # The queue is as long as a loop may be: adding waits for no disk.
        self._writer: EventFileWriter | None = EventFileWriter(str(folder), max_queue_size=1000)
        start = SessionLog(status=SessionLog.START)
        self._writer.add_event(Event(step=first_step, session_log=start))

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Adds steps as `StepFile` has them; where they cannot be written, says so once, and nothing else comes of it."""
        if self._writer is None:
            return
        try:
            for row in rows:
                values = [Summary.Value(tag=name, simple_value=value) for name, value in row.items() if name not in (STEP, TIME, COMPILED)]
                self._writer.add_event(Event(step=row[STEP], wall_time=row[TIME], summary=Summary(value=values)))
            self._writer.flush()
        except Exception as error:  # the disk is full, say: the training's own file will tell what that means for it
            self._writer = None
            print(f"WARNING: TensorBoard gets no more of this training: {error}", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
