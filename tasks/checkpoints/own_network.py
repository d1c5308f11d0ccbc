"""The networks of our own trainings' checkpoints."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

from tasks.checkpoints.own_checkpoint import OwnCheckpoint
from tasks.mask_rcnn import config
from tasks.mask_rcnn.model import MaskRCNN
from tasks.running.errors import UserError
from tasks.running.scratch import without_pattern


def latest_checkpoint(folder: Path) -> str | None:
    """The prefix of a folder's last checkpoint, as TensorFlow's own, which takes the folder `set [1]` for a pattern."""
    state = tf.train.get_checkpoint_state(str(folder))
    return state.model_checkpoint_path if state and Path(f"{state.model_checkpoint_path}.index").is_file() else None


def own_network(checkpoint: OwnCheckpoint) -> MaskRCNN:
    """The network that wrote a checkpoint, with its weights."""
    model = config.MaskRCNN()
    try:
        model.override(dict(checkpoint.model), is_strict=True)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{checkpoint.experiment}: {error}", "name another checkpoint, or train the model again") from error
    return restored_network(checkpoint.prefix, model)


def restored_network(prefix: Path, model: config.MaskRCNN) -> MaskRCNN:
    """The network with the checkpoint's weights, all of them, in float32 whatever the precision of training."""
    network = MaskRCNN(model)
    try:
        with without_pattern(prefix.parent) as folder:
            restored = tf.train.Checkpoint(model=network).restore(str(folder / prefix.name))
            restored.assert_existing_objects_matched().expect_partial()
    except (AssertionError, ValueError) as error:
        raise UserError(f"checkpoint {prefix} is not one of this model", "name a checkpoint of this folder") from error
    return network
