"""The step that trains one converted zoo config.

    maskline train MODEL_DIR [--steps N --batch-size N --image-size N --learning-rate X --precision P --proposals N --seed N]

Reads `experiment.yaml` of the model's folder and the records that it names; writes `train/`: checkpoints, `experiment.yaml` as trained,
`metrics.jsonl`, and last `result.json`. A killed training goes on from its last checkpoint; a finished one is skipped. Runtime: the
zoo's own 200,000 steps are days on a GPU; the demo's settings take one to two minutes on two CPU cores.
"""

from __future__ import annotations

import dataclasses
import json
import math
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import tensorflow as tf
import yaml
from official.common import distribute_utils
from official.core import config_definitions as cfg
from official.core import task_factory, train_lib
from official.modeling import performance

from tasks import tracking
from tasks.errors import UserError
from tasks.mask_rcnn import task as _registers_the_task  # noqa: F401
from tasks.mask_rcnn.config import load_experiment
from tasks.workspace import DatasetDir, ModelDir, StepResult, read_json, write_json, write_text

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
TOTAL_LOSS = "Loss/total_loss"

# Steps between two progress lines: seconds apart on two CPU cores, and on a GPU.
_STEPS_PER_LINE_CPU, _STEPS_PER_LINE_GPU = 10, 100
_CHECKPOINTS_PER_TRAINING = 5
_TERMINATED = 128 + signal.SIGTERM


@dataclasses.dataclass(frozen=True)
class Overrides:
    """What the command line sets instead of the config; None leaves the config's value."""

    image_size: int | None = None
    """Short side in pixels; the long side's limit keeps the config's proportion"""
    steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    """First value of the schedule; its later values keep their proportion"""
    precision: str | None = None
    proposals: int | None = None
    """Proposals at inference; training samples at most as many"""
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in ("image_size", "steps", "batch_size", "learning_rate", "proposals"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"--{name.replace('_', '-')} is {value}", "give a number above zero")
        if self.precision is not None and self.precision not in PRECISIONS:
            raise UserError(f"--precision is {self.precision!r}", f"use one of {', '.join(PRECISIONS)}")


def train(model: ModelDir, overrides: Overrides | None = None) -> StepResult:
    """Trains to the last step, or goes on to it; outputs name the model's folder and the last checkpoint."""
    experiment = load_experiment(model.experiment)
    override(experiment, overrides or Overrides())
    adapt_to_machine(experiment, len(tf.config.list_physical_devices("GPU")))
    dataset = DatasetDir(Path(experiment.task.train_data.label_map_path).parent)
    digest = read_json(dataset.manifest)["digest"]
    resolved = yaml.safe_dump({"dataset_digest": digest, **experiment.as_dict()}, sort_keys=True)
    trained, result = model.train / "experiment.yaml", model.train / "result.json"
    if trained.exists() and trained.read_text() != resolved:
        raise UserError(
            f"{model.train} holds a training with other settings or other data",
            f"train into another run folder, or remove {model.train}",
        )
    if result.exists():
        return _answer("skipped", model, read_json(result), read_json(model.tracking) if model.tracking.exists() else {})
    write_text(trained, resolved)

    with tracking.model_run(model, dataset, "train") as run:
        run.log_params(experiment.as_dict())
        for artifact in (model.pipeline_config, trained, model.conversion_report, dataset.manifest):
            if artifact.exists():
                run.log_artifacts(artifact)
        summary = {"config": model.name, "dataset_digest": digest, **_run(experiment, model, run)}
        run.log_metrics({name: summary[name] for name in ("parameters", "images_per_second", "seconds")})
        write_json(result, summary)
    return _answer("done", model, summary, dataclasses.asdict(run.identity) if run.identity else {})


