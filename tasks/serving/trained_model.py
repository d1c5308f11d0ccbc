"""A trained model as `maskline train` left it: its experiment, its checkpoint, and the network of both.

One that was converted to go on from a whole checkpoint of the original is a trained model, too, before it is trained here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from official.core import config_definitions as cfg

from tasks.checkpoints.files import checkpoint_digest
from tasks.checkpoints.importing import FULL, import_checkpoint
from tasks.checkpoints.own_checkpoint import BEST, LAST, chosen_checkpoint, is_written, step_of, written_checkpoints
from tasks.checkpoints.own_network import restored_network
from tasks.checkpoints.training_state import stored_step
from tasks.evaluation.thresholds import THRESHOLDS, read_thresholds
from tasks.mask_rcnn.model import MaskRCNN
from tasks.running.errors import UserError
from tasks.running.workspace import ModelDir, read_settings
from tasks.training.experiment import experiment_from, load_experiment


@dataclass(frozen=True)
class TrainedModel:
    experiment: cfg.ExperimentConfig
    """As it was trained, overrides of the command line included; of one that was not trained here, as it was converted."""
    experiment_file: Path
    checkpoint: str
    """The checkpoint's prefix; of one that was not trained here, as `find_checkpoint` has it."""
    dataset_digest: str
    """Of the records that it was trained on; "" where nobody knows."""
    trained_here: bool = True

    @property
    def checkpoint_digest(self) -> str:
        """SHA-256 of the checkpoint's index, which holds a checksum of every tensor, or of the file that stands for it."""
        return checkpoint_digest(Path(self.checkpoint)) or ""

    @property
    def step(self) -> int:
        """At which the checkpoint was written; 0 where it does not say so, as after an export of the original."""
        if self.trained_here:
            return step_of(self.checkpoint)
        return stored_step(Path(self.checkpoint))


def read_trained_model(folder: Path, checkpoint: str | Path = "") -> TrainedModel:
    """What `folder` (`ModelDir.train`) holds, with the checkpoint of a prefix, or as `chosen_checkpoint` by `last`, `best` or nothing."""
    trained = folder / "experiment.yaml"
    if not written_checkpoints(folder) or not trained.exists():
        if checkpoint == "" and (start := _whole_start(folder.parent / "experiment.yaml")) is not None:
            return start
        raise UserError(f"{folder} holds no checkpoint", "run `maskline train` on this folder first")
    prefix = chosen_checkpoint(folder, str(checkpoint)) if checkpoint in ("", LAST, BEST) else Path(checkpoint)
    if prefix is None:
        raise UserError(f"{folder} has no best checkpoint: none was evaluated on the way", f"train with --evaluate-every, or name {LAST}")
    if not is_written(prefix):
        raise UserError(f"checkpoint {prefix} does not exist", f"give {LAST}, {BEST}, or a prefix such as {folder / 'ckpt-2000'}")
    values = read_settings(trained)
    dataset_digest = values.pop("dataset_digest")
    return TrainedModel(experiment_from(values, trained), trained, str(prefix.absolute()), dataset_digest)


def shipped_thresholds(model: ModelDir, trained: TrainedModel) -> Path | None:
    """The file of operating thresholds that goes along with a model: of its evaluation, where that was one of this checkpoint."""
    file = model.evaluation / THRESHOLDS
    if not file.is_file() or read_thresholds(file).chosen_on.get("checkpoint_digest") != trained.checkpoint_digest:
        return None
    return file


def _whole_start(converted: Path) -> TrainedModel | None:
    """The model that training would begin with, where that is all of a checkpoint; else None."""
    if not converted.is_file():
        return None
    experiment = load_experiment(converted)
    task = experiment.task
    whole = task.fine_tune_checkpoint_type == FULL or task.load_all_detection_checkpoint_vars
    if not (task.init_checkpoint and whole) or task.checkpoint_label_map_path:
        return None
    return TrainedModel(experiment, converted, task.init_checkpoint, "", trained_here=False)


def restored_model(trained: TrainedModel) -> MaskRCNN:
    """The network with the checkpoint's weights, or their averages where training kept them, in float32 whatever its precision was."""
    if not trained.trained_here:
        return _with_original_weights(trained)
    averaged = trained.experiment.trainer.optimizer_config.moving_average_decay > 0.0
    return restored_network(Path(trained.checkpoint), trained.experiment.task.model, averaged)


def _with_original_weights(trained: TrainedModel) -> MaskRCNN:
    """The network with a checkpoint that somebody else's training wrote; UserError where a variable gets no value."""
    network = MaskRCNN(trained.experiment.task.model)
    report = import_checkpoint(network, Path(trained.checkpoint), FULL)
    if not report.is_whole:
        left = [*report.missing, *report.reshaped]
        raise UserError(
            f"{trained.checkpoint} is not the whole of this model: {len(left)} variables get no value of it, {left[0]} among them",
            "run `maskline train` on this folder first, which trains them, or correct the fields of the pipeline.config that shape the "
            "model",
        )
    return network
