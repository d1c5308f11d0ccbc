"""Models as the original exported them: frozen graphs, and SavedModels of TF1 and TensorFlow 2."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tensorflow as tf

tf1 = tf.compat.v1

Values = Mapping[str, npt.NDArray[np.generic]]


def write_frozen_graph(folder: Path, values: Values) -> Path:
    """`frozen_inference_graph.pb` with `values` as constants, frozen from variables of these names as TF1 did it."""
    folder.mkdir(parents=True, exist_ok=True)
    graph = tf1.GraphDef()
    graph.CopyFrom(_frozen(values))
    file = folder / "frozen_inference_graph.pb"
    file.write_bytes(graph.SerializeToString())
    return file


def write_saved_model(folder: Path, values: Values, *, frozen: bool = True) -> Path:
    """A SavedModel of TF1, of which the original's exporter froze the weights; or one whose variables lie beside it."""
    with tf.Graph().as_default() as graph, tf1.Session() as session:
        if frozen:
            tf1.import_graph_def(_frozen(values), name="")
            output = graph.get_tensor_by_name("output:0")
        else:
            output = _network(session, values)
        tf1.saved_model.simple_save(session, str(folder), {"input": output}, {"output": output})
    return folder


def write_saved_model_of_objects(folder: Path, values: Values) -> Path:
    """A SavedModel of TensorFlow 2 with variables under the keys of its checkpoints (`model/...`), and Keras's list of all beside them."""
    root, model = _Object(), _Object()
    root._model = model
    variables = []
    for key, value in values.items():
        *path, leaf = key.split("/.")[0].removeprefix("model/").split("/")
        owner = model
        for name in path:
            if not hasattr(owner, name):
                setattr(owner, name, _Object())
            owner = getattr(owner, name)
        variables.append(tf.Variable(value))
        setattr(owner, leaf, variables[-1])
    model.variables = variables
    tf.saved_model.save(root, str(folder))
    return folder


class _Object(tf.__internal__.tracking.AutoTrackable):
    """Something that holds variables and others of its kind."""


def _frozen(values: Values) -> tf1.GraphDef:
    with tf.Graph().as_default() as graph, tf1.Session() as session:
        _network(session, values)
        return tf1.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), ["output"])


def _network(session: tf1.Session, values: Values) -> tf.Tensor:
    """Something that is computed with all of the values, and with constants that are no weights."""
    placeholders = {name: tf1.placeholder(value.dtype, value.shape) for name, value in values.items()}
    variables = [tf1.Variable(one, name=name, use_resource=False) for name, one in placeholders.items()]
    session.run(tf1.global_variables_initializer(), {placeholders[name]: value for name, value in values.items()})
    sums = [tf.cast(tf.reduce_sum(variable), tf.float32) for variable in variables]
    return tf.add(tf.add_n(sums), tf.constant(np.ones((2, 2), np.float32), name="Anchors/of"), name="output")
