"""What the command line and the machine set in an experiment, instead of its config."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from official.core import config_definitions as cfg

from tasks.running.errors import UserError
from tasks.training.cluster import Cluster
from tasks.training.devices import ALL_REDUCE, MIRRORED, MULTI_WORKER, ONE_DEVICE, Devices
from tasks.training.precision import PRECISIONS, XLA

ON_NAN = ("skip", "stop")

_CHECKPOINTS_PER_TRAINING = 5


@dataclasses.dataclass(frozen=True)
class Overrides:
    """What the command line sets instead of the config; None leaves the config's value."""

    image_size: int | None = None
    """Short side in pixels; the long side's limit keeps the config's proportion"""
    steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    """Of the schedule, after any warm-up; its other values keep their proportion, and their steps"""
    precision: str | None = None
    """Of `PRECISIONS`; as `xla`, it is for `settle_precision`, which knows the machine"""
    xla: str | None = None
    proposals: int | None = None
    """Proposals at inference; as many at most are sampled in training, and the detections keep the config's proportion to them"""
    seed: int | None = None
    evaluate_every: str | None = None
    """Between two evaluations on the way: steps, or a share of the training such as 0.1 or 10%"""
    best_metric: str | None = None
    """Which checkpoint is the best: as `selection.metric_named` takes it"""
    patience: int | None = None
    """Evaluations without a better one after which training ends"""
    on_nan: str | None = None
    """What becomes of a step whose loss or gradient is no number: one of `ON_NAN`"""
    deterministic: bool = False
    """Whether every operation has to give the same bits in every run"""
    max_bad_records: int | None = None
    """Records that training may leave out because it cannot use them"""
    keep: int | None = None
    """Of the newest checkpoints"""
    grace_seconds: float | None = None
    """Between SIGTERM and the end of the process"""

    def __post_init__(self) -> None:
        for name in ("image_size", "steps", "batch_size", "learning_rate", "proposals", "patience", "keep", "grace_seconds"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"--{name.replace('_', '-')} is {value}", "give a number above zero")
        if self.max_bad_records is not None and self.max_bad_records < 0:
            raise UserError(f"--max-bad-records is {self.max_bad_records}", "give 0 or more")
        for name, choices in (("on_nan", ON_NAN), ("precision", PRECISIONS), ("xla", XLA)):
            value = getattr(self, name)
            if value is not None and value not in choices:
                raise UserError(f"--{name.replace('_', '-')} is {value!r}", f"use one of {', '.join(choices)}")


def override(experiment: cfg.ExperimentConfig, overrides: Overrides) -> None:
    """Sets, in place, what the command line asks for and no machine has a say in; without a seed anywhere, seed 0."""
    task, trainer = experiment.task, experiment.trainer
    if overrides.image_size is not None:
        _resize(task.model.image_resizer, overrides.image_size)
    if overrides.steps is not None:
        trainer.train_steps = overrides.steps
        trainer.checkpoint_interval = math.ceil(overrides.steps / _CHECKPOINTS_PER_TRAINING)
    if overrides.batch_size is not None:
        task.train_data.global_batch_size = overrides.batch_size
    if overrides.learning_rate is not None:
        _scale_learning_rate(trainer.optimizer_config, overrides.learning_rate)
    if overrides.proposals is not None:
        _scale_proposals(task.model, overrides.proposals)
    trainer.deterministic |= overrides.deterministic
    if overrides.on_nan is not None:
        trainer.on_nan = overrides.on_nan
    if overrides.evaluate_every is not None:
        trainer.evaluate_every = steps_between(overrides.evaluate_every, trainer.train_steps)
    if overrides.best_metric is not None:
        trainer.best_metric = overrides.best_metric
    if overrides.patience is not None:
        trainer.patience = overrides.patience
    if not trainer.evaluate_every and (trainer.best_metric or trainer.patience):
        raise UserError("--best-metric and --patience say what follows from evaluations, and there are none", "give --evaluate-every too")
    if overrides.keep is not None:
        trainer.max_to_keep = overrides.keep
    if overrides.grace_seconds is not None:
        trainer.grace_seconds = overrides.grace_seconds
    if overrides.max_bad_records is not None:
        task.train_data.max_bad_records = overrides.max_bad_records
    if overrides.seed is not None or task.train_data.seed is None:
        task.train_data.seed = overrides.seed or 0


def steps_between(text: str, steps: int) -> int:
    """What `--evaluate-every` says, in steps of a training of so many: a whole number of them, or a share as `0.1` or `10%`."""
    refusal = UserError(
        f"--evaluate-every is {text!r}", "give a number of steps such as 500, or a share of the training such as 0.1 or 10%"
    )
    try:
        share = float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)
        is_count = not text.endswith("%") and "." not in text
        every = int(text) if is_count else max(1, round(share * steps))
    except (ValueError, OverflowError) as error:
        raise refusal from error
    if every < 1 or not (is_count or 0 < share <= 1):
        raise refusal
    return every


