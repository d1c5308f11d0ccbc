"""What a traced graph computes and holds, counted from the shapes of its tensors: nothing runs."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Sequence

import tensorflow as tf

_CALLS = {
    "While": ("body",),
    "StatelessWhile": ("body",),
    "If": ("then_branch", "else_branch"),
    "StatelessIf": ("then_branch", "else_branch"),
    "PartitionedCall": ("f",),
    "StatefulPartitionedCall": ("f",),
}
"""Operations that run other graphs, and the attributes that name these; of two branches the larger counts."""
_LOOPS = ("While", "StatelessWhile")

# The output is the input's memory, by another name or another shape.
_ALIASES = frozenset(
    ("Identity", "Reshape", "Squeeze", "ExpandDims", "StopGradient", "PreventGradient", "CheckNumerics", "EnsureShape", "Snapshot")
)
# TensorFlow's kernels of these write over an input that nobody else will read.
_WRITTEN_IN_PLACE = frozenset(
    (
        *("Abs", "Add", "AddN", "AddV2", "BiasAdd", "Elu", "Exp", "FusedBatchNormV3", "LeakyRelu", "Log", "Maximum", "Minimum", "Mul"),
        *("Neg", "RealDiv", "Relu", "Relu6", "Relu6Grad", "ReluGrad", "Rsqrt", "Sigmoid", "Softmax", "Sqrt", "Square", "Sub", "Tanh"),
    )
)
# They hold nothing of their own: a variable's memory, or what lies in the program.
_FREE = frozenset(("Const", "ReadVariableOp", "NoOp", "VarIsInitializedOp"))
# Lengths and positions, which are computed beside the accelerator; larger whole numbers are data.
_MOST_HOST_NUMBERS = 64

_CONVOLUTIONS = ("Conv2D", "DepthwiseConv2dNative")


@dataclasses.dataclass(frozen=True)
class Assumed:
    """What a graph's shapes leave open."""

    iterations: int
    """Of every loop: `map_fn` over the batch"""
    length: int
    """Of a dimension that is unknown"""
    second_length: int
    """Of each further unknown dimension of the same tensor"""


@dataclasses.dataclass(frozen=True)
class OperationCount:
    """Of one run of a graph."""

    multiply_adds: int
    """Of convolutions and matrix products; an operation of published peaks is half of one"""
    by_kind: Counter[str]
    """The multiply-adds by operation, such as `Conv2DBackpropInput`"""
    work: tuple[tuple[int, int], ...]
    """(multiply-adds, bytes read and written) of every kernel that an accelerator would start, in order"""
    most_bytes: int
    """The most that live at once of the tensors that the run makes; variables, and kernels' own scratch, are not among them"""

    @property
    def bytes_moved(self) -> int:
        return sum(moved for _, moved in self.work)

    @property
    def kernels(self) -> int:
        return len(self.work)


def count_operations(graph: tf.Graph, assumed: Assumed) -> OperationCount:
    """The count of a graph and of the functions that it calls.

    Memory is that of an executor that takes the operations in the order of their making, forward before backward, and frees a tensor
    behind its last reader. ValueError for a product that no rule here can count.
    """
    return _Counter(assumed).of(graph)


