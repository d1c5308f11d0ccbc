"""Weights that the original's exporter froze into a graph: constants under their variables' names.

A graph is read and never run. It is looked through where it lies, and of its tensors only those are read that somebody asks for.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2

from tasks.checkpoints.files import SAVED_MODEL
from tasks.checkpoints.original_names import LEAVES
from tasks.running.errors import UserError
from tasks.running.wire_format import WireError, fields, messages

MOST_FIELDS = 2_000_000
"""Of all messages that are looked into: several times those of the largest of the zoo's graphs"""
MOST_VALUES = 2**28
"""Of one constant: ten times those of the largest weight"""

# Numbers of fields in `SavedModel`, `MetaGraphDef`, `GraphDef`, `NodeDef`, an entry of its attributes, `AttrValue` and `TensorProto`.
_META_GRAPHS, _GRAPH, _NODES = 2, 2, 1
_NAME, _OPERATION, _ATTRIBUTES = 1, 2, 5
_KEY, _VALUE = 1, 2
_TENSOR, _SHAPE = 8, 2
_LONGEST_NAME = 2**12

_CONSTANT = b"Const"
_LEAVES = tuple(f"/{leaf}".encode() for leaf in LEAVES.values())


class GraphWeights:
    """The weights of a `frozen_inference_graph.pb`, or of a `saved_model.pb` without variables; `shapes` by the original's name."""

    def __init__(self, file: Path) -> None:
        """UserError for a file that is no graph, or holds no weight."""
        self._file = file
        self._looked_at = 0
        try:
            self._tensors = dict(self._constants())
            self.shapes: Mapping[str, tuple[int, ...]] = {name: _shape(tensor) for name, tensor in self._tensors.items()}
        except (OSError, UnicodeDecodeError, WireError, DecodeError, ValueError) as error:
            raise UserError(f"{file} cannot be read as a graph of TensorFlow: {error}", "copy or download it again") from error
        if not self.shapes:
            raise UserError(
                f"{file} holds no weights under the original's names",
                "name the frozen_inference_graph.pb or the SavedModel that its exporter wrote; one that was converted or optimized since "
                "has others",
            )

    def read(self, name: str) -> npt.NDArray[Any]:
        """A weight, float32; UserError where its values are damaged."""
        try:
            value = tf.make_ndarray(tensor_pb2.TensorProto.FromString(self._tensors[name].tobytes()))
        except (DecodeError, ValueError, TypeError) as error:
            raise UserError(f"{self._file}: the values of {name} are damaged: {error}", "copy or download it again") from error
        if value.dtype.kind != "f" or value.shape != self.shapes[name]:
            raise UserError(f"{self._file}: {name} holds {value.dtype} of the shape {value.shape}", "name the graph before it was changed")
        return value.astype(np.float32)

    def _constants(self) -> Iterator[tuple[str, memoryview]]:
        with self._file.open("rb") as stream:
            # Without an end of its own: it lasts as long as somebody holds a part of it.
            content = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        graphs = [content]
        if self._file.name == SAVED_MODEL:
            graphs = [graph for meta_graph in self._messages(content, _META_GRAPHS) for graph in self._messages(meta_graph, _GRAPH)]
        for node in (node for graph in graphs for node in self._messages(graph, _NODES)):
            name, operation, attributes = b"", b"", []
            for number, value in self._fields(node):
                if number == _NAME:
                    name = bytes(value[:_LONGEST_NAME])
                elif number == _OPERATION:
                    operation = bytes(value[: len(_CONSTANT) + 1])
                elif number == _ATTRIBUTES:
                    attributes.append(value)
            if operation == _CONSTANT and name.endswith(_LEAVES) and (tensor := self._tensor(attributes)) is not None:
                yield name.decode(), tensor

    def _tensor(self, attributes: list[memoryview]) -> memoryview | None:
        """The constant's own tensor: its attribute `value`."""
        for entry in attributes:
            key, value = b"", memoryview(b"")
            for number, content in self._fields(entry):
                if number == _KEY:
                    key = bytes(content[:_LONGEST_NAME])
                elif number == _VALUE:
                    value = content
            if key == b"value":
                return next(self._messages(value, _TENSOR), None)
        return None

    def _messages(self, message: memoryview, number: int) -> Iterator[memoryview]:
        return (value for found, value in self._fields(message) if found == number)

    def _fields(self, message: memoryview) -> Iterator[tuple[int, memoryview]]:
        for field in fields(message):
            self._looked_at += 1
            if self._looked_at > MOST_FIELDS:
                raise WireError(f"it has more than {MOST_FIELDS} fields")
            yield field


def _shape(tensor: memoryview) -> tuple[int, ...]:
    """Of a tensor, of which nothing else is read; WireError where it is none that can be held."""
    shape = tensor_shape_pb2.TensorShapeProto.FromString(b"".join(messages(tensor, _SHAPE)))
    sizes = tuple(dimension.size for dimension in shape.dim)
    if shape.unknown_rank or min(sizes, default=0) < 0 or np.prod(sizes, dtype=object) > MOST_VALUES:
        raise WireError(f"a constant has the shape {list(sizes)[:8]}")
    return sizes
