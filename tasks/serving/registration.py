"""What of a trained model goes into MLflow's registry: a folder with the model as MLflow keeps it, and what is known of it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tensorflow as tf

from tasks.mask_rcnn.model import MaskRCNN
from tasks.records.label_map import read_label_map
from tasks.running.errors import UserError
from tasks.running.workspace import ModelDir, address, folder_digest, read_json, staged_directory, write_json
from tasks.serving.agreement import agreement
from tasks.serving.mlflow_model import SAVED_MODEL, save_for_mlflow
from tasks.serving.record_images import record_images
from tasks.serving.trained_model import TrainedModel, shipped_thresholds

FORMAT_VERSION = 1
_CHECKED_IMAGES = 3


def is_prepared(model: ModelDir, trained: TrainedModel) -> bool:
    """Whether the folder holds this checkpoint."""
    told = model.registered / "registration.json"
    about = read_json(told) if told.is_file() else {}
    return (about.get("format_version"), about.get("checkpoint_digest")) == (FORMAT_VERSION, trained.checkpoint_digest)


def prepare_registration(network: MaskRCNN, model: ModelDir, trained: TrainedModel) -> dict[str, str]:
    """Writes `model.registered`: MLflow's `model/`, and `registration.json`; the tags of the version come back.

    The exported model is held against the checkpoint on the first images of the validation records: the tag `export_check` says how far
    they agree. `content_digest` is that of all files.
    """
    data = trained.experiment.task.validation_data
    images = list(record_images(data, _CHECKED_IMAGES))
    if not images:
        raise UserError(f"{data.input_path} holds no record to try the model on", "materialize the dataset with images in that split")
    with staged_directory(model.registered) as folder:
        saved = folder / "model"
        save_for_mlflow(network, saved, read_label_map(Path(data.label_map_path)).names, images[0], shipped_thresholds(model, trained))
        found, all_agree = agreement(network, tf.saved_model.load(str(saved / "artifacts" / SAVED_MODEL)), images)
        tags = {
            "config": model.name,
            "checkpoint": trained.checkpoint,
            "checkpoint_digest": trained.checkpoint_digest,
            "trained_on": trained.dataset_digest,
            "model_dir": address(model.root.absolute()),
            "content_digest": folder_digest(saved),
            "export_check": json.dumps(asdict(found) | {"agrees": all_agree}),
        }
        write_json(folder / "registration.json", {"format_version": FORMAT_VERSION, **tags})
    return tags


def prepared_tags(model: ModelDir) -> dict[str, Any]:
    """The tags that `prepare_registration` has written down."""
    about = read_json(model.registered / "registration.json")
    return {name: value for name, value in about.items() if name != "format_version"}
