"""The tensors of a checkpoint under the original's names, or an error that a person can mend."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy.typing as npt
import tensorflow as tf

from tasks.checkpoints.files import checkpoint_prefix, is_graph, is_saved_model
from tasks.checkpoints.graph_weights import GraphWeights
from tasks.checkpoints.keras_names import OBJECT_GRAPH, names_of_keys
from tasks.checkpoints.object_paths import keys_by_path
from tasks.checkpoints.original_names import original_variables
from tasks.checkpoints.own_checkpoint import own_checkpoint
from tasks.checkpoints.own_network import own_network
from tasks.running.errors import UserError


@dataclass(frozen=True)
class StoredVariables:
    """Shapes by the original's TF1 name, and what reads one of them; `of_objects` where TensorFlow 2 wrote the checkpoint."""

    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], npt.NDArray[Any]]
    of_objects: bool = False


@contextmanager
def stored_variables(checkpoint: Path, network: str) -> Iterator[StoredVariables]:
    """Yields the variables of a checkpoint of the original, as `checkpoint_prefix` takes it, or of one of our trainings, by its prefix.

    TensorFlow 2's knows objects and not names: those of a backbone are found by `network`, the type of its feature extractor. So does one
    of ours: the network that wrote it is built again, and its variables have the names.
    """
    if (own := own_checkpoint(checkpoint)) is not None:
        variables = original_variables(own_network(own))
        yield StoredVariables({name: tuple(variable.shape) for name, variable in variables.items()}, lambda name: variables[name].numpy())
        return
    with checkpoint_prefix(checkpoint) as prefix:
        if is_graph(prefix):
            weights = GraphWeights(Path(prefix))
            yield StoredVariables(weights.shapes, weights.read)
            return
        reader = open_checkpoint(prefix)
        shapes = {name: tuple(shape) for name, shape in reader.get_variable_to_shape_map().items()}
        if OBJECT_GRAPH not in shapes:
            yield StoredVariables(shapes, partial(read_tensor, reader))
            return
        del shapes[OBJECT_GRAPH]
        keys = _keys(prefix, reader, shapes)
        names = {name: keys[key] for name, key in names_of_keys(keys, network).items()}
        yield StoredVariables({name: shapes[key] for name, key in names.items()}, lambda name: read_tensor(reader, names[name]), True)


def _keys(prefix: str, reader: tf.train.CheckpointReader, shapes: Mapping[str, Any]) -> dict[str, str]:
    """The key of each variable by what it would be called in a checkpoint of TensorFlow 2: of a SavedModel it is another one."""
    if is_saved_model(prefix):
        try:
            keys = keys_by_path(bytes(read_tensor(reader, OBJECT_GRAPH)))
        except ValueError as error:
            raise UserError(f"the SavedModel at {prefix} cannot be read: {error}", "copy or download it again") from error
        if found := {path: key for path, key in keys.items() if key in shapes}:
            return found
    return {key: key for key in shapes}


def open_checkpoint(prefix: str) -> tf.train.CheckpointReader:
    """The reader of a checkpoint; UserError where it is damaged."""
    try:
        reader = tf.train.load_checkpoint(prefix)
        reader.get_variable_to_shape_map()
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise UserError(f"checkpoint {prefix} cannot be read: {error}", "copy or download it again") from error
    return reader


def read_tensor(reader: tf.train.CheckpointReader, name: str) -> npt.NDArray[Any]:
    """A tensor of any shape and dtype; UserError where its data is cut short."""
    try:
        value: npt.NDArray[Any] = reader.get_tensor(name)
    except (tf.errors.OpError, IndexError, RuntimeError) as error:  # IndexError: fewer bytes than the index says
        raise UserError(f"the checkpoint's {name} cannot be read: {error}", "copy or download it again") from error
    return value
