"""An ONNX graph as it is written: nodes in order, weights once each, images in whichever of the two layouts costs nothing."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
"""The version of ONNX's operations that files need: of 2022, so that runtimes of today have it."""
IR_VERSION = 8

Array = npt.NDArray[Any]
Shape = tuple[int | None, ...] | None

_TO_CHANNELS_FIRST, _TO_CHANNELS_LAST = [0, 3, 1, 2], [0, 2, 3, 1]
_KNOWN_IN_SHAPES = 1000  # numbers of a constant that shapes can depend on


@dataclass(frozen=True)
class Constant:
    """A value that is known while the graph is written. It goes into the file where a node reads it."""

    array: Array
    name: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape


@dataclass(frozen=True, eq=False)
class Tensor:
    """A value that is known when the graph runs; `shape` as far as it is known, in TensorFlow's layout."""

    shape: Shape
    elem_type: int
    """Of `onnx.TensorProto`."""

    @property
    def rank(self) -> int:
        if self.shape is None:
            raise ValueError("a value of unknown rank")
        return len(self.shape)


Value = Constant | Tensor
"""What a node can read."""


@dataclass
class _Scope:
    """The nodes of the graph or of a branch or body within it, and the values that have names there."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    names: dict[tuple[Tensor, bool], str] = field(default_factory=dict)
    """(value, whether its channels are first) -> name"""


class GraphWriter:
    """Writes nodes one after the other; shapes and types follow from ONNX's own rules.

    Whole numbers are int64 throughout, as ONNX's shapes and indices are: TensorFlow's int32 would need a cast at each of them. Of a value
    [N, h, w, C] there can be a second form [N, C, h, w], which ONNX's convolutions read and write; each form is made when first asked for.
    """

    def __init__(self, reserved: Iterable[str] = ()) -> None:
        """`reserved` are the names of the outputs to come."""
        self._scopes = [_Scope()]
        self._types: dict[str, onnx.TypeProto] = {}
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._by_content: dict[tuple[Any, ...], str] = {}
        self._taken = set(reserved)
        self.prefix = ""
        """What the names of new nodes begin with."""

    def add(self, op_type: str, *inputs: Value | Array | float | None, **attributes: Any) -> Tensor:
        """The only output of a new node. Inputs that are None are left out."""
        return self.add_many(op_type, 1, *inputs, **attributes)[0]

    def add_many(self, op_type: str, outputs: int, *inputs: Value | Array | float | None, **attributes: Any) -> list[Tensor]:
        """The outputs of a new node, all in TensorFlow's layout."""
        return [self._known(name, False) for name in self._node(op_type, [self.name(each) for each in inputs], outputs, **attributes)]

    def add_channels_first(self, op_type: str, *inputs: Value | Array | float | None, **attributes: Any) -> Tensor:
        """The only output of a new node whose output, and those inputs that are tensors of four dimensions, have their channels first."""
        names = [self.channels_first(each) if isinstance(each, Tensor) and each.rank == 4 else self.name(each) for each in inputs]
        return self._known(self._node(op_type, names, 1, **attributes)[0], True)

    def add_reading_channels_first(self, op_type: str, value: Tensor, **attributes: Any) -> Tensor:
        """The only output of a new node that reads a value with its channels first, and whose output is no image any more."""
        return self._known(self._node(op_type, [self.channels_first(value)], 1, **attributes)[0], False)

    def has_channels_first(self, value: object) -> bool:
        """Whether the value has that form already."""
        return isinstance(value, Tensor) and self._find(value, True) is not None

    def has_channels_last(self, value: object) -> bool:
        return isinstance(value, Tensor) and self._find(value, False) is not None

    def name(self, value: Value | Array | float | None) -> str:
        """The name by which nodes read a value, in TensorFlow's layout; empty for None."""
        if value is None:
            return ""
        if not isinstance(value, Tensor):
            return self._initializer(value if isinstance(value, Constant) else Constant(np.asarray(value)))
        found = self._find(value, False)
        if found is None:
            (found,) = self._node("Transpose", [self.channels_first(value)], 1, perm=_TO_CHANNELS_LAST)
            self._scopes[-1].names[value, False] = found
        return found

    def channels_first(self, value: Value) -> str:
        """The name of a value [N, h, w, C] as [N, C, h, w]."""
        if isinstance(value, Constant):
            return self._initializer(Constant(value.array.transpose(_TO_CHANNELS_FIRST), value.name))
        found = self._find(value, True)
        if found is None:
            (found,) = self._node("Transpose", [self.name(value)], 1, perm=_TO_CHANNELS_FIRST)
            self._scopes[-1].names[value, True] = found
        return found

    def with_shape(self, value: Tensor, shape: Shape) -> Tensor:
        """The same value, of which more is known."""
        if shape is None or (
            value.shape is not None and all(old is not None or new is None for old, new in zip(value.shape, shape, strict=True))
        ):
            return value
        merged = shape if value.shape is None else tuple(new if old is None else old for old, new in zip(value.shape, shape, strict=True))
        better = Tensor(merged, value.elem_type)
        for first in (False, True):
            if found := self._find(value, first):
                self._name_it(better, first, found)
        return better

    def input(self, wanted: str, dimensions: Sequence[int | str | None] | None, elem_type: int) -> Tensor:
        """A value that the graph, or the body that is being written, is given; unknown dimensions are None or have a name."""
        name = self.fresh(wanted)
        self._types[name] = helper.make_tensor_type_proto(elem_type, dimensions)
        value = Tensor(None if dimensions is None else tuple(size if isinstance(size, int) else None for size in dimensions), elem_type)
        self._scopes[-1].names[value, False] = name
        return value

    def fresh(self, wanted: str) -> str:
        """A name like `wanted` that nothing has yet."""
        names = itertools.chain([wanted], (f"{wanted}_{number}" for number in itertools.count(1)))
        name = next(each for each in names if each and each not in self._taken)
        self._taken.add(name)
        return name

    @contextmanager
    def inner(self) -> Iterator[list[onnx.NodeProto]]:
        """Within the block nodes go to the list that it yields: a branch or a body, which reads what is around it by name."""
        self._scopes.append(_Scope())
        try:
            yield self._scopes[-1].nodes
        finally:
            self._scopes.pop()

    def body(self, nodes: list[onnx.NodeProto], inputs: Sequence[Tensor], outputs: Sequence[Value]) -> onnx.GraphProto:
        """The graph of an inner block, while it is open."""
        names = []
        for value in outputs:
            # An output has to be a node's own: neither a constant nor a value from outside, nor one name twice.
            (name,) = self._node("Identity", [self.name(value)], 1)
            names.append(name)
        return helper.make_graph(
            nodes,
            self.fresh("body"),
            [self._info(self.name(value)) for value in inputs],
            [self._info(name) for name in names],
        )

    def node_with_bodies(self, op_type: str, inputs: Sequence[Value | None], outputs: Sequence[Tensor], **attributes: Any) -> None:
        """Adds a node whose outputs' types are known beforehand."""
        names = [self.fresh(self.prefix or op_type) for _ in outputs]
        node = helper.make_node(op_type, [self.name(value) for value in inputs], names, name=names[0], **attributes)
        self._scopes[-1].nodes.append(node)
        for name, value in zip(names, outputs, strict=True):
            self._types[name] = helper.make_tensor_type_proto(value.elem_type, value.shape)
            self._scopes[-1].names[value, False] = name

    def model(self, inputs: Sequence[Tensor], outputs: Mapping[str, Value], dimensions: Mapping[str, Shape], name: str) -> onnx.ModelProto:
        """The whole as a model, without what no output needs. `dimensions` are those of the outputs."""
        named = [helper.make_node("Identity", [self.name(value)], [wanted], name=wanted) for wanted, value in outputs.items()]
        infos = [
            helper.make_tensor_value_info(wanted, _elem_type(value), _with_batch(dimensions[wanted])) for wanted, value in outputs.items()
        ]
        nodes, used = _needed([*self._scopes[0].nodes, *named], set(outputs))
        initializers = [proto for key, proto in self._initializers.items() if key in used]
        graph = helper.make_graph(nodes, name, [self._info(self.name(value)) for value in inputs], infos, initializers)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)

    def _node(self, op_type: str, inputs: list[str], outputs: int, **attributes: Any) -> list[str]:
        names = [self.fresh(f"{self.prefix}/{op_type}" if self.prefix else op_type) for _ in range(outputs)]
        node = helper.make_node(op_type, inputs, names, name=names[0], **attributes)
        types = {name: self._types[name] for name in inputs if name}
        data = {name: self._initializers[name] for name in inputs if name in self._initializers and _is_small(self._initializers[name])}
        schema = onnx.defs.get_schema(op_type, OPSET)
        found = onnx.shape_inference.infer_node_outputs(
            schema, node, types, data, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
        )
        self._types.update({name: found[name] for name in names})
        self._scopes[-1].nodes.append(node)
        return names

    def _known(self, name: str, first: bool) -> Tensor:
        tensor_type = self._types[name].tensor_type
        shape: Shape = None
        if tensor_type.HasField("shape"):
            shape = tuple(size.dim_value if size.HasField("dim_value") else None for size in tensor_type.shape.dim)
            if first:
                shape = tuple(shape[axis] for axis in _TO_CHANNELS_LAST)
        value = Tensor(shape, tensor_type.elem_type)
        self._name_it(value, first, name)
        return value

    def _name_it(self, value: Tensor, first: bool, name: str) -> None:
        self._scopes[-1].names[value, first] = name

    def _find(self, value: Tensor, first: bool) -> str | None:
        return next((scope.names[value, first] for scope in reversed(self._scopes) if (value, first) in scope.names), None)

    def _initializer(self, constant: Constant) -> str:
        array = np.ascontiguousarray(constant.array) if constant.array.ndim else constant.array
        if array.dtype == np.int32:
            array = array.astype(np.int64)
        elif array.dtype == np.float64:
            array = array.astype(np.float32)
        key = (array.dtype.str, array.shape, hashlib.sha256(array.tobytes()).digest())
        if key not in self._by_content:
            name = self.fresh(constant.name or f"{self.prefix}/constant")
            self._by_content[key] = name
            self._initializers[name] = numpy_helper.from_array(array, name)
            self._types[name] = helper.make_tensor_type_proto(self._initializers[name].data_type, array.shape)
        return self._by_content[key]

    def _info(self, name: str) -> onnx.ValueInfoProto:
        return helper.make_value_info(name, self._types[name])


def _elem_type(value: Value) -> int:
    return value.elem_type if isinstance(value, Tensor) else helper.np_dtype_to_tensor_dtype(value.array.dtype)


def _with_batch(shape: Shape) -> list[int | str | None] | None:
    return None if shape is None else [size if size or place else "batch" for place, size in enumerate(shape)]


def _is_small(proto: TensorProto) -> bool:
    return bool(np.prod(proto.dims, dtype=np.int64) <= _KNOWN_IN_SHAPES)


def _needed(nodes: list[onnx.NodeProto], wanted: set[str]) -> tuple[list[onnx.NodeProto], set[str]]:
    """The nodes on which `wanted` depend, in order, and the names that these read."""
    used = set(wanted)
    kept = []
    for node in reversed(nodes):
        if used.isdisjoint(node.output):
            continue
        kept.append(node)
        used.update(_read_by(node))
    return kept[::-1], used


def _read_by(node: onnx.NodeProto) -> Iterator[str]:
    yield from node.input
    for attribute in node.attribute:
        for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
            for each in inner.node:
                yield from _read_by(each)
