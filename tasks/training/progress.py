"""What a person sees of a training while it runs, and what is kept of it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
from official.core import config_definitions as cfg

from tasks.running.errors import UserError
from tasks.running.workspace import write_text
from tasks.training.task import FINITE, TOTAL_LOSS

# What a person waits for.
_SECONDS_PER_LINE = 5.0
_MOST_STEPS_PER_LINE = 1000
# A first step compiles, and a second one is timed, before the loop is as long as a line may last.
_SINGLE_STEPS = 2

Log = Callable[[Mapping[str, float], int], None]


class Progress:
    """An Orbit action: after each loop a line for a person, an object in `metrics.jsonl`, and the same numbers to `log`.

    Refuses to go on with a loss that is no number, which leaves the last checkpoint as it was.
    """

    def __init__(self, experiment: cfg.ExperimentConfig, file: Path, log: Log) -> None:
        self._total_steps = experiment.trainer.train_steps
        self._batch_size = experiment.task.train_data.global_batch_size
        self._file = file
        self._log = log
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

    def go_on(self) -> None:
        """Starts the clock again, after what belongs to no step."""
        self._time = time.monotonic()

    def most_steps(self, seconds: float) -> int:
        """How many steps fill the time between two lines, or the `seconds` that are less."""
        if self._loops < _SINGLE_STEPS:
            return 1
        return max(1, min(_MOST_STEPS_PER_LINE, int(min(_SECONDS_PER_LINE, seconds) / self._seconds_per_step)))

    def __call__(self, outputs: Mapping[str, Any]) -> None:
        now, step = time.monotonic(), int(self._global_step.numpy())
        steps, seconds = step - self._step, now - self._time
        self._step, self._seconds_per_step = step, seconds / steps
        self._loops += 1
        values = {name: float(value) for name, value in outputs.items()}
        values[TOTAL_LOSS] = values.pop("training_loss")
        if values.pop(FINITE) < 1.0:
            raise UserError(
                f"up to step {step}, a step's losses or gradients were no finite numbers; it has changed nothing",
                "lower --learning-rate, or check the records' boxes and masks; the checkpoints before this step are kept",
            )
        values |= {"steps_per_second": steps / seconds, "images_per_second": steps * self._batch_size / seconds}
        print(self._line(step, values), file=self._out, flush=True)
        with self._file.open("a") as stream:
            stream.write(json.dumps({"step": step, "steps": steps, "seconds": seconds, "compiled": self._loops > 1, **values}) + "\n")
        self._log(values, step)

    def summary(self) -> dict[str, Any]:
        """`seconds`, `images_per_second` and `losses` of the whole training, whatever number of processes it took."""
        rows = self._rows()
        timed = [row for row in rows if row["compiled"]] or rows
        late = [row for row in rows if row["step"] > 0.9 * rows[-1]["step"]]
        weights = [row["steps"] for row in late]
        names = [name for name in late[-1] if name.startswith("Loss/")]
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
        parts = "  ".join(
            f"{_short(name)} {value:.3f}" for name, value in values.items() if name.startswith("Loss/") and name != TOTAL_LOSS
        )
        return (
            f"step {step}/{self._total_steps}  loss {values[TOTAL_LOSS]:.3f}  ({parts})  lr {values['learning_rate']:.2g}  "
            f"{values['steps_per_second']:.2f} steps/s  {values['images_per_second']:.2f} images/s  {_duration(left)} left"
        )


def _short(loss: str) -> str:
    """`Loss/RPNLoss/objectness_loss` as `rpn objectness`."""
    _, stage, name = loss.split("/")
    return f"{'rpn' if stage == 'RPNLoss' else 'box'} {name.removesuffix('_loss')}" if name != "mask_loss" else "mask"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
