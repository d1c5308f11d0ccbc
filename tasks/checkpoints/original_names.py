"""The variables of a model under the names that they have in a checkpoint of the original."""

from __future__ import annotations

import tensorflow as tf
import tf_keras

_LEAVES = {
    "kernel": "weights",
    "bias": "biases",
    "depthwise_kernel": "depthwise_weights",
    "pointwise_kernel": "pointwise_weights",
    "gamma": "gamma",
    "beta": "beta",
    "moving_mean": "moving_mean",
    "moving_variance": "moving_variance",
}


def original_variables(model: tf_keras.Model) -> dict[str, tf.Variable]:
    """All variables of a built model by TF1 name, e.g. `Conv/weights`, in the order of its layers.

    A layer that owns variables is named by its TF1 scope. Layouts are the original's: convolutions [h, w, in, out], fully connected
    [in, out], depthwise [h, w, in, multiplier].
    """
    variables: dict[str, tf.Variable] = {}
    for layer in model.submodules:
        if not isinstance(layer, tf_keras.layers.Layer) or isinstance(layer, tf_keras.Model):
            continue
        for variable in layer.variables:
            leaf = variable.name.rsplit("/", 1)[-1].removesuffix(":0")
            name = f"{layer.name}/{_LEAVES[leaf]}"
            if name in variables:
                raise ValueError(f"two variables are called {name}")
            variables[name] = variable
    return variables
