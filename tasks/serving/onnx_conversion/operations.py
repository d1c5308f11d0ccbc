"""TensorFlow's operations as ONNX writes them: arithmetic, shapes, convolutions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf
from onnx import helper

from tasks.serving.onnx_conversion.functions import Conversion, Handler, Spread, UnsupportedOperationError, Variable, onnx_type
from tasks.serving.onnx_conversion.graph import Constant, GraphWriter, Tensor, Value

_LAST_INDEX = np.iinfo(np.int64).max
_IMAGE_RANK = 4

_SAME_NAME = {
    **{name: name for name in ("Ceil", "Exp", "Floor", "Log", "Neg", "Relu", "Round", "Sigmoid", "Sqrt", "Tanh", "Abs")},
    "LogicalNot": "Not",
}
"""Of one value; they keep its layout."""

_BINARY = {
    **{name: name for name in ("Add", "Sub", "Mul", "Less", "Greater", "Equal")},
    "AddV2": "Add",
    "RealDiv": "Div",
    "Maximum": "Max",
    "Minimum": "Min",
    "LessEqual": "LessOrEqual",
    "GreaterEqual": "GreaterOrEqual",
    "LogicalAnd": "And",
    "LogicalOr": "Or",
    "FloorMod": "Mod",
}

_REDUCTIONS = {"Max": "ReduceMax", "Min": "ReduceMin", "Mean": "ReduceMean", "Prod": "ReduceProd", "Sum": "ReduceSum"}


def _same(conversion: Conversion, op: tf.Operation, *inputs: Any) -> list[Any]:
    return list(inputs)


def _unary(conversion: Conversion, op: tf.Operation, value: Tensor) -> Tensor:
    return _keeping_layout(conversion.writer, value, _SAME_NAME[op.type])


def _relu6(conversion: Conversion, op: tf.Operation, value: Tensor) -> Tensor:
    return _keeping_layout(conversion.writer, value, "Clip", 0.0, 6.0)


def _cast(conversion: Conversion, op: tf.Operation, value: Tensor) -> Tensor:
    wanted = onnx_type(op.get_attr("DstT"))
    return value if value.elem_type == wanted else _keeping_layout(conversion.writer, value, "Cast", to=wanted)


def _keeping_layout(writer: GraphWriter, value: Tensor, op_type: str, *further: float, **attributes: Any) -> Tensor:
    add = writer.add_channels_first if writer.has_channels_first(value) and not writer.has_channels_last(value) else writer.add
    return add(op_type, value, *further, **attributes)


def _binary(conversion: Conversion, op: tf.Operation, one: Value, other: Value) -> Tensor:
    return _of_two(conversion.writer, _BINARY[op.type], one, other)


def _of_two(writer: GraphWriter, op_type: str, one: Value, other: Value) -> Tensor:
    """Channels first where one has them so, and the other is an image too or a constant number for each channel."""
    if writer.has_channels_first(one) or writer.has_channels_first(other):
        first, second = _for_channels_first(one), _for_channels_first(other)
        if first is not None and second is not None:
            return writer.add_channels_first(op_type, first, second)
    return writer.add(op_type, one, other)


def _for_channels_first(value: Value) -> Value | None:
    if isinstance(value, Tensor):
        return value if value.shape is not None and value.rank == _IMAGE_RANK else None
    if value.array.ndim <= 1:
        return (
            Constant(value.array.reshape(-1, 1, 1), value.name) if value.array.size > 1 else Constant(value.array.reshape(()), value.name)
        )
    return None


def _floor_div(conversion: Conversion, op: tf.Operation, one: Value, other: Value) -> Tensor:
    writer = conversion.writer
    if op.outputs[0].dtype.is_floating:
        return writer.add("Floor", writer.add("Div", one, other))
    # Of whole numbers, ONNX rounds a quotient towards zero.
    return writer.add("Div", writer.add("Sub", one, writer.add("Mod", one, other)), other)


def _add_n(conversion: Conversion, op: tf.Operation, *values: Value) -> Tensor:
    total = values[0]
    for value in values[1:]:
        total = _of_two(conversion.writer, "Add", total, value)
    return total if isinstance(total, Tensor) else conversion.writer.add("Identity", total)


def _select(conversion: Conversion, op: tf.Operation, condition: Value, one: Value, other: Value) -> Tensor:
    return conversion.writer.add("Where", condition, one, other)


def _softmax(conversion: Conversion, op: tf.Operation, value: Tensor) -> Tensor:
    return conversion.writer.add("Softmax", value, axis=-1)


def _reduction(conversion: Conversion, op: tf.Operation, value: Tensor, axes: Constant) -> Tensor:
    writer, keep = conversion.writer, int(op.get_attr("keep_dims"))
    wanted = sorted(int(axis) % value.rank for axis in axes.array.ravel())
    if not wanted:
        return value
    if op.type == "Sum":
        return writer.add("ReduceSum", value, np.array(wanted), keepdims=keep)
    if wanted == [1, 2] and value.rank == _IMAGE_RANK and not keep and writer.has_channels_first(value):
        # Channels first [N, C, h, w] or last, without rows and columns both are [N, C].
        return writer.add_reading_channels_first(_REDUCTIONS[op.type], value, axes=[2, 3], keepdims=0)
    return writer.add(_REDUCTIONS[op.type], value, axes=wanted, keepdims=keep)


def _truth_reduction(conversion: Conversion, op: tf.Operation, value: Tensor, axes: Constant) -> Tensor:
    writer = conversion.writer
    wanted = sorted(int(axis) % value.rank for axis in axes.array.ravel())
    number = writer.add("Cast", value, to=onnx_type(tf.int32))
    reduced = writer.add("ReduceMin" if op.type == "All" else "ReduceMax", number, axes=wanted, keepdims=int(op.get_attr("keep_dims")))
    return writer.add("Cast", reduced, to=onnx_type(tf.bool))


def _arg_max(conversion: Conversion, op: tf.Operation, value: Tensor, axis: Constant) -> Tensor:
    return conversion.writer.add("ArgMax", value, axis=int(axis.array), keepdims=0)


def _top_k(conversion: Conversion, op: tf.Operation, value: Tensor, count: Value) -> list[Tensor]:
    writer = conversion.writer
    # Of equals both have the lower index first.
    return writer.add_many("TopK", 2, value, writer.add("Reshape", count, np.array([1])), axis=-1)


def _mat_mul(conversion: Conversion, op: tf.Operation, one: Value, other: Value) -> Tensor:
    keys = ("transpose_a", "transpose_b") if op.type == "MatMul" else ("adj_x", "adj_y")
    sides = [_transposed(conversion.writer, value) if op.get_attr(key) else value for value, key in zip((one, other), keys, strict=True)]
    return conversion.writer.add("MatMul", *sides)


def _transposed(writer: GraphWriter, value: Value) -> Value:
    if isinstance(value, Constant):
        return Constant(np.swapaxes(value.array, -1, -2), value.name)
    order = list(range(value.rank))
    return writer.add("Transpose", value, perm=[*order[:-2], order[-1], order[-2]])


def _einsum(conversion: Conversion, op: tf.Operation, *values: Value) -> Tensor:
    return conversion.writer.add("Einsum", *values, equation=op.get_attr("equation").decode())


# Shapes.


def _shape(conversion: Conversion, op: tf.Operation, value: Value) -> Value:
    shape = value.shape
    if shape is not None and None not in shape:
        return Constant(np.array(shape, np.int32))
    return conversion.writer.add("Shape", value)


def _size(conversion: Conversion, op: tf.Operation, value: Tensor) -> Value:
    sides = [side for side in value.shape or (None,) if side is not None]
    if value.shape is not None and len(sides) == len(value.shape):
        return Constant(np.array(math.prod(sides), np.int32))
    return conversion.writer.add("Size", value)


def _reshape(conversion: Conversion, op: tf.Operation, value: Value, shape: Value) -> Tensor:
    return conversion.writer.add("Reshape", value, shape)


def _squeeze(conversion: Conversion, op: tf.Operation, value: Tensor) -> Tensor:
    axes = op.get_attr("squeeze_dims")
    return conversion.writer.add("Squeeze", value, *([np.array(axes)] if axes else []))


def _expand_dims(conversion: Conversion, op: tf.Operation, value: Value, axis: Constant) -> Tensor:
    return conversion.writer.add("Unsqueeze", value, axis.array.reshape(1))


def _pack(conversion: Conversion, op: tf.Operation, *values: Value) -> Tensor:
    writer, axis = conversion.writer, op.get_attr("axis")
    return writer.add("Concat", *(_unsqueezed(writer, value, axis) for value in values), axis=axis)


def _unsqueezed(writer: GraphWriter, value: Value, axis: int) -> Value:
    return Constant(np.expand_dims(value.array, axis)) if isinstance(value, Constant) else writer.add("Unsqueeze", value, np.array([axis]))


def _unpack(conversion: Conversion, op: tf.Operation, value: Tensor) -> list[Tensor]:
    writer, axis, count = conversion.writer, op.get_attr("axis"), op.get_attr("num")
    return [writer.add("Gather", value, np.array(index), axis=axis) for index in range(count)]


def _concat(conversion: Conversion, op: tf.Operation, *values: Value) -> Tensor:
    writer, (*parts, axis) = conversion.writer, values
    place = int(axis.array)  # type: ignore[union-attr]
    images = all(isinstance(part, Tensor) and part.shape is not None and part.rank == _IMAGE_RANK for part in parts)
    if images and place in (-1, 3) and any(writer.has_channels_first(part) for part in parts):
        return writer.add_channels_first("Concat", *parts, axis=1)
    return writer.add("Concat", *parts, axis=place)


def _split(conversion: Conversion, op: tf.Operation, axis: Constant, value: Tensor) -> list[Tensor]:
    return conversion.writer.add_many("Split", op.get_attr("num_split"), value, axis=int(axis.array))


def _tile(conversion: Conversion, op: tf.Operation, value: Value, repeats: Value) -> Tensor:
    return conversion.writer.add("Tile", value, repeats)


def _broadcast_to(conversion: Conversion, op: tf.Operation, value: Value, shape: Value) -> Tensor:
    return conversion.writer.add("Expand", value, shape)


def _fill(conversion: Conversion, op: tf.Operation, shape: Value, value: Value) -> Tensor:
    return conversion.writer.add("Expand", value, shape)


def _zeros_like(conversion: Conversion, op: tf.Operation, value: Tensor) -> Tensor:
    zero = helper.make_tensor("value", value.elem_type, [1], [0])
    return conversion.writer.add("ConstantOfShape", conversion.writer.add("Shape", value), value=zero)


def _range(conversion: Conversion, op: tf.Operation, start: Value, limit: Value, delta: Value) -> Tensor:
    return conversion.writer.add("Range", start, limit, delta)


def _transpose(conversion: Conversion, op: tf.Operation, value: Value, order: Constant) -> Tensor:
    return conversion.writer.add("Transpose", value, perm=order.array.tolist())


def _gather(conversion: Conversion, op: tf.Operation, value: Value, indices: Value, axis: Constant) -> Tensor:
    writer, leading, place = conversion.writer, op.get_attr("batch_dims"), int(axis.array)
    if not leading:
        return writer.add("Gather", value, indices, axis=place)
    if place != leading:
        raise UnsupportedOperationError(f"{op.name}: a gather along axis {place} behind {leading} shared ones has no translation")
    return writer.add("GatherND", value, writer.add("Unsqueeze", indices, np.array([-1])), batch_dims=leading)


def _gather_nd(conversion: Conversion, op: tf.Operation, value: Value, indices: Value) -> Tensor:
    return conversion.writer.add("GatherND", value, indices)


def _where(conversion: Conversion, op: tf.Operation, condition: Value) -> Tensor:
    return conversion.writer.add("Transpose", conversion.writer.add("NonZero", condition), perm=[1, 0])


def _strided_slice(conversion: Conversion, op: tf.Operation, value: Value, begin: Value, end: Value, strides: Constant) -> Value:
    """Slice, then Squeeze of single indices and Unsqueeze of new axes."""
    writer = conversion.writer
    masks = {key: op.get_attr(f"{key}_mask") for key in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")}
    count = len(strides.array)
    shape = value.shape
    if shape is None:
        raise UnsupportedOperationError(f"{op.name} slices a value of unknown rank")
    taken = sum(not (masks["new_axis"] | masks["ellipsis"]) >> place & 1 for place in range(count))
    axis, out = 0, 0
    starts, ends, axes, steps, dropped, inserted = [], [], [], [], [], []
    for place in range(count):
        is_set = {key: mask >> place & 1 for key, mask in masks.items()}
        if is_set["ellipsis"]:
            axis += len(shape) - taken
            out += len(shape) - taken
            continue
        if is_set["new_axis"]:
            inserted.append(out)
            out += 1
            continue
        step = int(strides.array[place])
        first = _element(writer, begin, place)
        if is_set["shrink_axis"]:
            last: Value = _next(writer, first)
            dropped.append(axis)
        else:
            last = Constant(np.array(_LAST_INDEX if step > 0 else -_LAST_INDEX)) if is_set["end"] else _element(writer, end, place)
            if is_set["begin"]:
                first = Constant(np.array(0 if step > 0 else _LAST_INDEX))
            out += 1
        if not (step == 1 and is_set["begin"] and is_set["end"] and not is_set["shrink_axis"]):
            starts.append(first)
            ends.append(last)
            axes.append(axis)
            steps.append(step)
        axis += 1
    known = _known_size(conversion, op, starts, axes, steps, dropped)
    if known is not None:
        return known
    if len(axes) == len(dropped) == 1 and not inserted and steps == [1]:
        return writer.add("Gather", value, starts[0], axis=axes[0])
    if axes:
        value = writer.add("Slice", value, _vector(writer, starts), _vector(writer, ends), np.array(axes), np.array(steps))
    if dropped:
        value = writer.add("Squeeze", value, np.array(dropped))
    if inserted:
        value = writer.add("Unsqueeze", value, np.array(inserted))
    return value


def _known_size(
    conversion: Conversion, op: tf.Operation, starts: list[Value], axes: list[int], steps: list[int], dropped: list[int]
) -> Constant | None:
    """One side of a shape, where it is known though others are not."""
    shape_of = op.inputs[0].op
    if shape_of.type != "Shape" or axes != [0] or dropped != [0] or steps != [1] or not isinstance(starts[0], Constant):
        return None
    try:
        measured = conversion.value(shape_of.inputs[0])
    except KeyError:
        return None
    shape = None if isinstance(measured, Variable) else measured.shape  # type: ignore[union-attr]
    size = None if shape is None else shape[int(starts[0].array)]
    return None if size is None else Constant(np.array(size, np.int32))


def _element(writer: GraphWriter, vector: Value, place: int) -> Value:
    if isinstance(vector, Constant):
        return Constant(vector.array[place])
    return writer.add("Gather", vector, np.array(place), axis=0)


def _next(writer: GraphWriter, index: Value) -> Value:
    if isinstance(index, Constant):
        return Constant(np.array(_LAST_INDEX if index.array == -1 else int(index.array) + 1))
    return writer.add("Add", index, np.array(1))


def _vector(writer: GraphWriter, numbers: list[Value]) -> Value:
    if all(isinstance(number, Constant) for number in numbers):
        return Constant(np.array([int(number.array) for number in numbers if isinstance(number, Constant)], np.int64))
    return writer.add("Concat", *(_unsqueezed(writer, number, 0) for number in numbers), axis=0)


def _pad(conversion: Conversion, op: tf.Operation, value: Tensor, paddings: Value, filling: Value | None = None) -> Tensor:
    writer = conversion.writer
    if filling is None:
        filling = Constant(np.zeros((), op.outputs[0].dtype.as_numpy_dtype))
    if isinstance(paddings, Constant):
        amounts = paddings.array
        if writer.has_channels_first(value) and not writer.has_channels_last(value):
            ordered = amounts[[0, 3, 1, 2]].T.ravel().astype(np.int64)
            return writer.add_channels_first("Pad", value, Constant(ordered), filling)
        return writer.add("Pad", value, Constant(amounts.T.ravel().astype(np.int64)), filling)
    return writer.add("Pad", value, writer.add("Reshape", writer.add("Transpose", paddings, perm=[1, 0]), np.array([-1])), filling)


# Convolutions and what belongs to them.


def _convolution(conversion: Conversion, op: tf.Operation, image: Value | Spread, kernel: Constant) -> Tensor:
    return _convolve(conversion, op, image, kernel, None, None)


def _spread(conversion: Conversion, op: tf.Operation, image: Value, rates: Constant, paddings: Value) -> Spread:
    """TensorFlow's way to dilate a convolution: images of every second, third ... pixel are a batch, and joined again behind it."""
    return Spread(image, tuple(rates.array.tolist()), _pads_before(conversion, op, op.inputs[2]))


