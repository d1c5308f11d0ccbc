"""The named tensors of a TF1 checkpoint, or an error that a person can mend."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import tensorflow as tf

from tasks.errors import UserError


def open_checkpoint(prefix: str) -> tf.train.CheckpointReader:
    """The reader of a checkpoint of named variables; UserError where it is damaged or holds TF2 objects."""
    try:
        reader = tf.train.load_checkpoint(prefix)
        shapes = reader.get_variable_to_shape_map()
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise UserError(f"checkpoint {prefix} cannot be read: {error}", "copy or download it again") from error
    if "_CHECKPOINTABLE_OBJECT_GRAPH" in shapes:
        raise UserError(
            f"checkpoint {prefix} is one of TensorFlow 2, which knows objects and not variable names",
            "use the model's TF1 checkpoint, such as the zoo's of 2018",
        )
    return reader


def read_tensor(reader: tf.train.CheckpointReader, name: str) -> npt.NDArray[Any]:
    """A tensor of any shape and dtype; UserError where its data is cut short."""
    try:
        value: npt.NDArray[Any] = reader.get_tensor(name)
    except (tf.errors.OpError, IndexError, RuntimeError) as error:  # IndexError: fewer bytes than the index says
        raise UserError(f"the checkpoint's {name} cannot be read: {error}", "copy or download it again") from error
    return value
