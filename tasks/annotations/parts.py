"""Objects that were drawn in several parts: outlines, pixels, or both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tasks.annotations.outlines import Polygon, malformed
from tasks.coco.masks import MalformedSegmentationError, Mask, mask_from_rle, rle_from_segmentation


def joined(where: str, parts: Sequence[Polygon | Mask], size: tuple[int, int]) -> Sequence[Polygon] | Mask:
    """Outlines as they are; where one of the parts is a mask [height, width], the mask of all, for an image of this size."""
    polygons = [part for part in parts if isinstance(part, list)]
    if len(polygons) == len(parts):
        return polygons
    try:
        outlined = rle_from_segmentation(polygons, *size)
    except MalformedSegmentationError as error:
        raise malformed(where, f"its outline {error}") from error
    masks = [part for part in parts if not isinstance(part, list)] + ([mask_from_rle(outlined)] if outlined else [])
    whole: Mask = np.bitwise_or.reduce(masks)
    return whole
