"""What one image's record and detections become."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks.coco.matches import ImageFound
from tasks.evaluation.image_results import Job, NetworkOutput, Settings, image_result, image_truth
from tasks.records.annotated_image import Category
from tasks.records.checks import BadImageError
from tasks.records.example_pb2 import Example
from tasks.records.label_map import LabelMap
from tasks.running.errors import UserError
from tests.evaluation.scene_records import NAMES, scene_record

LABELS = LabelMap((Category(1, "cat"), Category(3, "dog")))
SETTINGS = Settings(LABELS, with_masks=True)


def png(pixels: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def record(**changes: Any) -> bytes:
    """Another tool's record of an image of 20 x 40 with a cat and a dog: no size, no area, no flags; masks with several values."""
    mask = np.zeros((2, 20, 40), np.uint8)
    mask[0, 2:12, 4:14], mask[1, 10:20, 20:40] = 200, 7
    mask[0, 2, 4:14] = 90
    features: dict[str, Any] = {
        "image/encoded": [png(np.full((20, 40, 3), 80))],
        "image/source_id": [b"12"],
        "image/object/bbox/ymin": [0.1, 0.5],
        "image/object/bbox/xmin": [0.1, 0.5],
        "image/object/bbox/ymax": [0.6, 1.0],
        "image/object/bbox/xmax": [0.35, 1.0],
        "image/object/class/text": [b"cat", b"dog"],
        "image/object/class/label": [9, 9],
        "image/object/mask": [png(one) for one in mask],
    } | {f"image/{name.replace('__', '/')}": value for name, value in changes.items()}
    example = Example()
    for key, values in features.items():
        feature = example.features.feature[key]
        kind = {bytes: feature.bytes_list, float: feature.float_list, int: feature.int64_list}[type(values[0])]
        kind.value.extend(values)
    return example.SerializeToString()


def test_truth_is_what_training_reads() -> None:
    truth = image_truth(SETTINGS, record(camera=[b"left"], hour=[7], thumbnail=[b"a", b"b"]), "here")
    assert (truth.image_id, truth.file_name, truth.height, truth.width) == ("12", "12", 20, 40)
    # Texts override labels; categories are indices.
    assert truth.categories.tolist() == [0, 1]
    np.testing.assert_allclose(truth.boxes_xywh, [[4, 2, 10, 10], [20, 10, 20, 10]], atol=1e-5)
    np.testing.assert_allclose(truth.areas, [100, 200], rtol=1e-5)
    assert not truth.crowd.any()
    assert truth.masks is not None
    matches = image_result(
        SETTINGS, Job(0, record(), "here", (20, 40), ImageFound(truth.boxes_xywh, truth.categories, np.array([0.9, 0.8]), truth.masks))
    )
    assert matches.matches.detections.object.tolist() == [0, 1]
    np.testing.assert_array_equal(matches.matches.detections.own_iou, 1)
    assert truth.attributes == {"camera": "left", "hour": "7"}


def test_what_the_record_says_counts() -> None:
    changes = {"object__area": [31.5, 50.0], "object__is_crowd": [0, 1], "filename": [b"cat.png"]}
    truth = image_truth(SETTINGS, record(**changes), "here")
    assert truth.file_name == "cat.png"
    assert truth.areas.tolist() == [31.5, 50]
    assert truth.crowd.tolist() == [False, True]


def test_a_record_that_cannot_be_used_is_named() -> None:
    with pytest.raises(BadImageError, match=r"file: record 3: the label map has no category 'bird'"):
        image_truth(SETTINGS, record(**{"object__class__text": [b"cat", b"bird"]}), "file: record 3")


def output(**changes: Any) -> NetworkOutput:
    values = {
        "boxes_yxyx_normalized": np.array([[0, 0, 0.5, 0.5], [0.25, 0.25, 1, 1]], np.float32),
        "scores": np.array([0.75, 0.5], np.float32),
        "classes": np.array([2, 1]),
        "masks": np.ones((2, 5, 5), np.float32),
    }
    return NetworkOutput(**{**values, **changes})


def test_a_network_s_detections_are_in_the_image_s_pixels_and_the_label_map_s_ids() -> None:
    """The model's class 1 is the id 2, which the label map has not."""
    result = image_result(SETTINGS, Job(4, record(), "here", (20, 40), output()))
    assert result.index == 4
    assert [json.loads(text) for text in result.boxes] == [{"category_id": 3, "score": 0.75, "bbox": [0, 0, 20, 10]}]
    (mask,) = map(json.loads, result.masks)
    assert (mask["category_id"], mask["score"], mask["segmentation"]["size"], "bbox" in mask) == (3, 0.75, [20, 40], False)
    truths = [json.loads(text) for text in result.objects]
    assert [(one["category_id"], one["iscrowd"], one["area"]) for one in truths] == [(1, 0, pytest.approx(100)), (3, 0, pytest.approx(200))]
    line = json.loads(result.line())
    assert (line["source_id"], line["height"], line["width"], line["boxes"]) == ("12", 20, 40, result.boxes)


def test_without_masks_there_are_boxes_alone() -> None:
    result = image_result(Settings(LABELS, with_masks=False), Job(0, record(), "here", None, output(masks=None)))
    assert result.matches.kinds == ("bbox",)
    assert result.masks == []
    assert "segmentation" not in json.loads(result.objects[0])


def test_nothing_found() -> None:
    nothing = NetworkOutput(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, int), np.zeros((0, 5, 5), np.float32))
    result = image_result(SETTINGS, Job(0, record(), "here", None, nothing))
    assert (len(result.matches.detections), len(result.matches.objects)) == (0, 2)


def test_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(UserError, match=r"file: record 0: a detection's score is nan, which is no number\n.*earlier checkpoint"):
        image_result(SETTINGS, Job(0, record(), "file: record 0", None, output(scores=np.array([np.nan, 0.5], np.float32))))


def test_our_own_records_have_no_attributes_of_their_own() -> None:
    settings = Settings(LabelMap(tuple(Category(number, name) for number, name in NAMES.items())), with_masks=True)
    assert image_truth(settings, scene_record(0, 48, 64), "here").attributes == {}
    assert image_truth(settings, scene_record(0, 48, 64, {"camera": "left"}), "here").attributes == {"camera": "left"}
