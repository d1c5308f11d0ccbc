"""Objects as a source says them to instances as records hold them: masks on the full frame, boxes inside the image, all of it checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from tasks.annotations.source import Box, CategoryKey, SourceObject
from tasks.coco.masks import MalformedSegmentationError, Rle, rle_area, rle_extent_yxyx, rle_from_mask, rle_from_segmentation
from tasks.records.annotated_image import Instance
from tasks.records.checks import BadImageError, Check

_LEAST_OVERLAP = 0.5
_ROUNDING = 2.0  # pixels; of so much the boxes of small objects and their masks differ in any data set
_LEFT_OUT = "the object is left out"


@dataclass(frozen=True)
class Finding:
    """What was done to one object. `where` names it; `index` is its own among the instances, None where it was left out.

    `overruled` says that the source gave a value, and that it was wrong by more than a pixel.
    """

    check: Check
    where: str
    done: str
    index: int | None = None
    overruled: bool = False


def instances_of(
    objects: Iterable[SourceObject],
    size: tuple[int, int],
    label_ids: Mapping[CategoryKey, int | None],
    *,
    drop_without_mask: bool = False,
) -> tuple[tuple[Instance, ...], list[Finding]]:
    """The instances of an image of `size` (height, width), and what had to be mended or left out on the way.

    `label_ids` maps category keys to the label map's ids, None for a category that is not wanted. Objects without a mask are left out
    where `drop_without_mask`. BadImageError, naming the object, for one that cannot be trusted.
    """
    findings: list[Finding] = []
    instances: list[Instance] = []
    for value in objects:
        if value.left_out is not None:
            findings.append(Finding(value.left_out, value.where, _LEFT_OUT))
            continue
        label_id = _label_id(value, label_ids)
        if label_id is None:
            continue
        if drop_without_mask and _has_no_mask(value):
            findings += _told_of(value)
            findings.append(Finding(Check.OBJECT_WITHOUT_MASK, value.where, _LEFT_OUT))
        elif (mask := _mask(value, size, findings)) is None:
            findings += _told_of(value)
        else:
            instance, mended = _instance(value, label_id, mask, size)
            findings += _told_of(value, len(instances))
            findings += (Finding(check, value.where, done, len(instances), overruled) for check, done, overruled in mended)
            instances.append(instance)
    return tuple(instances), findings


def _told_of(value: SourceObject, index: int | None = None) -> Iterator[Finding]:
    """What was mended in reading the object, `index` its place among the instances."""
    return (Finding(check, value.where, check.meaning, index) for check in value.findings)


def _label_id(value: SourceObject, label_ids: Mapping[CategoryKey, int | None]) -> int | None:
    try:
        return label_ids[value.category]
    except (KeyError, TypeError):
        raise BadImageError(
            Check.UNKNOWN_CATEGORY,
            f"{value.where} has the category {value.category!r}, which is not among the source's categories",
            "add the category to the source, or correct the object's",
        ) from None


def _mask(value: SourceObject, size: tuple[int, int], findings: list[Finding]) -> Rle | None:
    """The object's mask, or None where it has no pixel in the image, which is found."""
    mask = _rasterized(value, size)
    if mask is None:
        findings.append(Finding(Check.DEGENERATE_POLYGON, value.where, _LEFT_OUT))
    elif not rle_area(mask):
        check = Check.OBJECT_OUTSIDE if _is_outside(value.segmentation, size) else Check.EMPTY_MASK
        findings.append(Finding(check, value.where, _LEFT_OUT))
    else:
        return mask
    return None


def _has_no_mask(value: SourceObject) -> bool:
    return value.segmentation is None or (isinstance(value.segmentation, list) and not value.segmentation)


