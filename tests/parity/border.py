"""Crops that hang on the last bit of a coordinate.

A crop of c rows samples its last one at y1 * (H - 1) + (c - 1) * ((y2 - y1) * (H - 1) / (c - 1)) of H feature rows. For a box that ends at
the image's border that is H - 1 but for rounding: at or below it the row is features, a hair above it the whole row is zeros. Proposals
of two implementations differ in their last bits, so that either may have either.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tasks.mask_rcnn import boxes

# Proposals of the original and ours agree to a few dozen units in the last place.
_MOST_ULPS = 16


class Turn(NamedTuple):
    """One crop rounded the other way."""

    moved: str
    """which coordinate, by how much"""
    proposals: tf.Tensor
    """all proposals with it moved, float32 [1, P, 4], yxyx in pixels"""


def possible_turns(proposals: tf.Tensor, image_size: tf.Tensor, grid: tuple[int, int], crop_size: int) -> list[Turn]:
    """Every crop of `proposals`, float32 [1, P, 4] yxyx in pixels, that could have been rounded the other way.

    One start coordinate is moved, by as few units in the last place as do it. `image_size` is float32 [2]; `grid` the feature map's
    (h, w).
    """
    original, size = proposals.numpy(), image_size.numpy()
    ulps = np.array([sign * count for count in range(1, _MOST_ULPS + 1) for sign in (1, -1)], np.float32)
    turns = []
    for index, axis in zip(*np.nonzero(original[0, :, 2:] == size), strict=True):
        candidates = np.repeat(original[0, index : index + 1], 1 + len(ulps), axis=0)
        candidates[1:, axis] += ulps * np.spacing(candidates[0, axis])
        inside = _last_is_inside(candidates, size, grid, crop_size)[:, axis]
        turned = np.flatnonzero(inside != inside[0])
        if len(turned):
            other = original.copy()
            other[0, index] = candidates[turned[0]]
            turns.append(Turn(f"{('top', 'left')[axis]} of proposal {index} by {ulps[turned[0] - 1]:+.0f} ulp", tf.constant(other)))
    return turns


def _last_is_inside(boxes_yxyx: np.ndarray, image_size: np.ndarray, grid: tuple[int, int], crop_size: int) -> np.ndarray:
    """Whether the last row and the last column of each box's crop are features, bool [N, 2]; boxes in pixels."""
    height, width = tf.unstack(tf.constant(image_size))
    normalized = boxes.scale(tf.constant(boxes_yxyx), 1.0 / height, 1.0 / width)
    crops = tf.image.crop_and_resize(tf.ones([1, *grid, 1]), normalized, tf.zeros([len(boxes_yxyx)], tf.int32), [crop_size, crop_size])
    return np.stack([crops[:, -1, 0, 0] > 0, crops[:, 0, -1, 0] > 0], axis=1)
