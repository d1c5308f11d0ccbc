"""Where training starts: the checkpoint that a config names, as asked for on the command line and as the experiment has it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.checkpoints.files import find_checkpoint
from tasks.checkpoints.own_checkpoint import OwnCheckpoint, own_checkpoint
from tasks.mask_rcnn.mask_depth import FEATURE_CHANNELS, automatic_conv_depth
from tasks.pipeline_config.edits import MASK_PREDICTOR, Draft, Edited
from tasks.pipeline_config.fields import FieldError
from tasks.pipeline_config.ledger import Reading
from tasks.pipeline_config.pipeline_pb2 import TrainEvalPipelineConfig
from tasks.pipeline_config.training_pb2 import TrainConfig
from tasks.pipeline_config.zoo import find_label_map
from tasks.records.label_map import read_label_map
from tasks.running.errors import UserError

PLACEHOLDER = "PATH_TO_BE_CONFIGURED"
"""What sample configs write where a path has to be filled in."""

CHECKPOINT_TYPES = ("classification", "detection", "full")
"""Those of the original's Faster and Mask R-CNN; `full` came with its TensorFlow 2."""


@dataclass(frozen=True)
class StartingPoint:
    """Wishes for the checkpoint that training starts from; None and False keep what the config says."""

    checkpoint: Path | None = None
    """As `find_checkpoint` takes it"""
    checkpoint_type: str | None = None
    all_variables: bool = False
    """The heads too, not the backbones only"""
    label_map: str | None = None
    """Path or shipped name of the map of the checkpoint's classes; the original's language has no field for it"""


def start_from(config: TrainEvalPipelineConfig, wishes: StartingPoint, name: str) -> Edited:
    """Not of the six: the config called `name` says where its checkpoint really lies, and what is restored of it.

    Raises UserError where there is no such checkpoint, and for heads of a classification checkpoint, which has none.
    """
    draft = Draft(config)
    if wishes.checkpoint is not None:
        checkpoint = find_checkpoint(wishes.checkpoint, name)
    elif names_checkpoint(config.train_config.fine_tune_checkpoint):
        checkpoint = _own_checkpoint(config.train_config, name)
    elif wishes == StartingPoint():
        return draft.done()
    else:
        raise UserError("there is no checkpoint to start from", "give one with --checkpoint")
    draft.put("train_config.fine_tune_checkpoint", str(checkpoint), "training starts from it")
    own = own_checkpoint(checkpoint)
    if own is not None:
        _confirm_same_network(config, own)
    if wishes.checkpoint_type is not None:
        draft.put("train_config.fine_tune_checkpoint_type", wishes.checkpoint_type, "asked for")
    elif own is not None:
        draft.put("train_config.fine_tune_checkpoint_type", "full", "all of a model that was trained here")
    if own is not None:
        _keep_mask_depth(draft, own.mask_conv_depth, "as that training had it")
    elif wishes.label_map is not None:
        _keep_mask_depth_of(draft, read_label_map(find_label_map(wishes.label_map)).num_classes)
    if wishes.all_variables or wishes.label_map is not None:
        train = draft.config.train_config
        kind = checkpoint_kind(train.fine_tune_checkpoint_type, train.from_detection_checkpoint)
        if kind == "classification":
            path = "train_config.fine_tune_checkpoint_type"
            raise FieldError(path, "a classification checkpoint has no heads to restore", "use --checkpoint-type detection")
        if kind == "detection":
            draft.put("train_config.load_all_detection_checkpoint_vars", True, "the heads are restored too")
    return draft.done()


def names_checkpoint(fine_tune_checkpoint: str) -> bool:
    """Whether the field's value is a path, not empty or a sample's placeholder."""
    return fine_tune_checkpoint != "" and PLACEHOLDER not in fine_tune_checkpoint


