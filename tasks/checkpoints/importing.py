"""Start a training from a checkpoint: variables find their values by the original's names, classes by theirs.

Three kinds, as the original has them: `classification` takes a slim network trained on ImageNet into both halves of the backbone,
`detection` takes the backbone of a Faster or Mask R-CNN, `full` its heads as well. Checkpoints of TensorFlow 2 are read under the names of
TF1, and a model of either form takes those of both. Beyond the original, the heads of a model with
other classes are restored for those classes that both label maps name. A checkpoint of our own training must fit as a whole.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from tasks.checkpoints.class_match import ClassMatch, check_match
from tasks.checkpoints.class_remap import CLASS_BIASES, class_layouts, remap_classes
from tasks.checkpoints.keras_names import VALUE
from tasks.checkpoints.original_names import classification_name, original_variables
from tasks.checkpoints.own_checkpoint import own_checkpoint
from tasks.checkpoints.reader import StoredVariables, stored_variables
from tasks.mask_rcnn.backbones import FIRST_STAGE_SCOPE, SECOND_STAGE_SCOPE
from tasks.mask_rcnn.model import MaskRCNN
from tasks.running.errors import UserError

CLASSIFICATION, DETECTION, FULL = "classification", "detection", "full"

_BACKBONES = (FIRST_STAGE_SCOPE, SECOND_STAGE_SCOPE)
_BOOKKEEPING = (
    "Momentum",
    "RMSProp",
    "RMSProp_1",
    "Adam",
    "Adam_1",
    "ExponentialMovingAverage",
    "global_step",
    "beta1_power",
    "beta2_power",
    # What TensorFlow 2 counts beside them.
    f"save_counter{VALUE}",
)
_OPTIMIZER = "optimizer/"

# What becomes of a variable that cannot take the checkpoint's tensor as it is.
_CLASS_BY_CLASS = "restored class by class"
_LEFT = "of another shape, left at the initial value"

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Reshaped:
    """Shapes of the checkpoint's tensor and of the variable, and what became of the variable."""

    theirs: tuple[int, ...]
    ours: tuple[int, ...]
    outcome: str


@dataclasses.dataclass(frozen=True)
class ImportReport:
    """What became of every tensor of the checkpoint and of every variable that was asked for; names are the original's."""

    checkpoint: str
    restored: tuple[str, ...]
    """Variables that took the checkpoint's tensor as it is"""
    reshaped: Mapping[str, Reshaped]
    """Variables that could not: their shape differs, or their classes are matched by name"""
    ignored: Mapping[str, str]
    """Tensors of the checkpoint that were not asked for: name to reason"""
    missing: tuple[str, ...]
    """Variables that the checkpoint has no tensor for; they keep their initial values"""
    known_classes: tuple[str, ...] = ()
    new_classes: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether every variable that was asked for has the checkpoint's value."""
        return not self.reshaped and not self.missing

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def text(self) -> str:
        """A few lines to read: counts per scope, then per reason."""
        lines = [f"restored {len(self.restored)} variables of {self.checkpoint}", *_counts(map(_scope, self.restored))]
        lines += [f"reshaped {len(self.reshaped)} variables", *_counts(one.outcome for one in self.reshaped.values())]
        if self.known_classes:
            lines.append(f"  known classes: {', '.join(self.known_classes)}; new ones: {', '.join(self.new_classes) or 'none'}")
        lines += [f"ignored {len(self.ignored)} tensors", *_counts(self.ignored.values())]
        kept = ", which keep their initial values" if self.missing else ""
        lines += [f"missing {len(self.missing)} variables{kept}", *_counts(map(_scope, self.missing))]
        return "\n".join(lines)


def import_checkpoint(
    model: MaskRCNN, checkpoint: Path, kind: str, load_all_detection_checkpoint_vars: bool = False, classes: ClassMatch | None = None
) -> ImportReport:
    """Restores `model` in place and says what became of everything.

    Args:
      model: any of the zoo's, with its variables.
      checkpoint: a prefix of TF1 (`model.ckpt`, V2 or V1 format) or TensorFlow 2 (`ckpt-25`), the folder of one, or a tarball of one; or
        the prefix of one of ours.
      kind: `classification`, `detection` or `full`.
      load_all_detection_checkpoint_vars: makes `full` of `detection`.
      classes: which of the model's classes the checkpoint knows; without it heads are restored where their shapes are equal.

    Raises:
      UserError: the checkpoint cannot be read, is of another network, lacks a whole scope that was asked for, or is ours and does not
        fit. The model is then as it was.
    """
    wanted = _wanted(model, kind, load_all_detection_checkpoint_vars)
    if classes is not None and CLASS_BIASES not in wanted:
        raise UserError(
            "classes are to be matched by name, but no class predictor is to be restored",
            "set load_all_detection_checkpoint_vars, or leave out the checkpoint's label map",
        )
    with stored_variables(checkpoint, model.config.feature_extractor.network) as stored:
        shapes = stored.shapes
        _check_scopes(checkpoint, wanted, shapes)
        values, reshaped = _values(model, wanted, stored, classes)
    if own_checkpoint(checkpoint) is not None:
        _check_whole(checkpoint, wanted, values, shapes)
    variables = original_variables(model)
    for name, value in values.items():
        variables[name].assign(value)
    return ImportReport(
        checkpoint=str(checkpoint),
        restored=tuple(name for name in values if name not in reshaped),
        reshaped=reshaped,
        ignored={source: _reason(source, variables) for source in sorted(shapes.keys() - wanted.values())},
        missing=tuple(name for name, source in wanted.items() if source not in shapes),
        known_classes=classes.known if classes else (),
        new_classes=classes.new if classes else (),
    )


