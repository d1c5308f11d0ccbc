"""Networks as XLA programs.

XLA has no kernels for crops and for suppression of many classes, so a model cannot be compiled whole; what is between them can.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tf_keras

Apply = Callable[..., Any]
"""(network, *inputs, **options) -> what the network answers"""


def plain(network: tf_keras.Model, *inputs: tf.Tensor, **options: Any) -> Any:
    """The network's own call."""
    return network(*inputs, **options)


def compiled() -> Apply:
    """Calls a network as one XLA program, compiled once for every network and shapes of its inputs."""
    programs: dict[str, Any] = {}

    def apply(network: tf_keras.Model, *inputs: tf.Tensor, **options: Any) -> Any:
        if network.name not in programs:
            programs[network.name] = tf.function(network, jit_compile=True)
        return programs[network.name](*inputs, **options)

    return apply
