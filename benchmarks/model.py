"""What the models cost with our shortcuts and as the original computes them, side by side in one process.

    python -m benchmarks.model [CONFIG ...] [--repeats 3]

Prints a Markdown table: medians over `--repeats` alternating runs, after one that compiles, of a training step and of the inference of an
image at 256 x 256, batch 1, with the zoo config's own 64 sampled and 300 proposals, 90 classes and optimizer. Before anything is timed,
both must give the same losses, gradients and detections. Usual runtime: half an hour for all four configs on two cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
from collections.abc import Callable, Sequence
from typing import Any

# Model Garden's Keras; before TensorFlow is imported.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
import tf_keras
from official.core import config_definitions as cfg

from benchmarks.plain import PlainMaskRCNN
from tasks.mask_rcnn.model import MaskRCNN, Tensors
from tasks.pipeline_config.experiment import translate
from tasks.pipeline_config.parser import read_pipeline_config
from tasks.pipeline_config.zoo import find_config, zoo_configs
from tasks.training.calibration import calibrate_batch_norm
from tasks.training.experiment import experiment_from
from tasks.training.optimization import create_state
from tasks.training.task import MaskRCNNTask

SIZE = 256
THREADS = 2
# The tolerances of `make parity`: losses relative, gradients by norm, outputs absolute.
LOSSES, GRADIENTS, OUTPUTS = 1e-4, 1e-3, 1e-3

Batch = tuple[tf.Tensor, tf.Tensor, Tensors]


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one run: CPU-seconds of all threads, and seconds on the clock."""

    cpu: float
    wall: float


def zoo_experiment(name: str) -> cfg.ExperimentConfig:
    """The experiment of a zoo config as it stands, its paths not filled in."""
    file = find_config(name)
    return experiment_from(translate(read_pipeline_config(file), name=name).values, file)


def example(model: MaskRCNN, num_objects: int) -> Batch:
    """A batch of one image of noise, with objects where `model` proposes them, so that positives fill their quarter of the sample.

    A trained network finds that many: a COCO image holds seven objects, and several proposals match each.
    """
    random = np.random.default_rng(0)
    images = tf.constant(random.uniform(0, 255, (1, SIZE, SIZE, 3)), tf.float32)
    true_shapes = tf.constant([[SIZE, SIZE]])
    calibrate_batch_norm(model, [(images, true_shapes, {"boxes": tf.zeros([1, 0, 4]), "num_boxes": tf.constant([0])})])
    proposed = model.propose(images, true_shapes, training=True)
    chosen = np.linspace(0, int(proposed["num_proposals"][0]) - 1, num_objects).astype(int)
    groundtruth = {
        "boxes": tf.gather(proposed["proposal_boxes_normalized"], chosen, axis=1),
        "classes": tf.constant(random.integers(0, model.config.num_classes, (1, num_objects)), tf.int32),
        "num_boxes": tf.constant([num_objects]),
        "weights": tf.ones([1, num_objects]),
        "masks": tf.constant(random.integers(0, 2, (1, num_objects, SIZE, SIZE)), tf.uint8),
        "position": tf.constant([0], tf.int64),
        "seeds": tf.constant([[0, 0]]),
    }
    return images, true_shapes, groundtruth


def check_training(ours: MaskRCNN, plain: MaskRCNN, batch: Batch) -> None:
    """Raises AssertionError unless both give the same losses and gradients of the same sample, positives in every place for them."""
    (losses, gradients, positives), (plain_losses, plain_gradients, plain_positives) = (
        _losses_and_gradients(model, batch) for model in (ours, plain)
    )
    second_stage = ours.config.second_stage
    assert positives == plain_positives == int(second_stage.batch_size * second_stage.balance_fraction), positives
    np.testing.assert_allclose(losses, plain_losses, rtol=LOSSES)
    difference = tf.linalg.global_norm([tf.convert_to_tensor(a) - b for a, b in zip(gradients, plain_gradients, strict=True)])
    assert difference <= GRADIENTS * tf.linalg.global_norm(plain_gradients), difference


