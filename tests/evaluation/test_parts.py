"""Parts of an evaluation, and the files that they are joined to."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tasks.coco.figures import accumulated, summary
from tasks.coco.matches import ImageFound, match_image
from tasks.evaluation.image_results import ImageResult, Job, Settings, image_result, image_truth
from tasks.evaluation.parts import Parts
from tasks.records.annotated_image import Category
from tasks.records.label_map import LabelMap
from tests.evaluation.scene_records import NAMES, scene_record

LABELS = LabelMap(tuple(Category(number, name) for number, name in NAMES.items()))


def results(source_ids: Sequence[str], with_masks: bool = True) -> list[ImageResult]:
    """Scenes of 48 x 64, on each what is there with another score and half of it shifted by three pixels, and one wrong category."""
    settings = Settings(LABELS, with_masks)
    made = []
    for index, source_id in enumerate(source_ids):
        rng = np.random.default_rng(index)
        record = scene_record(index, 48, 64)
        truth, other = image_truth(settings, record, ""), image_truth(settings, scene_record(index + 100, 48, 64), "")
        found = ImageFound(
            np.concatenate([truth.boxes_xywh + rng.integers(0, 2, (len(truth.boxes_xywh), 1)) * [3, 0, 0, 0], other.boxes_xywh]),
            np.concatenate([truth.categories, other.categories]),
            rng.random(len(truth.boxes_xywh) + len(other.boxes_xywh)),
            [*truth.masks, *other.masks] if truth.masks is not None and other.masks is not None else None,
        )
        one = image_result(settings, Job(index, record, "", None, found))
        made.append(ImageResult(**{**vars(one), "source_id": source_id}))
    return made


def parts_of(folder: Path, split: Sequence[Sequence[ImageResult]], with_masks: bool = True) -> Parts:
    parts = Parts(folder, [f"file {number}" for number in range(len(split))], Settings(LABELS, with_masks))
    for number, some in enumerate(split):
        parts.write(number, (ImageResult(**{**vars(one), "index": index}) for index, one in enumerate(some)))
    return parts


@pytest.mark.parametrize("with_masks", [True, False])
def test_the_usual_call_finds_every_figure_in_the_files(tmp_path: Path, with_masks: bool) -> None:
    images = results([str(number) for number in range(1, 7)], with_masks)
    matches, first = parts_of(tmp_path / "parts", [images[:4], images[4:]], with_masks).join(tmp_path, {}, 2)
    kinds = {"segm": "detections.json", "bbox": "detections_boxes.json"} if with_masks else {"bbox": "detections.json"}
    for kind, file in kinds.items():
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(str(tmp_path / "groundtruth.json"))
            stock = COCOeval(truth, truth.loadRes(str(tmp_path / file)), kind)
            stock.evaluate()
            stock.accumulate()
            stock.summarize()
        assert summary(accumulated(matches, kind)) == stock.stats.tolist()
        assert 0.1 < stock.stats[0] < 1
        for entry in json.loads((tmp_path / file).read_text()):
            assert {"segmentation", "bbox"} & set(entry) == {"bbox" if kind == "bbox" else "segmentation"}
    assert [one.image["id"] for one in first] == [1, 2]
    assert len(first[0].masks) == (len(first[0].boxes) if with_masks else 0)
    written = json.loads((tmp_path / "groundtruth.json").read_text())
    assert [one["id"] for one in written["annotations"]] == list(range(1, len(written["annotations"]) + 1))
    assert [category["name"] for category in written["categories"]] == list(NAMES.values())


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_results_may_come_in_any_order(tmp_path: Path) -> None:
    images = results(["5", "6", "7", "8"])
    orders: list[Sequence[int]] = [range(4), (2, 0, 3, 1)]
    written = []
    for place, order in enumerate(orders):
        parts = Parts(tmp_path / str(place), ["file"], Settings(LABELS, True))
        assert parts.write(0, (images[index] for index in order)) == 4
        written.append(files_of(tmp_path / str(place)))
    assert written[0] == written[1]


@pytest.mark.parametrize(
    ("source_ids", "ids"),
    [
        (["9", "7", "5"], [9, 7, 5]),
        ([str(2**63 + 12345), "17", str(2**64 - 1)], [2**63 + 12345, 17, 2**64 - 1]),
        # Names, an id twice, and a number that is too long for one.
        (["photo", "2", "2"], [1, 2, 3]),
        (["9" * 5000, "4", ""], [1, 4, 3]),
    ],
)
def test_image_ids_of_any_kind(tmp_path: Path, source_ids: list[str], ids: list[int]) -> None:
    images = results(source_ids)
    matches, _ = parts_of(tmp_path / "parts", [images[:1], images[1:]]).join(tmp_path, {}, 0)
    truth: dict[str, Any] = json.loads((tmp_path / "groundtruth.json").read_text())
    assert [image["id"] for image in truth["images"]] == ids
    assert matches.images.ids.tolist() == [str(number) for number in sorted(ids)]
    owners = {entry["image_id"] for entry in json.loads((tmp_path / "detections.json").read_text())}
    assert owners == set(ids)


def test_files_without_a_record_and_without_a_detection(tmp_path: Path) -> None:
    (one,) = results(["1"])
    settings = Settings(LABELS, True)
    truth = image_truth(settings, scene_record(0, 48, 64), "")
    nothing = ImageFound(np.zeros((0, 4)), np.zeros(0, np.int32), np.zeros(0), [])
    bare = ImageResult(**{**vars(one), "matches": match_image(truth, nothing, settings.categories), "masks": [], "boxes": []})
    matches, _ = parts_of(tmp_path / "parts", [[], [bare]]).join(tmp_path, {}, 0)
    assert (len(matches.images), len(matches.detections)) == (1, 0)
    assert json.loads((tmp_path / "detections.json").read_text()) == []
    assert len(json.loads((tmp_path / "groundtruth.json").read_text())["annotations"]) == len(matches.objects)


def test_a_part_that_is_torn_is_missing(tmp_path: Path) -> None:
    images = results(["1", "2"])
    parts = parts_of(tmp_path, [images[:1], images[1:]])
    assert parts.missing() == []
    file = tmp_path / "00001.npz"
    file.write_bytes(file.read_bytes()[:100])
    assert parts.missing() == [1]