def override(experiment: cfg.ExperimentConfig, overrides: Overrides) -> None:
    """Sets, in place, what the command line asks for."""
    task, trainer = experiment.task, experiment.trainer
    if overrides.image_size is not None:
        _resize(task.model.image_resizer, overrides.image_size)
    if overrides.steps is not None:
        trainer.train_steps = overrides.steps
        trainer.checkpoint_interval = math.ceil(overrides.steps / _CHECKPOINTS_PER_TRAINING)
    if overrides.batch_size is not None:
        task.train_data.global_batch_size = overrides.batch_size
    if overrides.learning_rate is not None:
        _scale_learning_rate(trainer.optimizer_config.learning_rate, overrides.learning_rate)
    if overrides.precision is not None:
        experiment.runtime.mixed_precision_dtype = overrides.precision.removeprefix("mixed_")
    if overrides.proposals is not None:
        task.model.first_stage.max_proposals = overrides.proposals
        task.model.second_stage.batch_size = min(task.model.second_stage.batch_size, overrides.proposals)
    if overrides.seed is not None:
        task.train_data.seed = overrides.seed


def adapt_to_machine(experiment: cfg.ExperimentConfig, num_gpus: int) -> None:
    """Chooses, in place, the strategy for the GPUs that are there, and intervals that let a person follow."""
    runtime, trainer = experiment.runtime, experiment.trainer
    runtime.num_gpus = num_gpus
    runtime.distribution_strategy = "mirrored" if num_gpus > 1 else "one_device"
    line = _STEPS_PER_LINE_GPU if num_gpus else _STEPS_PER_LINE_CPU
    trainer.steps_per_loop = min(line, trainer.train_steps)
    trainer.summary_interval = trainer.steps_per_loop
    trainer.checkpoint_interval = trainer.steps_per_loop * math.ceil(trainer.checkpoint_interval / trainer.steps_per_loop)


def _resize(resizer: Any, size: int) -> None:
    if resizer.kind == "keep_aspect_ratio":
        resizer.max_dimension = round(size * resizer.max_dimension / resizer.min_dimension)
        resizer.min_dimension = size
    elif resizer.kind == "fixed_shape":
        scale = size / min(resizer.height, resizer.width)
        resizer.height, resizer.width = round(resizer.height * scale), round(resizer.width * scale)
    else:
        raise UserError(f"--image-size cannot be set: the config's image_resizer is {resizer.kind}", "change the pipeline.config")


def _scale_learning_rate(schedule: Any, first: float) -> None:
    values = schedule.get()
    if schedule.type == "stepwise":
        values.values = [value * first / values.values[0] for value in values.values]
    elif schedule.type == "constant":
        values.learning_rate = first
    else:
        values.initial_learning_rate = first


def _run(experiment: cfg.ExperimentConfig, model: ModelDir, run: tracking.ModelRun) -> dict[str, Any]:
    if experiment.task.train_data.seed is not None:
        tf.keras.utils.set_random_seed(experiment.task.train_data.seed)
    performance.set_mixed_precision_policy(experiment.runtime.mixed_precision_dtype or "float32")
    strategy = distribute_utils.get_distribution_strategy(
        distribution_strategy=experiment.runtime.distribution_strategy, num_gpus=experiment.runtime.num_gpus
    )
    with strategy.scope():
        task = task_factory.get_task(experiment.task, logging_dir=str(model.train))
    progress = Progress(experiment, model.train / "metrics.jsonl", run)
    runner = train_lib.OrbitExperimentRunner(
        strategy, task, "train", experiment, str(model.train), save_summary=False, train_actions=[progress]
    )
    progress.follow(runner)
    previous = signal.signal(signal.SIGTERM, progress.stop)
    try:
        with strategy.scope():
            runner.controller.train(steps=experiment.trainer.train_steps)
    finally:
        signal.signal(signal.SIGTERM, previous)
    return {
        "steps": int(runner.trainer.global_step.numpy()),
        "parameters": int(runner.trainer.model.count_params()),
        "checkpoint": runner.checkpoint_manager.latest_checkpoint,
        **progress.summary(),
    }


