"""What ONNX has no single operation for: TensorFlow's resizers, crops of boxes, and suppression with boxes for each class.

Positions are computed in TensorFlow's own order, in float32: the last bit decides whether a sample at the border counts.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tasks.serving.onnx_conversion.functions import Conversion, Handler, UnsupportedOperationError, onnx_type
from tasks.serving.onnx_conversion.graph import Constant, GraphWriter, Tensor, Value

_CUBIC_STEPS = 1024  # places between two pixels for which TensorFlow has weights
_CUBIC_A = -0.75


def resize_bilinear(conversion: Conversion, op: tf.Operation, images: Tensor, size: Value) -> Tensor:
    writer = conversion.writer
    images = _checked(conversion, op, images)
    (top, bottom), down = _two_cells(writer, images, size, 1)
    (left, right), across = _two_cells(writer, images, size, 2)
    down = writer.add("Unsqueeze", down, np.array([1]))

    def between(one: Tensor, other: Tensor, share: Tensor) -> Tensor:
        return writer.add("Add", one, writer.add("Mul", writer.add("Sub", other, one), share))

    rows = [writer.add("Gather", images, row, axis=1) for row in (top, bottom)]
    wide = [between(writer.add("Gather", row, left, axis=2), writer.add("Gather", row, right, axis=2), across) for row in rows]
    return between(wide[0], wide[1], down)


def resize_nearest(conversion: Conversion, op: tf.Operation, images: Tensor, size: Value) -> Tensor:
    writer = conversion.writer
    images = _checked(conversion, op, images)
    for axis in (1, 2):
        before = writer.add("Cast", writer.add("Floor", _positions(writer, images, size, axis)), to=onnx_type(tf.int32))
        images = writer.add("Gather", images, writer.add("Min", before, _last(writer, images, axis)), axis=axis)
    return images


def resize_bicubic(conversion: Conversion, op: tf.Operation, images: Tensor, size: Value) -> Tensor:
    writer = conversion.writer
    images = _checked(conversion, op, images)
    weights = Constant(_cubic_weights(), "cubic_weights")
    for axis, others in ((1, [1, 2]), (2, [1])):
        positions = _positions(writer, images, size, axis)
        before = writer.add("Floor", positions)
        place = writer.add("Round", writer.add("Mul", writer.add("Sub", positions, before), float(_CUBIC_STEPS)))
        taps = writer.add("Gather", weights, writer.add("Cast", place, to=onnx_type(tf.int32)), axis=1)
        cell, last = writer.add("Cast", before, to=onnx_type(tf.int32)), _last(writer, images, axis)
        total = None
        for tap in range(4):
            index = writer.add("Min", writer.add("Max", writer.add("Add", cell, np.array(tap - 1)), np.array(0)), last)
            weight = writer.add("Unsqueeze", writer.add("Gather", taps, np.array(tap), axis=0), np.array(others))
            part = writer.add("Mul", writer.add("Gather", images, index, axis=axis), weight)
            total = part if total is None else writer.add("Add", total, part)
        images = total or images
    return images


def resize_area(conversion: Conversion, op: tf.Operation, images: Tensor, size: Value) -> Tensor:
    """Every pixel is the mean of the area that it covers: a product with the shares of rows, and one with those of columns."""
    writer = conversion.writer
    images = _checked(conversion, op, images)
    rows, columns = (_overlaps(writer, images, size, axis) for axis in (1, 2))
    # [h, H] x [N, C, H, W] x [W, w]
    channels = writer.add("Transpose", images, perm=[0, 3, 1, 2])
    small = writer.add("MatMul", rows, writer.add("MatMul", channels, writer.add("Transpose", columns, perm=[1, 0])))
    return writer.add("Transpose", small, perm=[0, 2, 3, 1])


def crop_and_resize(conversion: Conversion, op: tf.Operation, images: Tensor, boxes: Value, indices: Value, size: Constant) -> Tensor:
    """RoiAlign with one sample a cell and regions half a cell larger, whose samples lie where TensorFlow's do; zero outside the image."""
    if op.get_attr("method") != b"bilinear":
        raise UnsupportedOperationError(f"{op.name}: crops of nearest pixels have no translation")
    if op.get_attr("extrapolation_value"):
        raise UnsupportedOperationError(f"{op.name}: only zeros outside the image have a translation")
    writer = conversion.writer
    height, width = (int(side) for side in size.array)
    corners = [writer.add("Gather", boxes, np.array(place), axis=1) for place in range(4)]
    top, down, inside_rows = _samples(writer, images, corners[0], corners[2], height, 1)
    left, across, inside_columns = _samples(writer, images, corners[1], corners[3], width, 2)
    sides = []
    for start, step, count in ((left, across, width), (top, down, height)):
        begin = writer.add("Sub", writer.add("Add", start, 0.5), writer.add("Mul", step, 0.5))
        sides.append((begin, writer.add("Add", begin, writer.add("Mul", step, float(count)))))
    regions = [sides[0][0], sides[1][0], sides[0][1], sides[1][1]]
    rois = writer.add("Concat", *(writer.add("Unsqueeze", side, np.array([1])) for side in regions), axis=1)
    crops = writer.add_channels_first(
        "RoiAlign",
        images,
        rois,
        indices,
        coordinate_transformation_mode="half_pixel",
        output_height=height,
        output_width=width,
        sampling_ratio=1,
    )
    inside = writer.add("Mul", writer.add("Unsqueeze", inside_rows, np.array([2])), writer.add("Unsqueeze", inside_columns, np.array([1])))
    # One channel, which is first and last at once.
    return writer.add_channels_first("Mul", crops, writer.add("Unsqueeze", inside, np.array([-1])))


