"""Heads of a model with other classes: which columns of a last layer belong to which class, and how they are carried over."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.checkpoints.class_match import ClassMatch
from tasks.mask_rcnn import config

_HEAD = "SecondStageBoxPredictor"
_CLASS_PREDICTOR = f"{_HEAD}/ClassPredictor"
CLASS_BIASES = f"{_CLASS_PREDICTOR}/biases"


class ClassLayout(NamedTuple):
    """A variable's last axis: `background` columns, then `width` columns for each foreground class."""

    background: int
    width: int

    def columns(self, classes: int) -> int:
        return self.background + classes * self.width


def class_layouts(model: config.MaskRCNN) -> dict[str, ClassLayout]:
    """Layouts, by original name, of the variables whose last axis runs over classes."""
    last = model.mask_head.num_conv_layers - 1
    layouts = {_CLASS_PREDICTOR: ClassLayout(1, 1)}
    if not model.mask_head.class_agnostic:
        layouts[f"{_HEAD}/Conv_{last}" if last else f"{_HEAD}/Conv"] = ClassLayout(0, 1)
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
