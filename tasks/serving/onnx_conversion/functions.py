"""A traced TensorFlow function written as ONNX, node by node, with its loops and branches."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from onnx import TensorProto
from tensorflow.python.framework.function_def_to_graph import function_def_to_graph

from tasks.serving.onnx_conversion.graph import Constant, GraphWriter, Tensor, Value

_ONNX_TYPES = {
    tf.float32: TensorProto.FLOAT,
    tf.int32: TensorProto.INT64,
    tf.int64: TensorProto.INT64,
    tf.bool: TensorProto.BOOL,
    tf.uint8: TensorProto.UINT8,
}


@dataclass(frozen=True, eq=False)
class Variable:
    """A variable that is passed on until it is read."""

    variable: tf.Variable


@dataclass(frozen=True, eq=False)
class Elements:
    """A list of TensorFlow's whose elements are the rows of a tensor."""

    rows: Value


@dataclass(frozen=True, eq=False)
class Items:
    """A list of TensorFlow's, as far as it is filled; `None` where nothing was put yet, or all is None where their number is unknown."""

    items: tuple[Value | None, ...] | None


@dataclass(frozen=True, eq=False)
class Put:
    """What a body puts into a list, one element each time it runs."""

    item: Value


@dataclass(frozen=True, eq=False)
class Spread:
    """An image that TensorFlow has spread over the batch, for a convolution with holes: what it was, and how it was to be done."""

    image: Value
    rates: tuple[int, ...]
    """Of rows and columns."""
    pads_before: tuple[int, ...]
    """Above and to the left."""


Anything = Value | Variable | Elements | Items | Put | Spread


class UnsupportedOperationError(Exception):
    """A node that has no translation; the message names it."""


class Conversion:
    """Functions of one trace, and the graph that they are written to."""

    def __init__(self, writer: GraphWriter, library: Any, handlers: dict[str, Handler]) -> None:
        self.writer = writer
        self._library = {function.signature.name: function for function in library.function}
        self._handlers = handlers
        self._frames: list[dict[Any, Anything]] = []

    def value(self, tensor: tf.Tensor) -> Anything:
        """What a tensor of the function that is being written has become."""
        return self._frames[-1][tensor.ref()]

    def call(self, name: str, inputs: Sequence[Anything]) -> list[Anything]:
        """The outputs of a function of the library, written in place."""
        return self.write(self.graph_of(name), inputs)

    def graph_of(self, name: str) -> Any:
        """A function of the library as a graph of TensorFlow's."""
        return function_def_to_graph(self._library[name])

    def write(self, graph: Any, inputs: Sequence[Anything]) -> list[Anything]:
        """The outputs of a function's graph. Only what they need is written."""
        frame = {placeholder.ref(): value for placeholder, value in zip(graph.inputs, inputs, strict=True)}
        self._frames.append(frame)
        prefix = self.writer.prefix
        try:
            for op in _in_order(graph.outputs, frame):
                self.writer.prefix = op.name
                try:
                    values = self._outputs(op, [frame[tensor.ref()] for tensor in op.inputs])
                except UnsupportedOperationError:
                    raise
                except Exception as error:
                    raise UnsupportedOperationError(f"{op.name} ({op.type}) has no translation: {error}") from error
                for tensor, value in zip(op.outputs, values, strict=False):
                    # A convolution of what is spread has another shape in TensorFlow.
                    if isinstance(value, Tensor) and tensor.shape.rank is not None and op.type != "Conv2D":
                        value = self.writer.with_shape(value, tuple(tensor.shape.as_list()))
                    frame[tensor.ref()] = value
        finally:
            self._frames.pop()
            self.writer.prefix = prefix
        return [frame[tensor.ref()] for tensor in graph.outputs]

    def _outputs(self, op: tf.Operation, inputs: list[Anything]) -> Sequence[Anything]:
        if op.type == "Const":
            return [Constant(tf.make_ndarray(op.get_attr("value")), op.name)]
        if inputs and op.type not in _NEVER_FOLDED and all(isinstance(value, Constant) for value in inputs):
            return _folded(op, [value.array for value in inputs if isinstance(value, Constant)])
        if op.type not in self._handlers:
            raise UnsupportedOperationError(f"{op.name}: {op.type} has no translation to ONNX")
        result = self._handlers[op.type](self, op, *inputs)
        return result if isinstance(result, list) else [result]


Handler = Callable[..., Any]
"""(conversion, operation, *values of its inputs) -> what its output, or outputs in a list, become"""


def onnx_type(dtype: tf.DType) -> int:
    """Of `onnx.TensorProto`; UnsupportedOperationError for what the networks do not use."""
    if dtype not in _ONNX_TYPES:
        raise UnsupportedOperationError(f"{dtype.name} is no type that is written to ONNX")
    return _ONNX_TYPES[dtype]


