"""A network's serving function as an ONNX model."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
import tensorflow as tf

from tasks.serving.onnx_conversion.functions import CONTROL_FLOW, Conversion, Variable, as_value, onnx_type
from tasks.serving.onnx_conversion.graph import Constant, GraphWriter
from tasks.serving.onnx_conversion.image_operations import IMAGE_OPERATIONS
from tasks.serving.onnx_conversion.operations import OPERATIONS


class ConvertedFunction:
    """A traced function of one batch of images, which answers with tensors by name, as ONNX; weights are those of its variables now.

    UnsupportedOperationError where the trace holds what has no translation.
    """

    def __init__(self, function: tf.types.experimental.ConcreteFunction) -> None:
        graph = function.graph
        answered = graph.structured_outputs
        self._writer = GraphWriter(reserved=answered)
        conversion = Conversion(self._writer, graph.as_graph_def().library, {**CONTROL_FLOW, **OPERATIONS, **IMAGE_OPERATIONS})
        variables = {id(variable.handle): variable for variable in graph.variables}
        captured = [
            Variable(variables[id(outside)]) if id(outside) in variables else Constant(outside.numpy()) for outside, _ in graph.captures
        ]
        images = graph.inputs[0]
        sizes = zip(images.shape.as_list(), ("batch", "height", "width", "channels"), strict=True)
        self._given = self._writer.input(images.op.name, [size or symbol for size, symbol in sizes], onnx_type(images.dtype))
        values = conversion.write(graph, [self._given, *captured])
        by_tensor = {tensor.ref(): as_value(value) for tensor, value in zip(graph.outputs, values, strict=True)}
        self._outputs = {key: by_tensor[tensor.ref()] for key, tensor in answered.items()}
        self._shapes = {key: tuple(tensor.shape.as_list()) for key, tensor in answered.items()}

    @property
    def outputs(self) -> list[str]:
        return list(self._outputs)

    def model(self, outputs: Iterable[str]) -> onnx.ModelProto:
        """The model with these outputs, and what they need; input and outputs keep their names."""
        wanted = {key: self._outputs[key] for key in outputs}
        return self._writer.model([self._given], wanted, self._shapes, "mask_rcnn")