def _pads_before(conversion: Conversion, op: tf.Operation, paddings: tf.Tensor) -> tuple[int, ...]:
    """The first column of paddings [2, 2]; the second depends on the image's size."""
    while isinstance(conversion.value(paddings), Tensor) and paddings.op.type in ("Identity", "StridedSlice"):
        paddings = paddings.op.inputs[0]
    known = conversion.value(paddings)
    if isinstance(known, Constant):
        return tuple(known.array[:, 0].tolist())
    rows = paddings.op.inputs if paddings.op.type == "Pack" else []
    first = [conversion.value(row.op.inputs[0]) for row in rows if row.op.type == "Pack"]
    numbers = tuple(int(value.array) for value in first if isinstance(value, Constant))
    if len(numbers) != 2:
        raise UnsupportedOperationError(f"{op.name}: paddings that are not known have no translation")
    return numbers


def _joined(conversion: Conversion, op: tf.Operation, value: Tensor, rates: Constant, crops: Value) -> Tensor:
    if op.inputs[0].op.type not in _CONVOLUTIONS:
        raise UnsupportedOperationError(f"{op.name}: only a convolution of what was spread has a translation")
    return value


def _bias_add(conversion: Conversion, op: tf.Operation, value: Tensor, bias: Constant) -> Tensor:
    below = _convolution_below(op)
    if below is not None:
        return _convolve_again(conversion, below, None, bias.array)
    return _of_two(conversion.writer, "Add", value, bias)


