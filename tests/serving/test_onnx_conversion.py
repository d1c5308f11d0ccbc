"""TensorFlow's operations beside their ONNX form: the same numbers from onnxruntime, whatever the sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
import tf_keras

from tasks.serving.onnx_conversion.functions import UnsupportedOperationError
from tasks.serving.onnx_conversion.model import ConvertedFunction

RNG = np.random.default_rng(2)
IMAGES = RNG.normal(0, 1, (2, 9, 12, 3)).astype(np.float32)


def converted(function: Callable[[tf.Tensor], Any], shape: tuple[int | None, ...] = (None, None, None, 3)) -> onnx.ModelProto:
    """The model of a function of `images`; what it answers with is called `out`, or by its keys."""

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32, "images")])
    def named(images: tf.Tensor) -> dict[str, tf.Tensor]:
        answer = function(images)
        return answer if isinstance(answer, dict) else {"out": answer}

    traced = ConvertedFunction(named.get_concrete_function())
    model = traced.model(traced.outputs)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model: onnx.ModelProto, images: np.ndarray = IMAGES) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, {"images": images}), strict=True))


def assert_equal(function: Callable[[tf.Tensor], Any], images: np.ndarray = IMAGES, tolerance: float = 2e-6) -> None:
    """Of free size, and of the images' own."""
    expected = function(tf.constant(images))
    expected = expected if isinstance(expected, dict) else {"out": expected}
    for shape in ((None, None, None, 3), images.shape):
        found = run(converted(function, shape), images)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value.numpy(), rtol=tolerance, atol=tolerance, err_msg=f"{name} {shape}")


@pytest.mark.parametrize("method", ["ResizeBilinear", "ResizeNearestNeighbor", "ResizeBicubic", "ResizeArea"])
@pytest.mark.parametrize("size", [(5, 7), (9, 12), (20, 31), (3, 40)])
def test_resizers(method: str, size: tuple[int, int]) -> None:
    resize = getattr(tf.raw_ops, method)
    # Pixels of up to 255, of which the sums of the two differ by a hundred-thousandth.
    assert_equal(lambda images: resize(images=images * 100, size=tf.constant(size), align_corners=False), tolerance=1e-4)


def test_a_resizer_of_another_grid_is_refused() -> None:
    with pytest.raises(UnsupportedOperationError, match="TensorFlow 1's grid"):
        converted(lambda images: tf.image.resize(images, [4, 4]))


# Inside, ending exactly at the border, beyond it, turned round, without extent.
BOXES = np.array([[0.1, 0.2, 0.6, 0.9], [0.3, 0, 1, 1], [-0.2, 0.4, 0.7, 1.3], [0.8, 0.9, 0.1, 0.2], [0.5, 0.5, 0.5, 0.5]], np.float32)


@pytest.mark.parametrize("size", [[4, 5], [1, 3], [14, 14]])
def test_crops(size: list[int]) -> None:
    def crop(images: tf.Tensor) -> tf.Tensor:
        return tf.image.crop_and_resize(images, BOXES, tf.constant([0, 1, 1, 0, 1]), size)

    assert_equal(crop, tolerance=2e-5)


def test_crops_at_the_border_drop_the_samples_that_tensorflow_drops() -> None:
    # Of these boxes, which all end at 1.0, rounding puts the last row of some just beyond the border: it is zero then.
    starts = np.linspace(0.01, 0.9, 300).astype(np.float32)
    boxes = np.stack([starts, starts, np.ones(300, np.float32), np.ones(300, np.float32)], axis=1)

    def crop(images: tf.Tensor) -> tf.Tensor:
        return tf.image.crop_and_resize(images * 0 + 1, boxes, tf.zeros([300], tf.int32), [14, 14])

    images = np.ones((1, 38, 50, 3), np.float32)
    expected = crop(tf.constant(images)).numpy()
    assert 5 < (expected[:, -1, 0, 0] == 0).sum() < 295
    found = run(converted(crop), images)["out"]
    np.testing.assert_array_equal(found == 0, expected == 0)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("most", [4, 60])
