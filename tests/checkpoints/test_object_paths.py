"""Variables of a SavedModel that Keras wrote are called as in the checkpoint that Keras writes of the same model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
import tf_keras

from tasks.checkpoints.keras_names import OBJECT_GRAPH
from tasks.checkpoints.object_paths import keys_by_path


class Head(tf_keras.layers.Layer):
    """With layers in a list, one of which has no variables."""

    def __init__(self) -> None:
        super().__init__()
        self._class_predictor_layers = [tf_keras.layers.Flatten(), tf_keras.layers.Dense(3)]

    def call(self, x: tf.Tensor) -> tf.Tensor:
        for layer in self._class_predictor_layers:
            x = layer(x)
        return x


class Detector(tf_keras.layers.Layer):
    """Named in its parts as the original's."""

    def __init__(self) -> None:
        super().__init__()
        images = tf_keras.Input((4, 4, 3))
        features = tf_keras.layers.BatchNormalization()(tf_keras.layers.Conv2D(2, 3)(images))
        self._feature_extractor_for_proposal_features = tf_keras.Model(images, features)
        self._mask_rcnn_box_predictor = Head()

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return self._mask_rcnn_box_predictor(self._feature_extractor_for_proposal_features(x))


class Exported(tf.Module):
    """What the original's exporter wraps around a model."""

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self._model = model

    @tf.function(input_signature=[tf.TensorSpec([1, 4, 4, 3])])
    def __call__(self, x: Any) -> tf.Tensor:
        return self._model(x)


def test_a_saved_model_has_its_checkpoint_s_keys(tmp_path: Path) -> None:
    model = Detector()
    model(tf.zeros([1, 4, 4, 3]))
    tf.saved_model.save(Exported(model), str(tmp_path / "saved"))
    tf.train.Checkpoint(model=model).write(str(tmp_path / "ckpt-0"))
    saved = tf.train.load_checkpoint(str(tmp_path / "saved" / "variables" / "variables"))
    checkpoint = tf.train.load_checkpoint(str(tmp_path / "ckpt-0"))
    keys = keys_by_path(saved.get_tensor(OBJECT_GRAPH))
    assert keys.keys() == {key for key in checkpoint.get_variable_to_shape_map() if key.startswith("model/")}
    assert all(key.startswith("_model/variables/") for key in keys.values())
    for path, key in keys.items():
        assert (saved.get_tensor(key) == checkpoint.get_tensor(path)).all(), path


def test_a_graph_of_objects_may_go_round_in_circles() -> None:
    from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

    graph = TrackableObjectGraph()
    root, model = graph.nodes.add(), graph.nodes.add()
    root.children.add(node_id=1, local_name="_model")
    model.children.add(node_id=1, local_name="itself")
    model.children.add(node_id=0, local_name="owner")
    model.children.add(node_id=7, local_name="nobody")
    assert keys_by_path(graph.SerializeToString()) == {}
    with pytest.raises(ValueError, match="damaged"):
        keys_by_path(b"\xff\xff")
