"""Checkpoints as the original's Saver wrote them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow.core.protobuf import saver_pb2

tf1 = tf.compat.v1


def write_checkpoint(prefix: Path, values: Mapping[str, npt.NDArray[np.generic]], version: int = saver_pb2.SaverDef.V2) -> Path:
    """Writes `values` as variables of these names; answers with the prefix."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    with tf.Graph().as_default(), tf1.Session() as session:
        placeholders = {name: tf1.placeholder(value.dtype, value.shape) for name, value in values.items()}
        variables = [tf1.Variable(placeholder, name=name, use_resource=False) for name, placeholder in placeholders.items()]
        assert [variable.op.name for variable in variables] == list(values)
        session.run(tf1.global_variables_initializer(), {placeholders[name]: value for name, value in values.items()})
        saver = tf1.train.Saver(write_version=version)
        saver.save(session, str(prefix), write_meta_graph=False)
    return prefix
