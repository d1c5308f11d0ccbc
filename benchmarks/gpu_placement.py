"""Where a GPU would have to wait, seen on a graph without one: operations that it has no kernel for, tensors that go back to the host, and
operations whose answer has a size that the host must know first.

    python -m benchmarks.gpu_placement MODEL_DIR ...

Prints what it finds in a training step and in inference of models that `maskline convert` made. TensorFlow's kernels for int32 work in
host memory, all but a few: numbers that are computed on the device and then compared or added as int32 go to the host for it. What kernels
there are is read from `gpu_kernels.json`, which `gpu_kernels.py` writes; `tests/planning/test_gpu_placement.py` holds the docs to it.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tensorflow as tf

from benchmarks.gpu_kernels import FILE
from tasks.planning.graph_operations import called_graphs, executed
from tasks.running.workspace import ModelDir

HOST, DEVICE = "host", "device"

# Their kernels copy a number from the device and wait for it before they can go on: how many there are, or which branch is taken.
WAITING = ("NonMaxSuppressionV3", "Unique", "Where")
_LOOPS, _BRANCHES, _CALLS = ("While", "StatelessWhile"), ("If", "StatelessIf"), ("PartitionedCall", "StatefulPartitionedCall")
_HANDLES = (tf.resource, tf.variant)
# Nothing is computed there, and constants lie where they are needed.
_NOWHERE = ("Const", "NoOp", "Placeholder", "Assert")


@dataclass
class Placement:
    """What was found in a graph and in those that it calls."""

    without_kernel: Counter[str] = field(default_factory=Counter)
    """Operations that run on the processor, such as `ScatterNd (bool)`"""
    waiting: Counter[str] = field(default_factory=Counter)
    """Operations for whose size, or whose condition, the host waits"""
    copied: list[tuple[str, str, str]] = field(default_factory=list)
    """Tensors that a kernel wants in host memory and another one left on the device: producer, shape and type, reader"""
    types: Counter[str] = field(default_factory=Counter)
    """Of all tensors"""


def placement(graph: tf.Graph) -> Placement:
    """What a GPU would do with a graph; its arguments come on the device, as batches do."""
    found = Placement()
    arguments = [operation.outputs[0] for operation in graph.get_operations() if operation.type == "Placeholder"]
    _walk(graph, {tensor.name: DEVICE for tensor in arguments}, found)
    return found


def _walk(graph: tf.Graph, where: dict[str, str], found: Placement) -> list[str]:
    """Adds what is found in a graph whose arguments lie `where`; answers where its results do."""
    copied: set[str] = set()
    for operation in executed(graph):
        found.types.update(tensor.dtype.name for tensor in operation.outputs)
        if operation.type in _LOOPS + _BRANCHES + _CALLS:
            results = _called(operation, where, found)
        else:
            results = [HOST if wanted else DEVICE for wanted in _wanted_on_host(operation)[len(operation.inputs) :]]
            if operation.type not in _NOWHERE:
                for tensor, wanted in zip(operation.inputs, _wanted_on_host(operation), strict=False):
                    if (
                        wanted
                        and where[tensor.name] == DEVICE
                        and tensor.op.type != "Const"
                        and tensor.dtype not in _HANDLES
                        and tensor.name not in copied
                    ):
                        copied.add(tensor.name)
                        shape = "x".join("?" if length is None else str(length) for length in tensor.shape.as_list())
                        found.copied.append((tensor.op.type, f"{tensor.dtype.name} [{shape}]", f"{operation.type} {operation.name}"))
                if kernel_of(operation) is None:
                    found.without_kernel[f"{operation.type} ({_type(operation)})"] += 1
                if operation.type in WAITING:
                    found.waiting[operation.type] += 1
        for tensor, place in zip(operation.outputs, results, strict=True):
            # Where an argument lies was told.
            where.setdefault(tensor.name, place)
    return [where[tensor.name] for tensor in graph.outputs]


def _type(operation: tf.Operation) -> str:
    """Of what an operation makes, or of what it takes where it makes nothing."""
    tensors = [*operation.outputs, *operation.inputs]
    return tensors[0].dtype.name if tensors else "nothing"


def _called(operation: tf.Operation, where: dict[str, str], found: Placement) -> list[str]:
    inputs = operation.inputs[1:] if operation.type in _BRANCHES else operation.inputs
    if operation.type in _BRANCHES and where[operation.inputs[0].name] == DEVICE:
        found.waiting["a condition"] += 1
    places = [where[tensor.name] for tensor in inputs]
    results: list[str] = []
    for function in called_graphs(operation):
        results = _walk(function, dict(zip((tensor.name for tensor in function.inputs), places, strict=True)), found)
    return results


def kernel_of(operation: tf.Operation) -> list[str] | None:
    """The arguments that an operation's kernel for a GPU wants in host memory; None where there is no kernel for its types."""
    for types, host in _kernels().get(operation.type, []):
        if all(_is_of(operation, attribute, kinds) for attribute, kinds in types.items()):
            return list(host)
    return None