def suppression(
    conversion: Conversion,
    op: tf.Operation,
    boxes: Tensor,
    scores: Tensor,
    most: Value,
    iou_threshold: Value,
    score_threshold: Value,
) -> Tensor:
    writer = conversion.writer
    boxes = writer.add("Unsqueeze", boxes, np.array([0]))
    scores = writer.add("Unsqueeze", scores, np.array([0, 1]))
    kept = writer.add("NonMaxSuppression", boxes, scores, *(_vector(writer, value) for value in (most, iou_threshold, score_threshold)))
    return writer.add("Gather", kept, np.array(2), axis=1)


def combined_suppression(
    conversion: Conversion,
    op: tf.Operation,
    boxes: Tensor,
    scores: Tensor,
    most_per_class: Constant,
    most: Constant,
    iou_threshold: Constant,
    score_threshold: Constant,
) -> list[Tensor]:
    """Suppression of boxes [B, P, q, 4], q = C or 1, by scores [B, P, C]; with boxes for each class, classes are ONNX's batch.

    What is kept is laid out by class and proposal, with its score, and the best of that is taken.
    """
    if op.get_attr("clip_boxes") or op.get_attr("pad_per_class"):
        raise UnsupportedOperationError(f"{op.name}: only suppression that neither clips nor pads has a translation")
    writer = conversion.writer
    if boxes.shape is None or scores.shape is None:
        raise UnsupportedOperationError(f"{op.name}: boxes and scores have no known rank")
    places, classes = scores.shape[1:]
    if places is None or classes is None or boxes.shape[2] is None:
        raise UnsupportedOperationError(f"{op.name}: the numbers of proposals and classes have to be known")
    all_places = classes * places
    own = boxes.shape[2] > 1
    by_class = writer.add("Transpose", boxes, perm=[0, 2, 1, 3])
    flat_boxes = writer.add("Reshape", by_class, np.array([-1, places, 4]))
    class_scores = writer.add("Transpose", scores, perm=[0, 2, 1])
    given = writer.add("Reshape", class_scores, np.array([-1, 1 if own else classes, places]))
    limits = [Constant(value.array.reshape(1)) for value in (most_per_class, iou_threshold, score_threshold)]
    kept = writer.add("NonMaxSuppression", flat_boxes, given, Constant(limits[0].array.astype(np.int64)), limits[1], limits[2])
    batch, klass, place = (writer.add("Gather", kept, np.array(column), axis=1) for column in range(3))
    row = batch if own else writer.add("Add", writer.add("Mul", batch, np.array(classes)), klass)
    position = writer.add("Add", writer.add("Mul", row, np.array(places)), place)
    flat_scores = writer.add("Reshape", class_scores, np.array([-1]))
    nothing = writer.add("Expand", score_threshold, writer.add("Shape", flat_scores))
    laid = writer.add("ScatterElements", nothing, position, writer.add("Gather", flat_scores, position, axis=0), axis=0)
    grid = writer.add("Reshape", laid, np.array([-1, all_places]))
    total = int(most.array)
    best, index = writer.add_many("TopK", 2, grid, np.array([min(total, all_places)]), axis=-1)
    valid = writer.add("Greater", best, score_threshold)
    box_rows = writer.add("Reshape", by_class, np.array([-1, all_places if own else places, 4]))
    box_index = index if own else writer.add("Mod", index, np.array(places))
    chosen = writer.add("GatherND", box_rows, writer.add("Unsqueeze", box_index, np.array([-1])), batch_dims=1)
    number = writer.add("Cast", writer.add("Div", index, np.array(places)), to=onnx_type(tf.float32))
    outputs = [
        writer.add("Where", writer.add("Unsqueeze", valid, np.array([-1])), chosen, 0.0),
        writer.add("Where", valid, best, 0.0),
        writer.add("Where", valid, number, 0.0),
    ]
    if missing := total - min(total, all_places):
        pads = [[0, 0, 0, 0, missing, 0], [0, 0, 0, missing], [0, 0, 0, missing]]
        outputs = [writer.add("Pad", value, np.array(amounts), 0.0) for value, amounts in zip(outputs, pads, strict=True)]
    count = writer.add("ReduceSum", writer.add("Cast", valid, to=onnx_type(tf.int32)), np.array([1]), keepdims=0)
    return [*outputs, count]


