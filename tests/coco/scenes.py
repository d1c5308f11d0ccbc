"""Made-up scenes with detections, the same evaluated by us and by pycocotools, which is the oracle."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tasks.coco.matches import ImageFound, ImageTruth, Matches, joined, match_image

CATEGORIES = ((1, "apple"), (2, "pear"), (7, "plum"))
SIDE = 220  # pixels; objects of all of COCO's sizes have room


def ellipse(centre, radii, height=SIDE, width=SIDE):
    rows, columns = np.ogrid[:height, :width]
    inside = ((rows - centre[0]) / radii[0]) ** 2 + ((columns - centre[1]) / radii[1]) ** 2 <= 1
    return coco_mask.encode(np.asfortranarray(inside.astype(np.uint8)))


def box_mask(box_yxyx, height=SIDE, width=SIDE):
    mask = np.zeros((height, width), np.uint8, order="F")
    top, left, bottom, right = np.round(box_yxyx).astype(int)
    mask[top:bottom, left:right] = 1
    return coco_mask.encode(mask)


def xywh(boxes_yxyx):
    top, left, bottom, right = np.array(boxes_yxyx, np.float64).reshape(-1, 4).T
    return np.stack([left, top, right - left, bottom - top], axis=1)


def truth_of(image_id, boxes_yxyx, categories, *, masks=None, areas=None, crowd=None, attributes=None, size=(SIDE, SIDE)):
    boxes = xywh(boxes_yxyx)
    masks = [box_mask(box, *size) for box in np.reshape(boxes_yxyx, (-1, 4))] if masks is None else masks
    return ImageTruth(
        str(image_id),
        f"{image_id}.jpg",
        *size,
        boxes,
        np.array(categories, np.int32),
        boxes[:, 2] * boxes[:, 3] if areas is None else np.array(areas, np.float64),
        np.zeros(len(boxes), bool) if crowd is None else np.array(crowd, bool),
        masks,
        attributes or {},
    )


def found_of(boxes_yxyx, scores, categories, *, masks=None, size=(SIDE, SIDE)):
    masks = [box_mask(box, *size) for box in np.reshape(boxes_yxyx, (-1, 4))] if masks is None else masks
    return ImageFound(xywh(boxes_yxyx), np.array(categories, np.int32), np.array(scores, np.float64), masks)


def scenes(images: int, seed: int, most: int = 6, extra: int = 6) -> Iterator[tuple[ImageTruth, ImageFound]]:
    """Ellipses of all sizes, some of them crowds, and detections near them, beside them, twice on them, and of other categories.

    Scores are of few values, so that many are equal.
    """
    rng = np.random.default_rng(seed)
    for number in range(1, images + 1):
        count = int(rng.integers(0, most + 1))
        centres, radii = rng.uniform(10, SIDE - 10, (count, 2)), np.exp(rng.uniform(1.2, 4.5, (count, 2)))
        categories = rng.integers(0, len(CATEGORIES), count)
        masks = [ellipse(*one) for one in zip(centres, radii, strict=True)]
        crowd = rng.random(count) < 0.15
        boxes = coco_mask.toBbox(masks).reshape(-1, 4) if masks else np.zeros((0, 4))
        truth = ImageTruth(
            str(number), f"{number}.jpg", SIDE, SIDE, boxes, categories.astype(np.int32),
            # The source's own areas may be others than the masks', and decide the size.
            np.array([coco_mask.area(mask) * rng.choice([1.0, 0.9]) for mask in masks]), crowd, masks,
        )  # fmt: skip
        near = rng.integers(0, count, extra) if count else np.zeros(0, int)
        found_centres = np.concatenate([centres[near] + rng.normal(0, 0.12, (len(near), 2)) * radii[near], rng.uniform(0, SIDE, (2, 2))])
        found_radii = np.concatenate([radii[near] * np.exp(rng.normal(0, 0.1, (len(near), 2))), rng.uniform(4, 50, (2, 2))])
        found_categories = np.concatenate([categories[near], rng.integers(0, len(CATEGORIES), 2)])
        changed = rng.random(len(found_categories)) < 0.2
        found_categories[changed] = rng.integers(0, len(CATEGORIES), changed.sum())
        found_masks = [ellipse(*one) for one in zip(found_centres, found_radii, strict=True)]
        scores = np.round(rng.random(len(found_masks)), 1)
        yield truth, ImageFound(coco_mask.toBbox(found_masks).reshape(-1, 4), found_categories.astype(np.int32), scores, found_masks)


def matches_of(images: Sequence[tuple[ImageTruth, ImageFound]], categories=CATEGORIES, **about) -> Matches:
    parts = [match_image(truth, found, categories) for truth, found in images]
    return joined(parts, [int(truth.image_id) for truth, _ in images], about)


def coco_files(images, kind, categories=CATEGORIES):
    """Ground truth and results in COCO's formats."""
    annotations, results = [], []
    for truth, found in images:
        owner = int(truth.image_id)
        for index, category in enumerate(truth.categories):
            annotation = {"id": len(annotations) + 1, "image_id": owner, "category_id": categories[category][0]}
            annotation |= {"bbox": truth.boxes_xywh[index].tolist(), "area": truth.areas[index], "iscrowd": int(truth.crowd[index])}
            annotations.append(annotation | ({"segmentation": truth.masks[index]} if truth.masks is not None else {}))
        for index, category in enumerate(found.categories):
            shape = {"bbox": found.boxes_xywh[index].tolist()} if kind == "bbox" else {"segmentation": found.masks[index]}
            results.append({"image_id": owner, "category_id": categories[category][0], "score": found.scores[index], **shape})
    dataset = {
        "images": [{"id": int(truth.image_id), "height": truth.height, "width": truth.width} for truth, _ in images],
        "categories": [{"id": number, "name": name} for number, name in categories],
        "annotations": annotations,
    }
    return dataset, results


def pycocotools_evaluation(dataset, results, kind, change=lambda evaluation: None) -> COCOeval:
    """What pycocotools finds; `change` may change the evaluation before it begins."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = dataset
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results) if results else COCO(), kind)
        change(evaluation)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation
