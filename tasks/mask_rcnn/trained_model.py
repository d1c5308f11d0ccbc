"""A trained model as `maskline train` left it: its experiment, its checkpoint, and the network of both."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf
import yaml
from official.core import config_definitions as cfg

from tasks.mask_rcnn.config import experiment_from
from tasks.mask_rcnn.model import MaskRCNN
from tasks.running.errors import UserError
from tasks.running.scratch import without_pattern


@dataclass(frozen=True)
class TrainedModel:
    experiment: cfg.ExperimentConfig
    """As it was trained, overrides of the command line included."""
    checkpoint: str
    """The checkpoint's prefix."""
    dataset_digest: str
    """Of the records that it was trained on."""

    @property
    def checkpoint_digest(self) -> str:
        """SHA-256 of the checkpoint's index, which holds a checksum of every tensor."""
        return hashlib.sha256(Path(f"{self.checkpoint}.index").read_bytes()).hexdigest()


def latest_checkpoint(folder: Path) -> str | None:
    """The prefix of a folder's last checkpoint, as TensorFlow's own, which takes the folder `set [1]` for a pattern."""
    state = tf.train.get_checkpoint_state(str(folder))
    return state.model_checkpoint_path if state and Path(f"{state.model_checkpoint_path}.index").is_file() else None


def read_trained_model(folder: Path, checkpoint: Path | None = None) -> TrainedModel:
    """What `folder` (`ModelDir.train`) holds, with the last checkpoint or the one under the prefix `checkpoint`."""
    trained = folder / "experiment.yaml"
    prefix = str(checkpoint) if checkpoint else latest_checkpoint(folder)
    if prefix is None or not trained.exists():
        raise UserError(f"{folder} holds no checkpoint", "run `maskline train` on this folder first")
    if not Path(f"{prefix}.index").exists():
        raise UserError(f"checkpoint {prefix} does not exist", f"give a checkpoint's prefix, such as {folder / 'ckpt-2000'}")
    values = yaml.safe_load(trained.read_text())
    dataset_digest = values.pop("dataset_digest")
    return TrainedModel(experiment_from(values, trained), prefix, dataset_digest)


def restored_model(trained: TrainedModel) -> MaskRCNN:
    """The network with the checkpoint's weights, all of them, in float32 whatever the precision of training."""
    network = MaskRCNN(trained.experiment.task.model)
    prefix = Path(trained.checkpoint)
    try:
        with without_pattern(prefix.parent) as folder:
            restored = tf.train.Checkpoint(model=network).restore(str(folder / prefix.name))
            restored.assert_existing_objects_matched().expect_partial()
    except (AssertionError, ValueError) as error:
        raise UserError(f"checkpoint {trained.checkpoint} is not one of this model", "name a checkpoint of this folder") from error
    return network
