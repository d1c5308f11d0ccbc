"""Averages of weights by hand."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tasks.training.averages import Averages


def test_averages_follow_their_variables_by_hand() -> None:
    weight, bias = tf.Variable([1.0, 2.0]), tf.Variable(10.0)
    averages = Averages([weight, bias], decay=0.25)
    averages.begin()
    weight.assign([2.0, 0.0])
    bias.assign(21.0)
    averages.update(tf.constant(1))
    # At the first step the decay is 2 / 11: of the way from 1 to 2, from 2 to 0 and from 10 to 21 nine elevenths are made.
    np.testing.assert_allclose(averages.values[0], [1 + 9 / 11, 2 - 18 / 11], rtol=1e-6)
    assert float(averages.values[1].read_value()) == pytest.approx(19.0)
    averages.update(tf.constant(2))
    # At the second it would be 3 / 12, and at the third 4 / 13, which is more than it may be.
    assert float(averages.values[1].read_value()) == pytest.approx(21 - 2 / 4)
    averages.update(tf.constant(3))
    assert float(averages.values[1].read_value()) == pytest.approx(21 - 2 / 16)
