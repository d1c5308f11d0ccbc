"""A step's operations against figures of the zoo's models that were derived layer by layer, and its bytes against files and processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tensorflow as tf
from official.core import config_definitions as cfg

from benchmarks.plain import PlainMaskRCNN
from tasks.convert import convert
from tasks.mask_rcnn.model import MaskRCNN
from tasks.planning.batch_shapes import BatchShape
from tasks.planning.graph_operations import Assumed, OperationCount, count_operations
from tasks.planning.step_count import FullSample, TrainingStep, count_step
from tasks.running.workspace import DatasetDir, ModelDir
from tasks.training.experiment import load_experiment
from tasks.training.overrides import Overrides, override

COCO = BatchShape(1, 800, 1333, 7)


def experiment_of(config: str, scenes: DatasetDir, folder: Path, *assignments: str) -> cfg.ExperimentConfig:
    model = ModelDir(folder / config)
    convert(config, scenes, model, assignments=assignments)
    experiment = load_experiment(model.experiment)
    override(experiment, Overrides())
    return experiment


# Multiply-adds of the backbone and of a proposal's masks, 10^9, and operations of a step, 10^12, at 800 x 1333, with 90 classes and 64
# proposals, all of which the original gives masks, a step being three forward passes of the convolutions.
ZOO = [
    ("mask_rcnn_inception_v2_coco", 33, 0.58, 0.53),
    pytest.param("mask_rcnn_resnet50_atrous_coco", 153, 6.65, 4.23, marks=pytest.mark.slow),
    pytest.param("mask_rcnn_resnet101_atrous_coco", 470, 6.65, 6.13, marks=pytest.mark.slow),
    pytest.param("mask_rcnn_inception_resnet_v2_atrous_coco", 464, 5.36, 6.15, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("config", "backbone", "mask_branch", "step"), ZOO)
def test_counts_of_the_zoo_as_the_original_computes_it(
    config: str, backbone: float, mask_branch: float, step: float, scenes: DatasetDir, tmp_path: Path
) -> None:
    experiment = experiment_of(config, scenes, tmp_path, "model.faster_rcnn.num_classes=90")
    training = TrainingStep(experiment, PlainMaskRCNN)
    network = training.model
    image = tf.TensorSpec([1, COCO.height, COCO.width, 3])
    assert of(network.first_stage, image).multiply_adds / 1e9 == pytest.approx(backbone, rel=0.02)
    channels = network.first_stage.output_shape[-1]
    features = tf.TensorSpec([1, *network.second_stage.compute_output_shape((None, *crop(network), channels))[1:]])
    assert of(network.mask_head.all_classes, features).multiply_adds / 1e9 == pytest.approx(mask_branch, rel=0.02)
    by_kind = training.count(COCO).operations.by_kind
    convolutions = sum(count for kind, count in by_kind.items() if "Conv2D" in kind)
    assert 2 * convolutions / 1e12 == pytest.approx(step, rel=0.02)


def of(function: Callable[..., object], spec: tf.TensorSpec) -> OperationCount:
    return count_operations(tf.function(function).get_concrete_function(spec).graph, Assumed(1, 1, 1))


def crop(network: MaskRCNN) -> tuple[int, int]:
    second_stage = network.config.second_stage
    side = (second_stage.initial_crop_size - second_stage.maxpool_kernel_size) // second_stage.maxpool_stride + 1
    return side, side


def test_bytes_are_those_of_a_checkpoint_and_grow_with_the_batch_and_the_precision(scenes: DatasetDir, tmp_path: Path) -> None:
    experiment = experiment_of("mask_rcnn_inception_v2_coco", scenes, tmp_path)
    training = TrainingStep(experiment, FullSample)
    one, two = (training.count(BatchShape(images, 256, 320, 3)) for images in (1, 2))
    prefix = tf.train.Checkpoint(model=training.model, optimizer=training.optimizer).write(str(tmp_path / "ckpt"))
    (written,) = Path(prefix).parent.glob("ckpt.data-*")
    assert one.variable_bytes == pytest.approx(written.stat().st_size, rel=0.01)
    # Momentum remembers a number for each that is trained; of batch norms the statistics are not.
    trained = sum(variable.shape.num_elements() for variable in training.model.trainable_variables)
    assert one.weight_bytes == 4 * one.parameters
    assert one.optimizer_bytes == pytest.approx(4 * trained, abs=100)

    assert two.operations.multiply_adds == pytest.approx(2 * one.operations.multiply_adds, rel=0.01)
    assert two.operations.most_bytes == pytest.approx(2 * one.operations.most_bytes, rel=0.15)
    experiment.runtime.mixed_precision_dtype = "bfloat16"
    experiment.trainer.optimizer_config.moving_average_decay = 0.9
    (half,) = count_step(experiment, BatchShape(2, 256, 320, 3))
    assert half.operations.multiply_adds == pytest.approx(two.operations.multiply_adds, rel=0.01)
    # Of activations half, of gradients and of what float32 is kept for all.
    assert 0.5 < half.operations.most_bytes / two.operations.most_bytes < 0.85
    assert half.variable_bytes == two.variable_bytes + 4 * trained