def _losses_and_gradients(model: MaskRCNN, batch: Batch) -> tuple[list[float], list[Any], int]:
    with tf.GradientTape() as tape:
        outputs = model(*batch, training=True)
        losses = list(model.compute_losses(outputs).values())
        total = tf.add_n(losses)
    return [float(loss) for loss in losses], tape.gradient(total, model.trainable_variables), int(tf.reduce_sum(outputs["mask_weights"]))


def check_inference(ours: Callable[[], Tensors], plain: Callable[[], Tensors]) -> None:
    """Raises AssertionError unless both give the same detections and masks."""
    expected = plain()
    for name, found in ours().items():
        np.testing.assert_allclose(found, expected[name], atol=OUTPUTS, err_msg=name)


def training_step(experiment: cfg.ExperimentConfig, model: MaskRCNN, batch: Batch) -> Callable[[], Any]:
    """One step as training takes it: losses, gradients, clipping, momentum."""
    task = MaskRCNNTask(experiment.task)
    optimizer = task.create_optimizer(experiment.trainer.optimizer_config)
    create_state(optimizer, model.trainable_variables)
    return tf.function(lambda: task.train_step(batch, model, optimizer))


def inference(model: MaskRCNN, batch: Batch) -> Callable[[], Tensors]:
    """Detections and their masks, without what lies between."""
    images, true_shapes, _ = batch

    def run() -> Tensors:
        outputs = model(images, true_shapes)
        return {name: outputs[name] for name in (*(n for n in outputs if n.startswith("detection_")), "num_detections")}

    return tf.function(run)


def measure(work: Callable[[], Any]) -> Cost:
    """What one run costs."""
    before = os.times()
    work()
    after = os.times()
    return Cost(after.user + after.system - before.user - before.system, after.elapsed - before.elapsed)


def compare(variants: Sequence[Callable[[], Any]], repeats: int) -> str:
    """Medians of alternating runs of ours and the plain one, as the cells of a table's row."""
    costs: list[list[Cost]] = [[] for _ in variants]
    for repeat in range(repeats + 1):
        for work, found in zip(variants, costs, strict=True):
            cost = measure(work)
            if repeat:
                found.append(cost)
    ours, plain = (Cost(statistics.median(c.cpu for c in found), statistics.median(c.wall for c in found)) for found in costs)
    return f"{ours.cpu:.1f} | {plain.cpu:.1f} | {plain.cpu / ours.cpu:.1f} | {ours.wall:.1f} | {plain.wall:.1f}"


def rows(name: str, repeats: int) -> list[str]:
    """The two rows of one zoo config."""
    tf_keras.utils.set_random_seed(0)
    experiment = zoo_experiment(name)
    settings = experiment.task.model
    ours, plain = MaskRCNN(settings), PlainMaskRCNN(settings)
    batch = example(ours, int(settings.second_stage.batch_size * settings.second_stage.balance_fraction))
    plain.set_weights(ours.get_weights())
    check_training(ours, plain, batch)
    training = [training_step(experiment, model, batch) for model in (ours, plain)]
    detection = [inference(model, batch) for model in (ours, plain)]
    check_inference(*detection)
    return [f"| {name} | training step | {compare(training, repeats)} |", f"| | inference | {compare(detection, repeats)} |"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the models with the plain formulation of them.")
    parser.add_argument("configs", nargs="*", default=list(zoo_configs()), metavar="CONFIG", help="zoo configs; all by default")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each")
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    tf.config.threading.set_inter_op_parallelism_threads(THREADS)
    print(f"TensorFlow {tf.__version__}, {THREADS} threads, {SIZE} x {SIZE}, batch 1\n")
    print("| config | | CPU s | plain CPU s | ratio | wall s | plain wall s |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for name in arguments.configs:
        print("\n".join(rows(name, arguments.repeats)), flush=True)
        tf_keras.backend.clear_session()


if __name__ == "__main__":
    main()
