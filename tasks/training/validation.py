"""Evaluation on the way: the validation records are measured in the training's own process, and the training does not notice."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import tf_keras
from official.core import config_definitions as cfg

from tasks.evaluation.measure import detector, measure
from tasks.mask_rcnn.model import MaskRCNN
from tasks.running.scratch import scratch_folder
from tasks.training.averages import Averages
from tasks.training.progress import Tracker
from tasks.training.retention import Checkpoints
from tasks.training.selection import SHORT_NAMES, Selection, metric_named
from tasks.training.termination import Termination

_PREFIX = "val/"
"""Of MLflow's names: `evaluate` has its own figures, of one step, under those without it."""


class Validation:
    """Measures the weights of a training at every `evaluate_every`th step and at the last, in a network of its own, in float32.

    Made outside of `strategy.scope()`.
    """

    _measures = True

    def __init__(self, experiment: cfg.ExperimentConfig, folder: Path, start_step: int, tracker: Tracker) -> None:
        model, trainer = experiment.task.model, experiment.trainer
        self._data = experiment.task.validation_data
        self._every, self._patience, self._last_step = trainer.evaluate_every, trainer.patience, trainer.train_steps
        self._metric = metric_named(trainer.best_metric, model.number_of_stages)
        self._tracker = tracker
        self._out = sys.stdout
        if self._measures:
            with _float32():
                self._network = MaskRCNN(model)
            self._detect = detector(self._network)
        self.selection = Selection(folder, self._metric, start_step)

    def steps_until_next(self, step: int) -> int:
        """How many steps it is to the next that is to be evaluated."""
        return min(self._every - step % self._every, max(1, self._last_step - step))

    def is_due(self, step: int) -> bool:
        """Whether a step is one to be evaluated, and was not yet."""
        return step > 0 and (step % self._every == 0 or step >= self._last_step) and not self.selection.has(step)

    @property
    def is_enough(self) -> bool:
        """Whether the last evaluations have brought no improvement, more than patience has."""
        return 0 < self._patience <= self.selection.without_improvement

    def evaluate(self, step: int, model: MaskRCNN, averages: Averages | None, checkpoints: Checkpoints, termination: Termination) -> None:
        """Measures the weights of `model`, or their averages, at a step; its checkpoint is written before.

        So SIGTERM can end the process while it measures, and a killed training does it again.
        """
        began = time.monotonic()
        checkpoints.save(step)
        self._network.set_weights(model.get_weights())
        if averages is not None:
            for variable, average in zip(self._network.trainable_variables, averages.values, strict=True):
                variable.assign(average.read_value())
        with termination.interruptible(), scratch_folder() as folder, contextlib.redirect_stdout(self._out):
            found = measure(self._network, self._data, folder, detect=self._detect)
        self.selection.add(step, found["metrics"])
        if self.selection.best:
            checkpoints.stay(self.selection.best)
        self._tracker.log_metrics({f"{_PREFIX}{name}": value for name, value in found["metrics"].items()}, step, once=True)
        what = f"{self._told(found['metrics'])} on {found['images']} images in {time.monotonic() - began:.0f} s"
        print(f"evaluated step {step}: {what}; {self._standing()}", file=self._out, flush=True)

    def closing_line(self) -> str:
        """Which checkpoint is the best, for a person."""
        best, count = self.selection.best, self.selection.count
        name = best.name if best else "none"
        return f"the best of {count} evaluations is {name}, {self._metric} {self.selection.best_value:.4f}: it is what is used from here on"

    def _told(self, metrics: Mapping[str, float]) -> str:
        names = {name: full for name, full in SHORT_NAMES.items() if full in metrics and not name.endswith("50")}
        if self._metric not in names.values():
            names[self._metric] = self._metric
        return ", ".join(f"{name.replace('_ap', ' AP')} {metrics[full]:.4f}" for name, full in names.items())

    def _standing(self) -> str:
        best, since = self.selection.best, self.selection.without_improvement
        if since == 0:
            return "the best so far"
        number = "this one is not" if since == 1 else f"the last {since} are not"
        return f"the best is {best.name if best else 'none'} with {self.selection.best_value:.4f}, {number} better"


class ValidationOfOthers(Validation):
    """That of a worker that is not the chief, who measures and decides: it takes part where all have to, in the reading of the weights."""

    _measures = False

    def evaluate(self, step: int, model: MaskRCNN, averages: Averages | None, checkpoints: Checkpoints, termination: Termination) -> None:
        """Reads the weights at a step."""
        del averages, termination
        checkpoints.save(step)
        model.get_weights()


@contextlib.contextmanager
def _float32() -> Iterator[None]:
    previous = tf_keras.mixed_precision.global_policy()
    tf_keras.mixed_precision.set_global_policy("float32")
    try:
        yield
    finally:
        tf_keras.mixed_precision.set_global_policy(previous)
