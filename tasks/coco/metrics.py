"""COCO's box and mask metrics under the names that users of the original know, computed by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

# In the order of `COCOeval.stats`.
SUMMARY_NAMES = (
    "Precision/mAP",
    "Precision/mAP@.50IOU",
    "Precision/mAP@.75IOU",
    "Precision/mAP (small)",
    "Precision/mAP (medium)",
    "Precision/mAP (large)",
    "Recall/AR@1",
    "Recall/AR@10",
    "Recall/AR@100",
    "Recall/AR@100 (small)",
    "Recall/AR@100 (medium)",
    "Recall/AR@100 (large)",
)
_PREFIXES = {"bbox": "DetectionBoxes_", "segm": "DetectionMasks_"}


class CocoEvaluator:
    """Ground truth and detections, image by image, and the metrics over all of them.

    Masks are held as compressed run-length codes, so memory grows with the objects, not with the pixels. Crowd objects
    count as COCO counts them: nobody has to find them, and detections on them are neither right nor wrong.
    """

    def __init__(self, categories: Sequence[tuple[int, str]], with_masks: bool = True) -> None:
        """`categories`: (id, name) as in the label map, ids from 1; `with_masks`: mask metrics beside box metrics."""
        self._names = dict(categories)
        if len(self._names) < len(categories) or len(set(self._names.values())) < len(categories):
            raise ValueError(f"category ids and names must be unique: {list(categories)}")
        self._with_masks = with_masks
        self._images: dict[int, dict[str, Any]] = {}
        self._groundtruth: list[dict[str, Any]] = []
        self._detections: list[dict[str, Any]] = []
        self._images_with_detections: set[int] = set()

    def add_groundtruth(
        self,
        image_id: int,
        height: int,
        width: int,
        boxes_yxyx: npt.ArrayLike,
        category_ids: npt.ArrayLike,
        masks: Sequence[Mapping[str, Any]] | None = None,
        areas: npt.ArrayLike | None = None,
        is_crowd: npt.ArrayLike | None = None,
        file_name: str = "",
    ) -> None:
        """Takes the objects of one image; call it for images without objects too, as detections there are wrong.

        Args:
          image_id: unique among the images; of any size.
          height, width: of the image, pixels.
          boxes_yxyx: float [M, 4], pixels.
          category_ids: int [M], as in the label map (1-based).
          masks: M compressed run-length codes of the image's size; needed with masks.
          areas: float [M], pixels; decides small, medium or large. Absent, the box's area counts, as in the original.
          is_crowd: bool [M]; absent, none is.
        """
        if image_id in self._images:
            raise ValueError(f"image {image_id} was added before")
        boxes, ids = self._checked(boxes_yxyx, category_ids, masks, (height, width))
        area = _box_areas(boxes) if areas is None else np.asarray(areas, np.float64).reshape(-1)
        crowd = np.zeros(len(boxes), bool) if is_crowd is None else np.asarray(is_crowd, bool).reshape(-1)
        if not len(boxes) == len(area) == len(crowd):
            raise ValueError(f"image {image_id}: {len(boxes)} boxes, {len(area)} areas, {len(crowd)} crowd flags")
        self._images[image_id] = {"id": image_id, "file_name": file_name, "height": height, "width": width}
        for index, box in enumerate(boxes):
            annotation: dict[str, Any] = {
                "id": len(self._groundtruth) + 1,
                "image_id": image_id,
                "category_id": int(ids[index]),
                "bbox": _xywh(box),
                "area": float(area[index]),
                "iscrowd": int(crowd[index]),
            }
            if masks is not None and self._with_masks:
                annotation["segmentation"] = _compressed(masks[index])
            self._groundtruth.append(annotation)

    def add_detections(
        self,
        image_id: int,
        boxes_yxyx: npt.ArrayLike,
        scores: npt.ArrayLike,
        category_ids: npt.ArrayLike,
        masks: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """Takes the detections of one image whose ground truth was added; without padding rows.

        Args:
          boxes_yxyx: float [D, 4], pixels.
          scores: float [D].
          category_ids: int [D], as in the label map (1-based).
          masks: D compressed run-length codes of the image's size; needed with masks.
        """
        if image_id not in self._images:
            raise ValueError(f"image {image_id} has detections but no ground truth; add that first, even when empty")
        if image_id in self._images_with_detections:
            raise ValueError(f"detections of image {image_id} were added before")
        image = self._images[image_id]
        boxes, ids = self._checked(boxes_yxyx, category_ids, masks, (image["height"], image["width"]))
        confidence = np.asarray(scores, np.float64).reshape(-1)
        if len(confidence) != len(boxes):
            raise ValueError(f"image {image_id}: {len(boxes)} boxes but {len(confidence)} scores")
        self._images_with_detections.add(image_id)
        for index, box in enumerate(boxes):
            detection: dict[str, Any] = {
                "image_id": image_id,
                "category_id": int(ids[index]),
                "bbox": _xywh(box),
                "score": float(confidence[index]),
            }
            if masks is not None and self._with_masks:
                detection["segmentation"] = _compressed(masks[index])
            self._detections.append(detection)

    @property
    def objects(self) -> int:
        """How many objects there are to find: crowds are none."""
        return sum(not annotation["iscrowd"] for annotation in self._groundtruth)

    @property
    def crowds(self) -> int:
        return len(self._groundtruth) - self.objects

    def evaluate(self) -> dict[str, float]:
        """`DetectionBoxes_...` and, with masks, `DetectionMasks_...`: the twelve figures and the AP of every category.

        A figure over objects that the ground truth has none of is -1, as pycocotools and the original have it.
        """
        metrics: dict[str, float] = {}
        for iou_type in ("bbox", "segm") if self._with_masks else ("bbox",):
            evaluation = self._run(iou_type)
            prefix = _PREFIXES[iou_type]
            metrics |= {prefix + name: float(v) for name, v in zip(SUMMARY_NAMES, evaluation.stats, strict=True)}
            # [IoU thresholds, recalls, categories, area ranges, detection limits]: all areas, the highest limit.
            precision = evaluation.eval["precision"][:, :, :, 0, -1]
            for index, category_id in enumerate(evaluation.params.catIds):
                defined = precision[:, :, index][precision[:, :, index] > -1]
                name = f"{prefix}PerformanceByCategory/mAP/{self._names[category_id]}"
                metrics[name] = float(defined.mean()) if defined.size else -1.0
        return metrics

    def detections_json(self, iou_type: str) -> list[dict[str, Any]]:
        """COCO's results format for `COCO.loadRes` and `COCOeval(..., iou_type)`, which then find the figures of `evaluate`.

        Each has image_id, category_id, score and, for `bbox`, bbox [x, y, width, height] in pixels or, for `segm`, segmentation. Never
        both: beside a box, `loadRes` takes the box's area for the mask's, which decides what is small, medium and large.
        """
        other = "segmentation" if iou_type == "bbox" else "bbox"
        return [_with_text_counts({key: value for key, value in one.items() if key != other}) for one in self._detections]

    def groundtruth_json(self) -> dict[str, Any]:
        """COCO's dataset format (images, categories, annotations): what the detections were measured against."""
        return {
            "images": list(self._images.values()),
            "categories": [{"id": category_id, "name": name} for category_id, name in self._names.items()],
            "annotations": [_with_text_counts(annotation) for annotation in self._groundtruth],
        }

    def _checked(
        self,
        boxes_yxyx: npt.ArrayLike,
        category_ids: npt.ArrayLike,
        masks: Sequence[Mapping[str, Any]] | None,
        size: tuple[int, int],
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        boxes = np.asarray(boxes_yxyx, np.float64).reshape(-1, 4)
        ids = np.asarray(category_ids, np.int64).reshape(-1)
        if len(boxes) != len(ids):
            raise ValueError(f"{len(boxes)} boxes but {len(ids)} category ids")
        if unknown := set(ids.tolist()) - set(self._names):
            raise ValueError(f"category ids {sorted(unknown)} are not among the categories {sorted(self._names)}")
        if self._with_masks:
            if masks is None or len(masks) != len(boxes):
                raise ValueError(f"{len(boxes)} boxes but {'no' if masks is None else len(masks)} masks")
            for mask in masks:
                if tuple(mask["size"]) != size:
                    raise ValueError(f"a mask of {tuple(mask['size'])} in an image of {size} (height, width)")
        return boxes, ids

    def _run(self, iou_type: str) -> COCOeval:
        # pycocotools writes into the annotations and prints as it goes.
        with contextlib.redirect_stdout(io.StringIO()):
            dataset = self.groundtruth_json()
            results = indexed(
                dataset,
                [
                    detection | {"id": number, "iscrowd": 0, "area": _detected_area(detection, iou_type)}
                    for number, detection in enumerate(self._detections, start=1)
                ],
            )
            evaluation = COCOeval(indexed(dataset, self._groundtruth), results, iou_type)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return evaluation


def indexed(dataset: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]]) -> COCO:
    """`annotations` on the images and categories of `dataset`, in COCO's format, as copies for `COCOeval`, which writes into them.

    Images are numbered in the order of their ids: where some ids pass 63 bits, pycocotools makes floats of all and finds none again.
    Not `loadRes`, which fails where there is no detection at all.
    """
    numbers = {image_id: number for number, image_id in enumerate(sorted(image["id"] for image in dataset["images"]), start=1)}
    coco = COCO()
    coco.dataset = {
        "images": [{**image, "id": numbers[image["id"]]} for image in dataset["images"]],
        "categories": dataset["categories"],
        "annotations": [{**annotation, "image_id": numbers[annotation["image_id"]]} for annotation in annotations],
    }
    coco.createIndex()
    return coco


