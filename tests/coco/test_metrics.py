"""The evaluator against published COCO figures, hand-computed precision, and pycocotools reading its files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tasks.coco.metrics import SUMMARY_NAMES, CocoEvaluator

CATEGORIES = [(1, "apple"), (2, "pear")]


def box_mask(box_yxyx, height=100, width=100):
    mask = np.zeros((height, width), np.uint8, order="F")
    top, left, bottom, right = box_yxyx
    mask[top:bottom, left:right] = 1
    return coco_mask.encode(mask)


def add_groundtruth(evaluator, image_id, boxes, categories, **more):
    evaluator.add_groundtruth(image_id, 100, 100, boxes, categories, [box_mask(box) for box in boxes], **more)


def add_detections(evaluator, image_id, boxes, scores, categories):
    evaluator.add_detections(image_id, boxes, scores, categories, [box_mask(box) for box in boxes])


def test_published_coco_figures(shared_data):
    folder = shared_data / "coco_eval_reference"
    groundtruth = json.loads((folder / "instances_val2014_100.json").read_text())
    categories = [(category["id"], category["name"]) for category in groundtruth["categories"]]
    metrics = {}
    for kind, with_masks in (("segm", True), ("bbox", False)):
        results = json.loads((folder / f"instances_val2014_fake{kind}100_results.json").read_text())
        evaluator = CocoEvaluator(categories, with_masks)
        for image in groundtruth["images"]:
            size = image["height"], image["width"]
            objects = [a for a in groundtruth["annotations"] if a["image_id"] == image["id"]]
            masks = []
            for annotation in objects:
                codes = coco_mask.frPyObjects(annotation["segmentation"], *size)
                masks.append(coco_mask.merge(codes) if isinstance(codes, list) else codes)
            evaluator.add_groundtruth(
                image["id"],
                *size,
                [yxyx(a["bbox"]) for a in objects],
                [a["category_id"] for a in objects],
                masks,
                areas=[a["area"] for a in objects],
                is_crowd=[a["iscrowd"] for a in objects],
            )
            found = [r for r in results if r["image_id"] == image["id"]]
            found_masks = [r["segmentation"] for r in found] if with_masks else None
            boxes = [r.get("bbox") or coco_mask.toBbox(r["segmentation"]).tolist() for r in found]
            evaluator.add_detections(
                image["id"],
                [yxyx(box) for box in boxes],
                [r["score"] for r in found],
                [r["category_id"] for r in found],
                found_masks,
            )
        prefix = "DetectionMasks_" if with_masks else "DetectionBoxes_"
        metrics |= {name: value for name, value in evaluator.evaluate().items() if name.startswith(prefix)}

    expected = {
        "DetectionMasks_Precision/mAP": 0.3195452758576433,
        "DetectionMasks_Precision/mAP@.50IOU": 0.5622883972521636,
        "DetectionMasks_Precision/mAP@.75IOU": 0.29892653412086784,
        "DetectionMasks_Precision/mAP (small)": 0.3873740316,
        "DetectionMasks_Precision/mAP (medium)": 0.3101827240,
        "DetectionMasks_Precision/mAP (large)": 0.3269339071,
        "DetectionBoxes_Precision/mAP": 0.5045806987,
        "DetectionBoxes_Precision/mAP@.50IOU": 0.6969727247,
        "DetectionBoxes_Precision/mAP@.75IOU": 0.5729816670,
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-10)
    recalls = [metrics[f"DetectionMasks_Recall/AR@{limit}"] for limit in (1, 10, 100)]
    assert recalls == pytest.approx([0.26823, 0.41545, 0.41684], abs=5e-6)
    per_category = [v for name, v in metrics.items() if name.startswith("DetectionMasks_PerformanceByCategory/mAP/")]
    assert len(per_category) == 80
    # The mean over the categories that the ground truth has is the overall figure.
    assert np.mean([v for v in per_category if v > -1]) == pytest.approx(0.3195452758576433, abs=1e-12)


def yxyx(box_xywh):
    x, y, width, height = box_xywh
    return [y, x, y + height, x + width]


def test_perfect_detections_score_one():
    evaluator = CocoEvaluator(CATEGORIES)
    # Areas 100 (small), 40 * 40 (medium), 100 * 99 (large); limits of COCO: 32 * 32 and 96 * 96.
    boxes = [[0, 0, 10, 10], [50, 50, 90, 90], [0, 0, 100, 99]]
    add_groundtruth(evaluator, 7, boxes, [1, 2, 2])
    add_detections(evaluator, 7, boxes, [0.9, 0.8, 0.7], [1, 2, 2])
    metrics = evaluator.evaluate()
    expected = {f"{kind}{name}": 1.0 for kind in ("DetectionBoxes_", "DetectionMasks_") for name in SUMMARY_NAMES} | {
        f"{kind}PerformanceByCategory/mAP/{name}": 1.0 for kind in ("DetectionBoxes_", "DetectionMasks_") for name in ("apple", "pear")
    }
    # With one detection an image, one of the two pears is found at best: (1 + 0.5) / 2.
    expected["DetectionBoxes_Recall/AR@1"] = expected["DetectionMasks_Recall/AR@1"] = 0.75
    assert metrics == pytest.approx(expected)


def test_average_precision_computed_by_hand():
    """Hits and misses in score order H M H over two apples: precision 1 up to recall 0.5, then 2/3 up to recall 1.

    Of COCO's 101 recall points, 0 to 0.50 are 51 and 0.51 to 1 are 50: (51 * 1 + 50 * 2 / 3) / 101. A hit here overlaps
    by 0.6 (60 of 100 pixels), so it is one at the thresholds 0.50, 0.55 and 0.60 of the ten.
    """
    evaluator = CocoEvaluator(CATEGORIES)
    add_groundtruth(evaluator, 1, [[0, 0, 10, 10], [50, 50, 60, 60]], [1, 1])
    add_detections(evaluator, 1, [[0, 0, 6, 10], [80, 80, 90, 90], [50, 50, 56, 60]], [0.9, 0.8, 0.7], [1, 1, 1])
    metrics = evaluator.evaluate()
    at_one_threshold = (51 + 50 * 2 / 3) / 101
    for kind in ("DetectionBoxes_", "DetectionMasks_"):
        assert metrics[f"{kind}Precision/mAP@.50IOU"] == pytest.approx(at_one_threshold, abs=1e-9)
        assert metrics[f"{kind}Precision/mAP@.75IOU"] == 0
        assert metrics[f"{kind}Precision/mAP"] == pytest.approx(at_one_threshold * 3 / 10, abs=1e-9)
        assert metrics[f"{kind}PerformanceByCategory/mAP/apple"] == pytest.approx(at_one_threshold * 3 / 10, abs=1e-9)
        assert metrics[f"{kind}PerformanceByCategory/mAP/pear"] == -1


def test_boxes_may_be_right_where_masks_are_wrong():
    evaluator = CocoEvaluator(CATEGORIES)
    evaluator.add_groundtruth(1, 100, 100, [[0, 0, 40, 40]], [1], [box_mask([0, 0, 40, 40])])
    evaluator.add_detections(1, [[0, 0, 40, 40]], [0.9], [1], [box_mask([0, 0, 10, 40])])
    metrics = evaluator.evaluate()
    assert metrics["DetectionBoxes_Precision/mAP"] == pytest.approx(1)
    assert metrics["DetectionMasks_Precision/mAP"] == 0


def test_a_detection_on_a_crowd_is_neither_right_nor_wrong():
    with_crowd, without = CocoEvaluator(CATEGORIES), CocoEvaluator(CATEGORIES)
    apple, crowd = [0, 0, 10, 10], [50, 50, 100, 100]
    add_groundtruth(with_crowd, 1, [apple, crowd], [1, 1], is_crowd=[False, True])
    add_groundtruth(without, 1, [apple], [1])
    for evaluator in (with_crowd, without):
        # The surer detection lies inside the crowd.
        add_detections(evaluator, 1, [[60, 60, 70, 70], apple], [0.9, 0.8], [1, 1])
    assert with_crowd.evaluate()["DetectionMasks_Precision/mAP"] == pytest.approx(1)
    assert without.evaluate()["DetectionMasks_Precision/mAP"] == pytest.approx(0.5)


def test_a_detection_in_an_image_without_objects_is_wrong():
    evaluator = CocoEvaluator(CATEGORIES)
    add_groundtruth(evaluator, 1, [[0, 0, 10, 10]], [1])
    add_groundtruth(evaluator, 2, [], [])
    add_detections(evaluator, 1, [[0, 0, 10, 10]], [0.5], [1])
    add_detections(evaluator, 2, [[0, 0, 10, 10]], [0.9], [1])
    assert evaluator.evaluate()["DetectionMasks_Precision/mAP"] == pytest.approx(0.5)


@pytest.mark.parametrize(("objects", "expected"), [(1, 0.0), (0, -1.0)])
def test_no_detections_at_all(objects, expected):
    evaluator = CocoEvaluator(CATEGORIES)
    add_groundtruth(evaluator, 1, [[0, 0, 10, 10]] * objects, [1] * objects)
    metrics = evaluator.evaluate()
    assert metrics["DetectionMasks_Precision/mAP"] == expected
    assert metrics["DetectionBoxes_Recall/AR@100"] == expected
    assert metrics["DetectionMasks_PerformanceByCategory/mAP/apple"] == expected


def test_no_ground_truth_but_detections():
    evaluator = CocoEvaluator(CATEGORIES)
    add_groundtruth(evaluator, 1, [], [])
    add_detections(evaluator, 1, [[0, 0, 10, 10]], [0.9], [1])
    assert set(evaluator.evaluate().values()) == {-1.0}


def test_no_images():
    evaluator = CocoEvaluator(CATEGORIES)
    assert set(evaluator.evaluate().values()) == {-1.0}
    assert evaluator.detections_json("segm") == []


def test_a_missing_area_is_the_area_of_the_box():
    # A thin cross in a box of 40 x 40 (medium) has 79 pixels (small).
    cross = np.zeros((100, 100), np.uint8, order="F")
    cross[20, :40] = cross[:40, 20] = 1
    code = coco_mask.encode(cross)
    evaluator = CocoEvaluator(CATEGORIES)
    evaluator.add_groundtruth(1, 100, 100, [[0, 0, 40, 40]], [1], [code])
    evaluator.add_detections(1, [[0, 0, 40, 40]], [0.9], [1], [code])
    metrics = evaluator.evaluate()
    assert metrics["DetectionMasks_Precision/mAP (medium)"] == pytest.approx(1)
    assert metrics["DetectionMasks_Precision/mAP (small)"] == -1


def fruits(image_ids):
    """Five images with four objects and four detections each, of all sizes; masks fill half of their boxes, so that their areas differ."""
    rng = np.random.default_rng(0)
    evaluator = CocoEvaluator(CATEGORIES)
    for image_id in image_ids:
        corners = rng.integers(0, 40, (4, 2))
        boxes = np.concatenate([corners, corners + rng.integers(8, 60, (4, 2))], axis=1)
        shifted = np.clip(boxes + rng.integers(-3, 4, boxes.shape), 0, 100)
        categories = rng.integers(1, 3, 4)
        halves = [[[top, left, bottom, (left + right) // 2] for top, left, bottom, right in some] for some in (boxes, shifted)]
        masks, found = ([box_mask(half) for half in some] for some in halves)
        areas = [coco_mask.area(mask) for mask in masks]
        evaluator.add_groundtruth(image_id, 100, 100, boxes, categories, masks, areas=areas, is_crowd=[0, 0, 0, 1])
        evaluator.add_detections(image_id, shifted, rng.uniform(0, 1, 4), categories, found)
    return evaluator


def stock_evaluation(evaluator, iou_type, folder):
    """What the usual call finds in the files."""
    (folder / "groundtruth.json").write_text(json.dumps(evaluator.groundtruth_json()))
    (folder / "detections.json").write_text(json.dumps(evaluator.detections_json(iou_type)))
    groundtruth = COCO(str(folder / "groundtruth.json"))
    stock = COCOeval(groundtruth, groundtruth.loadRes(str(folder / "detections.json")), iou_type)
    stock.evaluate()
    stock.accumulate()
    stock.summarize()
    return stock


@pytest.mark.parametrize("with_masks", [True, False])
def test_the_usual_call_finds_every_figure_in_the_files(tmp_path, with_masks):
    evaluator = fruits(range(1, 6))
    if not with_masks:
        evaluator._with_masks = False
    metrics = evaluator.evaluate()
    kinds = [("bbox", "DetectionBoxes_"), ("segm", "DetectionMasks_")]
    for iou_type, kind in kinds[: 1 + with_masks]:
        stock = stock_evaluation(evaluator, iou_type, tmp_path)
        assert [metrics[kind + name] for name in SUMMARY_NAMES] == pytest.approx(stock.stats.tolist(), abs=1e-12)
        assert len({*stock.stats}) > 6
        for index, name in enumerate(("apple", "pear")):
            precision = stock.eval["precision"][:, :, index, 0, -1]
            assert metrics[f"{kind}PerformanceByCategory/mAP/{name}"] == pytest.approx(precision[precision > -1].mean(), abs=1e-12)


def test_boxes_beside_masks_would_mislead_the_usual_call(tmp_path):
    """An apple of 30 x 30 pixels, found, and before it a wrong detection of 50 x 20 in a box of 50 x 50: small by its mask alone."""
    evaluator = CocoEvaluator(CATEGORIES)
    add_groundtruth(evaluator, 1, [[0, 0, 30, 30]], [1])
    masks = [box_mask([50, 50, 100, 70]), box_mask([0, 0, 30, 30])]
    evaluator.add_detections(1, [[50, 50, 100, 100], [0, 0, 30, 30]], [0.9, 0.8], [1, 1], masks)
    small = evaluator.evaluate()["DetectionMasks_Precision/mAP (small)"]
    assert small == stock_evaluation(evaluator, "segm", tmp_path).stats[3]
    both = [one | other for one, other in zip(evaluator.detections_json("bbox"), evaluator.detections_json("segm"), strict=True)]
    evaluator.detections_json = lambda iou_type: both
    assert stock_evaluation(evaluator, "segm", tmp_path).stats[3] != small


# Hashes of 64 bits, among which some pass 63; of 53 bits and a bit more, which floats cannot tell apart; and small ones that grow apart.
@pytest.mark.parametrize("ids", [[2**64 - 1, 5, 2**63, 2**62 + 1, 3], [2**53, 2**53 + 1, 2**53 + 2, 2**53 + 3, 2**63 + 1], [9, 7, 5, 3, 1]])
def test_image_ids_of_any_size_change_no_figure_and_are_written_as_they_are(ids):
    evaluator = fruits(ids)
    expected = fruits(range(1, 6)).evaluate()
    assert evaluator.evaluate() == pytest.approx(expected, abs=1e-12)
    assert expected["DetectionMasks_Precision/mAP"] > 0.1
    assert [image["id"] for image in evaluator.groundtruth_json()["images"]] == ids
    for written in (evaluator.groundtruth_json()["annotations"], evaluator.detections_json("segm"), evaluator.detections_json("bbox")):
        assert json.loads(json.dumps([one["image_id"] for one in written])) == list(np.repeat(np.array(ids, object), 4))


def test_category_ids_of_any_size_a_label_map_has(tmp_path):
    evaluator = CocoEvaluator([(1, "apple"), (2**31 - 1, "pear")])
    boxes = [[0, 0, 10, 10], [50, 50, 90, 90]]
    add_groundtruth(evaluator, 1, boxes, [1, 2**31 - 1])
    add_detections(evaluator, 1, boxes, [0.9, 0.8], [1, 2**31 - 1])
    assert evaluator.evaluate()["DetectionMasks_PerformanceByCategory/mAP/pear"] == pytest.approx(1)
    assert stock_evaluation(evaluator, "segm", tmp_path).stats[0] == pytest.approx(1)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda e: add_groundtruth(e, 1, [], []), "image 1 was added before"),
        (lambda e: add_detections(e, 2, [], [], []), "image 2 has detections but no ground truth"),
        (lambda e: add_detections(e, 1, [[0, 0, 5, 5]], [0.5], [9]), r"category ids \[9\]"),
        (lambda e: add_detections(e, 1, [[0, 0, 5, 5]], [], [1]), "1 boxes but 0 scores"),
        (lambda e: e.add_detections(1, [[0, 0, 5, 5]], [0.5], [1]), "1 boxes but no masks"),
        (
            lambda e: e.add_detections(1, [[0, 0, 5, 5]], [0.5], [1], [box_mask([0, 0, 5, 5], 50, 100)]),
            r"a mask of \(50, 100\) in an image of \(100, 100\)",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(mistake, message):
    evaluator = CocoEvaluator(CATEGORIES)
    add_groundtruth(evaluator, 1, [], [])
    with pytest.raises(ValueError, match=message):
        mistake(evaluator)


def test_categories_with_one_name_are_refused():
    with pytest.raises(ValueError, match="unique"):
        CocoEvaluator([(1, "apple"), (2, "apple")])