def _checked(conversion: Conversion, op: tf.Operation, images: Tensor) -> Tensor:
    if op.get_attr("align_corners") or (op.type != "ResizeArea" and op.get_attr("half_pixel_centers")):
        raise UnsupportedOperationError(f"{op.name}: only TensorFlow 1's grid of pixels has a translation")
    if images.elem_type == onnx_type(tf.float32):
        return images
    return conversion.writer.add("Cast", images, to=onnx_type(tf.float32))


def _side(writer: GraphWriter, images: Tensor, axis: int) -> Value:
    """Pixels along an axis, a whole number."""
    size = None if images.shape is None else images.shape[axis]
    return Constant(np.array(size)) if size is not None else writer.add("Gather", writer.add("Shape", images), np.array(axis), axis=0)


def _last(writer: GraphWriter, images: Tensor, axis: int) -> Value:
    side = _side(writer, images, axis)
    return Constant(side.array - 1) if isinstance(side, Constant) else writer.add("Sub", side, np.array(1))


def _scale(writer: GraphWriter, images: Tensor, size: Value, axis: int) -> tuple[Tensor, Tensor]:
    """Pixels of the image for each of the result, and the numbers of these, float32 [n]."""
    wanted = Constant(size.array[axis - 1]) if isinstance(size, Constant) else writer.add("Gather", size, np.array(axis - 1), axis=0)
    sides = [writer.add("Cast", side, to=onnx_type(tf.float32)) for side in (_side(writer, images, axis), wanted)]
    numbers = writer.add("Cast", writer.add("Range", np.array(0), wanted, np.array(1)), to=onnx_type(tf.float32))
    return writer.add("Div", *sides), numbers


def _positions(writer: GraphWriter, images: Tensor, size: Value, axis: int) -> Tensor:
    scale, numbers = _scale(writer, images, size, axis)
    return writer.add("Mul", numbers, scale)


