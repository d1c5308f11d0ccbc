"""The layers of both stages of the original's TensorFlow 2 form, by the names that Keras gave them, against ours."""

from __future__ import annotations

import re
from collections.abc import Iterator

import tensorflow as tf
import tf_keras

from tasks.mask_rcnn.model import MaskRCNN
from tests.parity.deviation import LATER, STAGE_1, Deviation
from tests.parity.reference import Reference

# Keras's names, and ours below the stage's and the network's scope.
_LAYERS = (
    (r"conv1_relu", "conv1/Relu"),
    (r"pool1_pool", "pool1"),
    (r"conv(\d)_block(\d+)_out", lambda m: f"block{int(m[1]) - 1}/unit_{m[2]}/bottleneck_v1/Relu"),
    (r"mixed_(\d\w)", lambda m: f"Mixed_{m[1]}"),
    (r"block35_(\d+)_ac", lambda m: f"Repeat/block35_{m[1]}/Relu"),
    (r"block17_(\d+)_ac", lambda m: f"Repeat_1/block17_{m[1]}/Relu"),
    (r"block8_(\d+)_ac", lambda m: f"Repeat/block8_{m[1]}/Relu"),
    (r"conv_7b_ac", "Conv2d_7b_1x1/Relu"),
)


def keras_layer_deviations(reference: Reference, model: MaskRCNN, preprocessed: tf.Tensor, crops: tf.Tensor) -> Iterator[Deviation]:
    """Rows of the stored layers: the first that does not hold is the one that is wrong."""
    stages = {"stage1": (model.first_stage, preprocessed, STAGE_1), "stage2": (model.second_stage, crops, LATER)}
    for stage, (network, inputs, kind) in stages.items():
        names = [(index, name.partition("/")[2]) for index, name in enumerate(map(str, reference["infer/endpoint_names"])) if stage in name]
        layers = {str(index): _layer(network, name).output for index, name in names}
        outputs = tf.function(tf_keras.Model(network.input, layers))(inputs)
        for index, _ in names:
            yield reference.layer_deviation(index, outputs[str(index)], kind)


def _layer(network: tf_keras.Model, name: str) -> tf_keras.layers.Layer:
    if match := re.fullmatch(r"max_pooling_(\d)", name):
        return [layer for layer in network.layers if isinstance(layer, tf_keras.layers.MaxPooling2D)][int(match[1])]
    scope = next(re.sub(pattern, ours, name) for pattern, ours in _LAYERS if re.fullmatch(pattern, name))
    return next(layer for layer in network.layers if layer.name.split("/", 2)[2:] == [scope])
