"""Pictures of a queue: the place of a doubt, as it is labelled, as is proposed and as each model sees it; or whole images."""

from __future__ import annotations

import base64
import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from tasks.coco.masks import Rle, crop_from_rle, rle_area, rle_from_mask
from tasks.coco.pictures import PictureObjects, draw_objects
from tasks.comparison.side_by_side import Panel
from tasks.data_queue.doubts import LOOSE, MISSING, WRONG_CLASS, Doubt
from tasks.data_queue.evaluated import Things

Pixels = npt.NDArray[np.uint8]

_PLACE_SIDE, _IMAGE_SIDE = 300, 480  # pixels of a picture's longer side
_AROUND = 0.6  # of the place's longer side, on each side of it
_LEAST = 96  # pixels of the image that a place shows


def place_panels(pixels: Pixels, doubt: Doubt, objects: Things, found: Mapping[str, Things], names: Mapping[int, str]) -> list[Panel]:
    """The surroundings of a doubt: the label, what is proposed where something is, and each model's detections."""
    area = _surroundings(doubt, objects, pixels.shape[:2])
    proposed = _proposed(doubt, objects)
    panels = {"label": objects} | ({} if proposed is None else {"proposed": proposed}) | dict(found)
    top, left, bottom, right = area
    crop = np.ascontiguousarray(pixels[top:bottom, left:right])
    return [Panel(name, _uri(crop, _cropped(one, area), names, _PLACE_SIDE, name in found)) for name, one in panels.items()]


def image_panels(pixels: Pixels, objects: Things, found: Mapping[str, Things], names: Mapping[int, str]) -> list[Panel]:
    """The whole image, with its labels and with each model's detections."""
    panels = {"label": objects} | dict(found)
    return [Panel(name, _uri(pixels, one, names, _IMAGE_SIDE, name in found)) for name, one in panels.items()]


def _surroundings(doubt: Doubt, objects: Things, size: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Top, left, bottom, right in pixels."""
    boxes = [objects.boxes_xywh[doubt.object]] if doubt.object is not None else []
    if doubt.box_xywh is not None:
        boxes.append(np.array(doubt.box_xywh))
    x, y, width, height = np.array(boxes).T
    left, top, right, bottom = x.min(), y.min(), (x + width).max(), (y + height).max()
    around = max(_AROUND * max(right - left, bottom - top), (_LEAST - max(right - left, bottom - top)) / 2)
    return (
        max(math.floor(top - around), 0),
        max(math.floor(left - around), 0),
        min(math.ceil(bottom + around), size[0]),
        min(math.ceil(right + around), size[1]),
    )


def _proposed(doubt: Doubt, objects: Things) -> Things | None:
    if doubt.category_id is None:
        return None
    if doubt.kind == WRONG_CLASS:
        categories = objects.category_ids.copy()
        categories[doubt.object] = doubt.category_id
        return dataclasses.replace(objects, category_ids=categories)
    if doubt.kind not in (MISSING, LOOSE) or doubt.box_xywh is None:
        return None
    place = len(objects) if doubt.object is None else doubt.object
    kept = [index for index in range(len(objects)) if index != place]
    rest = objects.some(kept)
    masks = None if doubt.mask is None else [*(rest.masks or ()), doubt.mask]
    return Things(
        np.append(rest.category_ids, doubt.category_id).astype(np.int64),
        np.concatenate([rest.boxes_xywh, [doubt.box_xywh]]),
        masks,
        np.append(rest.scores, 1.0),
        np.append(rest.crowd, False),
    )


def _cropped(one: Things, area: tuple[int, int, int, int]) -> Things:
    """What of it is to be seen in an area, in the area's pixels."""
    top, left, bottom, right = area
    x, y, width, height = one.boxes_xywh.T
    seen = np.flatnonzero((x < right) & (x + width > left) & (y < bottom) & (y + height > top))
    some = one.some(seen.tolist())
    moved = dataclasses.replace(some, boxes_xywh=some.boxes_xywh - np.array([left, top, 0, 0]))
    if some.masks is None:
        return moved
    masks: list[Rle] = [rle_from_mask(np.ascontiguousarray(crop_from_rle(mask, area))) for mask in some.masks]
    return dataclasses.replace(moved, masks=masks).some([place for place, mask in enumerate(masks) if rle_area(mask)])


def _uri(pixels: Pixels, one: Things, names: Mapping[int, str], side: int, is_scored: bool) -> str:
    x, y, width, height = one.boxes_xywh.T
    boxes = np.stack([y, x, y + height, x + width], axis=1)
    scores = one.scores.tolist() if is_scored else None
    picture = draw_objects(pixels, PictureObjects(boxes, one.category_ids.tolist(), one.masks, scores), names, side)
    return f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"