def call_function(conversion: Conversion, op: tf.Operation, *inputs: Anything) -> list[Anything]:
    return conversion.call(op.get_attr("f").name, inputs)


def branch(conversion: Conversion, op: tf.Operation, condition: Value, *inputs: Anything) -> list[Anything]:
    """`tf.cond`: one of the branches where it is known which, else ONNX's If, whose branches see what is around them."""
    names = [op.get_attr(key).name for key in ("then_branch", "else_branch")]
    if isinstance(condition, Constant):
        return conversion.call(names[0] if condition.array else names[1], inputs)
    writer = conversion.writer
    bodies, kinds = [], []
    for name in names:
        with writer.inner() as nodes:
            outputs = [as_value(value) for value in conversion.call(name, inputs)]
            bodies.append(writer.body(nodes, [], outputs))
            kinds.append([Tensor(_shape(value), onnx_type(tensor.dtype)) for value, tensor in zip(outputs, op.outputs, strict=True)])
    results = [Tensor(_common(one.shape, other.shape), one.elem_type) for one, other in zip(*kinds, strict=True)]
    writer.node_with_bodies("If", [condition], results, then_branch=bodies[0], else_branch=bodies[1])
    return list(results)


def loop(conversion: Conversion, op: tf.Operation, *inputs: Anything) -> list[Anything]:
    """`tf.while_loop`: written once for every time that it is known to run, else ONNX's Loop, whose body sees what is around it."""
    condition, body = op.get_attr("cond").name, op.get_attr("body").name
    values = list(inputs)
    while isinstance(goes_on := conversion.call(condition, values)[0], Constant):
        if not goes_on.array:
            return values
        values = conversion.call(body, values)
    return _loop(conversion, as_value(goes_on), condition, body, values)


def _loop(conversion: Conversion, goes_on: Value, condition: str, body: str, values: list[Anything]) -> list[Anything]:
    writer = conversion.writer
    # Lists that are read, and what no round changes, are seen from outside; lists that are filled come out as ONNX stacks them.
    unchanged = _unchanged(conversion, body, len(values))
    carried = [index for index, value in enumerate(values) if isinstance(value, Constant | Tensor) and index not in unchanged]
    filled = [index for index, value in enumerate(values) if isinstance(value, Items)]
    with writer.inner() as nodes:
        number = writer.input("round", (), TensorProto.INT64)
        again = writer.input("goes_on", (), TensorProto.BOOL)
        state = [writer.input("state", _shape(as_value(values[index])), _kind(values[index])) for index in carried]
        given = list(values)
        for index, value in zip(carried, state, strict=True):
            given[index] = value
        after = conversion.call(body, given)
        rows = [after[index] for index in filled]
        if not all(isinstance(row, Put) for row in rows):
            raise UnsupportedOperationError("a loop that does not fill its lists one element at a time has no translation")
        results = [as_value(after[index]) for index in carried]
        rows_put = [row.item for row in rows if isinstance(row, Put)]
        still = as_value(conversion.call(condition, after)[0])
        graph = writer.body(nodes, [number, again, *state], [still, *results, *rows_put])
    ends = [Tensor(_shape(value), value.elem_type) for value in state]
    stacks = [Tensor(None if (shape := _shape(row)) is None else (None, *shape), _kind(row)) for row in rows_put]
    writer.node_with_bodies("Loop", [None, goes_on, *(as_value(values[index]) for index in carried)], [*ends, *stacks], body=graph)
    outputs = list(values)
    for index, value in zip(carried, ends, strict=True):
        outputs[index] = value
    for index, value in zip(filled, stacks, strict=True):
        outputs[index] = Elements(value)
    return outputs


def list_reserve(conversion: Conversion, op: tf.Operation, shape: Value, count: Value) -> Items:
    return Items((None,) * int(count.array) if isinstance(count, Constant) else None)


def list_from_tensor(conversion: Conversion, op: tf.Operation, rows: Value, shape: Value) -> Elements:
    return Elements(rows)


def list_get_item(conversion: Conversion, op: tf.Operation, elements: Anything, index: Value, shape: Value) -> Value:
    if not isinstance(elements, Elements):
        raise UnsupportedOperationError(f"{op.name} reads a list that is not made of a tensor")
    return conversion.writer.add("Gather", elements.rows, index, axis=0)


def list_set_item(conversion: Conversion, op: tf.Operation, items: Anything, index: Value, item: Value) -> Anything:
    if isinstance(items, Items) and items.items is not None and isinstance(index, Constant):
        place = int(index.array)
        return Items((*items.items[:place], item, *items.items[place + 1 :]))
    return Put(item)


