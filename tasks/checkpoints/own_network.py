"""The networks of our own trainings' checkpoints."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

from tasks.checkpoints.own_checkpoint import OwnCheckpoint
from tasks.mask_rcnn import config
from tasks.mask_rcnn.model import MaskRCNN
from tasks.running.errors import UserError
from tasks.running.scratch import without_pattern


def damage(prefix: Path) -> str | None:
    """What is wrong with a checkpoint's files, whose every tensor is read and compared with its checksum; None for a whole one."""
    try:
        with without_pattern(prefix.parent) as folder:
            reader = tf.train.load_checkpoint(str(folder / prefix.name))
            for name in reader.get_variable_to_shape_map():
                reader.get_tensor(name)
    # IndexError: fewer bytes than the index says.
    except (tf.errors.OpError, IndexError, RuntimeError, ValueError) as error:
        return " ".join(str(error).split())
    return None


def own_network(checkpoint: OwnCheckpoint) -> MaskRCNN:
    """The network that wrote a checkpoint, with its weights."""
    model = config.MaskRCNN()
    try:
        model.override(dict(checkpoint.model), is_strict=True)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{checkpoint.experiment}: {error}", "name another checkpoint, or train the model again") from error
    return restored_network(checkpoint.prefix, model, checkpoint.averaged)


def restored_network(prefix: Path, model: config.MaskRCNN, averaged: bool) -> MaskRCNN:
    """The network with the checkpoint's weights, all of them, in float32 whatever the precision of training.

    With `averaged` they are the averages of those that were trained.
    """
    network = MaskRCNN(model)
    try:
        with without_pattern(prefix.parent) as folder:
            restored = tf.train.Checkpoint(model=network).read(str(folder / prefix.name))
            restored.assert_existing_objects_matched().expect_partial()
            if averaged:
                averages = tf.train.Checkpoint(averages=tf.train.Checkpoint(values=list(network.trainable_variables)))
                averages.read(str(folder / prefix.name)).assert_existing_objects_matched().expect_partial()
    except (AssertionError, ValueError) as error:
        raise UserError(f"checkpoint {prefix} is not one of this model", "name a checkpoint of this folder") from error
    except (tf.errors.OpError, IndexError) as error:
        raise UserError(f"checkpoint {prefix} is damaged: {damage(prefix) or error}", "name another checkpoint, or train again") from error
    return network