def _batch_norm(conversion: Conversion, op: tf.Operation, value: Tensor, *statistics: Constant) -> list[Tensor]:
    """Batch norm of fixed statistics: of a convolution it is another convolution."""
    if op.get_attr("is_training"):
        raise UnsupportedOperationError(f"{op.name}: batch norm over the batch has no place in an exported model")
    gamma, beta, mean, variance = (each.array.astype(np.float64) for each in statistics)
    scale = gamma / np.sqrt(variance + op.get_attr("epsilon"))
    offset = beta - mean * scale
    below = _convolution_below(op)
    if below is not None:
        return [_convolve_again(conversion, below, scale, offset)]
    writer = conversion.writer
    scaled = _of_two(writer, "Mul", value, Constant(scale.astype(np.float32)))
    return [_of_two(writer, "Add", scaled, Constant(offset.astype(np.float32)))]


def _convolution_below(op: tf.Operation) -> tf.Operation | None:
    """The convolution whose output an operation reads."""
    below = op.inputs[0].op
    if below.type == "BatchToSpaceND":
        below = below.inputs[0].op
    return below if below.type in _CONVOLUTIONS else None


def _convolve_again(conversion: Conversion, op: tf.Operation, scale: np.ndarray | None, offset: np.ndarray) -> Tensor:
    """A convolution with what follows it. The one without is dropped from the file unless something else reads it."""
    image, kernel = (conversion.value(tensor) for tensor in op.inputs)
    return _convolve(conversion, op, image, kernel, scale, offset)  # type: ignore[arg-type]


