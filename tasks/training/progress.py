"""What a person sees of a training while it runs, and what is kept of it."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import tensorflow as tf
from official.core import config_definitions as cfg

from tasks.training.machine_load import MachineLoad
from tasks.training.step_file import COMPILED, STEP, StepFile
from tasks.training.step_log import INPUT_WAIT, SECONDS, StepLog
from tasks.training.task import FINITE, LEARNING_RATE, TOTAL_LOSS

# What a person waits for.
_SECONDS_PER_LINE = 5.0
MOST_STEPS = 1000
"""Between two lines"""
# A first step compiles, and a second one is timed, before the loop is as long as a line may last.
_SINGLE_STEPS = 2

IMAGES_PER_SECOND, INPUT_WAIT_SHARE = "step/images_per_second", "step/input_wait_share"


class Tracker(Protocol):
    """Where a training's numbers go besides its own files; `tracking.ModelRun` is one."""

    def log_steps(self, file: Path, start: int, end: int) -> None:
        """Gets those of new steps, each a line of a file: from byte `start` up to `end`."""

    def log_metrics(self, metrics: Mapping[str, float], step: int, *, once: bool = False) -> None:
        """Gets some at a step; with `once` they are those that it has, if it has any: a training that was resumed measures again."""


class Untracked:
    """For a worker that is not the chief."""

    def log_steps(self, file: Path, start: int, end: int) -> None:
        pass

    def log_metrics(self, metrics: Mapping[str, float], step: int, *, once: bool = False) -> None:
        pass


class Progress:
    """An Orbit action: after each loop a line for a person, and the numbers of its steps to `metrics.jsonl` and to the tracker.

    The line's losses are means over the loop, without the steps that were skipped.
    """

    steps: Sequence[Mapping[str, float]] = ()
    """The figures of each step of the last loop, as the step log has them"""

    def __init__(self, experiment: cfg.ExperimentConfig, folder: Path, step_log: StepLog, tracker: Tracker) -> None:
        self._total_steps = experiment.trainer.train_steps
        self._batch_size = experiment.task.train_data.global_batch_size
        self._file = StepFile(folder / "metrics.jsonl")
        self._step_log = step_log
        self._tracker = tracker
        # Orbit writes to standard output what is said here in a form for people; see `loop._silent_stdout`.
        self._out = sys.stdout
        self._loops = 0
        self._seconds_per_step = 0.0

    def start(self, global_step: tf.Variable) -> None:
        """Starts the clock, and to look at the machine."""
        self._load = MachineLoad()
        self._global_step = global_step
        self._step = int(global_step.numpy())
        if self._step < self._total_steps:
            print(f"training from step {self._step} to step {self._total_steps}; the first step compiles", file=self._out, flush=True)
        self.go_on()

    @property
    def step(self) -> int:
        """The last that a line has told of."""
        return self._step

    def go_on(self) -> None:
        """Starts the clock again, after what belongs to no step."""
        self._time = time.monotonic()

    def most_steps(self, seconds: float) -> int:
        """How many steps fill the time between two lines, or the `seconds` that are less."""
        if self._loops < _SINGLE_STEPS:
            return 1
        return max(1, min(MOST_STEPS, int(min(_SECONDS_PER_LINE, seconds) / self._seconds_per_step)))

    def __call__(self, _outputs: Mapping[str, Any]) -> None:
        end, now, step = time.time(), time.monotonic(), int(self._global_step.numpy())
        steps, seconds = step - self._step, now - self._time
        self._loops += 1
        self.steps = self._step_log.read(steps, end)
        rows = self._rows()
        self._step, self._seconds_per_step = step, seconds / steps
        start, stop = self._file.append(rows)
        self._tracker.log_steps(self._file.file, start, stop)
        print(self._line(step, steps / seconds), file=self._out, flush=True)

    def _rows(self) -> list[dict[str, Any]]:
        """The last loop's steps as the file has them; the machine's load stands beside the last one."""
        rows = []
        for step, figures in enumerate(self.steps, start=self._step + 1):
            told = {name: value for name, value in figures.items() if name != INPUT_WAIT}
            seconds = max(figures[SECONDS], 1e-9)
            speed = {IMAGES_PER_SECOND: self._batch_size / seconds, INPUT_WAIT_SHARE: figures[INPUT_WAIT] / seconds}
            rows.append({STEP: step, COMPILED: self._loops > 1, **told, **{name: round(value, 4) for name, value in speed.items()}})
        rows[-1] |= self._load.take()
        return rows

    def summary(self) -> dict[str, Any]:
        """`seconds`, `images_per_second` and `losses` of the whole training, whatever number of processes it took."""
        rows = [(row[STEP], row[COMPILED], row[SECONDS]) for row in self._file.rows()]
        seconds = sum(row[2] for row in rows)
        timed = [row[2] for row in rows if row[1]] or [row[2] for row in rows]
        late = [row for row in self._file.rows() if row[STEP] > 0.9 * rows[-1][0]]
        return {
            "seconds": seconds,
            "images_per_second": self._batch_size * len(timed) / sum(timed),
            "losses": _mean_losses(late),
        }

    def _line(self, step: int, steps_per_second: float) -> str:
        means = _mean_losses(self.steps)
        parts = "  ".join(f"{_short(name)} {value:.3f}" for name, value in means.items() if name != TOTAL_LOSS)
        losses = f"loss {means[TOTAL_LOSS]:.3f}  ({parts})" if parts else "no loss"
        waited = sum(figures[INPUT_WAIT] for figures in self.steps) / max(sum(figures[SECONDS] for figures in self.steps), 1e-9)
        speed = f"{steps_per_second:.2f} steps/s  {steps_per_second * self._batch_size:.2f} images/s  input wait {waited:.0%}"
        left = _duration((self._total_steps - step) / steps_per_second)
        return f"step {step}/{self._total_steps}  {losses}  lr {self.steps[-1][LEARNING_RATE]:.2g}  {speed}  {left} left"


def _mean_losses(steps: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of steps that were not skipped; empty where all of them were."""
    counted = [figures for figures in steps if figures[FINITE]]
    names = [name for name in (counted[0] if counted else ()) if name.startswith("Loss/")]
    return {name: sum(figures[name] for figures in counted) / len(counted) for name in names}


def _short(loss: str) -> str:
    """`Loss/RPNLoss/objectness_loss` as `rpn objectness`."""
    _, stage, name = loss.split("/")
    return f"{'rpn' if stage == 'RPNLoss' else 'box'} {name.removesuffix('_loss')}" if name != "mask_loss" else "mask"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
