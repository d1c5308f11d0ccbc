"""Figures from matches against pycocotools, bit for bit, against published figures and against precision computed by hand."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from tasks.coco.figures import SUMMARY_NAMES, accumulated, figures, summary
from tasks.coco.masks import rle_from_segmentation
from tasks.coco.matches import BOUNDARY, BOX, MASK, ImageFound, ImageTruth, joined, match_image
from tests.coco.scenes import CATEGORIES, box_mask, coco_files, ellipse, found_of, matches_of, pycocotools_evaluation, scenes, truth_of


def boundary(mask):
    """As its authors draw it, on the whole image."""
    pixels = coco_mask.decode(mask)
    reach = max(1, round(0.02 * np.sqrt(pixels.shape[0] ** 2 + pixels.shape[1] ** 2)))
    framed = cv2.copyMakeBorder(pixels, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(framed, np.ones((3, 3), np.uint8), iterations=reach)[1:-1, 1:-1]
    return coco_mask.encode(np.asfortranarray(pixels - eroded))


def by_boundaries(evaluation):
    """Makes pycocotools take the smaller of the masks' overlap and their boundaries', as the authors do."""

    def overlaps(image, category):
        objects, found = evaluation._gts[image, category], evaluation._dts[image, category]
        found = [found[index] for index in np.argsort([-one["score"] for one in found], kind="mergesort")]
        if not objects or not found:
            return []
        crowd = [one["iscrowd"] for one in objects]
        whole, inner = (
            coco_mask.iou(*([draw(one["segmentation"]) for one in some] for some in (found, objects)), crowd)
            for draw in (lambda mask: mask, boundary)
        )
        return np.minimum(whole, inner)

    evaluation.computeIoU = overlaps


@pytest.mark.parametrize("kind", [MASK, BOX, BOUNDARY])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_curve_and_figure_is_pycocotools_to_the_bit(kind, seed):
    images = list(scenes(40, seed))
    dataset, results = coco_files(images, BOX if kind == BOX else MASK)
    expected = pycocotools_evaluation(
        dataset, results, BOX if kind == BOX else MASK, by_boundaries if kind == BOUNDARY else lambda evaluation: None
    )
    matches = matches_of(images)
    curves = accumulated(matches, kind)
    np.testing.assert_array_equal(curves.precision, expected.eval["precision"][..., -1])
    np.testing.assert_array_equal(curves.scores, expected.eval["scores"][..., -1])
    np.testing.assert_array_equal(curves.recall, expected.eval["recall"])
    assert summary(curves) == expected.stats.tolist()
    assert len(set(summary(curves))) > 9


def test_limits_of_detections_are_those_of_pycocotools():
    """With 130 detections of one category in an image, of which 100 count, and 10 and 1 for the recall."""
    images = list(scenes(6, seed=4, most=40, extra=390))
    expected = pycocotools_evaluation(*coco_files(images, MASK), MASK)
    matches = matches_of(images)
    assert matches.detections.rank.max() == 99
    assert summary(accumulated(matches)) == expected.stats.tolist()


def reference(folder, kind):
    """The images of coco_eval_reference, with what was found on them."""
    dataset = json.loads((folder / "instances_val2014_100.json").read_text())
    results = json.loads((folder / f"instances_val2014_fake{kind}100_results.json").read_text())
    categories = tuple((category["id"], category["name"]) for category in dataset["categories"])
    index_of = {number: index for index, (number, _) in enumerate(categories)}
    for image in dataset["images"]:
        size = image["height"], image["width"]
        objects = [a for a in dataset["annotations"] if a["image_id"] == image["id"]]
        found = [r for r in results if r["image_id"] == image["id"]]
        masks = [rle_from_segmentation(r["segmentation"], *size) for r in found] if kind == MASK else None
        boxes = coco_mask.toBbox(masks) if masks else [r["bbox"] for r in found if kind == BOX]
        truth = ImageTruth(
            str(image["id"]), image["file_name"], *size,
            np.array([a["bbox"] for a in objects], np.float64).reshape(-1, 4),
            np.array([index_of[a["category_id"]] for a in objects], np.int32),
            np.array([a["area"] for a in objects], np.float64), np.array([a["iscrowd"] for a in objects], bool),
            [rle_from_segmentation(a["segmentation"], *size) for a in objects],
        )  # fmt: skip
        detected = ImageFound(
            np.array(boxes, np.float64).reshape(-1, 4),
            np.array([index_of[r["category_id"]] for r in found], np.int32),
            np.array([r["score"] for r in found], np.float64),
            masks,
        )
        yield match_image(truth, detected, categories)


@pytest.mark.parametrize("kind", [MASK, BOX])
def test_published_coco_figures(shared_data, kind):
    folder = shared_data / "coco_eval_reference"
    parts = list(reference(folder, kind))
    matches = joined(parts, [int(part.images.ids[0]) for part in parts], {})
    dataset = json.loads((folder / "instances_val2014_100.json").read_text())
    results = json.loads((folder / f"instances_val2014_fake{kind}100_results.json").read_text())
    found = summary(accumulated(matches, kind))
    assert found == pycocotools_evaluation(dataset, results, kind).stats.tolist()
    # As SOURCE.md gives them.
    expected = {
        MASK: [0.3195452758576433, 0.5622883972521636, 0.29892653412086784, 0.3873740316, 0.3101827240, 0.3269339071],
        BOX: [0.5045806987, 0.6969727247, 0.5729816670],
    }[kind]
    assert found[: len(expected)] == pytest.approx(expected, abs=1e-10)
    if kind == MASK:
        assert found[6:9] == pytest.approx([0.26823, 0.41545, 0.41684], abs=5e-6)
    per_category = [value for name, value in figures(matches).items() if "PerformanceByCategory" in name][: len(matches.categories)]
    assert len(per_category) == 80
    # The mean over the categories that the ground truth has is the overall figure.
    assert np.mean([value for value in per_category if value > -1]) == pytest.approx(found[0], abs=1e-12)


def test_perfect_detections_score_one():
    # Areas 100 (small), 40 * 40 (medium), 100 * 99 (large); limits of COCO: 32 * 32 and 96 * 96.
    boxes = [[0, 0, 10, 10], [50, 50, 90, 90], [0, 0, 100, 99]]
    found = figures(matches_of([(truth_of(7, boxes, [0, 1, 1]), found_of(boxes, [0.9, 0.8, 0.7], [0, 1, 1]))], CATEGORIES[:2]))
    kinds = ("DetectionBoxes_", "DetectionMasks_", "DetectionBoundaries_")
    expected = {f"{kind}{name}": 1.0 for kind in kinds for name in SUMMARY_NAMES}
    expected |= {f"{kind}PerformanceByCategory/mAP/{name}": 1.0 for kind in kinds for name in ("apple", "pear")}
    # With one detection an image, one of the two pears is found at best: (1 + 0.5) / 2.
    expected |= {f"{kind}Recall/AR@1": 0.75 for kind in kinds}
    assert found == pytest.approx(expected)


def test_average_precision_computed_by_hand():
    """Hits and misses in score order H M H over two apples: precision 1 up to recall 0.5, then 2/3 up to recall 1.

    Of COCO's 101 recall points, 0 to 0.50 are 51 and 0.51 to 1 are 50: (51 * 1 + 50 * 2 / 3) / 101. A hit here overlaps
    by 0.6 (60 of 100 pixels), so it is one at the thresholds 0.50, 0.55 and 0.60 of the ten.
    """
    found = figures(
        matches_of(
            [
                (
                    truth_of(1, [[0, 0, 10, 10], [50, 50, 60, 60]], [0, 0]),
                    found_of([[0, 0, 6, 10], [80, 80, 90, 90], [50, 50, 56, 60]], [0.9, 0.8, 0.7], [0, 0, 0]),
                )
            ]
        )
    )
    at_one_threshold = (51 + 50 * 2 / 3) / 101
    for kind in ("DetectionBoxes_", "DetectionMasks_"):
        assert found[f"{kind}Precision/mAP@.50IOU"] == pytest.approx(at_one_threshold, abs=1e-9)
        assert found[f"{kind}Precision/mAP@.75IOU"] == 0
        assert found[f"{kind}Precision/mAP"] == pytest.approx(at_one_threshold * 3 / 10, abs=1e-9)
        assert found[f"{kind}PerformanceByCategory/mAP/apple"] == pytest.approx(at_one_threshold * 3 / 10, abs=1e-9)
        assert found[f"{kind}PerformanceByCategory/mAP/pear"] == -1


def test_boxes_may_be_right_where_masks_are_wrong_and_masks_where_boundaries_are():
    # A disc of radius 60, of which 5 pixels are missing all around: (55 / 60)^2 = 0.84 of it. Its boundary, 2 % of 311 pixels, is 6 wide,
    # and of that only the innermost is left.
    box = [[40, 40, 161, 161]]
    truth = truth_of(1, box, [0], masks=[ellipse((100, 100), (60, 60))])
    found = figures(matches_of([(truth, found_of(box, [0.9], [0], masks=[ellipse((100, 100), (55, 55))]))]))
    assert found["DetectionBoxes_Precision/mAP"] == pytest.approx(1)
    assert found["DetectionMasks_Precision/mAP"] == pytest.approx(0.7)
    assert found["DetectionBoundaries_Precision/mAP"] == 0


def test_a_detection_on_a_crowd_is_neither_right_nor_wrong():
    apple, crowd = [0, 0, 10, 10], [50, 50, 100, 100]
    # The surer detection lies inside the crowd.
    detections = found_of([[60, 60, 70, 70], apple], [0.9, 0.8], [0, 0])
    with_crowd = figures(matches_of([(truth_of(1, [apple, crowd], [0, 0], crowd=[0, 1]), detections)]))
    without = figures(matches_of([(truth_of(1, [apple], [0]), detections)]))
    assert with_crowd["DetectionMasks_Precision/mAP"] == pytest.approx(1)
    assert without["DetectionMasks_Precision/mAP"] == pytest.approx(0.5)


def test_a_detection_in_an_image_without_objects_is_wrong():
    box = [[0, 0, 10, 10]]
    images = [(truth_of(1, box, [0]), found_of(box, [0.5], [0])), (truth_of(2, [], []), found_of(box, [0.9], [0]))]
    assert figures(matches_of(images))["DetectionMasks_Precision/mAP"] == pytest.approx(0.5)


@pytest.mark.parametrize(("objects", "expected"), [(1, 0.0), (0, -1.0)])
def test_no_detections_at_all(objects, expected):
    found = figures(matches_of([(truth_of(1, [[0, 0, 10, 10]] * objects, [0] * objects), found_of([], [], []))]))
    assert found["DetectionMasks_Precision/mAP"] == expected
    assert found["DetectionBoxes_Recall/AR@100"] == expected
    assert found["DetectionMasks_PerformanceByCategory/mAP/apple"] == expected


def test_no_ground_truth_but_detections():
    found = figures(matches_of([(truth_of(1, [], []), found_of([[0, 0, 10, 10]], [0.9], [0]))]))
    assert set(found.values()) == {-1.0}


def test_the_source_s_area_decides_the_size():
    # A thin cross in a box of 40 x 40 (medium) has 79 pixels (small).
    cross = np.zeros((220, 220), np.uint8, order="F")
    cross[20, :40] = cross[:40, 20] = 1
    code = coco_mask.encode(cross)
    found = figures(matches_of([(truth_of(1, [[0, 0, 40, 40]], [0], masks=[code]), found_of([[0, 0, 40, 40]], [0.9], [0], masks=[code]))]))
    assert found["DetectionMasks_Precision/mAP (medium)"] == pytest.approx(1)
    assert found["DetectionMasks_Precision/mAP (small)"] == -1


def test_figures_of_some_images_are_those_of_these_alone():
    images = list(scenes(20, seed=6))
    chosen = np.arange(20) % 3 == 0
    alone = matches_of([image for image, wanted in zip(images, chosen, strict=True) if wanted])
    assert figures(matches_of(images), chosen) == figures(alone)


def test_masks_of_another_size_are_refused():
    with pytest.raises(ValueError, match="mask of 50 x 220 in an image of 220 x 220"):
        matches_of([(truth_of(1, [[0, 0, 5, 5]], [0]), found_of([[0, 0, 5, 5]], [0.5], [0], masks=[box_mask([0, 0, 5, 5], 50, 220)]))])
