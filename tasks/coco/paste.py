"""A model's outputs for an image as detections: the sure ones, with boxes in pixels and masks pasted into the image.

Masks are pasted straight to run-length codes, pixel for pixel as the original does it.

The original (`reframe_box_masks_to_image_masks`, then `> 0.5`) samples every mask on the whole image by
`crop_and_resize`: corner-aligned, bilinear, float32, zero outside the box. That is a second of work per 100 masks of
800 x 1333. Here the same float32 operations run in the same order, but only on the pixels inside each box, one axis
after the other, and no full-size image is made.

This file needs NumPy and pycocotools alone: exports take it along for those who have neither TensorFlow nor this project.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

if TYPE_CHECKING:
    from tasks.coco.masks import Rle

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

DEFAULT_SCORE = 0.5
"""From which a detection is taken for an object where nothing else is said."""

# The original's guard against boxes without extent, in normalized coordinates.
_MIN_EXTENT = np.float32(1e-4)


def class_thresholds(file: str | Path) -> dict[int, float]:
    """By category id, the score from which detections are taken for objects: of `thresholds.json`, which lies beside an exported model."""
    stored = json.loads(Path(file).read_text(encoding="utf-8"))
    return {int(one["id"]): float(one["score"]) for one in stored["categories"]}


def image_detections(
    outputs: Mapping[str, npt.ArrayLike],
    height: int,
    width: int,
    min_score: float | Mapping[int, float] = DEFAULT_SCORE,
    polygons: bool = False,
    mask_threshold: float = 0.5,
) -> list[dict[str, Any]]:
    """The detections of one image that score at least `min_score`, best first, as COCO's results without `image_id`.

    `min_score` may be a score for each category by its id, as `class_thresholds` reads them; a category that has none there has 0.5.

    `category_id` of the label map, `bbox` [x, y, width, height] in pixels, `score`, and where the model has masks `segmentation`: a
    compressed run-length code whose counts are text, or with `polygons` the outlines [[x, y, x, y, ...], ...] of its parts.

    Args:
      outputs: an exported model's, by name, of the one image, without the batch: `detection_boxes` [D, 4], `detection_scores` [D],
        `detection_classes` [D], `num_detections`, and `detection_masks` [D, h, w] where there are masks.
      height, width: size of the image in pixels, before the model resized it.
      mask_threshold: a pixel belongs to the object when its interpolated probability is greater.
    """
    scores = np.asarray(outputs["detection_scores"], np.float32)[: int(np.asarray(outputs["num_detections"]))]
    classes = np.asarray(outputs["detection_classes"])[: len(scores)].astype(int)
    if isinstance(min_score, Mapping):
        least = np.array([min_score.get(category, DEFAULT_SCORE) for category in classes.tolist()], np.float32)
    else:
        least = np.full(len(scores), min_score, np.float32)
    places = np.flatnonzero(scores >= least)
    boxes = np.asarray(outputs["detection_boxes"], np.float32)[places]
    found: list[dict[str, Any]] = []
    for place, (ymin, xmin, ymax, xmax) in zip(places, (boxes.astype(np.float64) * [height, width, height, width]).tolist(), strict=True):
        found.append({"category_id": int(classes[place]), "bbox": [xmin, ymin, xmax - xmin, ymax - ymin], "score": float(scores[place])})
    if "detection_masks" in outputs:
        codes = paste_masks(np.asarray(outputs["detection_masks"])[places], boxes, height, width, mask_threshold)
        for detection, code in zip(found, codes, strict=True):
            detection["segmentation"] = mask_outlines(code) if polygons else {"size": code["size"], "counts": code["counts"].decode()}
    return found


def mask_outlines(code: Rle) -> list[list[float]]:
    """The outlines [x, y, x, y, ...] of a mask's parts in pixels, along the edges of their pixels; holes are filled, as COCO has none.

    Pixels that touch at a corner alone are parts of their own.
    """
    left, top, columns, rows = (int(side) for side in coco_mask.toBbox(code))
    framed = np.zeros((rows + 2, columns + 2), np.int8)
    framed[1:-1, 1:-1] = coco_mask.decode(code)[top : top + rows, left : left + columns]
    # Steps from corner to corner with the object on the right: along its upper edges to the right, along its left edges up.
    across, down = np.diff(framed, axis=0), np.diff(framed, axis=1)
    steps: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for change, first, second, direction in (
        (across, 0, 1, 1),
        (across, 1, 0, -1),
        (down, 1, 0, 1),
        (down, 0, 1, -1),
    ):
        is_horizontal = change is across
        for y, x in np.argwhere(change == direction).tolist():
            ends = ((x, y + 1), (x + 1, y + 1)) if is_horizontal else ((x + 1, y), (x + 1, y + 1))
            steps.setdefault(ends[first], []).append(ends[second])
    outlines = []
    while steps:
        corner = start = next(iter(steps))
        before = (0, 0)
        points: list[tuple[int, int]] = []
        while True:
            # Where two parts touch, the sharpest turn to the right stays with this one.
            following = max(steps[corner], key=lambda end: before[0] * (end[1] - corner[1]) - before[1] * (end[0] - corner[0]))
            steps[corner].remove(following)
            if not steps[corner]:
                del steps[corner]
            direction_now = (following[0] - corner[0], following[1] - corner[1])
            if direction_now != before:
                points.append(corner)
            before, corner = direction_now, following
            if corner == start:
                break
        xs, ys = (np.array(side, np.float64) for side in zip(*points, strict=True))
        if np.dot(xs, np.roll(ys, -1)) > np.dot(ys, np.roll(xs, -1)):  # around a hole the other way
            outlines.append(np.stack([xs - 1 + left, ys - 1 + top], axis=1).ravel().tolist())
    return outlines


def paste_masks(masks: npt.ArrayLike, boxes_yxyx_normalized: npt.ArrayLike, height: int, width: int, threshold: float = 0.5) -> list[Rle]:
    """N run-length codes of the image's size.

    Args:
      masks: float [N, h, w], probabilities over each box, corner pixels on the box's corners.
      boxes_yxyx_normalized: float [N, 4], of the image's height and width; a box may reach outside the image. Not in pixels: the last
        bit of a coordinate decides whether a row at the image's border is inside, and does not survive the way there and back.
      height, width: size of the image in pixels.
      threshold: a pixel belongs to the object when its interpolated probability is greater.
    """
    masks = np.asarray(masks, np.float32)
    boxes = np.asarray(boxes_yxyx_normalized, np.float32).reshape(-1, 4)
    if masks.ndim != 3 or len(masks) != len(boxes):
        raise ValueError(f"masks {masks.shape} and boxes {boxes.shape} must be [N, h, w] and [N, 4]")
    if not len(masks):
        return []
    rows = _sample_positions(boxes[:, 0], boxes[:, 2], masks.shape[1], height)
    columns = _sample_positions(boxes[:, 1], boxes[:, 3], masks.shape[2], width)
    codes = []
    for index, mask in enumerate(masks):
        top, y = _inside(rows[index], masks.shape[1])
        left, x = _inside(columns[index], masks.shape[2])
        # Along x first, as the original does; each pass gathers whole contiguous lines.
        widened = np.ascontiguousarray(_interpolate(np.ascontiguousarray(mask.T), x).T)
        local = _interpolate(widened, y) > np.float32(threshold)
        codes.append({"size": [height, width], "counts": _run_lengths(local, top, left, height, width)})
    compressed: list[Rle] = coco_mask.frPyObjects(codes, height, width)
    return compressed


def _sample_positions(low: FloatArray, high: FloatArray, mask_size: int, image_size: int) -> FloatArray:
    """[N, image_size]: where along a mask's axis, in mask cells, every pixel row (or column) of the image falls."""
    extent = np.maximum(high - low, _MIN_EXTENT)
    start = (np.float32(0) - low) / extent
    stop = (np.float32(1) - low) / extent
    cells = np.float32(mask_size - 1)
    if image_size == 1:
        middle: FloatArray = np.float32(0.5) * (start + stop) * cells
        return middle[:, None]
    step = (stop - start) * cells / np.float32(image_size - 1)
    pixels = np.arange(image_size, dtype=np.float32)
    positions: FloatArray = (start * cells)[:, None] + pixels[None, :] * step[:, None]
    return positions


