"""Checkpoints of our own trainings, as another training starts from them. Needs no TensorFlow."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tasks.mask_rcnn.mask_depth import FEATURE_CHANNELS, automatic_conv_depth
from tasks.running.errors import UserError

EVALUATIONS = "evaluations.json"
"""Beside the checkpoints: what a training has measured of them on its way"""

LAST, BEST = "last", "best"

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
    averaged: bool
    """Whether averages of the weights were kept, which stand for them"""

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
        values = yaml.safe_load(experiment.read_text())
        model: dict[str, Any] = values["task"]["model"]
        # Trainings of earlier versions kept none.
        averaged = values["trainer"]["optimizer_config"].get("moving_average_decay", 0.0) > 0.0
        feature_extractor, depth = model["feature_extractor"]["type"], model["mask_head"]["conv_depth"]
        depth = depth or automatic_conv_depth(FEATURE_CHANNELS[feature_extractor], model["num_classes"])
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(f"{experiment} is not what `maskline train` writes", "name another checkpoint, or train the model again") from error
    return OwnCheckpoint(prefix, model, feature_extractor, depth, averaged)


def checkpoint_at(folder: Path, step: int) -> Path:
    """The prefix of the checkpoint that a training writes in `folder` at that step."""
    return folder / f"{_PREFIX}{step}"


def step_of(prefix: Path | str) -> int:
    """The step at which a checkpoint of ours was written."""
    return int(str(prefix).rsplit("-", 1)[-1])


def is_written(prefix: Path) -> bool:
    """Whether a checkpoint is there; its index is written last."""
    return Path(f"{prefix}.index").is_file()


def written_checkpoints(folder: Path) -> list[Path]:
    """The prefixes of the checkpoints in a training's folder, oldest first."""
    entries = folder.iterdir() if folder.is_dir() else ()
    steps = sorted(int(match[1]) for entry in entries if (match := _INDEX.fullmatch(entry.name)))
    return [checkpoint_at(folder, step) for step in steps]


def best_checkpoint(folder: Path) -> Path | None:
    """The prefix of the checkpoint in a training's folder that was the best of those it has measured; None where it has measured none."""
    try:
        best = json.loads((folder / EVALUATIONS).read_bytes())["best"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / EVALUATIONS} is not what `maskline train` writes", "name a checkpoint by its prefix") from error
    return folder / best["checkpoint"] if best and is_written(folder / best["checkpoint"]) else None


def chosen_checkpoint(folder: Path, which: str = "") -> Path | None:
    """The prefix of a checkpoint in a training's folder: `LAST`, `BEST`, or by default the best where there is one and else the last.

    None where there is no such checkpoint.
    """
    written = written_checkpoints(folder)
    last = written[-1] if written else None
    if which == LAST:
        return last
    return best_checkpoint(folder) or (None if which == BEST else last)


def checkpoint_to_start_from(folder: Path) -> Path | None:
    """The prefix of a checkpoint of a model's folder or of its `train/`, as `chosen_checkpoint`; None where no training of ours wrote here.

    UserError where the training has no checkpoint yet.
    """
    train = folder / "train" if (folder / "train" / "experiment.yaml").is_file() else folder
    if not (train / "experiment.yaml").is_file():
        return None
    if chosen := chosen_checkpoint(train):
        return chosen
    if train == folder:  # the folder of a model that was converted, or of somebody else
        return None
    raise UserError(f"{train} holds a training without a checkpoint", "let it finish, or name another one")
