"""The training loop: Model Garden's trainer under Orbit, with progress that a person can follow, resumption and a clean stop."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import orbit
import tensorflow as tf
import tf_keras
from official.common import distribute_utils
from official.core import config_definitions as cfg
from official.core import task_factory, train_utils

from tasks.checkpoints.own_network import latest_checkpoint
from tasks.input.batches import faulty_records_named
from tasks.running.errors import UserError
from tasks.running.scratch import without_pattern
from tasks.running.workspace import write_text
from tasks.training import task as _registers_the_task  # noqa: F401

TOTAL_LOSS = "Loss/total_loss"
_TERMINATED = 128 + signal.SIGTERM

# What a person waits for: a line every few seconds, and never more than minutes of work that a killed process takes with it.
_SECONDS_PER_LINE = 5.0
_MOST_STEPS_PER_LINE = 1000
_SECONDS_PER_CHECKPOINT = 600.0
# A first step compiles, and a second one is timed, before the loop is as long as a line may last.
_SINGLE_STEPS = 2

Log = Callable[[Mapping[str, float], int], None]


def run_training(experiment: cfg.ExperimentConfig, folder: Path, log: Log) -> dict[str, Any]:
    """Trains in `folder` from its last checkpoint, or from the start, to `trainer.train_steps`; a summary of all of it comes back.

    `steps`, `parameters` (all of the model's), `checkpoint`, `seconds` and `images_per_second` (without the steps that compile), and
    `losses`, each the mean over the last tenth of the steps. `log` gets each line's numbers and its step; `metrics.jsonl` keeps them.
    A resumed training goes on with other random draws than those it began with: the position in the data is not kept.

    Raises UserError for a loss that is no number and for a record that cannot be used; SystemExit(143), after a checkpoint, on SIGTERM.
    """
    with without_pattern(folder) as plain:
        summary = _run_training(experiment, plain, log)
    return summary | {"checkpoint": str(folder / Path(summary["checkpoint"]).name)}


def _run_training(experiment: cfg.ExperimentConfig, folder: Path, log: Log) -> dict[str, Any]:
    for leftover in folder.glob("ckpt-*_temp*"):
        leftover.unlink()
    latest = latest_checkpoint(folder)
    experiment = copy.deepcopy(experiment)
    experiment.task.train_data.seed += step_of(latest) if latest else 0
    compile_networks_only(experiment)
    tf_keras.utils.set_random_seed(experiment.task.train_data.seed)
    strategy = distribute_utils.get_distribution_strategy(
        distribution_strategy=experiment.runtime.distribution_strategy, num_gpus=experiment.runtime.num_gpus
    )
    with _precision(experiment.runtime.mixed_precision_dtype), faulty_records_named(experiment.task.train_data):
        with strategy.scope():
            task = task_factory.get_task(experiment.task, logging_dir=str(folder))
            trainer = train_utils.create_trainer(experiment, task, train=True, evaluate=False)
        manager = tf.train.CheckpointManager(
            trainer.checkpoint,
            str(folder),
            max_to_keep=experiment.trainer.max_to_keep,
            step_counter=trainer.global_step,
            checkpoint_interval=experiment.trainer.checkpoint_interval,
            init_fn=trainer.initialize,
        )
        progress = Progress(experiment, folder / "metrics.jsonl", log, save=lambda step: manager.save(checkpoint_number=step))
        with _silent_stdout():
            controller = orbit.Controller(
                strategy=strategy,
                trainer=trainer,
                global_step=trainer.global_step,
                steps_per_loop=progress.steps_per_loop,
                checkpoint_manager=manager,
                train_actions=[progress],
            )
        if task.beginning:
            print(task.beginning, flush=True)
        progress.start(trainer.global_step)
        with progress.told_to_stop_by_sigterm(), _silent_stdout(), strategy.scope():
            controller.train(steps=experiment.trainer.train_steps)
    return {
        "steps": int(trainer.global_step.numpy()),
        "parameters": int(trainer.model.count_params()),
        "checkpoint": manager.latest_checkpoint,
        **progress.summary(),
    }


def compile_networks_only(experiment: cfg.ExperimentConfig) -> None:
    """Turns, in place, `runtime.enable_xla` into the model's own `jit_compile`.

    Model Garden would compile the whole step, in which there are operations that XLA has no kernels for.
    """
    experiment.task.model.jit_compile |= experiment.runtime.enable_xla
    experiment.runtime.enable_xla = False


def step_of(checkpoint: str) -> int:
    """The step at which a checkpoint of this loop was written."""
    return int(checkpoint.rsplit("-", 1)[-1])


class Progress:
    """An Orbit action: after each loop a line for a person, an object in `metrics.jsonl`, and the same numbers to `log`.

    Refuses to go on with a loss that is no number, which leaves the last checkpoint as it was, and after SIGTERM, which leaves one of
    that moment.
    """

    def __init__(self, experiment: cfg.ExperimentConfig, file: Path, log: Log, save: Callable[[int], Any]) -> None:
        self._total_steps = experiment.trainer.train_steps
        self._batch_size = experiment.task.train_data.global_batch_size
        self._file = file
        self._log = log
        self._save = save
        # Orbit writes to standard output what is said here in a form for people; see `_silent_stdout`.
        self._out = sys.stdout
        self._terminated = False
        self._loops = 0
        self._seconds_per_step = 0.0

    def start(self, global_step: tf.Variable) -> None:
        """Starts the clock; lines of steps that a killed process took with it leave `metrics.jsonl`."""
        self._global_step = global_step
        self._step = int(global_step.numpy())
        self._time = self._saved = time.monotonic()
        kept = [row for row in self._rows() if row["step"] <= self._step]
        write_text(self._file, "".join(json.dumps(row) + "\n" for row in kept))
        if self._step < self._total_steps:
            print(f"training from step {self._step} to step {self._total_steps}; the first step compiles", file=self._out, flush=True)

    def steps_per_loop(self, _step: int) -> int:
        """How many steps fill the time between two lines."""
        if self._loops < _SINGLE_STEPS:
            return 1
        return max(1, min(_MOST_STEPS_PER_LINE, round(_SECONDS_PER_LINE / self._seconds_per_step)))

    def __call__(self, outputs: Mapping[str, Any]) -> None:
        now, step = time.monotonic(), int(self._global_step.numpy())
        steps, seconds = step - self._step, now - self._time
        self._step, self._time, self._seconds_per_step = step, now, seconds / steps
        self._loops += 1
        values = {name: float(value) for name, value in outputs.items()}
        values[TOTAL_LOSS] = values.pop("training_loss")
        broken = sorted(name for name, value in values.items() if not math.isfinite(value))
        if broken:
            raise UserError(
                f"at step {step} {', '.join(broken)} is not a finite number",
                "lower --learning-rate, or check the records' boxes and masks; the checkpoints before this step are kept",
            )
        values |= {"steps_per_second": steps / seconds, "images_per_second": steps * self._batch_size / seconds}
        print(self._line(step, values), file=self._out, flush=True)
        with self._file.open("a") as stream:
            stream.write(json.dumps({"step": step, "steps": steps, "seconds": seconds, "compiled": self._loops > 1, **values}) + "\n")
        self._log(values, step)
        if self._terminated and step < self._total_steps:
            self._save(step)
            print(f"told to stop: step {step} is saved, and the same command goes on from it", file=self._out, flush=True)
            raise SystemExit(_TERMINATED)
        if now - self._saved > _SECONDS_PER_CHECKPOINT:
            self._save(step)
            self._saved = now

    @contextlib.contextmanager
    def told_to_stop_by_sigterm(self) -> Iterator[None]:
        """Within the block, SIGTERM lets the running loop finish and then stops."""

        def stop(_signal: int, _frame: FrameType | None) -> None:
            self._terminated = True

        previous = signal.signal(signal.SIGTERM, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)

    def summary(self) -> dict[str, Any]:
        """`seconds`, `images_per_second` and `losses` of the whole training, whatever number of processes it took."""
        rows = self._rows()
        timed = [row for row in rows if row["compiled"]] or rows
        late = [row for row in rows if row["step"] > 0.9 * self._total_steps]
        weights = [row["steps"] for row in late]
        names = [name for name in late[-1] if name.startswith("Loss/")]
        return {
            "seconds": sum(row["seconds"] for row in rows),
            "images_per_second": self._batch_size * sum(row["steps"] for row in timed) / sum(row["seconds"] for row in timed),
            "losses": {name: sum(row[name] * w for row, w in zip(late, weights, strict=True)) / sum(weights) for name in names},
        }

    def _rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._file.read_text().splitlines()] if self._file.exists() else []

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


@contextlib.contextmanager
def _precision(dtype: str | None) -> Iterator[None]:
    """Within the block, Keras computes in `dtype` (float32, bfloat16, float16) over float32 variables."""
    previous = tf_keras.mixed_precision.global_policy()
    name = dtype or "float32"
    tf_keras.mixed_precision.set_global_policy(name if name == "float32" else f"mixed_{name}")
    try:
        yield
    finally:
        tf_keras.mixed_precision.set_global_policy(previous)


@contextlib.contextmanager
def _silent_stdout() -> Iterator[None]:
    """Within the block, what Orbit prints, a dump of the same numbers after every loop, goes nowhere."""
    with Path(os.devnull).open("w") as nothing, contextlib.redirect_stdout(nothing):
        yield