def adapt_to_machine(
    experiment: cfg.ExperimentConfig, num_gpus: int, devices: Devices | None = None, cluster: Cluster | None = None
) -> None:
    """Chooses, in place, the strategy for the GPUs that are there, or for as many as a person asks for.

    UserError where there are fewer, where the batch cannot be split over them, and for a strategy that has nothing to do.
    """
    devices = devices or Devices()
    if devices.gpus is not None and devices.gpus > num_gpus:
        raise UserError(f"--gpus is {devices.gpus}, and TensorFlow sees {num_gpus}", "ask for fewer; `maskline doctor` shows them")
    runtime = experiment.runtime
    gpus = num_gpus if devices.gpus is None else devices.gpus
    strategy = devices.strategy or (MULTI_WORKER if cluster else MIRRORED if gpus > 1 else ONE_DEVICE)
    if cluster and strategy != MULTI_WORKER:
        raise UserError(f"--strategy is {strategy}, and there are {len(cluster.hosts)} workers", f"use {MULTI_WORKER}")
    if strategy == MULTI_WORKER and not cluster:
        raise UserError(f"--strategy is {strategy}, and there is one worker", "name them: --worker-hosts and --task-index, or TF_CONFIG")
    runtime.distribution_strategy = strategy
    runtime.num_gpus = min(gpus, 1) if strategy == ONE_DEVICE else gpus
    algorithms = ALL_REDUCE[strategy]
    if devices.all_reduce_alg is not None and devices.all_reduce_alg not in algorithms:
        fix = f"use one of {', '.join(algorithms)}" if algorithms else "leave it out: one device sums nothing"
        raise UserError(f"--all-reduce-alg is {devices.all_reduce_alg!r}, and the strategy {strategy}", fix)
    runtime.all_reduce_alg = devices.all_reduce_alg
    runtime.worker_hosts, runtime.task_index = (",".join(cluster.hosts), cluster.index) if cluster else (None, -1)
    _confirm_batch(experiment.task.train_data.global_batch_size, max(1, runtime.num_gpus), len(cluster.hosts) if cluster else 1)


def _scale_proposals(model: Any, proposals: int) -> None:
    first_stage, second_stage = model.first_stage, model.second_stage

    # Not in proportion: of 4 sampled proposals a quarter at most is positive, and boxes and masks would hardly be trained.
    second_stage.batch_size = min(second_stage.batch_size, proposals)
    detections = round(second_stage.max_total_detections * proposals / first_stage.max_proposals)
    second_stage.max_total_detections = min(second_stage.max_total_detections, max(1, detections))
    second_stage.max_detections_per_class = min(second_stage.max_detections_per_class, second_stage.max_total_detections)
    first_stage.max_proposals = proposals


def _resize(resizer: Any, size: int) -> None:
    if resizer.kind == "keep_aspect_ratio":
        resizer.max_dimension = round(size * resizer.max_dimension / resizer.min_dimension)
        resizer.min_dimension = size
    elif resizer.kind == "fixed_shape":
        scale = size / min(resizer.height, resizer.width)
        resizer.height, resizer.width = round(resizer.height * scale), round(resizer.width * scale)
    else:
        raise UserError(f"--image-size cannot be set: the config's image_resizer is {resizer.kind}", "change the pipeline.config")


def _scale_learning_rate(optimization: Any, rate: float) -> None:
    schedule, warmup = optimization.learning_rate.get(), optimization.warmup.get()
    if optimization.learning_rate.type == "stepwise":
        factor = rate / schedule.values[0]
        schedule.values = [value * factor for value in schedule.values]
    else:
        first = "learning_rate" if optimization.learning_rate.type == "constant" else "initial_learning_rate"
        factor = rate / getattr(schedule, first)
        for name in (first, "burnin_learning_rate", "min_learning_rate"):
            if hasattr(schedule, name):
                setattr(schedule, name, getattr(schedule, name) * factor)
    if warmup is not None:
        warmup.warmup_learning_rate *= factor


def _confirm_batch(batch_size: int, gpus: int, workers: int) -> None:
    if batch_size % (gpus * workers):
        over = f"{gpus} GPUs" if workers == 1 else f"{workers} workers" + (f" of {gpus} GPUs" if gpus > 1 else "")
        raise UserError(
            f"--batch-size {batch_size} cannot be split over {over}",
            f"give a multiple of {gpus * workers}" + ("" if workers > 1 else ", or use fewer GPUs: --gpus"),
        )
