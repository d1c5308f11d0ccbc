"""What it costs to write down the numbers of every step, beside the cheapest training step.

    python -m benchmarks.step_log [--repeats 5]

Steps that do nothing run in loops of 20 inside one graph: as they are; with the step log, which keeps 14 figures and times the input; and
with all that follows a loop too: the figures are read, written to `metrics.jsonl`, to TensorBoard's file and to MLflow's journal (which a
thread sends; nobody listens). What a step takes longer is set against a training step of Inception v2, the zoo's cheapest, at 256 x 256
and batch 1. Prints a Markdown table of medians over alternating runs. Usual runtime: a minute on two cores.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

# Model Garden's Keras; before TensorFlow is imported.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:9"

import tensorflow as tf

from benchmarks.model import example, training_step, zoo_experiment
from tasks.mask_rcnn.model import MaskRCNN
from tasks.running.workspace import ModelDir
from tasks.tracking import ModelRun
from tasks.training.event_file import EventFile
from tasks.training.step_file import STEP, StepFile
from tasks.training.step_log import StepLog

FIGURES, STEPS, LOOPS = 14, 20, 50


def loops_without() -> Callable[[], None]:
    return _loops(None, lambda _: None)


def loops_with_log() -> Callable[[], None]:
    log = StepLog(tf.distribute.get_strategy(), most_steps=1000)
    return _loops(log, lambda _: None)


def loops_with_files(folder: Path) -> Callable[[], None]:
    log = StepLog(tf.distribute.get_strategy(), most_steps=1000)
    tracker = EventFile(folder / "train" / "tensorboard", 1, ModelRun(ModelDir(folder)))
    file = StepFile(folder / "train" / "metrics.jsonl")

    def after(step: int) -> None:
        rows = [{STEP: step + number, **figures} for number, figures in enumerate(log.read(STEPS, time.time()))]
        tracker.log_steps(file.file, *file.append(rows))

    return _loops(log, after)


def _loops(log: StepLog | None, after: Callable[[int], None]) -> Callable[[], None]:
    """`LOOPS` loops of `STEPS` steps, each of which draws its figures."""
    iterator = iter(tf.data.Dataset.range(STEPS * LOOPS * 1000).prefetch(8))
    sums = tf.Variable(tf.zeros([FIGURES]))

    @tf.function
    def loop(steps: tf.Tensor) -> None:
        for _ in tf.range(steps):
            batch = log.timed(lambda: next(iterator)) if log else next(iterator)
            figures = tf.unstack(tf.random.stateless_uniform([FIGURES], tf.stack([batch, batch])))
            sums.assign_add(tf.stack(figures))
            if log:
                log.write({f"figure {number}": figure for number, figure in enumerate(figures)})

    def run() -> None:
        for number in range(LOOPS):
            loop(tf.constant(STEPS))
            after(number * STEPS + 1)

    return run


def seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--repeats", type=int, default=5)
    repeats = arguments.parse_args().repeats
    experiment = zoo_experiment("mask_rcnn_inception_v2_coco")
    model = MaskRCNN(experiment.task.model)
    real = training_step(experiment, model, example(model, 7))
    with tempfile.TemporaryDirectory() as folder:
        variants = {"nothing": loops_without(), "the step log": loops_with_log(), "and the files": loops_with_files(Path(folder))}
        taken: dict[str, list[float]] = {name: [] for name in [*variants, "real"]}
        for repeat in range(repeats + 1):
            for name, run in variants.items():
                taken[name].append(seconds(run) / (STEPS * LOOPS))
            taken["real"].append(seconds(real))
            if repeat == 0:  # which compiles
                taken = {name: [] for name in taken}
    median = {name: statistics.median(times) for name, times in taken.items()}
    print(f"A training step: {median['real']:.3f} s.\n\n| a step writes | more milliseconds | of a training step |\n|---|---:|---:|")
    for name in ("the step log", "and the files"):
        more = median[name] - median["nothing"]
        print(f"| {name} | {more * 1e3:.2f} | {more / median['real']:.2%} |")


if __name__ == "__main__":
    main()