def _counts(kinds: Iterable[str]) -> list[str]:
    return [f"  {kind}: {count}" for kind, count in Counter(kinds).items()]


def _wanted(model: MaskRCNN, kind: str, load_all: bool) -> dict[str, str]:
    """The checkpoint's name of every variable that is to be restored, by the variable's own."""
    names = list(original_variables(model))
    if kind == CLASSIFICATION:
        return {name: classification_name(name) for name in names if name.startswith(_BACKBONES)}
    if kind == FULL or (kind == DETECTION and load_all):
        return {name: name for name in names}
    if kind == DETECTION:
        return {name: name for name in names if name.startswith(_BACKBONES)}
    raise UserError(
        f"fine_tune_checkpoint_type {kind!r} is not one of a Faster or Mask R-CNN", f"use {CLASSIFICATION}, {DETECTION} or {FULL}"
    )


def _scope(name: str) -> str:
    """A backbone's stage and network, or a head's first scope: the unit that must not be missing as a whole."""
    parts = name.split("/")
    return "/".join(parts[:2]) if parts[0] in _BACKBONES else parts[0]


def _check_scopes(checkpoint: Path, wanted: Mapping[str, str], shapes: Mapping[str, Any]) -> None:
    present = {_scope(name) for name, source in wanted.items() if source in shapes}
    missing = sorted({_scope(name) for name in wanted} - present)
    if missing:
        found = sorted({_scope(name) for name in shapes if not name.endswith(_BOOKKEEPING)})
        raise UserError(
            f"checkpoint {checkpoint} has nothing for {', '.join(missing)}; it holds {', '.join(found) or 'no variables'}",
            "use a checkpoint of the same network, and the fine_tune_checkpoint_type that it is of "
            f"({CLASSIFICATION}: ImageNet; {DETECTION}, {FULL}: an object detector)",
        )


def _check_whole(checkpoint: Path, wanted: Mapping[str, str], values: Mapping[str, Any], shapes: Mapping[str, Any]) -> None:
    """UserError where a variable got no value: going on with half of a model of ours would be no going on."""
    left = [name for name in wanted if name not in values]
    if left:
        first = f"{left[0]} has another shape there" if wanted[left[0]] in shapes else f"it has no {left[0]}"
        raise UserError(
            f"{checkpoint} is of a model that is built differently: {len(left)} variables cannot be taken over ({first})",
            "keep the fields of the pipeline.config that shape the model as they were in that training, give --checkpoint-label-map where "
            "the classes differ, or restore the backbone alone: --checkpoint-type detection",
        )


def _values(
    model: MaskRCNN, wanted: Mapping[str, str], stored: StoredVariables, classes: ClassMatch | None
) -> tuple[dict[str, Array], dict[str, Reshaped]]:
    """New values by variable name, and the variables that do not take the checkpoint's tensor as it is."""
    variables, shapes = original_variables(model), stored.shapes
    layouts = {}
    their_classes = shapes.get(CLASS_BIASES, (1,))[0] - 1
    if classes:
        check_match(classes, model.config.num_classes, their_classes)
        layouts = class_layouts(model.config)
    values: dict[str, Array] = {}
    reshaped: dict[str, Reshaped] = {}
    for name, source in wanted.items():
        if source not in shapes:
            continue
        theirs, ours = shapes[source], tuple(variables[name].shape)
        layout = layouts.get(name)
        if classes and layout and theirs == (*ours[:-1], layout.columns(their_classes)):
            values[name] = remap_classes(stored.read(source), variables[name].numpy(), classes, layout)
            reshaped[name] = Reshaped(theirs, ours, _CLASS_BY_CLASS)
        elif theirs == ours:
            values[name] = stored.read(source)
        else:
            reshaped[name] = Reshaped(theirs, ours, _LEFT)
    return values, reshaped


def _reason(source: str, variables: Mapping[str, Any]) -> str:
    """Why a tensor of the checkpoint was not asked for."""
    if source.endswith(_BOOKKEEPING) or source.startswith(_OPTIMIZER):
        return "state of the finished training"
    if source.startswith(FIRST_STAGE_SCOPE) and "/block4/" in source:
        return "first-stage block4, which nothing uses"
    if source in variables:
        return "a head; load_all_detection_checkpoint_vars restores it"
    return "not part of this model"