class Progress:
    """An Orbit action: after each loop a line for a person, an object in `metrics.jsonl`, and the same numbers to the tracker.

    Stops a training whose loss is no number, and one that got SIGTERM, which leaves a checkpoint of that moment.
    """

    def __init__(self, experiment: cfg.ExperimentConfig, file: Path, run: tracking.ModelRun) -> None:
        self._total_steps = experiment.trainer.train_steps
        self._batch_size = experiment.task.train_data.global_batch_size
        self._file = file
        self._run = run
        self._terminated = False
        self._losses: dict[str, float] = {}
        self._speeds: list[float] = []

    def follow(self, runner: train_lib.OrbitExperimentRunner) -> None:
        """Starts the clock of `runner`."""
        self._runner = runner
        self._last_step = int(runner.trainer.global_step.numpy())
        self._started = self._last_time = time.monotonic()
        print(f"training to step {self._total_steps} from step {self._last_step}; the first steps compile", flush=True)

    def stop(self, _signal: int, _frame: FrameType | None) -> None:
        """Signal handler: lets the running loop finish."""
        self._terminated = True

    def __call__(self, outputs: Mapping[str, Any]) -> None:
        values = {name: float(value) for name, value in outputs.items()}
        step, now = int(self._runner.trainer.global_step.numpy()), time.monotonic()
        speed = (step - self._last_step) / (now - self._last_time)
        self._speeds.append(speed)
        self._last_step, self._last_time = step, now
        values[TOTAL_LOSS] = values.pop("training_loss")
        self._losses = {name: value for name, value in values.items() if name.startswith("Loss/")}
        values |= {"steps_per_second": speed, "images_per_second": speed * self._batch_size}
        print(self._line(step, speed, values), flush=True)
        with self._file.open("a") as stream:
            stream.write(json.dumps({"step": step, **values}) + "\n")
        self._run.log_metrics(values, step)
        broken = sorted(name for name, value in self._losses.items() if not math.isfinite(value))
        if broken:
            raise UserError(
                f"at step {step} {', '.join(broken)} is not a finite number",
                "lower --learning-rate, or check the records' boxes and masks; checkpoints before this step are kept",
            )
        if self._terminated and step < self._total_steps:
            self._runner.checkpoint_manager.save(checkpoint_number=step)
            print(f"told to stop: step {step} is saved, and the same command goes on from it", flush=True)
            raise SystemExit(_TERMINATED)

    def summary(self) -> dict[str, Any]:
        """Speed without the first loop, which compiles; seconds in all; the last loop's losses."""
        speeds = sorted(self._speeds[1:] or self._speeds or [0.0])
        return {
            "images_per_second": speeds[len(speeds) // 2] * self._batch_size,
            "seconds": time.monotonic() - self._started,
            "losses": self._losses,
        }

    def _line(self, step: int, speed: float, values: Mapping[str, float]) -> str:
        left = (self._total_steps - step) / speed
        parts = "  ".join(f"{_short(name)} {value:.3f}" for name, value in self._losses.items() if name != TOTAL_LOSS)
        return (
            f"step {step}/{self._total_steps}  loss {values[TOTAL_LOSS]:.3f}  ({parts})  lr {values['learning_rate']:.2g}  "
            f"{speed:.2f} steps/s  {values['images_per_second']:.2f} images/s  {_duration(left)} left"
        )


def _short(loss: str) -> str:
    """`Loss/RPNLoss/objectness_loss` as `rpn objectness`."""
    _, stage, name = loss.split("/")
    return f"{'rpn' if stage == 'RPNLoss' else 'box'} {name.removesuffix('_loss')}" if name != "mask_loss" else "mask"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _answer(status: str, model: ModelDir, summary: Mapping[str, Any], identity: Mapping[str, Any]) -> StepResult:
    return StepResult(
        "train",
        status,
        {"model": str(model.root), "checkpoint": summary["checkpoint"]},
        {
            "steps": summary["steps"],
            "images_per_second": summary["images_per_second"],
            "total_loss": summary["losses"].get(TOTAL_LOSS),
            "mlflow_run_id": identity.get("run_id"),
            "mlflow_url": identity.get("url"),
        },
    )
