"""A trained model as `maskline train` left it: its experiment, its checkpoint, and the network of both."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import yaml
from official.core import config_definitions as cfg

from tasks.checkpoints.own_checkpoint import written_checkpoints
from tasks.checkpoints.own_network import restored_network
from tasks.mask_rcnn.model import MaskRCNN
from tasks.running.errors import UserError
from tasks.training.experiment import experiment_from


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


def read_trained_model(folder: Path, checkpoint: Path | None = None) -> TrainedModel:
    """What `folder` (`ModelDir.train`) holds, with the last checkpoint or the one under the prefix `checkpoint`."""
    trained = folder / "experiment.yaml"
    written = written_checkpoints(folder)
    if not (checkpoint or written) or not trained.exists():
        raise UserError(f"{folder} holds no checkpoint", "run `maskline train` on this folder first")
    prefix = checkpoint or written[-1]
    if not Path(f"{prefix}.index").exists():
        raise UserError(f"checkpoint {prefix} does not exist", f"give a checkpoint's prefix, such as {folder / 'ckpt-2000'}")
    values = yaml.safe_load(trained.read_text())
    dataset_digest = values.pop("dataset_digest")
    return TrainedModel(experiment_from(values, trained), str(prefix), dataset_digest)


def restored_model(trained: TrainedModel) -> MaskRCNN:
    """The network with the checkpoint's weights, all of them, in float32 whatever the precision of training."""
    return restored_network(Path(trained.checkpoint), trained.experiment.task.model)