class _Counter:
    def __init__(self, assumed: Assumed) -> None:
        self._assumed = assumed

    def of(self, graph: tf.Graph, *, inside: bool = False) -> OperationCount:
        by_kind: Counter[str] = Counter()
        work: list[tuple[int, int]] = []
        called: dict[tf.Operation, OperationCount] = {}
        operations = executed(graph)
        for operation in operations:
            if operation.type in _CALLS:
                called[operation] = inner = self._called(operation)
                times = self._assumed.iterations if operation.type in _LOOPS else 1
                by_kind.update({kind: number * times for kind, number in inner.by_kind.items()})
                work += inner.work * times
            elif (moved := self._moved(operation)) > 0:
                products = self._multiply_adds(operation)
                by_kind[operation.type] += products
                work.append((products, moved))
        # Of a function the caller holds the arguments.
        free = _FREE | {"Placeholder"} if inside else _FREE
        most = self._most_bytes(graph, operations, {operation: inner.most_bytes for operation, inner in called.items()}, free)
        return OperationCount(by_kind.total(), +by_kind, tuple(work), most)

    def _called(self, operation: tf.Operation) -> OperationCount:
        counts = [self.of(function, inside=True) for function in called_graphs(operation)]
        return max(counts, key=lambda count: (count.multiply_adds, count.bytes_moved))

    def _multiply_adds(self, operation: tf.Operation) -> int:
        kind, shapes = operation.type, [self._dimensions(tensor) for tensor in operation.inputs]
        made = self._dimensions(operation.outputs[0])
        if kind.startswith(_CONVOLUTIONS):
            height, width, channels, _ = made if kind.endswith("BackpropFilter") else shapes[1]
            # Forward every output cell, backward every cell of its gradient is one product over the window.
            cells = shapes[2] if "Backprop" in kind else made
            return math.prod(cells) * height * width * (1 if kind.startswith("Depthwise") else channels)
        if kind == "MatMul":
            return math.prod(made) * shapes[0][0 if operation.get_attr("transpose_a") else 1]
        if kind in ("BatchMatMulV2", "BatchMatMul", "BatchMatMulV3"):
            return math.prod(made) * shapes[0][-2 if operation.get_attr("adj_x") else -1]
        if kind == "Einsum":
            return _einsum_products(operation.get_attr("equation").decode(), shapes)
        if "Conv" in kind or "MatMul" in kind:
            raise ValueError(f"{operation.name}: nobody has written how to count a {kind}")
        return 0

    def _moved(self, operation: tf.Operation) -> int:
        """Bytes that a kernel reads and writes; 0 where none is started."""
        if operation.type in _FREE or operation.type in _ALIASES or operation.type == "Placeholder":
            return 0
        if all(self._on_host(tensor) for tensor in operation.outputs):
            return 0
        return sum(self._bytes(tensor) for tensor in (*operation.inputs, *operation.outputs))

    def _on_host(self, tensor: tf.Tensor) -> bool:
        return not self._bytes(tensor) or (
            (tensor.dtype.is_integer or tensor.dtype == tf.bool) and math.prod(self._dimensions(tensor)) <= _MOST_HOST_NUMBERS
        )

    def _most_bytes(
        self, graph: tf.Graph, operations: Sequence[tf.Operation], inside: dict[tf.Operation, int], free: frozenset[str]
    ) -> int:
        memory_of: dict[str, str] = {}
        readers: Counter[str] = Counter()
        for operation in operations:
            alias = operation.type in _ALIASES
            for tensor in operation.outputs:
                memory_of[tensor.name] = memory_of[operation.inputs[0].name] if alias else tensor.name
            if not alias:
                readers.update(memory_of[tensor.name] for tensor in operation.inputs)
        # What the graph answers with outlives it.
        readers.update(memory_of[tensor.name] for tensor in graph.outputs)
        size: dict[str, int] = {}
        live = most = 0
        for operation in operations:
            if operation.type in _ALIASES:
                continue
            read = [memory_of[tensor.name] for tensor in operation.inputs]
            written_over: str | None = None
            for tensor in operation.outputs:
                needed = 0 if operation.type in free else self._bytes(tensor)
                if operation.type in _WRITTEN_IN_PLACE and written_over is None:
                    written_over = next((one for one in read if readers[one] == 1 and size[one] == needed > 0), None)
                    if written_over is not None:
                        size[written_over], live = 0, live - needed
                size[tensor.name] = needed
                live += needed
            most = max(most, live + inside.get(operation, 0))
            for one in read:
                readers[one] -= 1
            for one in {*read, *(tensor.name for tensor in operation.outputs)}:
                if readers[one] == 0:
                    live, size[one] = live - size[one], 0
        return most

    def _bytes(self, tensor: tf.Tensor) -> int:
        if tensor.dtype in (tf.resource, tf.variant, tf.string):
            return 0
        return math.prod(self._dimensions(tensor)) * int(tensor.dtype.size)

    def _dimensions(self, tensor: tf.Tensor) -> list[int]:
        """The tensor's shape, with what is assumed for what is unknown; without a rank it is a kernel's own scratch, and empty."""
        if tensor.shape.rank is None:
            return [0]
        open_lengths = iter((self._assumed.length, *[self._assumed.second_length] * tensor.shape.rank))
        return [next(open_lengths) if length is None else length for length in tensor.shape.as_list()]


def called_graphs(operation: tf.Operation) -> list[tf.Graph]:
    """The graphs that an operation runs: a loop's body, both branches of a condition, a function."""
    names = [operation.get_attr(attribute).name for attribute in _CALLS[operation.type]]
    return [operation.graph._get_function(name).graph for name in names]


def all_operations(graph: tf.Graph) -> Iterator[tf.Operation]:
    """The operations that a run of a graph executes, and those of the graphs that it calls."""
    for operation in executed(graph):
        yield operation
        if operation.type in _CALLS:
            for function in called_graphs(operation):
                yield from all_operations(function)


def executed(graph: tf.Graph) -> list[tf.Operation]:
    """The operations that the answer or a change of state depends on, in the order of their making; a gradient that nobody asked for is
    made too, and dropped before a graph runs."""
    waiting = [*(tensor.op for tensor in graph.outputs), *graph.control_outputs]
    needed: set[tf.Operation] = set()
    while waiting:
        operation = waiting.pop()
        if operation not in needed:
            needed.add(operation)
            waiting += [*(tensor.op for tensor in operation.inputs), *operation.control_inputs]
    # What was given is there, read or not.
    return [operation for operation in graph.get_operations() if operation in needed or operation.type == "Placeholder"]


def _einsum_products(equation: str, shapes: Sequence[Sequence[int]]) -> int:
    inputs = equation.replace(" ", "").partition("->")[0].split(",")
    lengths: dict[str, int] = {}
    for labels, shape in zip(inputs, shapes, strict=True):
        lengths |= dict(zip(labels, shape, strict=True))
    return math.prod(lengths.values())