def _inside(positions: FloatArray, mask_size: int) -> tuple[int, FloatArray]:
    """First pixel that falls on the mask, and the positions of that pixel and the following ones that do."""
    inside = np.flatnonzero((positions >= 0) & (positions <= np.float32(mask_size - 1)))
    if not inside.size:
        return 0, positions[:0]
    return int(inside[0]), positions[inside[0] : inside[-1] + 1]


def _interpolate(values: FloatArray, positions: FloatArray) -> FloatArray:
    """[P, K]: rows of `values` [S, K] interpolated at `positions` [P] in cells, as `low + (high - low) * fraction`."""
    floor = np.floor(positions)
    lower = floor.astype(np.intp)
    rise = np.zeros_like(values)
    np.subtract(values[1:], values[:-1], out=rise[:-1])
    sampled: FloatArray = rise[lower]
    sampled *= (positions - floor)[:, None]
    sampled += values[lower]
    return sampled


def _run_lengths(local: npt.NDArray[np.bool_], top: int, left: int, height: int, width: int) -> list[int]:
    """Lengths of alternating runs of 0 and 1 down the image's columns; `local` [rows, columns] lies at (top, left)."""
    # A zero before and after each column makes every run begin and end inside it.
    padded_rows = local.shape[0] + 2
    framed = np.zeros((local.shape[1], padded_rows), np.bool_)
    framed[:, 1:-1] = local.T
    flat = framed.ravel()
    column, row = np.divmod(np.flatnonzero(flat[1:] != flat[:-1]), padded_rows)
    edges: IntArray = (column + left) * height + row + top
    # A run that ends at the foot of a column and goes on at the head of the next is one run: its two edges coincide.
    joined = np.flatnonzero(edges[1:] == edges[:-1])
    edges = np.delete(edges, np.concatenate([joined, joined + 1]))
    lengths = np.diff(edges, prepend=0, append=height * width)
    # Zeros come first even when there are none; a trailing run of no zeros is left out.
    counts: list[int] = (lengths if lengths[-1] else lengths[:-1]).tolist()
    return counts
