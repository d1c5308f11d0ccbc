"""A few training steps on the real records, in a process of their own that is ended where it takes too long or too much memory."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
from official.core import config_definitions as cfg

from tasks.planning.devices import GIBI, available_memory
from tasks.running.errors import UserError

_SECONDS_BETWEEN_LOOKS = 0.2
_TIMED_STEPS = 3
_INPUT_BATCHES = 20
_INPUT_SECONDS = 5.0


# Of this machine's free memory a step may take so much, so that nobody else is killed for it.
_SHARE_OF_MEMORY = 0.8


@dataclasses.dataclass(frozen=True)
class Limits:
    """How far a measurement may go."""

    seconds: float = 180.0
    gigabytes: float | None = None
    """GiB of this machine's memory; by default four fifths of what is free"""

    def __post_init__(self) -> None:
        for option, value in (("time-limit", self.seconds), ("memory-limit", self.gigabytes)):
            if value is not None and value <= 0:
                raise UserError(f"--{option} is {value}", "give a number above zero")

    @property
    def memory_bytes(self) -> int:
        return round(self.gigabytes * GIBI) if self.gigabytes else round(_SHARE_OF_MEMORY * available_memory())


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was seen before the process ended, or was ended."""

    step_seconds: tuple[float, ...]
    """Of each step after the first, which compiles; without the wait for its batch"""
    shapes: tuple[tuple[int, int], ...]
    """Of the images of these steps, in pixels"""
    memory_bytes: int | None
    """The most that the device's tensors took, or on a CPU the whole process; None before the end of a step"""
    input_images_per_second: float | None
    """Of the input pipeline alone, on all processors of this machine"""
    device: str
    ended: str
    """Why there is no more; empty where all was measured"""


def measure_step(experiment: cfg.ExperimentConfig, limits: Limits) -> Measured:
    """Steps on this machine's GPU if it has one, otherwise on its processors, as far as `limits` allow.

    The weights are random: what a step costs does not depend on them, but for the number of positives, which is smaller.
    """
    memory_bytes = limits.memory_bytes
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(experiment.as_dict(), sending), daemon=True)
    process.start()
    sending.close()
    found: dict[str, Any] = {"steps": [], "device": "this machine"}
    ended, end = "", time.monotonic() + limits.seconds
    try:
        while True:
            if time.monotonic() > end:
                ended = f"--time-limit, {limits.seconds:g} s, was over"
                break
            if _resident_bytes(process.pid) > memory_bytes:
                ended = f"--memory-limit, {memory_bytes / GIBI:.3g} GB, was passed"
                break
            if receiving.poll(_SECONDS_BETWEEN_LOOKS):
                name, value = receiving.recv()
                if name == "done":
                    break
                if name == "step":
                    found["steps"].append(value)
                else:
                    found[name] = value
    except EOFError:
        process.join()
        ended = f"its process ended with code {process.exitcode}; see tensorflow.log"
    finally:
        process.kill()
        process.join()
    timed = found["steps"][1:]
    return Measured(
        tuple(step["seconds"] for step in timed),
        tuple((step["height"], step["width"]) for step in timed),
        max((step["memory"] for step in found["steps"]), default=None),
        found.get("input"),
        found["device"],
        found.get("failed") or ended,
    )


def _work(values: dict[str, Any], answers: Connection) -> None:
    """In the process: builds the training as `train` does, and tells what it sees as it comes."""
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        # Only what it needs: another training may be on the device.
        tf.config.experimental.set_memory_growth(gpu, True)
    from tasks.training.experiment import experiment_from
    from tasks.training.loop import compile_networks_only

    experiment = experiment_from(values, Path("the experiment"))
    compile_networks_only(experiment)
    name = (
        tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")
        if gpus
        else f"{len(os.sched_getaffinity(0))} CPU cores"
    )
    answers.send(("device", name))
    try:
        for message in _measured(experiment, bool(gpus)):
            answers.send(message)
    except tf.errors.ResourceExhaustedError:
        answers.send(("failed", "the device's memory is too small"))
    answers.send(("done", None))


def _measured(experiment: cfg.ExperimentConfig, on_gpu: bool) -> Iterator[tuple[str, Any]]:
    import tensorflow as tf

    from tasks.planning.step_count import TrainingStep

    step = TrainingStep(experiment)
    batches = iter(step.dataset)
    for _ in range(1 + _TIMED_STEPS):
        images, *rest = next(batches)
        start = time.monotonic()
        step.run(images, *rest)
        seconds = time.monotonic() - start
        memory = tf.config.experimental.get_memory_info("GPU:0")["peak"] if on_gpu else most_resident_bytes()
        yield "step", {"seconds": seconds, "memory": memory, "height": images.shape[1], "width": images.shape[2]}
    yield "input", _input_rate(iter(step.dataset), experiment.task.train_data.global_batch_size)


def _input_rate(batches: Iterator[Any], images: int) -> float:
    """Images a second of the pipeline alone, without its start."""
    next(batches)
    start, count = time.monotonic(), 0
    while count < _INPUT_BATCHES and time.monotonic() - start < _INPUT_SECONDS:
        next(batches)
        count += 1
    return count * images / (time.monotonic() - start)


def _resident_bytes(process: int | None) -> int:
    try:
        return int(psutil.Process(process).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def most_resident_bytes() -> int:
    """Of this process since its start; `getrusage` would tell the parent's where that was larger."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