def _is_of(operation: tf.Operation, attribute: str, kinds: Sequence[str]) -> bool:
    try:
        value = operation.get_attr(attribute)
    except ValueError:
        return False
    return all(isinstance(kind, tf.DType) and kind.name in kinds for kind in (value if isinstance(value, list) else [value]))


def _wanted_on_host(operation: tf.Operation) -> list[bool]:
    """Of each input and then of each output, whether the kernel wants it in host memory; all of an operation that has none."""
    host = kernel_of(operation)
    definition = operation.op_def
    wanted = []
    for argument in (*definition.input_arg, *definition.output_arg):
        if argument.number_attr:
            count = operation.get_attr(argument.number_attr)
        else:
            count = len(operation.get_attr(argument.type_list_attr)) if argument.type_list_attr else 1
        wanted += [host is None or argument.name in host] * count
    return wanted


@functools.cache
def _kernels() -> dict[str, list[Any]]:
    content = json.loads(FILE.read_text())
    if content["tensorflow"] != tf.__version__:
        raise RuntimeError(f"{FILE} is of TensorFlow {content['tensorflow']}, not {tf.__version__}: write it again, as its program says")
    kernels: dict[str, list[Any]] = content["kernels"]
    return kernels


def told(found: Placement) -> str:
    """The findings for people."""
    lines = [f"without a kernel: {dict(found.without_kernel) or 'none'}", f"the host waits: {dict(found.waiting) or 'never'}"]
    lines.append(f"copied to the host: {len(found.copied)} tensors")
    lines += [f"  {producer} -> {what} -> {reader}" for producer, what, reader in found.copied]
    return "\n".join(lines)


def main() -> None:
    # What lies below imports Keras, which has to be Model Garden's.
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    from tasks.planning.batch_shapes import batch_shapes
    from tasks.planning.step_count import TrainingStep
    from tasks.training.experiment import load_experiment
    from tasks.training.overrides import Overrides, override

    parser = argparse.ArgumentParser(description="List what a GPU would hand back to the processor.")
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL_DIR", help="folders that `maskline convert` wrote")
    for folder in parser.parse_args().models:
        experiment = load_experiment(ModelDir(folder).experiment)
        override(experiment, Overrides())
        training = TrainingStep(experiment)
        shape = batch_shapes(experiment.task.train_data, experiment.task.model.image_resizer, 2).usual
        print(f"{folder.name}, training: {told(placement(training.graph(shape)))}")
        images, shapes = tf.TensorSpec([2, shape.height, shape.width, 3]), tf.TensorSpec([2, 2], tf.int32)
        model = tf.function(lambda images, shapes, network=training.model: network(images, shapes))
        print(f"{folder.name}, inference: {told(placement(model.get_concrete_function(images, shapes).graph))}")


if __name__ == "__main__":
    main()
