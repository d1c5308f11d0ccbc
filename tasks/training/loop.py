"""The training loop: Model Garden's trainer under Orbit, with progress that a person can follow, resumption and a clean stop."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orbit
import tensorflow as tf
import tf_keras
from official.common import distribute_utils
from official.core import config_definitions as cfg
from official.core import task_factory, train_utils

from tasks.checkpoints.own_network import latest_checkpoint
from tasks.input.batches import faulty_records_named
from tasks.running.scratch import without_pattern
from tasks.training import task as _registers_the_task  # noqa: F401
from tasks.training.optimization import create_state
from tasks.training.progress import Log, Progress


def run_training(experiment: cfg.ExperimentConfig, folder: Path, log: Log) -> dict[str, Any]:
    """Trains in `folder` from its last checkpoint, or from the start, to `trainer.train_steps`; a summary of all of it comes back.

    `steps`, `parameters` (all of the model's), `checkpoint`, `seconds` and `images_per_second` (without the steps that compile), and
    `losses`, each the mean over the last tenth of the steps. `log` gets each line's numbers and its step; `metrics.jsonl` keeps them.
    A resumed training sees the data that it would have seen: its order is sought, not replayed.

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
    compile_networks_only(experiment)
    tf_keras.utils.set_random_seed(experiment.task.train_data.seed)
    strategy = distribute_utils.get_distribution_strategy(
        distribution_strategy=experiment.runtime.distribution_strategy, num_gpus=experiment.runtime.num_gpus
    )
    with _precision(experiment.runtime.mixed_precision_dtype), faulty_records_named(experiment.task.train_data):
        with strategy.scope():
            task = task_factory.get_task(experiment.task, logging_dir=str(folder))
            task.first_step = step_of(latest) if latest else 0
            trainer = train_utils.create_trainer(experiment, task, train=True, evaluate=False)
            create_state(trainer.optimizer, trainer.model.trainable_variables)
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