def _two_cells(writer: GraphWriter, images: Tensor, size: Value, axis: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """The pixels around each position, and where between them it lies, [n, 1]."""
    positions = _positions(writer, images, size, axis)
    before = writer.add("Floor", positions)
    cells = [writer.add("Cast", value, to=onnx_type(tf.int32)) for value in (before, writer.add("Ceil", positions))]
    last = _last(writer, images, axis)
    share = writer.add("Unsqueeze", writer.add("Sub", positions, before), np.array([1]))
    return (writer.add("Min", cells[0], last), writer.add("Min", cells[1], last)), share


def _overlaps(writer: GraphWriter, images: Tensor, size: Value, axis: int) -> Tensor:
    """[n, pixels]: the share of each pixel in each of the result."""
    scale, numbers = _scale(writer, images, size, axis)
    ends = [writer.add("Unsqueeze", writer.add("Mul", value, scale), np.array([1])) for value in (numbers, writer.add("Add", numbers, 1.0))]
    pixels = writer.add("Cast", writer.add("Range", np.array(0), _side(writer, images, axis), np.array(1)), to=onnx_type(tf.float32))
    common = writer.add("Sub", writer.add("Min", ends[1], writer.add("Add", pixels, 1.0)), writer.add("Max", ends[0], pixels))
    return writer.add("Div", writer.add("Max", common, 0.0), scale)


def _cubic_weights() -> np.ndarray:
    """Of the four pixels around a place, [4, 1025], by the place between the second and the third in 1024ths."""
    x = np.arange(_CUBIC_STEPS + 1, dtype=np.float32) / np.float32(_CUBIC_STEPS)
    near = ((_CUBIC_A + 2) * x - (_CUBIC_A + 3)) * x * x + 1
    y = x + 1
    far = ((_CUBIC_A * y - 5 * _CUBIC_A) * y + 8 * _CUBIC_A) * y - 4 * _CUBIC_A
    weights: np.ndarray = np.stack([far, near, near[::-1], far[::-1]]).astype(np.float32)
    return weights


def _samples(writer: GraphWriter, images: Tensor, low: Value, high: Value, count: int, axis: int) -> tuple[Value, Value, Tensor]:
    """Of boxes [K] along an axis, in cells: the first sample and the step [K], and 1.0 where a sample is inside, [K, count]."""
    last: Value = _last(writer, images, axis)
    cells = Constant(last.array.astype(np.float32)) if isinstance(last, Constant) else writer.add("Cast", last, to=onnx_type(tf.float32))
    length = writer.add("Sub", high, low)
    if count == 1:
        start: Value = writer.add("Mul", writer.add("Mul", writer.add("Add", low, high), 0.5), cells)
        step: Value = writer.add("Mul", length, 0.0)
    else:
        start = writer.add("Mul", low, cells)
        step = writer.add("Div", writer.add("Mul", length, cells), float(count - 1))
    column = np.array([1])
    numbers = np.arange(count, dtype=np.float32)
    positions = writer.add(
        "Add", writer.add("Unsqueeze", start, column), writer.add("Mul", Constant(numbers), writer.add("Unsqueeze", step, column))
    )
    inside = writer.add("And", writer.add("GreaterOrEqual", positions, 0.0), writer.add("LessOrEqual", positions, cells))
    return start, step, writer.add("Cast", inside, to=onnx_type(tf.float32))


def _vector(writer: GraphWriter, value: Value) -> Value:
    return Constant(value.array.reshape(1)) if isinstance(value, Constant) else writer.add("Reshape", value, np.array([1]))


IMAGE_OPERATIONS: dict[str, Handler] = {
    "CombinedNonMaxSuppression": combined_suppression,
    "CropAndResize": crop_and_resize,
    "NonMaxSuppressionV3": suppression,
    "ResizeArea": resize_area,
    "ResizeBicubic": resize_bicubic,
    "ResizeBilinear": resize_bilinear,
    "ResizeNearestNeighbor": resize_nearest,
}
