"""A trained model as `maskline train` left it: its experiment, its checkpoint, and the network of both."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import yaml
from official.core import config_definitions as cfg

from tasks.checkpoints.own_checkpoint import BEST, LAST, chosen_checkpoint, is_written, written_checkpoints
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


def read_trained_model(folder: Path, checkpoint: str | Path = "") -> TrainedModel:
    """What `folder` (`ModelDir.train`) holds, with the checkpoint of a prefix, or as `chosen_checkpoint` by `last`, `best` or nothing."""
    trained = folder / "experiment.yaml"
    if not written_checkpoints(folder) or not trained.exists():
        raise UserError(f"{folder} holds no checkpoint", "run `maskline train` on this folder first")
    prefix = chosen_checkpoint(folder, str(checkpoint)) if checkpoint in ("", LAST, BEST) else Path(checkpoint)
    if prefix is None:
        raise UserError(f"{folder} has no best checkpoint: none was evaluated on the way", f"train with --evaluate-every, or name {LAST}")
    if not is_written(prefix):
        raise UserError(f"checkpoint {prefix} does not exist", f"give {LAST}, {BEST}, or a prefix such as {folder / 'ckpt-2000'}")
    values = yaml.safe_load(trained.read_text())
    dataset_digest = values.pop("dataset_digest")
    return TrainedModel(experiment_from(values, trained), str(prefix.absolute()), dataset_digest)


def restored_model(trained: TrainedModel) -> MaskRCNN:
    """The network with the checkpoint's weights, or their averages where training kept them, in float32 whatever its precision was."""
    averaged = trained.experiment.trainer.optimizer_config.moving_average_decay > 0.0
    return restored_network(Path(trained.checkpoint), trained.experiment.task.model, averaged)
