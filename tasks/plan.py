"""The step that tells what a training will need, before it takes a machine.

    maskline plan MODEL_DIR [the options of `train`] [--device h100 | --flops T --memory GB] [--price-per-hour X] [--count-only]
    maskline plan CONFIG --output MODEL_DIR [--dataset DATASET_DIR ...] ...

Reads `experiment.yaml`, for a config what `convert` would write there, and the sizes of its records; writes `plan.json`. A step is
counted on the model's own graph at the records' sizes, and, unless `--count-only` is given, run a few times on this machine within
`--time-limit` and `--memory-limit`. Each figure says whether it was measured or estimated. Usual runtime: 15 CPU-seconds to count; to run
takes four steps more.
"""

from __future__ import annotations

import copy
import dataclasses
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

import tensorflow as tf
from official.core import config_definitions as cfg
from rich.console import Console
from rich.table import Table

from tasks.checkpoints.own_checkpoint import step_of, written_checkpoints
from tasks.planning.batch_shapes import batch_shapes
from tasks.planning.devices import GIBI, TERA, Device, Machine, this_cpu
from tasks.planning.estimate import step_memory, step_time
from tasks.planning.forecast import counted, forecast, in_gb
from tasks.planning.measured_step import Limits, Measured, measure_step
from tasks.planning.step_count import StepCount, count_step
from tasks.running.errors import UserError
from tasks.running.workspace import ModelDir, StepResult, read_settings, write_json
from tasks.training.experiment import load_experiment
from tasks.training.overrides import Overrides, adapt_to_machine, override
from tasks.training.precision import Gpu, precision_of, settle_precision


def plan(
    model: ModelDir,
    overrides: Overrides | None = None,
    machine: Machine | None = None,
    price_per_hour: float | None = None,
    limits: Limits | None = None,
    *,
    experiment_file: Path | None = None,
) -> StepResult:
    """The summary has hours, cost, memory, the largest batch and what limits; `plan.json` all, with ranges, and how each is known.

    `price_per_hour` is that of all devices together. Without `limits` nothing is run. `experiment_file` is the model's where it is not
    converted yet.
    """
    if price_per_hour is not None and price_per_hour <= 0:
        raise UserError(f"--price-per-hour is {price_per_hour}", "give a number above zero")
    overrides, machine = overrides or Overrides(), machine or Machine()
    # What is counted needs no device, and TensorFlow would take all memory of one.
    tf.config.set_visible_devices([], "GPU")
    experiment = load_experiment(experiment_file or model.experiment)
    override(experiment, overrides)
    written = written_checkpoints(model.train)
    begun = read_settings(model.train / "experiment.yaml") if written else {}
    devices = machine.accelerators()
    adapt_to_machine(experiment, len(devices))
    gpus = [Gpu(device.name, device.compute_capability) for device in devices]
    computation = settle_precision(experiment, gpus, overrides.precision, overrides.xla, begun.get("runtime"))
    precision = precision_of(experiment)
    devices = devices or machine.processors(precision)
    one = _on_one(experiment, len(devices))
    shapes = batch_shapes(one.task.train_data, one.task.model.image_resizer, one.task.train_data.global_batch_size)
    usual, largest = count_step(one, shapes.usual, shapes.largest)
    measured, unmeasured = _measure(one, usual, limits, precision, devices[0] if machine.is_here else None)
    steps_left = max(0, experiment.trainer.train_steps - (step_of(written[-1]) if written else 0))
    found = forecast(
        usual,
        largest,
        devices,
        precision,
        steps=steps_left,
        checkpoints_kept=experiment.trainer.max_to_keep + bool(experiment.trainer.evaluate_every),
        price_per_hour=price_per_hour,
        measured=measured,
        measured_on_device=machine.is_here,
    ).to_json()
    told = {
        "config": model.name,
        "devices": {"count": len(devices), **_device(devices[0], precision)},
        "precision": precision,
        "computation": computation,
        "steps_left": steps_left,
        "batch_size": experiment.task.train_data.global_batch_size,
        "batch": dataclasses.asdict(shapes),
        "counted": counted(usual, largest),
        "measured": dataclasses.asdict(measured) if measured else None,
        "not_measured": unmeasured,
        "disk_free_gb": in_gb(shutil.disk_usage(model.root).free),
        **found,
    }
    told["summary"] = _summary(told)
    write_json(model.plan, told)
    _print(told)
    return StepResult("plan", "done", {"model": str(model.root), "plan": str(model.plan)}, told["summary"])