def _convolve(
    conversion: Conversion, op: tf.Operation, image: Value | Spread, kernel: Constant, scale: np.ndarray | None, offset: np.ndarray | None
) -> Tensor:
    weights = kernel.array
    height, width, channels, filters = weights.shape
    group = 1
    if op.type == "DepthwiseConv2dNative":
        group = channels
        filters *= channels
        weights = weights.reshape(height, width, 1, filters)
    if scale is not None:
        weights = (weights.astype(np.float64) * scale).astype(np.float32)
    strides, dilations = op.get_attr("strides")[1:3], op.get_attr("dilations")[1:3]
    if isinstance(image, Spread):
        dilations, padding = list(image.rates), _spread_padding(op, image, (height, width))
        image = image.image
    else:
        padding = _padding(op, image, (height, width), strides, dilations)
    if op.get_attr("data_format") != b"NHWC" or not isinstance(image, Tensor):
        raise UnsupportedOperationError(f"{op.name}: only convolutions of images with channels last have a translation")
    inputs: list[Value] = [image, Constant(weights.transpose(3, 2, 0, 1), kernel.name if scale is None else f"{kernel.name}/normalized")]
    if offset is not None:
        inputs.append(Constant(offset.astype(np.float32), f"{op.name}/bias"))
    return conversion.writer.add_channels_first(
        "Conv", *inputs, strides=strides, dilations=dilations, group=group, kernel_shape=[height, width], **padding
    )


