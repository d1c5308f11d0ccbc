"""The shortcuts of the mask head against the plain formulas."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tasks.mask_rcnn import config
from tasks.mask_rcnn.mask_head import MaskHead

FEATURES = np.random.default_rng(0).normal(size=(2, 7, 7, 12)).astype(np.float32)


def plain(head: MaskHead, features: np.ndarray) -> tf.Tensor:
    """The original's way: enlarge every channel, then convolve, to every class; [N, h, w, classes]."""
    x = tf.raw_ops.ResizeBilinear(images=features, size=[33, 33], align_corners=True, half_pixel_centers=False)
    for layer in head.convs:
        x = layer(x)
        if layer is not head.convs[-1]:
            x = tf.nn.relu(x)
    return x


@pytest.fixture(params=[1, 2, 4])
def head(request: pytest.FixtureRequest) -> MaskHead:
    wide = config.Hyperparams(initializer=config.Initializer(stddev=0.3))
    settings = config.MaskHead(height=33, width=33, conv_depth=8, num_conv_layers=request.param, conv_hyperparams=wide)
    head = MaskHead(settings, 5, (7, 7, 12))
    for layer in head.convs:
        layer.bias.assign(tf.random.stateless_normal(layer.bias.shape, [1, 2]))
    return head


def test_products_before_enlarging_change_nothing(head: MaskHead) -> None:
    expected = plain(head, FEATURES).numpy()
    np.testing.assert_allclose(head.all_classes(FEATURES), expected.transpose(0, 3, 1, 2), atol=1e-4 * expected.std())


def test_one_class_is_that_channel_of_all_and_its_gradients_too(head: MaskHead) -> None:
    classes = tf.constant([3, 0])
    with tf.GradientTape(persistent=True) as tape:
        ours = head(tf.constant(FEATURES), classes)
        theirs = tf.gather(tf.transpose(plain(head, FEATURES), [0, 3, 1, 2]), classes, axis=1, batch_dims=1)
        our_sum, their_sum = tf.reduce_sum(ours**2), tf.reduce_sum(theirs**2)
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.std(theirs))
    for variable in head.trainable_variables:
        expected = tf.convert_to_tensor(tape.gradient(their_sum, variable)).numpy()
        actual = tf.convert_to_tensor(tape.gradient(our_sum, variable)).numpy()
        np.testing.assert_allclose(actual, expected, atol=1e-4 * np.abs(expected).max())
