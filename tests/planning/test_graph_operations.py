"""Counts of small graphs against those that a person makes with a pencil."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import tensorflow as tf

from tasks.planning.graph_operations import Assumed, OperationCount, all_operations, count_operations

FLOAT = 4


def counted(function: Callable[..., object], *shapes: list[int | None], assumed: Assumed | None = None) -> OperationCount:
    graph = tf.function(function).get_concrete_function(*(tf.TensorSpec(shape) for shape in shapes)).graph
    return count_operations(graph, assumed or Assumed(1, 1, 1))


@pytest.mark.parametrize(
    ("function", "shapes", "multiply_adds"),
    [
        # 5 x 6 cells, windows of 3 x 3 over 2 channels, 4 channels out; at stride 2 it is 3 x 3 cells.
        (lambda x, k: tf.nn.conv2d(x, k, 1, "SAME"), ([1, 5, 6, 2], [3, 3, 2, 4]), 5 * 6 * 9 * 2 * 4),
        (lambda x, k: tf.nn.conv2d(x, k, 2, "SAME"), ([1, 5, 6, 2], [3, 3, 2, 4]), 3 * 3 * 9 * 2 * 4),
        (lambda x, k: tf.nn.conv2d(x, k, 1, "VALID", dilations=2), ([7, 5, 6, 2], [3, 3, 2, 4]), 7 * 1 * 2 * 9 * 2 * 4),
        (lambda x, k: tf.nn.depthwise_conv2d(x, k, [1, 1, 1, 1], "SAME"), ([1, 5, 6, 2], [3, 3, 2, 4]), 5 * 6 * 9 * 2 * 4),
        (lambda a, b: tf.matmul(a, b, transpose_a=True), ([7, 3], [7, 5]), 3 * 7 * 5),
        (lambda a, b: tf.matmul(a, b, transpose_a=True), ([2, 7, 3], [2, 7, 5]), 2 * 3 * 7 * 5),
        (lambda a, b: tf.einsum("nyxc,Yy->nYxc", a, b), ([2, 3, 4, 5], [6, 3]), 2 * 3 * 4 * 5 * 6),
        (lambda a, b: a + b, ([9], [9]), 0),
    ],
)
def test_multiply_adds(function: Callable[..., object], shapes: tuple[list[int], ...], multiply_adds: int) -> None:
    assert counted(function, *shapes).multiply_adds == multiply_adds


def test_gradients_of_convolutions_cost_what_the_convolution_does() -> None:
    def gradients(x: tf.Tensor, kernel: tf.Tensor) -> object:
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            y = tf.nn.depthwise_conv2d(tf.nn.conv2d(x, kernel, 2, "SAME"), tf.ones([3, 3, 4, 1]), [1, 1, 1, 1], "SAME")
        return tape.gradient(y, [x, kernel])

    found = counted(gradients, [1, 6, 6, 2], [3, 3, 2, 4]).by_kind
    plain, depthwise = 3 * 3 * 9 * 2 * 4, 3 * 3 * 9 * 4
    # Nobody asks for the depthwise kernel's, which is a constant, nor needs what comes out at the end.
    assert found == {"Conv2DBackpropInput": plain, "Conv2DBackpropFilter": plain, "DepthwiseConv2dNativeBackpropInput": depthwise}


def test_loop_counts_for_every_turn_and_of_two_branches_the_larger() -> None:
    def looped(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
        return tf.map_fn(lambda row: tf.linalg.matvec(b, row), a)

    def branched(a: tf.Tensor) -> tf.Tensor:
        return tf.cond(tf.reduce_sum(a) > 0, lambda: a, lambda: tf.matmul(a, a))

    assert counted(looped, [4, 3], [5, 3], assumed=Assumed(4, 1, 1)).multiply_adds == 4 * 5 * 3
    assert counted(branched, [3, 3]).multiply_adds == 27


def test_function_that_is_compiled_counts_like_its_operations() -> None:
    compiled = tf.function(lambda a: tf.nn.relu(tf.matmul(a, a)), jit_compile=True)
    assert counted(compiled, [3, 3]).multiply_adds == 27


def test_unknown_lengths_are_what_is_assumed() -> None:
    found = counted(lambda a, b: tf.matmul(a, b), [None, None], [None, 5], assumed=Assumed(1, 7, 2))
    assert found.multiply_adds == 7 * 2 * 5


def test_product_without_a_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="how to count a Conv3D"):
        counted(lambda x, k: tf.nn.conv3d(x, k, [1] * 5, "SAME"), [1, 2, 2, 2, 1], [1, 1, 1, 1, 1])


def test_kernels_and_their_bytes() -> None:
    def work(a: tf.Tensor) -> tf.Tensor:
        # A reshape moves nothing; the length of a dimension is computed beside the device.
        b = tf.reshape(tf.nn.relu(a), [tf.shape(a)[0] * 10])
        return tf.tanh(b)

    found = counted(work, [10, 10])
    assert found.work == ((0, 2 * 100 * FLOAT), (0, 2 * 100 * FLOAT))
    assert (found.kernels, found.bytes_moved) == (2, 1600)


def test_most_bytes_alive() -> None:
    def chain(a: tf.Tensor) -> tf.Tensor:
        # The product is new; what follows is written over it.
        return tf.tanh(tf.nn.relu(tf.matmul(a, a) + 1.0))

    def kept(a: tf.Tensor) -> tf.Tensor:
        # Each product needs the one before until it is there, and the last sum the first of them.
        first = tf.matmul(a, a)
        third = tf.matmul(tf.matmul(first, first), a)
        return first + third

    size = 100 * FLOAT
    assert counted(chain, [10, 10]).most_bytes == 2 * size
    # The argument, the first, the second and the third while it is made.
    assert counted(kept, [10, 10]).most_bytes == 4 * size


def test_gradient_keeps_what_it_needs_of_the_forward_pass() -> None:
    def gradient(a: tf.Tensor) -> object:
        with tf.GradientTape() as tape:
            tape.watch(a)
            y = a
            for _ in range(5):
                y = tf.tanh(tf.matmul(y, a))
            total = tf.reduce_sum(y)
        return tape.gradient(total, a)

    size = 100 * FLOAT
    # Five outputs of tanh, which their gradients read, and the argument.
    assert 6 * size < counted(gradient, [10, 10]).most_bytes <= 10 * size


def test_what_nobody_reads_is_not_executed() -> None:
    def lazy(a: tf.Tensor) -> tf.Tensor:
        tf.matmul(a, a)
        return a + 1.0

    graph = tf.function(lazy).get_concrete_function(tf.TensorSpec([3, 3])).graph
    assert "MatMul" in {operation.type for operation in graph.get_operations()}
    assert "MatMul" not in {operation.type for operation in all_operations(graph)}
