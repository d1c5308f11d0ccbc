"""The training loop: Model Garden's trainer under Orbit, with progress that a person can follow, resumption and a clean stop."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import orbit
import tensorflow as tf
import tf_keras
from official.core import base_task, base_trainer, task_factory, train_utils
from official.core import config_definitions as cfg

from tasks.checkpoints.own_checkpoint import step_of
from tasks.checkpoints.training_state import TrainingState, take_over
from tasks.input.image_resizer import one_size
from tasks.input.record_faults import DATA_ERRORS
from tasks.running.scratch import scratch_folder
from tasks.training import task as _registers_the_task  # noqa: F401
from tasks.training.averages import Averages
from tasks.training.cluster import LEFT, Cluster, meet
from tasks.training.devices import Together, build_strategy, left_by_none
from tasks.training.event_file import EventFile
from tasks.training.left_out import BAD_RECORDS, RecordsLeftOut
from tasks.training.optimization import create_state
from tasks.training.precision import computing_in, precision_of
from tasks.training.progress import MOST_STEPS, Progress, Tracker
from tasks.training.retention import Checkpoints, CheckpointsOfOthers, newest_whole
from tasks.training.selection import forget_best
from tasks.training.skipped_steps import SkippedSteps
from tasks.training.step_log import LoggedTrainer, StepLog
from tasks.training.termination import TERMINATED, Termination
from tasks.training.validation import Validation, ValidationOfOthers

# Never more than minutes of work that a killed process takes with it.
_SECONDS_PER_CHECKPOINT = 600.0

_NOT_EVALUATED = "nothing was evaluated on the way (--evaluate-every): the last checkpoint is what is used from here on"


def run_training(experiment: cfg.ExperimentConfig, folder: Path, tracker: Tracker, cluster: Cluster | None = None) -> dict[str, Any]:
    """Trains in `folder` from its last checkpoint, or from the start, to `trainer.train_steps`; a summary of all of it comes back.

    `steps`, and whether they `ended_early`; `parameters` (all of the model's); `checkpoint`, which is the best where there were evaluations
    and else the last, `last_checkpoint`, and `standing`, which tells a person; `seconds` of all steps and `images_per_second` (without
    those that compile), `bad_records` (how many were left out), and `losses`, each the mean over the last tenth of the steps.
    `metrics.jsonl` keeps the numbers of every step, and `tracker` is told after each loop where the new ones stand, and the figures of each
    evaluation; `tensorboard/` has both.
    A resumed training sees the data that it would have seen, and draws what it would have drawn: steps are sought, not replayed.

    Of a `cluster` this process is one worker, and all see `folder`, where the chief alone writes, evaluates and keeps checkpoints; what the
    others write goes with them, and they answer with `steps` alone.

    Raises UserError for a loss that is no number, a record that cannot be used, and a disk that is full; SystemExit(143), after a
    checkpoint, on SIGTERM; SystemExit(75) where another worker is gone, or a record was left out that all have to leave out.
    """
    if cluster is None:
        return _run_training(experiment, folder, folder, tracker, None)
    meet(cluster)
    with left_by_none(folder):
        if cluster.is_chief:
            return _run_training(experiment, folder, folder, tracker, cluster)
        with scratch_folder() as own:
            return _run_training(experiment, folder, own, tracker, cluster)


def _run_training(
    experiment: cfg.ExperimentConfig, shared: Path, folder: Path, tracker: Tracker, cluster: Cluster | None
) -> dict[str, Any]:
    """Goes on from what `shared` holds, and writes into `folder`."""
    last = newest_whole(shared)
    experiment = copy.deepcopy(experiment)
    if experiment.trainer.deterministic:
        tf.config.experimental.enable_op_determinism()
    compile_networks_only(experiment)
    start = step_of(last) if last else 0
    # Before all else that runs an operation: several workers can meet only then.
    strategy = build_strategy(experiment.runtime)
    together = Together(strategy, cluster)
    together.confirm_same(_what_is_trained(experiment, shared, last))
    if strategy.num_replicas_in_sync > 1:
        print(_share_of_work(experiment, strategy.num_replicas_in_sync), flush=True)
    tracker = EventFile(folder / "tensorboard", start + 1, tracker)
    validation = _validation(experiment, folder, start, tracker, together)
    # After the network of the validation is made, which draws initial weights too.
    tf_keras.utils.set_random_seed(experiment.task.train_data.seed)
    with computing_in(precision_of(experiment)):
        step_log = StepLog(strategy, MOST_STEPS)
        with strategy.scope():
            task = task_factory.get_task(experiment.task, logging_dir=str(folder))
            task.first_step = start
            task.bad_records = RecordsLeftOut(experiment.task, shared, task.first_step, all_stay=cluster is not None)
            task.step_log = step_log
            task.pads_alike = cluster is not None and not one_size(experiment.task.model.image_resizer)
            trainer = whole_trainer(experiment, task)
            parts, variables = trained_state(trainer)
            kept_by = Checkpoints if together.is_chief else CheckpointsOfOthers
            checkpoints = kept_by(tf.train.Checkpoint(**parts), variables, folder, experiment.trainer.max_to_keep)
            checkpoints.remove_leftovers()
            checkpoints.confirm_room(one_stays=validation is not None)
            begin(trainer, checkpoints, last, experiment.trainer.train_steps)
        termination = Termination(experiment.trainer.grace_seconds)
        progress = Progress(experiment, folder, step_log, tracker)
        skipped = SkippedSteps(experiment, folder / "skipped_steps", task.first_step, task.bad_records)
        between = _BetweenLoops(experiment, trainer, checkpoints, termination, progress, skipped, validation, together)
        controller = orbit.Controller(
            strategy=strategy,
            trainer=trainer,
            global_step=trainer.global_step,
            steps_per_loop=between.steps_per_loop,
            train_actions=[progress, between],
        )
        if task.beginning:
            print(task.beginning, flush=True)
        progress.start(trainer.global_step)
        with termination.listening(), _silent_stdout(), strategy.scope(), contextlib.suppress(_Enough):
            between.begin()
            while True:
                try:
                    controller.train(steps=experiment.trainer.train_steps)
                    break
                except DATA_ERRORS as error:
                    if cluster is not None:
                        _begin_again_without_bad_record(error, trainer)
                    _go_without_bad_record(error, controller, progress)
                    tracker.log_metrics({"bad_records": len(task.bad_records.records)}, int(trainer.global_step.numpy()))
    steps = int(trainer.global_step.numpy())
    if not together.is_chief:
        return {"steps": steps}
    return {
        "steps": steps,
        "parameters": int(trainer.model.count_params()),
        "checkpoint": str((validation and validation.selection.best) or checkpoints.last),
        "last_checkpoint": str(checkpoints.last),
        "ended_early": steps < experiment.trainer.train_steps,
        "standing": validation.closing_line() if validation else _NOT_EVALUATED,
        "bad_records": len(task.bad_records.records),
        **progress.summary(),
    }


def _what_is_trained(experiment: cfg.ExperimentConfig, shared: Path, last: Path | None) -> str:
    """All that has to be the same at every worker."""
    values = experiment.as_dict()
    del values["runtime"]["task_index"]
    bad_records = shared / BAD_RECORDS
    without = bad_records.read_text() if bad_records.exists() else ""
    return json.dumps([values, last.name if last else "", without], sort_keys=True, default=str)


def _share_of_work(experiment: cfg.ExperimentConfig, replicas: int) -> str:
    batch_size = experiment.task.train_data.global_batch_size
    told = f"{replicas} replicas take {batch_size // replicas} of each {batch_size} images"
    # What the zoo's frozen batch norm does not depend on.
    own = ", and batch norm its statistics from each replica's own" if experiment.task.model.feature_extractor.batch_norm_trainable else ""
    return told + own


def _validation(experiment: cfg.ExperimentConfig, folder: Path, start: int, tracker: Tracker, together: Together) -> Validation | None:
    if experiment.trainer.evaluate_every:
        return (Validation if together.is_chief else ValidationOfOthers)(experiment, folder, start, tracker)
    if together.is_chief:
        forget_best(folder)
    return None


def _begin_again_without_bad_record(error: tf.errors.OpError, trainer: base_trainer.Trainer) -> NoReturn:
    """The other workers wait for this one's gradients, and only its end lets them go on."""
    trainer.task.bad_records.add(error, int(trainer.optimizer.iterations.numpy()))
    print("start all workers by the same commands: training goes on without the record", flush=True)
    raise SystemExit(LEFT) from error


def _go_on_with(state: TrainingState, trainer: LoggedTrainer, train_steps: int) -> None:
    """Lets a new training be the rest of the one that the checkpoint is of: its step, its optimizer's state and the data from there on."""
    task = trainer.task
    task.beginning += "\n" + take_over(state, trainer.model, trainer.optimizer, trainer.global_step, train_steps)
    task.continued = None
    task.first_step = state.step
    _read_anew(trainer)


def _go_without_bad_record(error: tf.errors.OpError, controller: orbit.Controller, progress: Progress) -> None:
    """Ends the loop that has met a bad record at the step it had reached, and lets the next one read on from there without it."""
    trainer = controller.trainer
    # The global step counts on without waiting for a batch; the optimizer counts what was done with one.
    trainer.global_step.assign(trainer.optimizer.iterations)
    task, step = trainer.task, int(trainer.global_step.numpy())
    if step > progress.step:
        outputs = trainer.train_loop_end()
        for action in controller.train_actions:
            action(outputs)
    task.bad_records.add(error, step)
    task.first_step = step
    _read_anew(trainer)
    progress.go_on()


def _read_anew(trainer: base_trainer.Trainer) -> None:
    """Lets the next step's batch be that of the task's `first_step`, without its bad records."""
    trainer.train_dataset = trainer.distribute_dataset(trainer.task.build_inputs, trainer.task.task_config.train_data)


def whole_trainer(experiment: cfg.ExperimentConfig, task: base_task.Task) -> base_trainer.Trainer:
    """Model Garden's trainer of a task, with everything made that a step will change; in `strategy.scope()`."""
    trainer = train_utils.create_trainer(experiment, task, train=True, evaluate=False, trainer_cls=LoggedTrainer)
    create_state(trainer.optimizer, trainer.model.trainable_variables)
    decay = experiment.trainer.optimizer_config.moving_average_decay
    task.averages = Averages(trainer.model.trainable_variables, decay) if decay > 0.0 else None
    return trainer


def trained_state(trainer: base_trainer.Trainer) -> tuple[dict[str, Any], list[tf.Variable]]:
    """What a checkpoint holds: its parts by name, and all their variables."""
    parts = {"global_step": trainer.global_step, "model": trainer.model, "optimizer": trainer.optimizer}
    variables = [trainer.global_step, *trainer.model.variables, *trainer.optimizer.variables()]
    averages = trainer.task.averages
    if averages is not None:
        parts["averages"] = averages
        variables += averages.values
    return parts, variables


def begin(trainer: base_trainer.Trainer, checkpoints: Checkpoints, last: Path | None, train_steps: int) -> None:
    """Sets what a step will change to what a checkpoint holds, or to what a training begins with; in `strategy.scope()`."""
    if last:
        checkpoints.restore(last)
        return
    trainer.initialize()
    if trainer.task.bad_records and trainer.task.bad_records.records:
        # Met by what reads before the first step, and by then the steps' own reading was made.
        _read_anew(trainer)
    if trainer.task.continued is not None:
        _go_on_with(trainer.task.continued, trainer, train_steps)
    if trainer.task.averages is not None:
        trainer.task.averages.begin()


class _Enough(Exception):  # noqa: N818
    """Evaluations have brought nothing better for as long as patience lasts."""


class _BetweenLoops:
    """An Orbit action, the last after each loop: tells of skipped steps, saves and evaluates when it is time, stops when it is told to.

    Nothing is saved while steps are skipped one after the other, nor evaluated, which would save first: so the last checkpoint is one from
    which training went on.
    """

    def __init__(
        self,
        experiment: cfg.ExperimentConfig,
        trainer: base_trainer.Trainer,
        checkpoints: Checkpoints,
        termination: Termination,
        progress: Progress,
        skipped: SkippedSteps,
        validation: Validation | None,
        together: Together,
    ) -> None:
        self._trainer = experiment.trainer
        self._weights = trainer.model, trainer.task.averages
        self._global_step = trainer.global_step
        self._checkpoints = checkpoints
        self._termination = termination
        self._progress = progress
        self._skipped = skipped
        self._validation = validation
        self._together = together
        self._out = sys.stdout
        self._saved = time.monotonic()

    def begin(self) -> None:
        """Does what a killed process has left undone before the next step."""
        if self._validation and (best := self._validation.selection.best):
            self._checkpoints.stay(best)
        self._evaluate_if_due(int(self._global_step.numpy()))
        self._progress.go_on()

    def steps_per_loop(self, step: int) -> int:
        steps = self._progress.most_steps(self._termination.loop_seconds(self._checkpoints.save_seconds))
        steps = int(self._together.of_chief(steps))
        return min(steps, self._validation.steps_until_next(step)) if self._validation else steps

    def __call__(self, _outputs: Mapping[str, Any]) -> None:
        step = int(self._global_step.numpy())
        for line in self._skipped.look_at(self._progress.steps, step):
            print(line, file=self._out, flush=True)
        ends = step >= self._trainer.train_steps
        told, is_time = self._together.any(self._termination.told), bool(self._together.of_chief(self._is_time_to_save(step)))
        if ends or ((told or is_time) and not self._skipped.in_doubt):
            self._checkpoints.save(step)
            self._saved = time.monotonic()
        if told and not ends:
            saved = self._checkpoints.last.name if self._checkpoints.last else "its beginning"
            print(f"told to stop after step {step}: the same command goes on from {saved}", file=self._out, flush=True)
            raise SystemExit(TERMINATED)
        self._evaluate_if_due(step)
        self._progress.go_on()

    def _evaluate_if_due(self, step: int) -> None:
        if self._validation is None:
            return
        if self._together.of_chief(self._validation.is_due(step)):
            if self._skipped.in_doubt and step < self._trainer.train_steps:
                print(f"step {step} is not evaluated: the steps before it were skipped", file=self._out, flush=True)
                return
            self._validation.evaluate(step, *self._weights, self._checkpoints, self._termination)
            self._saved = time.monotonic()
        if self._together.of_chief(self._validation.is_enough) and step < self._trainer.train_steps:
            print(
                f"training ends at step {step}: {self._trainer.patience} evaluations in a row were not better", file=self._out, flush=True
            )
            raise _Enough

    def _is_time_to_save(self, step: int) -> bool:
        last = step_of(self._checkpoints.last) if self._checkpoints.last else 0
        return step - last >= self._trainer.checkpoint_interval or time.monotonic() - self._saved > _SECONDS_PER_CHECKPOINT


def compile_networks_only(experiment: cfg.ExperimentConfig) -> None:
    """Turns, in place, `runtime.enable_xla` into the model's own `jit_compile`.

    Model Garden would compile the whole step, in which there are operations that XLA has no kernels for.
    """
    experiment.task.model.jit_compile |= experiment.runtime.enable_xla
    experiment.runtime.enable_xla = False


@contextlib.contextmanager
def _silent_stdout() -> Iterator[None]:
    """Within the block, what Orbit prints, a dump of the same numbers after every loop, goes nowhere."""
    with Path(os.devnull).open("w") as nothing, contextlib.redirect_stdout(nothing):
        yield
