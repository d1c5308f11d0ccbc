"""Heads of a model with other classes: which columns of a last layer belong to which class, and how they are carried over."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.errors import UserError
from tasks.mask_rcnn import config

_HEAD = "SecondStageBoxPredictor"
_CLASS_PREDICTOR = f"{_HEAD}/ClassPredictor"
CLASS_BIASES = f"{_CLASS_PREDICTOR}/biases"


@dataclasses.dataclass(frozen=True)
class ClassMatch:
    """The model's classes that a checkpoint knows too: `pairs` of zero-based foreground classes (ours, theirs), and names."""

    pairs: tuple[tuple[int, int], ...]
    known: tuple[str, ...]
    new: tuple[str, ...]


def match_classes(ours: Mapping[int, str], theirs: Mapping[int, str]) -> ClassMatch:
    """The match of two label maps, each names by id from 1; UserError where no name is in both."""
    their_ids = {name: identity for identity, name in theirs.items()}
    known = {identity: name for identity, name in ours.items() if name in their_ids}
    if not known:
        raise UserError(
            f"the label maps have no name in common: {', '.join(ours.values())}; {', '.join(theirs.values())}",
            "spell a class alike in both, or leave out the checkpoint's label map",
        )
    return ClassMatch(
        pairs=tuple((identity - 1, their_ids[name] - 1) for identity, name in known.items()),
        known=tuple(known.values()),
        new=tuple(name for identity, name in ours.items() if identity not in known),
    )


def check_match(classes: ClassMatch, our_classes: int, their_classes: int) -> None:
    """UserError where a label map has ids beyond the foreground classes of its model."""
    for index, (whose, count) in enumerate((("the model", our_classes), ("the checkpoint", their_classes))):
        highest = 1 + max(pair[index] for pair in classes.pairs)
        if highest > count:
            raise UserError(
                f"the label map of {whose} has id {highest}, but {whose} knows {count} classes",
                f"give the label map that belongs to {whose}",
            )


class ClassLayout(NamedTuple):
    """A variable's last axis: `background` columns, then `width` columns for each foreground class."""

    background: int
    width: int

    def columns(self, classes: int) -> int:
        return self.background + classes * self.width


def class_layouts(model: config.MaskRCNN) -> dict[str, ClassLayout]:
    """Layouts, by original name, of the variables whose last axis runs over classes."""
    last = model.mask_head.num_conv_layers - 1
    layouts = {_CLASS_PREDICTOR: ClassLayout(1, 1), f"{_HEAD}/Conv_{last}" if last else f"{_HEAD}/Conv": ClassLayout(0, 1)}
    if not model.second_stage.share_box_across_classes:
        layouts[f"{_HEAD}/BoxEncodingPredictor"] = ClassLayout(0, 4)
    return {f"{scope}/{leaf}": layout for scope, layout in layouts.items() for leaf in ("weights", "biases")}


def remap_classes(theirs: npt.NDArray[Any], initial: npt.NDArray[Any], classes: ClassMatch, layout: ClassLayout) -> npt.NDArray[Any]:
    """`initial` [..., background + ours * width] with the background's and the known classes' columns of `theirs` put in.

    Axes but the last are equal.
    """
    ours_index, theirs_index = np.array(classes.pairs).T
    background, width = layout

    def columns(index: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return (background + index[:, np.newaxis] * width + np.arange(width)).ravel()

    result = initial.copy()
    result[..., :background] = theirs[..., :background]
    result[..., columns(ours_index)] = theirs[..., columns(theirs_index)]
    return result
