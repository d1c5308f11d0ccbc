"""Checkpoints of our own trainings, as another training starts from them. Needs no TensorFlow."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tasks.mask_rcnn.mask_depth import FEATURE_CHANNELS, automatic_conv_depth
from tasks.running.errors import UserError

_PREFIX = "ckpt-"
_INDEX = re.compile(rf"{_PREFIX}(\d+)\.index")


@dataclass(frozen=True)
class OwnCheckpoint:
    """A checkpoint in the folder where `maskline train` wrote it, beside its experiment and its label map."""

    prefix: Path
    model: Mapping[str, Any]
    """The network's settings, as `mask_rcnn.config.MaskRCNN` takes them"""
    feature_extractor: str
    mask_conv_depth: int
    """Of the mask branch's convolutions, as they were built"""

    @property
    def experiment(self) -> Path:
        return self.prefix.parent / "experiment.yaml"

    @property
    def label_map(self) -> Path:
        """The classes that it was trained on; UserError where the training did not keep them."""
        path = self.prefix.parent / "label_map.pbtxt"
        if not path.is_file():
            raise UserError(f"{self.prefix.parent} holds no label_map.pbtxt", "name the label map of that training: --checkpoint-label-map")
        return path


def own_checkpoint(prefix: Path) -> OwnCheckpoint | None:
    """What a checkpoint's training says about it; None for a checkpoint of anybody else."""
    experiment = prefix.parent / "experiment.yaml"
    if not (experiment.is_file() and _INDEX.fullmatch(f"{prefix.name}.index")):
        return None
    try:
        model: dict[str, Any] = yaml.safe_load(experiment.read_text())["task"]["model"]
        feature_extractor, depth = model["feature_extractor"]["type"], model["mask_head"]["conv_depth"]
        depth = depth or automatic_conv_depth(FEATURE_CHANNELS[feature_extractor], model["num_classes"])
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(f"{experiment} is not what `maskline train` writes", "name another checkpoint, or train the model again") from error
    return OwnCheckpoint(prefix, model, feature_extractor, depth)


def checkpoint_at(folder: Path, step: int) -> Path:
    """The prefix of the checkpoint that a training writes in `folder` at that step."""
    return folder / f"{_PREFIX}{step}"


def step_of(prefix: Path | str) -> int:
    """The step at which a checkpoint of ours was written."""
    return int(str(prefix).rsplit("-", 1)[-1])


def written_checkpoints(folder: Path) -> list[Path]:
    """The prefixes of the checkpoints in a training's folder, oldest first; an index is written last, so one without is none."""
    entries = folder.iterdir() if folder.is_dir() else ()
    steps = sorted(int(match[1]) for entry in entries if (match := _INDEX.fullmatch(entry.name)))
    return [checkpoint_at(folder, step) for step in steps]


def latest_own_checkpoint(folder: Path) -> Path | None:
    """The prefix of the last checkpoint of a model's folder or of its `train/`; None where no training of ours wrote here.

    UserError where the training has no checkpoint yet.
    """
    train = folder / "train" if (folder / "train" / "experiment.yaml").is_file() else folder
    if not (train / "experiment.yaml").is_file():
        return None
    if written := written_checkpoints(train):
        return written[-1]
    if train == folder:  # the folder of a model that was converted, or of somebody else
        return None
    raise UserError(f"{train} holds a training without a checkpoint", "let it finish, or name another one")
