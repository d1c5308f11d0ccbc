"""Files of detections that are read, and what is wrong with others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from tasks.coco.masks import rle_from_mask
from tasks.evaluation.given_results import read_results
from tasks.records.annotated_image import Category
from tasks.records.label_map import LabelMap
from tasks.running.errors import UserError
from tests.coco.scenes import box_mask, truth_of

LABELS = LabelMap((Category(1, "cat"), Category(3, "dog")))
BOX = {"image_id": 1, "category_id": 3, "score": 0.5, "bbox": [1, 2, 30, 40]}


def mask_entry(**changes: Any) -> dict[str, Any]:
    code = box_mask([2, 1, 42, 31])
    return {"image_id": 1, "category_id": 3, "score": 0.5, "segmentation": {**code, "counts": code["counts"].decode()}} | changes


def written(folder: Path, content: Any) -> Path:
    file = folder / "detections.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def test_boxes_and_masks_in_any_form(tmp_path: Path) -> None:
    polygon = [[1, 2, 31, 2, 31, 42, 1, 42]]
    mask = np.asfortranarray(coco_mask.decode(box_mask([2, 1, 42, 31])))
    runs = np.diff(np.flatnonzero(np.diff(mask.ravel("F"), prepend=0, append=0)), prepend=0, append=mask.size).tolist()
    entries = [
        mask_entry(),
        mask_entry(segmentation=polygon, bbox=[0, 0, 9, 9]),
        mask_entry(image_id=2),
        mask_entry(segmentation={"size": [220, 220], "counts": runs}),
    ]
    given = read_results(written(tmp_path, entries), LABELS)
    assert given.with_masks
    found = given.of(1).found(truth_of(1, [], []), LABELS)
    assert found.categories.tolist() == [1, 1, 1]
    # Where there is no box, it is the mask's extent.
    assert found.boxes_xywh.tolist() == [[1, 2, 30, 40], [0, 0, 9, 9], [1, 2, 30, 40]]
    assert found.masks is not None
    assert [code["counts"] for code in found.masks] == [rle_from_mask(mask)["counts"]] * 3
    assert len(given.of(2).entries) == 1
    assert given.of(7).found(truth_of(7, [], []), LABELS).scores.size == 0
    boxes = read_results(written(tmp_path, [BOX]), LABELS)
    assert not boxes.with_masks


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not valid JSON"),
        ({"annotations": []}, "is no list of detections"),
        ([], "holds no detection"),
        ([7], "detection 0: it is a int"),
        ([BOX, {**BOX, "image_id": "1"}], "detection 1: its image_id is '1', not a whole number"),
        ([{**BOX, "category_id": 2}], "detection 0: its category_id is 2, and the label map has 1, 3"),
        ('[{"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "score": NaN}]', "its score is nan, which is no number"),
        ([{**BOX, "score": None}], "its score is None, which is no number"),
        ([BOX, mask_entry()], "detection 1: it has a segmentation, and others have none"),
        ([mask_entry(), BOX], "detection 1: it has no segmentation, and others have"),
        ([{**BOX, "bbox": [1, 2, 3]}], r"its bbox is \[1, 2, 3\], not x, y, width and height"),
        ([{name: value for name, value in BOX.items() if name != "bbox"}], "its bbox is None"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_results(written(tmp_path, content), LABELS)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [9, 9], "counts": "x"}, r"detection 0: its segmentation has size \[9, 9\], and its image is \[220, 220\]"),
        ([[1, 2]], "its segmentation has no polygon of three points"),
    ],
)
def test_masks_that_are_none_are_named(tmp_path: Path, segmentation: Any, message: str) -> None:
    given = read_results(written(tmp_path, [mask_entry(segmentation=segmentation)]), LABELS)
    with pytest.raises(UserError, match=message):
        given.of(1).found(truth_of(1, [], []), LABELS)


def test_images_that_are_not_there_are_named(tmp_path: Path) -> None:
    given = read_results(written(tmp_path, [BOX, {**BOX, "image_id": 12}]), LABELS)
    given.confirm_images([1, 2, 12])
    with pytest.raises(UserError, match=r"1 of its images are not among the 2 of the split: 12"):
        given.confirm_images([1, 2])
