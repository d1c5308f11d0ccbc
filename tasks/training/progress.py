"""What a person sees of a training while it runs, and what is kept of it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from official.core import config_definitions as cfg

from tasks.running.workspace import write_text
from tasks.training.step_log import StepLog
from tasks.training.task import FINITE, LEARNING_RATE, TOTAL_LOSS

# What a person waits for.
_SECONDS_PER_LINE = 5.0
MOST_STEPS = 1000
"""Between two lines"""
# A first step compiles, and a second one is timed, before the loop is as long as a line may last.
_SINGLE_STEPS = 2

Log = Callable[[Mapping[str, float], int], None]


class Progress:
    """An Orbit action: after each loop a line for a person, an object in `metrics.jsonl`, and the same numbers to `log`.

    Losses are means over the loop, without the steps that were left out.
    """

    steps: Sequence[Mapping[str, float]] = ()
    """The figures of each step of the last loop, as `train_step` answered them"""

    def __init__(self, experiment: cfg.ExperimentConfig, file: Path, log: Log, step_log: StepLog) -> None:
        self._total_steps = experiment.trainer.train_steps
        self._batch_size = experiment.task.train_data.global_batch_size
        self._file = file
        self._log = log
        self._step_log = step_log
        # Orbit writes to standard output what is said here in a form for people; see `loop._silent_stdout`.
        self._out = sys.stdout
        self._loops = 0
        self._seconds_per_step = 0.0

    def start(self, global_step: tf.Variable) -> None:
        """Starts the clock; lines of steps that a killed process took with it leave `metrics.jsonl`."""
        self._global_step = global_step
        self._step = int(global_step.numpy())
        kept = [row for row in self._rows() if row["step"] <= self._step]
        write_text(self._file, "".join(json.dumps(row) + "\n" for row in kept))
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
        now, step = time.monotonic(), int(self._global_step.numpy())
        steps, seconds = step - self._step, now - self._time
        self._step, self._seconds_per_step = step, seconds / steps
        self._loops += 1
        self.steps = self._step_log.read(steps, time.time())
        counted = [one for one in self.steps if one[FINITE]]
        values = {name: sum(one[name] for one in counted) / len(counted) for name in (counted[0] if counted else ()) if _is_loss(name)}
        values |= {LEARNING_RATE: self.steps[-1][LEARNING_RATE]}
        values |= {"steps_per_second": steps / seconds, "images_per_second": steps * self._batch_size / seconds}
        print(self._line(step, values), file=self._out, flush=True)
        row = {"step": step, "steps": steps, "seconds": seconds, "compiled": self._loops > 1, "left_out": steps - len(counted), **values}
        with self._file.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        self._log(values, step)

    def summary(self) -> dict[str, Any]:
        """`seconds`, `images_per_second` and `losses` of the whole training, whatever number of processes it took."""
        rows = self._rows()
        timed = [row for row in rows if row["compiled"]] or rows
        late = [row for row in rows if row["step"] > 0.9 * rows[-1]["step"] and TOTAL_LOSS in row]
        weights = [row["steps"] - row.get("left_out", 0) for row in late]
        names = [name for name in (late[-1] if late else ()) if _is_loss(name)]
        return {
            "seconds": sum(row["seconds"] for row in rows),
            "images_per_second": self._batch_size * sum(row["steps"] for row in timed) / sum(row["seconds"] for row in timed),
            "losses": {name: sum(row[name] * w for row, w in zip(late, weights, strict=True)) / sum(weights) for name in names},
        }

    def _rows(self) -> list[dict[str, Any]]:
        """The file's objects; a line without an end was cut off by whatever killed the process."""
        lines = self._file.read_text().splitlines(keepends=True) if self._file.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def _line(self, step: int, values: Mapping[str, float]) -> str:
        left = (self._total_steps - step) / values["steps_per_second"]
        parts = "  ".join(f"{_short(name)} {value:.3f}" for name, value in values.items() if _is_loss(name) and name != TOTAL_LOSS)
        losses = f"loss {values[TOTAL_LOSS]:.3f}  ({parts})" if parts else "no loss"
        speed = f"{values['steps_per_second']:.2f} steps/s  {values['images_per_second']:.2f} images/s"
        return f"step {step}/{self._total_steps}  {losses}  lr {values[LEARNING_RATE]:.2g}  {speed}  {_duration(left)} left"


def _is_loss(name: str) -> bool:
    return name.startswith("Loss/")


def _short(loss: str) -> str:
    """`Loss/RPNLoss/objectness_loss` as `rpn objectness`."""
    _, stage, name = loss.split("/")
    return f"{'rpn' if stage == 'RPNLoss' else 'box'} {name.removesuffix('_loss')}" if name != "mask_loss" else "mask"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
