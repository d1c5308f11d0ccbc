"""Checkpoints as the original's TensorFlow 2 wrote them: tensors under the keys of Keras's objects."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tasks.checkpoints.keras_names import OBJECT_GRAPH

_TABLES = Path(__file__).parent / "keras_keys"


def key_table(name: str) -> dict[str, str]:
    """Keys of a checkpoint that the original wrote, and TF1's names of the same weights; of others, the slot's or counter's own.

    `<model>_<kind>`: `training` of the original's training loop, `exported` of its exporter, `classification` of a whole backbone.
    """
    lines = gzip.decompress((_TABLES / f"{name}.txt.gz").read_bytes()).decode().splitlines()
    return dict(line.split(" ") for line in lines)


def write_keras_checkpoint(prefix: Path, values: Mapping[str, npt.NDArray[np.generic]]) -> Path:
    """Writes the values under their keys, and what tells such a checkpoint from one of names; answers with the prefix."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tf.constant(value) for name, value in {**values, OBJECT_GRAPH: np.array(b"")}.items()}
    tf.raw_ops.SaveV2(prefix=str(prefix), tensor_names=[*tensors], shape_and_slices=[""] * len(tensors), tensors=[*tensors.values()])
    return prefix
