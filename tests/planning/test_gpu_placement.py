"""What a GPU would hand back to the processor, in a training step and in inference, held to what docs/devices.md tells of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tensorflow as tf

from benchmarks.gpu_placement import Placement, placement
from tasks.convert import convert
from tasks.planning.batch_shapes import BatchShape
from tasks.planning.step_count import TrainingStep
from tasks.running.workspace import DatasetDir, ModelDir
from tasks.training.experiment import load_experiment
from tasks.training.overrides import Overrides, override

DOCS = Path(__file__).parents[2] / "docs" / "devices.md"


def written(graph: str) -> set[tuple[str, str]]:
    """The rows of the page's table for a graph: operation and what it does to the host."""
    rows = re.findall(r"^\| `([^`]+)` \| (\w+) \| ([^|]+) \|", DOCS.read_text(), flags=re.MULTILINE)
    return {(operation, effect) for operation, where, effect in rows if where == graph}


def seen(found: Placement) -> set[tuple[str, str]]:
    return {(operation, "has no kernel") for operation in found.without_kernel} | {(operation, "waits") for operation in found.waiting}


def copies(graph: str) -> int:
    (number,) = re.findall(rf"^In {graph} (\d+) tensors", DOCS.read_text(), flags=re.MULTILINE)
    return int(number)


def test_what_a_gpu_hands_back_is_what_the_page_lists(scenes: DatasetDir, tmp_path: Path) -> None:
    model = ModelDir(tmp_path / "mask_rcnn_inception_v2_coco")
    convert(model.name, scenes, model)
    experiment = load_experiment(model.experiment)
    override(experiment, Overrides())
    training = TrainingStep(experiment)
    step = placement(training.graph(BatchShape(2, 256, 320, 3)))
    assert (seen(step), len(step.copied)) == (written("training"), copies("training"))
    # XLA and the quick kernels are of no use to numbers of 64 bits.
    assert "float64" not in step.types
    images, shapes = tf.TensorSpec([2, 256, 320, 3]), tf.TensorSpec([2, 2], tf.int32)
    inference = placement(tf.function(lambda images, shapes: training.model(images, shapes)).get_concrete_function(images, shapes).graph)
    assert (seen(inference), len(inference.copied)) == (written("inference"), copies("inference"))


def test_what_is_counted_as_handed_back() -> None:
    @tf.function(input_signature=[tf.TensorSpec([4]), tf.TensorSpec([4], tf.int32)])
    def work(a: tf.Tensor, numbers: tf.Tensor) -> tuple[tf.Tensor, ...]:
        # A branch and a length that follow from what the device computes; a comparison of int32, and a scatter of truth values.
        branch = tf.cond(tf.reduce_sum(a) > 0.0, lambda: a, lambda: -a)
        places = tf.where(a > 0.0)
        return branch, places, numbers > 3, tf.scatter_nd(places, tf.fill([tf.shape(places)[0]], True), [4])

    found = placement(work.get_concrete_function().graph)
    assert set(found.waiting) == {"a condition", "Where"}
    assert list(found.without_kernel) == ["ScatterNd (bool)"]
    assert ("Placeholder", "int32 [4]") in {(producer, what) for producer, what, _ in found.copied}


def test_shapes_and_lengths_stay_where_they_are() -> None:
    @tf.function(input_signature=[tf.TensorSpec([None, 4])])
    def work(a: tf.Tensor) -> tf.Tensor:
        return tf.reshape(a * 2.0, [tf.shape(a)[0] * 2, 2])

    found = placement(work.get_concrete_function().graph)
    assert (found.without_kernel, found.waiting, found.copied) == ({}, {}, [])


def test_kernels_of_another_tensorflow_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import gpu_placement

    gpu_placement._kernels.cache_clear()
    monkeypatch.setattr(tf, "__version__", "99.0.0")
    with pytest.raises(RuntimeError, match=r"not 99\.0\.0: write it again"):
        gpu_placement._kernels()
