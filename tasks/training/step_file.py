"""The numbers of every step of a training, in a file that only grows: `metrics.jsonl`, a JSON object a line.

`step` and `time`, at which it was done in seconds since 1970; `compiled`, false for the first steps of a process, which compile; and its
figures by name. A training that was resumed, or went back to a checkpoint, writes some steps again. The last time counts.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.running.line_file import append_lines, whole_lines

STEP, TIME, COMPILED = "step", "time", "compiled"


class StepFile:
    """The file of one training; there need not be one yet."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def append(self, rows: Iterable[Mapping[str, Any]]) -> tuple[int, int]:
        """Writes steps down, and says where they begin and end, in bytes; OSError, with none of them there, where the disk is full."""
        return append_lines(self.file, (json.dumps(row) for row in rows))

    def rows(self) -> Iterator[dict[str, Any]]:
        """The steps that led to the weights, in their order: a step that was written again, and all that came after it, are left out."""
        steps = [row[STEP] for row in self._all()]
        # A step counts where no later line goes back to it or before it.
        later = [*itertools.accumulate(reversed(steps), min)][::-1]
        counts = [step < first for step, first in zip(steps, [*later[1:], steps[-1] + 1], strict=True)] if steps else []
        return itertools.compress(self._all(), counts)

    def _all(self) -> Iterator[dict[str, Any]]:
        return (json.loads(line) for line, _ in whole_lines(self.file))