def _on_one(experiment: cfg.ExperimentConfig, count: int) -> cfg.ExperimentConfig:
    """The experiment as one of `count` devices sees it."""
    one = copy.deepcopy(experiment)
    one.task.train_data.global_batch_size //= count
    return one


def _measure(
    experiment: cfg.ExperimentConfig, count: StepCount, limits: Limits | None, precision: str, here: Device | None
) -> tuple[Measured | None, str]:
    """What was measured on this machine, and why there is not more of it. `here` is its device where the training will run here."""
    if limits is None:
        return None, "--count-only"
    if here is None or here.is_cpu:
        seconds = step_time(count, here or this_cpu(precision), precision).seconds.low
        # The first step compiles, and is no measure.
        if 2 * seconds > limits.seconds:
            return None, f"a step takes {seconds:.3g} s on this machine at least (estimated), --time-limit allows {limits.seconds:.0f} s"
        if (memory := step_memory(count).low) > limits.memory_bytes:
            needed, allowed = memory / GIBI, limits.memory_bytes / GIBI
            return None, f"a step needs {needed:.3g} GB at least (estimated), --memory-limit allows {allowed:.3g} GB here"
    print(f"running a few steps on this machine, {limits.seconds:.0f} s at most", flush=True)
    measured = measure_step(experiment, limits)
    return measured, measured.ended


def _device(device: Device, precision: str) -> dict[str, Any]:
    return {
        "name": device.name,
        "memory_gb": in_gb(device.memory_bytes),
        "peak_tflops": float(f"{device.peak(precision) / TERA:.3g}"),
        "source": device.source,
    }


def _summary(told: dict[str, Any]) -> dict[str, Any]:
    """What a task's XCom, and a table of trainings, hold of it."""
    return {
        "device": told["devices"]["name"],
        "hours": told["hours"]["likely"],
        "hours_at_most": told["hours"]["high"],
        "cost": told["cost"]["likely"] if told["cost"] else None,
        "memory_gb": told["memory_gb"]["likely"],
        "largest_batch": told["largest_batch"]["likely"],
        "checkpoints_gb": told["checkpoints_gb"],
        "limit": told["limit"],
        "how": told["hours"]["how"],
    }


def _print(told: dict[str, Any]) -> None:
    devices, shape, counts, measured = told["devices"], told["batch"]["usual"], told["counted"], told["measured"]
    many = f"{devices['count']} x " if devices["count"] > 1 else ""
    print(
        f"{told['config']}: {told['steps_left']} steps of {told['batch_size']} image{'s' * (told['batch_size'] > 1)}, "
        f"mostly {shape['height']} x {shape['width']} pixels, on {many}{devices['name']} ({devices['source']})\n"
        f"{told['computation']}\n"
        f"counted, a step of one device: {counts['tflop_per_step']:g} TFLOP, {counts['gb_moved_per_step']:g} GB moved, "
        f"{counts['kernels_per_step']} kernels, {counts['gb_alive_at_most']:g} GB alive at the fullest moment"
    )
    if measured and (times := measured["step_seconds"]):
        rate = measured["input_images_per_second"]
        reads = f"; the input pipeline alone gives {rate:.3g} images/s" if rate else ""
        print(f"measured, on {measured['device']}: {len(times)} steps of {statistics.fmean(times):.3g} s each{reads}")
    if told["not_measured"]:
        print(f"not measured: {told['not_measured']}")
    table = Table("", "likely", "between", "")
    for name, key in (
        ("seconds a step", "seconds_per_step"),
        ("images a second", "images_per_second"),
        ("hours to the end", "hours"),
        ("cost to the end", "cost"),
        (f"memory of {devices['memory_gb']:.3g} GB", "memory_gb"),
        ("largest batch", "largest_batch"),
    ):
        if (figure := told[key]) is not None:
            table.add_row(name, f"{figure['likely']:g}", f"{figure['low']:g} and {figure['high']:g}", figure["how"])
    table.add_row("checkpoints, GB", f"{told['checkpoints_gb']:g}", f"each {told['checkpoint_gb']:g}", "counted")
    table.add_row("what limits", told["limit"], "", told["limit_how"])
    Console().print(table)
    if told["memory_gb"]["low"] > devices["memory_gb"]:
        fix = "lower --batch-size or --image-size, compute in bfloat16 where the device can, or take a larger one"
        print(f"warning: a step does not fit into the memory of {devices['name']}\n  fix: {fix}", file=sys.stderr)
    if told["checkpoints_gb"] > told["disk_free_gb"]:
        free = f"{told['disk_free_gb']:g} GB are free where the model lies"
        print(f"warning: the checkpoints do not fit: {free}\n  fix: free some space, or use another disk", file=sys.stderr)