def list_stack(conversion: Conversion, op: tf.Operation, elements: Anything, shape: Value) -> Value:
    if isinstance(elements, Elements):
        return elements.rows
    if not isinstance(elements, Items) or not elements.items or None in elements.items:
        raise UnsupportedOperationError(f"{op.name} stacks a list that is not full")
    writer = conversion.writer
    return writer.add("Concat", *(writer.add("Unsqueeze", item, np.array([0])) for item in elements.items), axis=0)


def read_variable(conversion: Conversion, op: tf.Operation, resource: Anything) -> Constant:
    if not isinstance(resource, Variable):
        raise UnsupportedOperationError(f"{op.name} reads a resource that is no variable of the network")
    return Constant(resource.variable.numpy(), resource.variable.name.removesuffix(":0"))


def gather_of_variable(conversion: Conversion, op: tf.Operation, resource: Anything, indices: Value) -> Tensor:
    if op.get_attr("batch_dims"):
        raise UnsupportedOperationError(f"{op.name}: a gather of a variable with shared dimensions has no translation")
    return conversion.writer.add("Gather", read_variable(conversion, op, resource), indices, axis=0)


CONTROL_FLOW: dict[str, Handler] = {
    **dict.fromkeys(("PartitionedCall", "StatefulPartitionedCall"), call_function),
    **dict.fromkeys(("If", "StatelessIf"), branch),
    **dict.fromkeys(("While", "StatelessWhile"), loop),
    "ReadVariableOp": read_variable,
    "ResourceGather": gather_of_variable,
    "TensorListReserve": list_reserve,
    "TensorListFromTensor": list_from_tensor,
    "TensorListGetItem": list_get_item,
    "TensorListSetItem": list_set_item,
    "TensorListStack": list_stack,
}

_NEVER_FOLDED = {*CONTROL_FLOW, "CropAndResize", "CombinedNonMaxSuppression"}


def _in_order(outputs: Sequence[tf.Tensor], known: dict[Any, Anything]) -> list[tf.Operation]:
    """The operations on which outputs depend, each after those that it reads from."""
    order: list[tf.Operation] = []
    seen: set[tf.Operation] = set()
    waiting = [(tensor.op, False) for tensor in reversed(outputs) if tensor.ref() not in known]
    while waiting:
        op, is_ready = waiting.pop()
        if is_ready:
            order.append(op)
        elif op not in seen:
            seen.add(op)
            waiting.append((op, True))
            waiting += [(tensor.op, False) for tensor in op.inputs if tensor.ref() not in known]
    return order


def _folded(op: tf.Operation, arrays: list[np.ndarray]) -> list[Anything]:
    """What TensorFlow itself makes of an operation on values that are known."""
    function = getattr(tf.raw_ops, op.type)
    names = set(inspect.signature(function).parameters) - {"name"}
    remaining = list(arrays)
    given: dict[str, Any] = {}
    for argument in op.op_def.input_arg:
        # What operations call `dim` or `reduction_indices` has that name in Python.
        key = argument.name if argument.name in names else "axis"
        if argument.number_attr:
            count = op.get_attr(argument.number_attr)
            given[key], remaining = remaining[:count], remaining[count:]
        else:
            given[key] = remaining.pop(0)
    outputs = function(**given, **{name: op.get_attr(name) for name in names - set(given)})
    return [Constant(value.numpy(), op.name) for value in (outputs if isinstance(outputs, list | tuple) else [outputs])]


def _unchanged(conversion: Conversion, body: str, count: int) -> set[int]:
    """Which of a body's values it hands on as they are."""
    graph = conversion.graph_of(body)
    found = set()
    for index in range(count):
        tensor = graph.outputs[index]
        while tensor.op.type == "Identity":
            tensor = tensor.op.inputs[0]
        if tensor is graph.inputs[index]:
            found.add(index)
    return found


def as_value(value: Anything) -> Value:
    """The value, which has to be one that a node can read."""
    if not isinstance(value, Constant | Tensor):
        raise UnsupportedOperationError(f"a {type(value).__name__} where a tensor is needed")
    return value


def _shape(value: Value) -> tuple[int | None, ...] | None:
    return value.shape


def _kind(value: Anything) -> int:
    value = as_value(value)
    return value.elem_type if isinstance(value, Tensor) else onnx_type(tf.as_dtype(value.array.dtype))


def _common(one: tuple[int | None, ...] | None, other: tuple[int | None, ...] | None) -> tuple[int | None, ...] | None:
    if one is None or other is None or len(one) != len(other):
        return None
    return tuple(a if a == b else None for a, b in zip(one, other, strict=True))