def _rasterized(value: SourceObject, size: tuple[int, int]) -> Rle | None:
    segmentation = value.segmentation
    if _has_no_mask(value):
        raise BadImageError(
            Check.MASK_MISSING,
            f"{value.where} has no mask",
            "add its mask, or leave out all objects without one: `objects_without_mask: drop` in the dataset's YAML",
        )
    if isinstance(segmentation, np.ndarray):
        _confirm_size(value.where, segmentation.shape, size)
        return rle_from_mask(segmentation)
    if isinstance(segmentation, Mapping) and isinstance(said := segmentation.get("size"), list) and len(said) == 2:
        _confirm_size(value.where, tuple(said), size)
    try:
        return rle_from_segmentation(segmentation, *size)
    except MalformedSegmentationError as error:
        raise BadImageError(
            Check.MASK_MALFORMED, f"{value.where}: its segmentation {error}", "correct the segmentation, or remove the object"
        ) from error


def _confirm_size(where: str, found: tuple[int, ...], size: tuple[int, int]) -> None:
    if found == size:
        return
    swapped = found == size[::-1]
    raise BadImageError(
        Check.MASK_SIZE_SWAPPED if swapped else Check.MASK_SIZE,
        f"{where}: its mask has size {list(found)}, and its image is {list(size)} (height, width)" + "; they are swapped" * swapped,
        "write the mask anew in its image's size",
    )


def _is_outside(segmentation: object, size: tuple[int, int]) -> bool:
    """Whether a segmentation is polygons with every point on or beyond one side of the image."""
    if isinstance(segmentation, np.ndarray | Mapping) or segmentation is None:
        return False
    points = np.concatenate([np.reshape(part, (-1, 2)) for part in segmentation])  # type: ignore[attr-defined]  # the rest of the type
    return bool((points.max(axis=0) <= 0).any() or (points.min(axis=0) >= size[::-1]).any())


_Mended = tuple[Check, str, bool]
"""What was mended, how, and whether a value of the source was wrong by more than a pixel."""


def _instance(value: SourceObject, label_id: int, mask: Rle, size: tuple[int, int]) -> tuple[Instance, list[_Mended]]:
    mended: list[_Mended] = []
    area = value.area
    if not area:
        area = float(rle_area(mask))
        mended.append((Check.AREA_FROM_MASK, f"the area is the mask's, {area:g}", value.area is not None))
    if area < 0:
        raise BadImageError(
            Check.ANNOTATION_MALFORMED, f"{value.where}: area is {area:g}", "write the object's pixels, or leave the area out"
        )
    box, reason = _box(value.box_yxyx, mask, size)
    if reason is not None:
        wrong = value.box_yxyx is not None and max(abs(old - new) for old, new in zip(value.box_yxyx, box, strict=True)) > 1
        done = f"the box {_told(value.box_yxyx)} becomes {_told(box)}" if value.box_yxyx else f"the box is {_told(box)}"
        mended.append((reason, done, wrong))
    return Instance(label_id, box, mask, area, value.is_crowd, value.is_difficult, value.weight), mended


def _told(box: Box) -> str:
    return f"[{', '.join(f'{side:.1f}' for side in box)}]"


def _box(box: Box | None, mask: Rle, size: tuple[int, int]) -> tuple[Box, Check | None]:
    """The object's own box, inside the image; the mask's extent where there is none or it is another place's; and what was mended."""
    extent = rle_extent_yxyx(mask)
    if box is not None:
        height, width = size
        clipped = (max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(height)), min(box[3], float(width)))
        if clipped[0] < clipped[2] and clipped[1] < clipped[3]:
            if _overlap(clipped, extent) < _LEAST_OVERLAP and max(abs(a - b) for a, b in zip(clipped, extent, strict=True)) > _ROUNDING:
                return extent, Check.BOX_OFF_MASK
            return clipped, Check.BOX_CLIPPED if clipped != box else None
    return extent, Check.BOX_FROM_MASK


def _overlap(box: Box, other: Box) -> float:
    """Intersection over union."""
    height = min(box[2], other[2]) - max(box[0], other[0])
    width = min(box[3], other[3]) - max(box[1], other[1])
    if height <= 0 or width <= 0:
        return 0.0
    union = sum((ymax - ymin) * (xmax - xmin) for ymin, xmin, ymax, xmax in (box, other)) - height * width
    return height * width / union