def _detected_area(detection: Mapping[str, Any], iou_type: str) -> float:
    if iou_type == "segm":
        return float(coco_mask.area(detection["segmentation"]))
    return float(detection["bbox"][2] * detection["bbox"][3])


def _box_areas(boxes_yxyx: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    areas: npt.NDArray[np.float64] = (boxes_yxyx[:, 2] - boxes_yxyx[:, 0]) * (boxes_yxyx[:, 3] - boxes_yxyx[:, 1])
    return areas


def _xywh(box_yxyx: npt.NDArray[np.float64]) -> list[float]:
    top, left, bottom, right = box_yxyx.tolist()
    return [left, top, right - left, bottom - top]


def _compressed(mask: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(mask["counts"], (bytes, str)):
        raise ValueError("masks must be compressed run-length codes; pycocotools.mask.frPyObjects makes them")
    return {"size": [int(mask["size"][0]), int(mask["size"][1])], "counts": mask["counts"]}


def _with_text_counts(record: Mapping[str, Any]) -> dict[str, Any]:
    """A copy that JSON can hold: pycocotools makes the codes' counts bytes."""
    copy = dict(record)
    if mask := copy.get("segmentation"):
        counts = mask["counts"]
        copy["segmentation"] = {**mask, "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts}
    return copy
