"""The variables of a model under the names that they have in a checkpoint of the original."""

from __future__ import annotations

import tensorflow as tf
import tf_keras

from tasks.mask_rcnn.backbones import SECOND_STAGE_SCOPE

LEAVES = {
    "kernel": "weights",
    "bias": "biases",
    "depthwise_kernel": "depthwise_weights",
    "pointwise_kernel": "pointwise_weights",
    "gamma": "gamma",
    "beta": "beta",
    "moving_mean": "moving_mean",
    "moving_variance": "moving_variance",
}
"""What TF1 called a layer's variables, by Keras's names"""


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
            name = f"{layer.name}/{LEAVES[leaf]}"
            if name in variables:
                raise ValueError(f"two variables are called {name}")
            variables[name] = variable
    return variables


def classification_name(name: str) -> str:
    """slim's name in a whole network of a backbone's variable or scope, e.g. `resnet_v1_50/block4/...` of the second stage's.

    The repeats of Inception-ResNet's second stage are the third of the whole network.
    """
    stage, _, inside = name.partition("/")
    if stage == SECOND_STAGE_SCOPE:
        inside = inside.replace("InceptionResnetV2/Repeat/", "InceptionResnetV2/Repeat_2/")
    return inside