def translate_start(train: Reading, label_map: str) -> dict[str, Any]:
    """The experiment's fields; `init_checkpoint` "" is from scratch. `label_map` is the path of the checkpoint's, or ""."""
    path = train.value("fine_tune_checkpoint")
    if not names_checkpoint(path):
        reason = "no checkpoint is configured: training starts from scratch"
        train.ignore(reason, "fine_tune_checkpoint_type", "from_detection_checkpoint")
        train.ignore(reason, "load_all_detection_checkpoint_vars", "fine_tune_checkpoint_version")
        if path:
            train.ignore(reason, "fine_tune_checkpoint")
        return {"init_checkpoint": ""}
    kind = checkpoint_kind(train.value("fine_tune_checkpoint_type"), train.value("from_detection_checkpoint"))
    if kind not in CHECKPOINT_TYPES:
        supported = ", ".join(CHECKPOINT_TYPES)
        train.reject("fine_tune_checkpoint_type", f"{kind!r} is not a type of checkpoint", f"supported: {supported}")
    train.ignore("the file itself says how it is written", "fine_tune_checkpoint_version")
    return {
        "init_checkpoint": path,
        "fine_tune_checkpoint_type": kind,
        "load_all_detection_checkpoint_vars": train.value("load_all_detection_checkpoint_vars"),
        **({"checkpoint_label_map_path": label_map} if label_map else {}),
    }


def checkpoint_kind(fine_tune_checkpoint_type: str, from_detection_checkpoint: bool) -> str:
    """The type of checkpoint; the older spelling counts where the newer one says nothing."""
    return fine_tune_checkpoint_type or ("detection" if from_detection_checkpoint else "classification")


def _own_checkpoint(train: TrainConfig, name: str) -> Path:
    try:
        return find_checkpoint(Path(train.fine_tune_checkpoint), name)
    except UserError as error:
        from_scratch = """--set train_config.fine_tune_checkpoint='""'"""
        raise FieldError("train_config.fine_tune_checkpoint", error.message, f"{error.fix}; {from_scratch} trains from scratch") from error


def classes_of_checkpoint(config: TrainEvalPipelineConfig, wish: str | None) -> Path | None:
    """The label map of the checkpoint that the config starts from: the one that was asked for, or what a training of ours kept.

    None where the heads are not restored, or the checkpoint is not ours. UserError where our training kept none.
    """
    if wish is not None:
        return find_label_map(wish)
    train = config.train_config
    own = own_checkpoint(Path(train.fine_tune_checkpoint)) if names_checkpoint(train.fine_tune_checkpoint) else None
    if own is None or not restores_heads(config) or config.model.faster_rcnn.number_of_stages == 1:
        return None
    return own.label_map


def restores_heads(config: TrainEvalPipelineConfig) -> bool:
    """Whether more than the backbone is restored."""
    train = config.train_config
    kind = checkpoint_kind(train.fine_tune_checkpoint_type, train.from_detection_checkpoint)
    return kind == "full" or (kind == "detection" and train.load_all_detection_checkpoint_vars)


def _confirm_same_network(config: TrainEvalPipelineConfig, own: OwnCheckpoint) -> None:
    ours = config.model.faster_rcnn.feature_extractor.type
    if own.feature_extractor != ours:
        raise UserError(
            f"checkpoint {own.prefix} is of a model with {own.feature_extractor}, the config has {ours}",
            "name a checkpoint of the same backbone, or the folder of a run that trained this config",
        )


def _keep_mask_depth_of(draft: Draft, num_classes: int) -> None:
    """Mask convolutions as deep as a checkpoint of so many classes has them."""
    channels = FEATURE_CHANNELS.get(draft.config.model.faster_rcnn.feature_extractor.type)
    if channels:
        _keep_mask_depth(draft, automatic_conv_depth(channels, num_classes), f"the checkpoint's, by its {num_classes} classes")


def _keep_mask_depth(draft: Draft, depth: int, why: str) -> None:
    """Sets the depth of the mask convolutions where the config derives it from its own number of classes."""
    if draft.config.model.faster_rcnn.second_stage_box_predictor.mask_rcnn_box_predictor.mask_prediction_conv_depth == 0:
        draft.put(f"{MASK_PREDICTOR}.mask_prediction_conv_depth", depth, why)