def _spread_padding(op: tf.Operation, image: Spread, kernel: tuple[int, int]) -> dict[str, Any]:
    """Pads of a convolution with holes: those of SAME, or none."""
    totals = [(extent - 1) * rate for extent, rate in zip(kernel, image.rates, strict=True)]
    same = tuple(total // 2 for total in totals)
    if op.get_attr("padding") != b"VALID" or image.pads_before not in (same, (0, 0)):
        raise UnsupportedOperationError(f"{op.name}: paddings {image.pads_before} of a dilated convolution have no translation")
    if image.pads_before != same:
        return {"pads": [0, 0, 0, 0]}
    return {"pads": [*same, *(total - before for total, before in zip(totals, same, strict=True))]}


def _padding(op: tf.Operation, image: Value, kernel: tuple[int, int], strides: list[int], dilations: list[int]) -> dict[str, Any]:
    """Pads where they do not depend on the image's size, else ONNX's name for TensorFlow's SAME."""
    kind = op.get_attr("padding").decode()
    if kind == "VALID":
        return {"pads": [0, 0, 0, 0]}
    if kind == "EXPLICIT":
        _, _, top, bottom, left, right, _, _ = op.get_attr("explicit_paddings")
        return {"pads": [top, left, bottom, right]}
    sizes = (None, None) if image.shape is None else image.shape[1:3]
    totals = []
    for size, extent, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        reach = (extent - 1) * dilation + 1
        if stride == 1:
            totals.append(reach - 1)
        elif size is not None:
            totals.append(max((-(-size // stride) - 1) * stride + reach - size, 0))
        elif dilation != 1:
            raise UnsupportedOperationError(f"{op.name}: stride with dilation and SAME padding needs a fixed image size")
        else:
            return {"auto_pad": "SAME_UPPER"}
    return {"pads": [*(total // 2 for total in totals), *(total - total // 2 for total in totals)]}


def _pool(conversion: Conversion, op: tf.Operation, image: Tensor) -> Tensor:
    kernel, strides = op.get_attr("ksize")[1:3], op.get_attr("strides")[1:3]
    name = "MaxPool" if op.type == "MaxPool" else "AveragePool"
    padding = _padding(op, image, (kernel[0], kernel[1]), strides, [1, 1])
    return conversion.writer.add_channels_first(name, image, kernel_shape=kernel, strides=strides, **padding)


_CONVOLUTIONS = ("Conv2D", "DepthwiseConv2dNative")

OPERATIONS: dict[str, Handler] = {
    **dict.fromkeys(("Identity", "IdentityN", "StopGradient", "EnsureShape", "PreventGradient", "Snapshot"), _same),
    **dict.fromkeys(_SAME_NAME, _unary),
    **dict.fromkeys(_BINARY, _binary),
    **dict.fromkeys(_REDUCTIONS, _reduction),
    **dict.fromkeys(("All", "Any"), _truth_reduction),
    **dict.fromkeys(("MatMul", "BatchMatMulV2"), _mat_mul),
    **dict.fromkeys(("Select", "SelectV2"), _select),
    **dict.fromkeys(("Pad", "PadV2"), _pad),
    **dict.fromkeys(_CONVOLUTIONS, _convolution),
    **dict.fromkeys(("MaxPool", "AvgPool"), _pool),
    "AddN": _add_n,
    "ArgMax": _arg_max,
    "BatchToSpaceND": _joined,
    "BiasAdd": _bias_add,
    "BroadcastTo": _broadcast_to,
    "Cast": _cast,
    "ConcatV2": _concat,
    "Einsum": _einsum,
    "ExpandDims": _expand_dims,
    "Fill": _fill,
    "FloorDiv": _floor_div,
    "FusedBatchNormV3": _batch_norm,
    "GatherNd": _gather_nd,
    "GatherV2": _gather,
    "Pack": _pack,
    "Range": _range,
    "Relu6": _relu6,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _size,
    "Softmax": _softmax,
    "SpaceToBatchND": _spread,
    "Split": _split,
    "Squeeze": _squeeze,
    "StridedSlice": _strided_slice,
    "Tile": _tile,
    "TopKV2": _top_k,
    "Transpose": _transpose,
    "Unpack": _unpack,
    "Where": _where,
    "ZerosLike": _zeros_like,
}
