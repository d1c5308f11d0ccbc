"""Boundary IoU: the overlap of masks near their contours alone (Cheng et al. 2021, "Boundary IoU", arXiv 2103.16562)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from tasks.coco.masks import Mask, Rle, crops_from_rles

_WIDTH = 0.02
"""Of a boundary, as a share of the image's diagonal."""


@dataclass(frozen=True)
class Boundary:
    """Pixels of a mask that are near its contour: `crop`, uint8 [h, w] of zeros and ones with its corner at (top, left); `area` of them."""

    crop: Mask
    top: int
    left: int
    area: int


def boundaries(masks: Sequence[Rle]) -> list[Boundary]:
    """Of each mask the pixels that are at most 2 % of the image's diagonal away from what is not the mask, by rows or by columns.

    What lies beyond the image is not the mask. The authors erode by a 3 x 3 square as often as the boundary is wide, in whole pixels
    and at least once; here once by the square that this comes to, and only around the object.
    """
    return [_boundary(crop, top, left, mask["size"]) for mask, (crop, top, left) in zip(masks, crops_from_rles(masks), strict=True)]


def boundary_iou(one: Boundary, other: Boundary, other_is_crowd: bool) -> float:
    """The overlap as a share of both, or of the first alone where the other is of a crowd."""
    top, left = max(one.top, other.top), max(one.left, other.left)
    common = np.count_nonzero(_window(one, top, left, other) & _window(other, top, left, one))
    whole = one.area if other_is_crowd else one.area + other.area - common
    return common / whole if whole else 0.0


def _boundary(crop: Mask, top: int, left: int, size: Sequence[int]) -> Boundary:
    if not crop.size:
        return Boundary(crop, top, left, 0)
    reach = max(1, round(_WIDTH * math.hypot(*size)))
    square = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    near: npt.NDArray[np.uint8] = crop - cv2.erode(crop, square, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return Boundary(near, top, left, int(np.count_nonzero(near)))


def _window(one: Boundary, top: int, left: int, other: Boundary) -> Mask:
    """What `one` has from (top, left) to where either ends."""
    bottom = min(one.top + one.crop.shape[0], other.top + other.crop.shape[0])
    right = min(one.left + one.crop.shape[1], other.left + other.crop.shape[1])
    return one.crop[top - one.top : max(bottom, top) - one.top, left - one.left : max(right, left) - one.left]