def test_suppression_of_every_class(shared: bool, most: int) -> None:
    """30 boxes each for two images and three classes, or for all three; no two scores are alike."""
    corners = RNG.uniform(0, 80, (2, 30, 1 if shared else 3, 2))
    boxes = np.concatenate([corners, corners + RNG.uniform(5, 40, corners.shape)], axis=-1).astype(np.float32)
    scores = RNG.permutation(180).reshape(2, 30, 3).astype(np.float32)

    def suppress(images: tf.Tensor) -> dict[str, tf.Tensor]:
        nothing = tf.reduce_sum(images) * 0
        found = tf.image.combined_non_max_suppression(boxes + nothing, scores + nothing, 9, most, 0.5, 20.0, clip_boxes=False)
        return {name: tf.cast(value, tf.float32) for name, value in found._asdict().items()}

    expected = suppress(tf.constant(IMAGES))
    kept = expected["valid_detections"].numpy()
    assert (kept == 4).all() if most == 4 else ((kept > 9) & (kept < 30)).all()
    assert_equal(suppress)


def test_suppression_in_a_loop_over_images_of_which_there_may_be_any_number() -> None:
    def suppress(images: tf.Tensor) -> dict[str, tf.Tensor]:
        def one(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            boxes = tf.concat([image[0, :, :2], image[0, :, :2] + 1.0], axis=1)
            kept = tf.image.non_max_suppression(boxes, image[1, :, 0], 5, 0.2, 0.1)
            count = tf.size(kept)
            chosen = tf.pad(tf.gather(boxes, kept), [[0, 5 - count], [0, 0]])
            few = tf.cond(count < 4, lambda: tf.reduce_sum(chosen), lambda: tf.constant(-1.0))
            return tf.ensure_shape(chosen, [5, 4]), few + tf.cast(count, tf.float32)

        boxes, counts = tf.map_fn(one, images, fn_output_signature=(tf.float32, tf.float32))
        return {"boxes": boxes, "counts": counts}

    for count in (1, 2):
        assert_equal(suppress, IMAGES[:count])
    model = converted(suppress)
    assert [node.op_type for node in model.graph.node].count("Loop") == 1
    many = RNG.normal(0, 1, (7, 9, 12, 3)).astype(np.float32)
    np.testing.assert_allclose(run(model, many)["boxes"], suppress(tf.constant(many))["boxes"], atol=1e-6)


def test_a_loop_of_known_length_and_a_known_branch_are_written_out() -> None:
    model = converted(lambda images: tf.map_fn(lambda image: image * 2, images), (2, None, None, 3))
    assert not {"Loop", "If"} & {node.op_type for node in model.graph.node}
    np.testing.assert_array_equal(run(model)["out"], IMAGES * 2)


def kernel(*shape: int) -> tf.Tensor:
    return tf.constant(np.random.default_rng(5).normal(0, 0.3, shape).astype(np.float32))


@pytest.mark.parametrize("padding", ["SAME", "VALID", [[0, 0], [1, 2], [2, 1], [0, 0]]])
@pytest.mark.parametrize(("stride", "rate"), [(1, 1), (2, 1), (1, 2)])
def test_convolutions(padding: Any, stride: int, rate: int) -> None:
    assert_equal(lambda images: tf.nn.conv2d(images, kernel(3, 4, 3, 8), stride, padding, dilations=rate), tolerance=1e-5)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("rate", [2, (3, 1)])
def test_dilated_layers_of_keras_are_one_node(padding: str, rate: Any) -> None:
    """TensorFlow spreads the image over the batch, and joins what it has convolved."""
    layer = tf_keras.layers.Conv2D(4, 3, padding=padding, dilation_rate=rate, bias_initializer="ones")
    layer.build((None, None, None, 3))
    assert_equal(layer, tolerance=1e-5)
    assert [node.op_type for node in converted(layer).graph.node] == ["Transpose", "Conv", "Transpose", "Identity"]


def test_a_convolution_with_what_follows_is_one_node() -> None:
    statistics = [tf.constant(RNG.uniform(0.5, 1.5, 8).astype(np.float32)) for _ in range(4)]

    def layer(images: tf.Tensor) -> tf.Tensor:
        x = tf.nn.conv2d(images, kernel(3, 3, 3, 8), 2, "SAME")
        gamma, beta, mean, variance = statistics
        x = tf.raw_ops.FusedBatchNormV3(x=x, scale=gamma, offset=beta, mean=mean, variance=variance, epsilon=1e-3, is_training=False)[0]
        x = tf.nn.relu(x)
        return tf.nn.bias_add(tf.nn.conv2d(x, kernel(1, 1, 8, 4), 1, "SAME"), [0.1, 0.2, 0.3, 0.4])

    assert_equal(layer, tolerance=1e-5)
    # The images are turned once on the way in and once on the way out.
    assert [node.op_type for node in converted(layer).graph.node] == ["Transpose", "Conv", "Relu", "Conv", "Transpose", "Identity"]


def test_depthwise_convolutions_and_pools() -> None:
    def layers(images: tf.Tensor) -> dict[str, tf.Tensor]:
        deep = tf.nn.depthwise_conv2d(images, kernel(3, 3, 3, 2), [1, 1, 1, 1], "SAME")
        pooled = tf.nn.max_pool2d(deep, 3, 2, "SAME"), tf.nn.avg_pool2d(deep, 3, 2, "SAME"), tf.nn.max_pool2d(deep, 2, 2, "VALID")
        joined = tf.concat(pooled[:2], axis=3) * np.arange(1, 13, dtype=np.float32) - 0.5
        return {
            "joined": tf.nn.relu6(joined),
            "small": pooled[2],
            "mean": tf.reduce_mean(joined, axis=[1, 2]),
            "rows": tf.reduce_mean(joined, axis=1),
            "padded": tf.pad(joined, [[0, 0], [1, 2], [0, 3], [0, 0]]),
        }

    assert_equal(layers, tolerance=1e-5)


def test_slices_and_shapes() -> None:
    def cut(images: tf.Tensor) -> dict[str, tf.Tensor]:
        most = tf.shape(images)[1] // 2
        flat = tf.reshape(images, [tf.shape(images)[0], -1, 3])
        return {
            "first": images[0],
            "last": images[..., -1],
            "between": images[:, 1:most, ::2],
            "behind": images[:, -3:, tf.newaxis, :-1, 0],
            "reversed": images[:, ::-1],
            "chosen": images[:, 2, 3],
            "unpacked": tf.stack(tf.unstack(images, axis=-1)[::-1], axis=1),
            "floor": tf.cast((tf.range(7) - 3) // 2, tf.float32) + images[0, 0, 0, 0],
            "mod": tf.cast((tf.range(7) - 3) % 4, tf.float32) + images[0, 0, 0, 0],
            "tiled": tf.tile(flat[:, :2], [1, 3, 1]),
            "filled": tf.fill([most, 2], 7.0) + tf.zeros_like(images)[0, 0, 0, 0],
            "size": tf.cast(tf.size(images), tf.float32),
            "where": tf.cast(tf.where(images[0, :, :, 0] > 0.3), tf.float32),
        }

    assert_equal(cut)


def test_choices_among_rows() -> None:
    def choose(images: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = images[:, :, :, 0]
        # Equal values on purpose: of those the first comes first.
        values, places = tf.math.top_k(tf.round(rows), tf.shape(rows)[2] // 2)
        best = tf.argmax(rows, axis=-1)
        return {
            "values": values,
            "places": tf.cast(places, tf.float32),
            "best": tf.gather(rows, best, axis=2, batch_dims=2),
            "order": tf.cast(tf.argsort(tf.cast(rows > 0, tf.int32), axis=1, stable=True), tf.float32),
            "gathered": tf.gather(rows, places[0, 0], axis=2),
            "masked": tf.where(tf.sequence_mask([3, 5], tf.shape(rows)[1])[..., tf.newaxis], rows, -1.0),
            "softmax": tf.nn.softmax(images),
            "product": tf.matmul(images, images, transpose_b=True),
            "einsum": tf.einsum("nhwc,nhvc->nwvh", images, images),
            "any": tf.cast(tf.reduce_any(images > 2, axis=[1, 3]), tf.float32),
        }

    assert_equal(choose, tolerance=1e-5)


def test_an_operation_without_translation_is_named() -> None:
    with pytest.raises(UnsupportedOperationError, match="Betainc has no translation to ONNX"):
        converted(lambda images: tf.math.betainc(images, images, images))
